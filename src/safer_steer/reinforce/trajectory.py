"""One trajectory of Stage III: a seed played by the student against the tutor, its exact tokens, and its
return.

Nothing of a trainer is in here. A trajectory is journalled as soon as it is finished, so that a run that was
killed neither samples nor scores it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safer_steer.dialogue import Dialogue, Seed, StopReason
from safer_steer.episode import Critic, User, play
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.transcript import Transcript

Return = Callable[[Dialogue], float | None]
"""From a played dialogue to its return; None for none."""


@dataclass
class Trajectory:
    """A played dialogue with what a trainer needs of it: token ids [prompt], [completion], and by completion
    token the rest."""

    dialogue: Dialogue
    value: float | None
    """The return; None where there is none: it gets no advantage and is not in its group's mean."""
    prompt_ids: list[int]
    completion_ids: list[int]
    """From the assistant's first token on, later user turns included."""
    logprobs: list[float]
    """Under the sampling temperature; 0 where the mask is 0."""
    mask: list[int]
    """1 on sampled tokens alone."""

    @property
    def final(self) -> bool:
        """Whether playing it again could not change it. One whose tutor failed may be scored the next
        time."""
        return self.value is not None or self.dialogue.stop is StopReason.CONTEXT_FULL

    def to_row(self) -> dict[str, Any]:
        """The row of a journal, by the dialogue's id."""
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
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Trajectory:
        """The trajectory that `to_row` wrote."""
        mask, sampled = [int(mark) for mark in row["mask"]], iter(row["logprobs"])
        return cls(
            dialogue=Dialogue.model_validate(row["dialogue"]),
            value=row["value"],
            prompt_ids=row["prompt_ids"],
            completion_ids=row["completion_ids"],
            logprobs=[next(sampled) if mark else 0.0 for mark in mask],
            mask=mask,
        )


async def roll_out(
    seed: Seed,
    user: User,
    assistant: StudentAssistant,
    tutor: Critic,
    value: Return,
    max_turns: int,
) -> Trajectory:
    """Play one seed: the student answers, the tutor scores every turn and may write the user's next one."""
    dialogue = await play(seed, user, assistant, tutor, max_turns)
    transcript = assistant.transcript(dialogue) or _unanswered(seed, dialogue, assistant)
    # Cut off, it has no return, whatever the reward: long answers would escape the late turns where models
    # fail.
    returned = None if dialogue.stop is StopReason.CONTEXT_FULL else value(dialogue)
    dialogue.meta["return"] = returned
    return Trajectory(
        dialogue=dialogue,
        value=returned,
        prompt_ids=transcript.prompt_ids,
        completion_ids=transcript.completion_ids,
        logprobs=transcript.logprobs[transcript.first_prompt :],
        mask=transcript.mask[transcript.first_prompt :],
    )


def _unanswered(seed: Seed, dialogue: Dialogue, assistant: StudentAssistant) -> Transcript:
    """Where the student never spoke: the prompt, and an end token that carries no loss."""
    transcript = assistant.begin(dialogue)
    transcript.add_user(seed.script[0])
    transcript.add_assistant([], [])
    return transcript
