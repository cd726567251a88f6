"""The user's seat: an attacker that is a policy, in `episode.play`; and two policies on one base."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from trl.trainer.utils import use_adapter

from safer_steer.dialogue import Dialogue, Format, Turn
from safer_steer.episode import Critic, Reply, Verdict
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.decoding import Row
from safer_steer.student.policy import SampledStudent, Sampling
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import TransformersPolicy
from safer_steer.training.cotrain.exchange import NOTHING, exchanged, goal_of, heard

_active = threading.Lock()
"""Held while a model decodes with one of its adapters: which one is active is a state of the model."""


class AdapterPolicy(TransformersPolicy):
    """Samples with one adapter of a PEFT model. Policies of other adapters take turns with it."""

    def __init__(self, student: SampledStudent, adapter: str | None) -> None:
        """`adapter`: PEFT's name of it; None for the base alone."""
        settings = student.settings
        sampling = Sampling(settings.max_turn_tokens, student.temperature)
        super().__init__(student.model, sampling, settings.generation_tokens, settings.kept_tokens)
        self.adapter = adapter

    @torch.no_grad()
    def _decode(self, new: list[Row]) -> list[Row]:
        with _active, use_adapter(self.model, self.adapter):
            finished: list[Row] = super()._decode(new)
            return finished


class Seat:
    """A user of `episode.play` whose turns are sampled. The exact tokens of each dialogue are the
    assistant's, from the user's seat (`exchange.exchanged`)."""

    def __init__(self, assistant: StudentAssistant, format: Format) -> None:
        """`assistant` renders with the system message of the seat; `format` is the student's."""
        self.assistant, self.format = assistant, format
        self._seen: dict[str, Dialogue] = {}

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        """The next user turn. Raises `ContextFull` if it does not fit."""
        own = self._own(dialogue)
        before = dialogue.turns[-1].assistant if dialogue.turns else None
        text = goal_of(dialogue.intent) if before is None else heard(before, self.format)
        reply = await self.assistant.answer(own, Turn(user=text))
        return Reply(reply.text.strip() or NOTHING)

    def transcript(self, dialogue: Dialogue) -> Transcript | None:
        """The exact tokens of a dialogue that was played; None before the first turn."""
        return self.assistant.transcript(self._own(dialogue))

    def first(self, dialogue: Dialogue) -> Transcript:
        """The prompt alone, for a dialogue in which nothing was said."""
        return self.assistant.asked(Dialogue.begin(dialogue), Turn(user=goal_of(dialogue.intent)))

    def _own(self, dialogue: Dialogue) -> Dialogue:
        if dialogue.id not in self._seen:
            self._seen[dialogue.id] = Dialogue.begin(dialogue)
            weakref.finalize(dialogue, self._seen.pop, dialogue.id, None)
        own = self._seen[dialogue.id]
        own.turns = exchanged(dialogue, self.format).turns
        return own


class Scoring:
    """A critic that scores and writes no turns, since the attacker in the seat does."""

    def __init__(self, critic: Critic) -> None:
        self.critic: Any = critic
        self.immediate = critic.immediate

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        verdict: Verdict = await self.critic.judge(dialogue, turn, None)
        verdict.next_user = None
        return verdict
