"""For the tests in verl's environment: its config, its server client on a real vLLM server, and a tutor that
fails."""

from __future__ import annotations

import base64
import copy
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image
from verl.workers.rollout.replica import TokenOutput

from safer_steer.config import SHIPPED, Config
from safer_steer.dialogue import Dialogue
from safer_steer.episode import Verdict
from safer_steer.errors import EndpointError
from safer_steer.files.images import pictures_in
from safer_steer.training.tutor import TutorCritic
from servers import MODEL

PROMPT, RESPONSE = 192, 512
"""Tokens."""
IMAGE = 5
"""The shipped student's image token."""


def write_config(run: Path, tutor_url: str, **rl: Any) -> Path:
    """The run's config with its tutor behind an endpoint."""
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["roles"]["tutor"] = {"model": "sandbox", "base_url": tutor_url}
    settings["rl"] |= {"max_turns": 4, "max_completion_tokens": RESPONSE, **rl}
    path = run / f"verl-{len(list(run.glob('verl-*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def verl_config(export: Path, config: Path, trajectories: Path, *more: str) -> DictConfig:
    """verl's own config for the shipped student."""
    rollout = "actor_rollout_ref.rollout"
    overrides = [
        f"data.train_files={next((export / 'verl').glob('rl-*.parquet'))}",
        "data.return_raw_chat=True",
        f"data.max_prompt_length={PROMPT}",
        f"data.max_response_length={RESPONSE}",
        f"actor_rollout_ref.model.path={SHIPPED}",
        f"{rollout}.name=vllm",
        f"{rollout}.prompt_length={PROMPT}",
        f"{rollout}.response_length={RESPONSE}",
        f"{rollout}.calculate_log_probs=True",
        f"{rollout}.n=5",
        "algorithm.adv_estimator=steer_tcsr",
        f"+algorithm.safer_steer.config={config}",
        f"+algorithm.safer_steer.trajectories={trajectories}",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[*overrides, *more])


class VLLMClient:
    """What verl's `LLMServerClient` does, on `POST /inference/v1/generate`. Writes down what was sampled."""

    def __init__(self, url: str, sampled: Path) -> None:
        self.url, self.sampled = url.removesuffix("/v1"), sampled
        self._features: dict[bytes, dict[str, Any]] = {}

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: list[Image.Image] | None = None,
    ) -> TokenOutput:
        wanted = {"temperature", "top_p", "max_tokens", "stop_token_ids", "seed"}
        body: dict[str, Any] = {
            "model": MODEL,
            "token_ids": prompt_ids,
            "sampling_params": {name: sampling_params[name] for name in wanted}
            | {"logprobs": 0, "output_kind": 2},
        }
        async with aiohttp.ClientSession() as session:
            if image_data:
                [image] = image_data
                body["features"] = await self._features_of(session, image, prompt_ids)
            async with session.post(f"{self.url}/inference/v1/generate", json=body) as reply:
                assert reply.status == 200, await reply.text()
                [choice] = (await reply.json())["choices"]
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        with self.sampled.open("a") as file:
            file.write(
                json.dumps({"request": request_id, "ids": choice["token_ids"], "logprobs": logprobs}) + "\n"
            )
        return TokenOutput(token_ids=choice["token_ids"], log_probs=logprobs, extra_fields={})

    async def _features_of(
        self, session: aiohttp.ClientSession, image: Image.Image, prompt_ids: list[int]
    ) -> dict[str, Any]:
        """What vLLM makes of the picture, with the place of its tokens in this prompt."""
        file = io.BytesIO()
        image.save(file, "PNG")
        data = file.getvalue()
        if data not in self._features:
            url = "data:image/png;base64," + base64.b64encode(data).decode()
            message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
            body = {"model": MODEL, "messages": [message], "max_tokens": 1}
            async with session.post(f"{self.url}/v1/chat/completions/render", json=body) as reply:
                self._features[data] = (await reply.json())["features"]
        features = copy.deepcopy(self._features[data])
        features["mm_placeholders"]["image"][0]["offset"] = prompt_ids.index(IMAGE)
        return features


class FailsForOne(TutorCritic):
    """The tutor, out of order for the last trajectory of each group, from its second turn on."""

    def __init__(self, config: Config, folder: Path, ask: Any) -> None:
        super().__init__(ask("tutor"), config.student.format, pictures_in(folder, config.student.max_pixels))

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        if turn and dialogue.id.endswith("-4"):
            raise EndpointError("out of order")
        return await super().judge(dialogue, turn, template)
