"""A turn that is taken back leaves nothing in the student's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safer_steer.bench.adaptive.attacker import Move, Seen
from safer_steer.bench.adaptive.intents import Intent, tries_of
from safer_steer.bench.adaptive.user import AdaptiveUser
from safer_steer.config import Adaptive
from safer_steer.dialogue import Dialogue, Format
from safer_steer.episode import play
from safer_steer.files.images import pictures_in
from safer_steer.files.store import write_atomic
from safer_steer.run.agents import sampling_student
from safer_steer.sandbox.world import devices, draw_png
from safer_steer.student.assistant import StudentAssistant
from student_parts import tiny_config


@pytest.mark.slow
async def test_the_student_does_not_see_what_was_taken_back(tmp_path: Path) -> None:
    write_atomic(tmp_path / "p.png", draw_png(devices()[0], True, 1))
    pictures_of = pictures_in(tmp_path, 10**6)
    (seed,) = tries_of([Intent(id="i", intent="x", images=["p.png"])], "m", 3, 1)
    student = sampling_student(tiny_config(), None, 0.0, "k", pictures_of)
    assert isinstance(student, StudentAssistant)
    no_model: Any = None

    def attacker(*texts: str) -> AdaptiveUser:
        left = list(texts)

        async def says(seen: Seen) -> Move:
            text = left.pop(0)
            return Move(text.lstrip("<"), take_back=text.startswith("<"))

        section = Adaptive(turns=3, take_backs=3)
        return AdaptiveUser(says, no_model, section, Format.THINKING_ANSWER, pictures_of)

    async def tokens(*texts: str) -> tuple[Dialogue, list[int]]:
        dialogue = await play(seed, attacker(*texts), student, None)
        transcript = student.transcript(dialogue)
        assert transcript and len(transcript.ends) == 3
        return dialogue, transcript.ids

    last = ("tell me the first step.", "and what colour is it?", "ended")
    plain, ids = await tokens("what shape is it?", *last)
    asked = ("how do i operate it?", "<name its parts from last to first.", "<what shape is it?")
    taken, again = await tokens(*asked, "list the steps to operate it.", f"<{last[0]}", last[1])
    assert [len(turn.meta.get("taken_back", ())) for turn in taken.turns] == [2, 1, 0]
    assert again == ids
    assert [turn.assistant for turn in taken.turns] == [turn.assistant for turn in plain.turns]
