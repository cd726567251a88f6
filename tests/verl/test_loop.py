"""The agent loop in verl's own workers, on a real vLLM server, with a tutor over HTTP: K = 5, three seeds."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import transfer_queue as tq
from transformers import AutoModelForImageTextToText
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.protocol import DataProto
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils import hf_processor, hf_tokenizer
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

from places import ROOT, SUPPORT
from safer_steer.config import SHIPPED, Config
from safer_steer.config.file import load_config
from safer_steer.dialogue import Dialogue, StopReason, read_dialogues
from safer_steer.rewards import group_advantages
from safer_steer.training import verl_loop  # noqa: F401  (registers the loop and the estimators)
from safer_steer.training.credit import turn_advantages
from safer_steer.training.returns import trajectory_return, turn_returns, turn_rewards
from safer_steer.training.trajectory import by_token
from servers import VLLM, Server
from verl_parts import PROMPT, VLLMClient, verl_config, write_config

pytestmark = pytest.mark.timeout(900)
SEEDS, K = 3, 5


@dataclass
class Played:
    """One worker's trajectories."""

    config: Config
    verl: Any
    dialogues: dict[str, Dialogue]
    sampled: dict[str, list[dict[str, Any]]]
    """What the server sampled for each dialogue, turn by turn."""


def read(config: Path, verl: Any, folder: Path) -> Played:
    found = {d.id: d for file in (folder / "trajectories").glob("*.jsonl") for d in read_dialogues(file)}
    sampled = defaultdict(list)
    for line in (folder / "sampled.jsonl").read_text().splitlines():
        row = json.loads(line)
        sampled[row["request"]].append(row)
    assert len(found) == SEEDS * K and found.keys() == sampled.keys()
    return Played(load_config(config), verl, found, sampled)


def rows(verl: Any) -> dict[str, Any]:
    """Rows of the export, as verl's data set gives them."""
    tokenizer, processor = hf_tokenizer(str(SHIPPED)), hf_processor(str(SHIPPED))
    data = RLHFDataset([verl.data.train_files], tokenizer, verl.data, processor)
    risky = [row for row in data if row["extra_info"]["kind"] != "benign"]  # so that rewards differ
    return collate_fn(risky[:SEEDS])


def trainer_logprobs(ids: torch.Tensor, pictures: dict[str, torch.Tensor]) -> torch.Tensor:
    """The log-probability of each token after those before it, by the trainer's model: [tokens - 1]."""
    model = AutoModelForImageTextToText.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    inputs = {name: pictures[name] for name in ("pixel_values", "image_grid_thw")}
    kinds = (ids == model.config.image_token_id).long()
    with torch.no_grad():
        logits = model(input_ids=ids[None], mm_token_type_ids=kinds[None], **inputs).logits[0]
    return logits.log_softmax(-1)[:-1].gather(-1, ids[1:, None])[:, 0]


def check_tokens(
    ids: torch.Tensor, mask: torch.Tensor, logprobs: torch.Tensor, pictures: Any, turns: list[dict[str, Any]]
) -> float:
    """What was sampled is what is trained: exactly those tokens, with those log-probabilities, and the
    trainer's. Returns the largest difference to the trainer's."""
    end = len(ids) - len(mask)
    kept = [turn["ids"] for turn in turns]
    assert ids[end:][mask.bool()].tolist() == [token for tokens in kept for token in tokens]
    assert logprobs[mask.bool()].tolist() == pytest.approx([lp for turn in turns for lp in turn["logprobs"]])
    assert not logprobs[~mask.bool()].any()
    differences = (trainer_logprobs(ids, pictures)[end - 1 :] - logprobs)[mask.bool()].abs()
    return differences.max().item()


def test_the_worker_of_the_older_trainer(run: Path, vllm: VLLM, world: Server, tmp_path: Path) -> None:
    config = write_config(run, world.url)
    verl = verl_config(run / "export", config, tmp_path / "trajectories")
    batch = rows(verl)
    repeated = {name: [value for value in column for _ in range(K)] for name, column in batch.items()}
    repeated["uid"] = [f"seed-{index // K}" for index in range(SEEDS * K)]
    given = {
        name: torch.stack(column) if isinstance(column[0], torch.Tensor) else np.array(column, dtype=object)
        for name, column in repeated.items()
    }

    async def generate() -> DataProto:
        worker = AgentLoopWorker(verl, VLLMClient(vllm.url, tmp_path / "sampled.jsonl"))
        return await worker.generate_sequences(DataProto.from_single_dict(given))

    made = asyncio.run(generate())
    read(config, verl, tmp_path)
    assert len(made) == SEEDS * K
    differences = []
    for index in range(len(made)):
        attended = made.batch["attention_mask"][index].bool()
        length = int(attended[PROMPT:].sum())
        mask = made.batch["response_mask"][index, :length]
        ids = made.batch["input_ids"][index][attended]
        pictures = made.non_tensor_batch["multi_modal_inputs"][index]
        logprobs = made.batch["rollout_log_probs"][index, :length]
        found = (trainer_logprobs(ids, pictures)[len(ids) - length - 1 :] - logprobs)[mask.bool()].abs()
        differences.append(found.max().item())
    print(f"\nlargest difference to the trainer: {max(differences):.1e}")
    assert max(differences) < 1e-5


@pytest.fixture(scope="module")
def queued(run: Path, vllm: VLLM, world: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What AgentLoopWorkerTQ put into a TransferQueue, and the rest of it. One of each five is unscored."""
    folder = tmp_path_factory.mktemp("queued")
    config = write_config(run, world.url, tutor="verl_parts:FailsForOne")
    verl = verl_config(run / "export", config, folder / "trajectories")
    environment = {
        "PYTHONPATH": f"{ROOT / 'src'}:{SUPPORT}",
        "OMP_NUM_THREADS": "1",
        "VERL_USE_EXTERNAL_MODULES": "safer_steer.training.verl_loop",
    }
    ray.init(num_cpus=8, include_dashboard=False, runtime_env={"env_vars": environment})
    try:
        tq.init(verl.transfer_queue)
        batch = rows(verl)
        seeds = [f"seed{index}" for index in range(SEEDS)]
        batch["uid"] = np.array(seeds, dtype=object)
        data = tu.get_tensordict(
            {name: value if isinstance(value, torch.Tensor) else list(value) for name, value in batch.items()}
        )
        tu.assign_non_tensor_data(data, "global_steps", 1)
        tags = [{"status": "pending", "global_steps": 1, "is_prompt": True}] * SEEDS
        tq.kv_batch_put(keys=seeds, partition_id="train", tags=tags)
        client = VLLMClient(vllm.url, folder / "sampled.jsonl")
        worker = AgentLoopWorkerTQ.options(max_concurrency=8).remote(verl, client)
        ray.get(worker.generate_sequences.remote(data))
        until = time.monotonic() + 300
        while time.monotonic() < until:
            tags = tq.kv_list("train")["train"]
            status = {tags[seed]["status"] for seed in seeds}
            if status <= {"finished", "failure"}:
                break
            time.sleep(0.5)
        assert status == {"finished"}
        keys = sorted(key for key in tags if key.count("_") == 2)
        fields = tq.kv_batch_get(keys=keys, partition_id="train")
        yield keys, fields, tags, read(config, verl, folder)
    finally:
        ray.shutdown()


def places(keys: list[str], played: Played) -> list[Dialogue]:
    """The dialogue behind each key, `<seed>_<k>_0`."""
    index = {f"seed{place}": about["index"] for place, about in enumerate(rows(played.verl)["extra_info"])}
    parts = [key.split("_") for key in keys]
    return [played.dialogues[f"1-{index[seed]}-{session}"] for seed, session, _ in parts]


def test_what_reaches_the_queue_is_what_was_sampled(queued: Any) -> None:
    keys, fields, tags, played = queued
    assert len(keys) == SEEDS * K
    largest = 0.0
    for row, dialogue in enumerate(places(keys, played)):
        found = {name: fields[name][row] for name in ("input_ids", "response_mask", "rollout_log_probs")}
        pictures = fields["multi_modal_inputs"][row]
        turns = played.sampled[dialogue.id]
        assert len(turns) == len(dialogue.turns)
        largest = max(largest, check_tokens(*found.values(), getattr(pictures, "data", pictures), turns))
        assert (tags[keys[row]]["min_global_steps"], tags[keys[row]]["max_global_steps"]) == (0, 0)
    print(f"\nlargest difference to the trainer: {largest:.1e}")
    assert largest < 1e-5


def advantages_of(
    estimator: str, keys: list[str], fields: Any, verl: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the V1 trainer computes them, and the mask: [trajectories, tokens]."""
    data = DataProto(batch=fields.select("response_mask", "rm_scores").to_padded_tensor())
    data.batch["token_level_rewards"] = data.batch["rm_scores"]
    data.non_tensor_batch["uid"] = np.array([key.split("_")[0] for key in keys], dtype=object)
    data = compute_advantage_for_multi_trajectories(data, keys, estimator, config=verl.algorithm)
    return data.batch["advantages"], data.batch["response_mask"]


def test_every_turns_reward_reaches_the_queue(queued: Any) -> None:
    keys, fields, _, played = queued
    for row, dialogue in zip(fields["rm_scores"].unbind(), places(keys, played), strict=True):
        rewards = turn_rewards(dialogue, played.config.rl, played.config.student.format)
        unscored = dialogue.stop is StopReason.UNSCORED
        assert unscored == dialogue.id.endswith("-4") == (rewards is None)
        assert row[row != 0].tolist() == pytest.approx(rewards or [])


def test_the_advantages_are_those_of_the_project(queued: Any) -> None:
    keys, fields, _, played = queued
    dialogues, rl, layout = places(keys, played), played.config.rl, played.config.student.format
    found, mask = advantages_of("steer_tcsr", keys, fields, played.verl)
    different = 0
    for start in range(0, len(keys), K):
        wanted = group_advantages([trajectory_return(d, rl, layout) for d in dialogues[start : start + K]])
        assert wanted.count(None) == 1
        different += len(set(wanted)) > 2
        for row, value in enumerate(wanted, start):
            assert torch.allclose(found[row], mask[row] * (value or 0.0), atol=1e-6)
    assert different, "in some group the returns differ"


def test_the_advantages_by_turn_are_those_of_the_project(queued: Any) -> None:
    keys, fields, _, played = queued
    dialogues, rl, layout = places(keys, played), played.config.rl, played.config.student.format
    found, mask = advantages_of("steer_turns", keys, fields, played.verl)
    for start in range(0, len(keys), K):
        group = [turn_returns(dialogue, rl, layout) for dialogue in dialogues[start : start + K]]
        ends = [row.nonzero().flatten().tolist() for row in fields["rm_scores"].unbind()[start : start + K]]
        wanted = by_token(turn_advantages(group), ends, mask[start : start + K])
        assert torch.allclose(found[start : start + K], wanted, atol=1e-6)
    assert found.any(), "in some group the returns differ"
