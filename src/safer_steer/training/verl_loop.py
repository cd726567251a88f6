"""Stage III on verl: the dialogue as verl's agent loop, its credit as verl's advantage estimators.

verl's servers sample and its trainer learns. Dialogue, transcript, tutor and rewards are those of `rl` with
TRL (`trajectory.roll_out`). verl 0.9.1, which is not installed with this package, finds this module by
VERL_USE_EXTERNAL_MODULES (docs/how-to/verl.md). Its settings are `algorithm.safer_steer` of verl's config:

- `config`: path of the run's config, readable on every node;
- `trajectories`: folder in which each worker writes its dialogues, or null. `rl.tutor_memory` needs it, on a
  file system that all nodes share: the tutor remembers what the workers wrote of the steps before.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
    register,
)
from verl.trainer.ppo.core_algos import register_adv_est

from safer_steer.config import Config, RoleName, Student
from safer_steer.config.file import load_config
from safer_steer.config.named import load_named
from safer_steer.dialogue import Dialogue, Seed, StopReason, to_jsonl
from safer_steer.endpoints.blind import Captions, endpoint_of
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import Transport
from safer_steer.episode import Critic, Script
from safer_steer.errors import UserError
from safer_steer.files.images import Picture, PicturesOf, picture_from
from safer_steer.files.store import read_rows
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.load import renderer_of
from safer_steer.student.policy import Completion, cut_at_its_end, seed_of
from safer_steer.student.renderer import Renderer
from safer_steer.student.transcript import Transcript
from safer_steer.training.returns import leaks, noted_return
from safer_steer.training.trajectory import Return, Trajectory, as_trajectory, roll_out
from safer_steer.training.tutor import TutorCritic
from safer_steer.training.tutor_memory import WINDOW, TutorMemory, memory_of, tries_in
from safer_steer.training.verl_rewards import (
    Credit,
    ScoredShare,
    advantages,
    by_trajectory,
    by_turn,
    token_rewards,
)

LARGEST_NUMBER = 10**6
"""Trajectories that get their number by chance get one below this."""


class ServerPolicy:
    """verl's inference servers as the student's policy, for one dialogue: exact ids in, exact ids out."""

    def __init__(self, server: Any, sampling: dict[str, Any], student: Student, request: str) -> None:
        """`sampling` is what verl samples with; `request` keeps the dialogue on one server."""
        self.server, self.sampling, self.student, self.request = server, sampling, student, request
        self.weights: list[int] = []
        """The steps whose weights sampled the turns, as far as the servers say."""

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        """Sample the next turn. Raises `UserError` if the servers return no log-probabilities."""
        sampling = self.sampling | {
            "max_tokens": self.student.max_turn_tokens,
            "stop_token_ids": transcript.renderer.stops,
            "seed": seed_of(key),
        }
        sampled = await self.server.generate(
            request_id=self.request,
            prompt_ids=list(transcript.ids),
            sampling_params=sampling,
            image_data=list(transcript.images) or None,
        )
        ids, logprobs = list(sampled.token_ids), list(sampled.log_probs or [])
        if len(logprobs) != len(ids):
            raise UserError(
                "actor_rollout_ref.rollout.calculate_log_probs: the servers return no log-probabilities;"
                " set it to True"
            )
        steps = (sampled.extra_fields.get(f"{end}_global_steps") for end in ("min", "max"))
        self.weights += [step for step in steps if step is not None]
        return cut_at_its_end(ids, logprobs, transcript.renderer)


class SteerOutput(AgentLoopOutput):
    """A trajectory as verl takes it."""

    token_rewards: list[float]
    """See `verl_rewards`."""

    def as_dict(self) -> dict[str, Any]:
        """The fields that verl's V1 trainer stores, with each turn's reward in `rm_scores`."""
        fields = super().as_dict()
        fields["rm_scores"] = torch.tensor(fields.pop("token_rewards"), dtype=torch.float32)
        return fields


@dataclass(frozen=True)
class Parts:
    """What all trajectories of a worker share."""

    config: Config
    renderer: Renderer
    tutor: Callable[[PicturesOf, TutorMemory | None], Critic]
    value: Return


@cache
def parts(config_path: str, model: str, workers: int) -> Parts:
    """Read the config, prove the student's chat template, and prepare the tutor. Raises `UserError` if what
    the config says cannot be done here.

    Each of the `workers` gets its share of a role's `concurrency` and `requests_per_minute`."""
    config = load_config(Path(config_path))
    if config.spending_limit is not None:
        raise UserError(
            f"{config_path}: spending_limit: verl's workers cannot keep it together; remove it from a copy of"
            " the config, and set a limit at the tutor's endpoint"
        )
    endpoints: dict[RoleName, Transport] = {}

    def ask(role: RoleName) -> ChatModel:
        settings = config.role(role)
        if not settings.remote:
            raise UserError(
                f"roles.{role}: with verl, the role needs a base_url; `safer-steer sandbox serve` serves the"
                " sandbox's agents"
            )
        if role not in endpoints:
            endpoints[role] = endpoint_of(settings.shared_by(workers), captions)
        return ChatModel(role, settings, endpoints[role])

    def captions() -> Captions:
        assert config.captioner, "the config has been checked"
        return Captions(ask(config.captioner))

    rl = config.rl
    if rl.tutor:
        own: Critic = load_named("rl.tutor", rl.tutor)(config, Path(config_path).parent, ask)
    else:
        chat = ask("tutor")

    def tutor(pictures_of: PicturesOf, memory: TutorMemory | None) -> Critic:
        if rl.tutor:
            return own
        return TutorCritic(chat, config.student.format, pictures_of, rl.feedback_dynamics, memory)

    value = load_named("rl.reward", rl.reward) if rl.reward else partial(noted_return, config)
    return Parts(config, renderer_of(config.student, model), tutor, value)


@register("safer_steer")
class SteerLoop(AgentLoopBase):
    """One trajectory: a script of the export, played by the student against the tutor."""

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> SteerOutput:
        """Play the script in `extra_info`. A tutor that fails leaves the trajectory unscored.

        Args:
            sampling_params: what verl samples with.
            row: a row of the export (`export/verl.py`), and what verl adds to it.

        Raises:
            UserError: see `parts` and `ServerPolicy`. verl then counts the seed's whole group as failed.
        """
        verl, ours = self.config.actor_rollout_ref, self.config.algorithm.safer_steer
        here = parts(ours.config, verl.model.path, verl.rollout.agent.num_workers)
        config, about = here.config, row["extra_info"]
        step, session = row.get("global_steps"), row.get("session_id")
        if session is None:  # an older trainer does not say which of a seed's trajectories this is
            uuid = uuid4()
            id, number = uuid.hex, uuid.int % LARGEST_NUMBER
        else:
            id = f"{step}-{about['index']}-{session}"
            number = int(step or 0) * verl.rollout.n + session
        seed = as_trajectory(Seed.model_validate_json(about["seed"]), id, number)
        pictures_of = embedded_pictures(about["pictures"], config.student.max_pixels)
        policy = ServerPolicy(self.server_manager, sampling_params, config.student, id)
        longest = min(config.rl.max_completion_tokens, self.rollout_config.response_length)
        assistant = StudentAssistant(
            policy, here.renderer, config.student, pictures_of, f"rl {config.rl_seed}", longest
        )
        folder, number_of_step = ours.get("trajectories"), int(step or 0)
        tutor = here.tutor(pictures_of, memory_before(ours.config, folder, number_of_step))
        trajectory = await roll_out(seed, Script(), assistant, tutor, here.value, config.rl.max_turns)
        keep(trajectory, folder, number_of_step)
        transcript = assistant.transcript(trajectory.dialogue)
        weights = policy.weights or [max(0, number_of_step - 1)]
        return output(trajectory, transcript.images if transcript else [], weights, config.rl.reward is None)


def embedded_pictures(pictures: Sequence[dict[str, Any]], max_pixels: int) -> PicturesOf:
    """What finds a dialogue's pictures among those of its row, given as `{"name", "bytes"}`."""

    @cache
    def by_name() -> dict[str, Picture]:
        return {one["name"]: picture_from(one["bytes"], one["name"], max_pixels) for one in pictures}

    return lambda images: [by_name()[name] for name in images]


def output(trajectory: Trajectory, images: list[Any], weights: list[int], by_turn: bool) -> SteerOutput:
    """A trajectory as verl's output, with the pictures that its tokens show."""
    rewards = token_rewards(trajectory, by_turn)
    dialogue = trajectory.dialogue
    counted = {
        "scored": float(trajectory.value is not None),
        "cut_off": float(dialogue.stop is StopReason.CONTEXT_FULL),
        "leaked": float(leaks(dialogue)),
        "turns": float(len(dialogue.turns)),
    }
    return SteerOutput(
        prompt_ids=trajectory.prompt_ids,
        response_ids=trajectory.completion_ids,
        response_mask=trajectory.mask,
        response_logprobs=trajectory.logprobs,
        multi_modal_data={"images": images} if images else {},
        reward_score=sum(token_rewards(trajectory, by_turn=False)),
        num_turns=2 * len(dialogue.turns),
        metrics=AgentLoopMetrics(),
        token_rewards=rewards,
        extra_fields={
            "turn_scores": [rewards[end] for end in trajectory.ends],
            "tool_rewards": [],
            "min_global_steps": min(weights),
            "max_global_steps": max(weights),
            "reward_extra_info": counted,
        },
    )


def keep(trajectory: Trajectory, folder: str | None, step: int) -> None:
    """Append the dialogue to this process's file of the step in the folder."""
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / f"{step:06d}-{socket.gethostname()}-{os.getpid()}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(to_jsonl([trajectory.dialogue]))


@lru_cache(maxsize=2)
def memory_before(config_path: str, folder: str | None, step: int) -> TutorMemory | None:
    """What the tutor remembers in a step: the dialogues that all workers wrote of the steps before it. A step
    that was sampled again after a resume counts once, as written last. Raises `UserError` if the tutor has a
    memory, and no folder to have it from."""
    memory = memory_of(load_config(Path(config_path)))
    if memory is None:
        return None
    if not folder:
        raise UserError(
            "algorithm.safer_steer.trajectories: rl.tutor_memory reads what is there; set the folder, or"
            " set rl.tutor_memory to false"
        )
    for before in range(max(0, step - WINDOW), step):
        files = sorted(Path(folder).glob(f"{before:06d}-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        rows = {row["id"]: row for path in files for row in read_rows(path)}
        memory.learn(tries_in(map(Dialogue.model_validate, rows.values())))
    return memory


_shares = ScoredShare()


def estimator(credit: Credit) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """verl's advantage estimator for a way of giving credit. It returns the advantages twice,
    [trajectories, tokens]: there is no critic to learn the returns."""

    def estimate(
        token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, config: Any, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if config.use_kl_in_reward:
            raise UserError(
                "algorithm.use_kl_in_reward: set it to False; actor.use_kl_loss is the method's KL"
            )
        rl = load_config(Path(config.safer_steer.config)).rl
        _shares.note(token_level_rewards, response_mask, rl)
        values = advantages(token_level_rewards, response_mask, list(index), rl, credit)
        return values, values

    return estimate


register_adv_est("steer_tcsr")(estimator(by_trajectory))
register_adv_est("steer_turns")(estimator(by_turn))
