"""One trajectory of Stage III: a seed played by the student against the tutor, with exact tokens and return.

This module does not depend on a trainer. A trajectory is journalled as soon as it is finished, so a killed
run does not sample or score it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from numbers import Real
from typing import Any

import torch

from safer_steer.dialogue import Dialogue, Seed, StopReason
from safer_steer.episode import Critic, User, play
from safer_steer.errors import UserError
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.transcript import Transcript
from safer_steer.training.returns import LOST

Return = Callable[[Dialogue], float | None]
"""Computes the return of a dialogue that was played to its end; None if it has none."""


@dataclass
class Trajectory:
    """A played dialogue and the data a trainer needs: token ids [prompt] and [completion]; the other lists
    have one entry per completion token."""

    dialogue: Dialogue
    value: float | None
    """The return. With None, the trajectory gets no advantage and does not count in its group's mean."""
    prompt_ids: list[int]
    completion_ids: list[int]
    """From the assistant's first token on, including later user turns."""
    logprobs: list[float]
    """At the sampling temperature; 0 where the mask is 0."""
    mask: list[int]
    """1 only on sampled tokens."""
    ends: list[int]
    """Place of each answer's last token in the completion. The tokens of a turn are the sampled ones after
    the last turn's end, up to its own; there may be none."""
    replayed: bool = field(default=False, compare=False)
    """Whether it comes from the journal; the weights that sampled it may then be gone."""

    @property
    def final(self) -> bool:
        """Whether the trajectory is settled. One whose tutor failed is not: it may be scored when played
        again."""
        return self.value is not None or self.dialogue.stop is StopReason.CONTEXT_FULL

    def to_row(self) -> dict[str, Any]:
        """The journal row, keyed by the dialogue's id."""
        return {
            "id": self.dialogue.id,
            "dialogue": self.dialogue.model_dump(mode="json"),
            "value": self.value,
            "prompt_ids": self.prompt_ids,
            "completion_ids": self.completion_ids,
            "logprobs": [
                logprob for logprob, sampled in zip(self.logprobs, self.mask, strict=True) if sampled
            ],
            "mask": "".join(map(str, self.mask)),
            "ends": self.ends,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Trajectory:
        """Rebuild a trajectory from the row that `to_row` made."""
        mask, sampled = [int(mark) for mark in row["mask"]], iter(row["logprobs"])
        return cls(
            dialogue=Dialogue.model_validate(row["dialogue"]),
            value=row["value"],
            prompt_ids=row["prompt_ids"],
            completion_ids=row["completion_ids"],
            logprobs=[next(sampled) if mark else 0.0 for mark in mask],
            mask=mask,
            ends=row["ends"],
            replayed=True,
        )


def as_trajectory(seed: Seed, id: str, number: int) -> Seed:
    """A copy of a seed that is played more than once, with the trajectory's id; `meta.seed` is its own.

    Args:
        number: which of the run's plays of this seed it is, from 0. No other has the same, so the tutor's
            verdicts and attacks are samples of its own even where its siblings give equal answers.
    """
    return seed.model_copy(update={"id": id, "meta": {**seed.meta, "seed": seed.id, "try": number}})


async def roll_out(
    seed: Seed,
    user: User,
    assistant: StudentAssistant,
    tutor: Critic,
    value: Return,
    max_turns: int,
) -> Trajectory:
    """Play one seed. The student answers; the tutor scores every turn and may write the next user turn.
    Raises `UserError` if the return is no finite number."""
    dialogue = await play(seed, user, assistant, tutor, max_turns)
    transcript = assistant.transcript(dialogue) or unanswered(assistant.asked(dialogue, seed.turns[0]))
    # A cut-off trajectory has no return: long answers would otherwise avoid the late turns, where models
    # fail. Nor has one in which a call failed.
    returned = None if dialogue.stop in LOST else value(dialogue)
    if returned is not None and not (isinstance(returned, Real) and isfinite(returned)):
        raise UserError(
            f"rl.reward: {returned!r} for trajectory {dialogue.id}; return a finite number, or None for none"
        )
    return settled(dialogue, transcript, None if returned is None else float(returned))


def settled(dialogue: Dialogue, transcript: Transcript, returned: float | None) -> Trajectory:
    """The trajectory of a played dialogue with this return, which its meta then has."""
    dialogue.meta["return"] = returned
    return Trajectory(
        dialogue=dialogue,
        value=returned,
        prompt_ids=transcript.prompt_ids,
        completion_ids=transcript.completion_ids,
        logprobs=transcript.logprobs[transcript.first_prompt :],
        mask=transcript.mask[transcript.first_prompt :],
        ends=[end - transcript.first_prompt for end in transcript.ends],
    )


def unanswered(transcript: Transcript) -> Transcript:
    """The transcript of a side that never spoke: its prompt and an end token that carries no loss."""
    transcript.add_assistant([], [])
    return transcript


def by_token(
    advantages: Sequence[Sequence[float] | None], ends: Sequence[Sequence[int]], mask: torch.Tensor
) -> torch.Tensor:
    """The advantage of every token, [trajectories, tokens]: its turn's on sampled tokens, else 0.

    Args:
        advantages: one for each turn of each trajectory; None, and so 0, for one that is unscored.
        ends: the place of each answer's last token (`Trajectory.ends`).
        mask: 1 on sampled tokens, [trajectories, tokens].
    """
    spread = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    for row, (own, last) in enumerate(zip(advantages, ends, strict=True)):
        start = 0
        for value, end in zip(own or [0.0] * len(last), last, strict=True):
            spread[row, start : end + 1] = value
            start = end + 1
    return spread * mask
