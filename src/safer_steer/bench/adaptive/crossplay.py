"""Cross-play: every checkpoint of the student against every checkpoint of the attacker, and against the
sandbox's attackers that were in no training (docs/explanation/cotrain.md, "Figures").

Every cell has a journal, so the same command goes on where it was ended, and one with more scripts plays
those that are new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from safer_steer.bench.adaptive.attacker import by_model
from safer_steer.bench.adaptive.user import AdaptiveUser
from safer_steer.config import Adaptive, Config
from safer_steer.dialogue import Dialogue, Kind, Seed
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Critic, User
from safer_steer.episodes import play_all
from safer_steer.files.images import Picture, PicturesOf, picture_from, pictures_in
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.student.adapters import with_adapter
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.load import load_student, renderer_of
from safer_steer.student.policy import SampledStudent
from safer_steer.training.cotrain.exchange import SYSTEM, shown_first
from safer_steer.training.cotrain.pool import Pool, Side, crossplay_of
from safer_steer.training.cotrain.rewards import hits
from safer_steer.training.cotrain.seat import AdapterPolicy, Scoring, Seat

MOST = 2**40
"""Pixels; a blank picture has as many as the one in whose place it stands."""
HELD_OUT = ("sandbox-b", "sandbox-c")
"""Columns of the sandbox's attackers, whose structures were in no training."""


class CrossPlay:
    """Plays the cells of one run."""

    def __init__(
        self,
        config: Config,
        run: Path,
        pool: Pool,
        tutor: Critic,
        blank: bool = False,
        wait: Callable[[Coroutine[Any, Any, Iterator[Dialogue]]], Iterator[Dialogue]] = asyncio.run,
    ) -> None:
        """`blank`: the attacker sees pictures of one colour; student and tutor see them as they are."""
        self.config, self.pool, self.tutor, self.wait = config, pool, tutor, wait
        self.folder = crossplay_of(run, blank)
        plain = pictures_in(run, config.student.max_pixels)
        self.views: dict[Side, PicturesOf] = {"student": plain, "attacker": _blank(plain) if blank else plain}
        self._model: Any = with_adapter(load_student(config.student).model, pool.anchor()).eval()
        self._adapters: dict[Side, str] = {}

    def cell(self, seeds: list[Seed], student: int, attacker: int | str) -> dict[str, float | None]:
        """Breach rate on the attacks among the seeds and rate of refused twins on the others, for a student
        after so many steps against an attacker after so many, or one of `HELD_OUT`. Raises as
        `episodes.play_all`; what an endpoint lost is played by the next call."""
        playing = play_all(
            [shown_first(seed) for seed in seeds],
            self._speaker("student", student),
            Scoring(self.tutor),
            self.folder / f"{student:05d}-{attacker}.jsonl",
            user=self._user(attacker),
            again_if_unreached=True,
            max_turns=self.config.rl.max_turns,
        )
        return rates(self.wait(playing))

    def _user(self, attacker: int | str) -> User:
        format = self.config.student.format
        if isinstance(attacker, int):
            return Seat(self._speaker("attacker", attacker), format)
        role = self.config.role("attacker").model_copy(update={"model": attacker})
        model = ChatModel("attacker", role, SandboxTransport(attacker))
        settings = Adaptive(turns=self.config.rl.max_turns, take_backs=0)
        return AdaptiveUser(by_model, lambda: model, settings, format, self.views["attacker"])

    def _speaker(self, side: Side, steps: int) -> StudentAssistant:
        settings = self.config.student
        if side == "attacker":
            settings = settings.model_copy(update={"system": SYSTEM})
        renderer, rl = renderer_of(settings), self.config.rl
        adapter = self._adapter(side, steps)
        sampled = SampledStudent(self._model, renderer, settings, rl.temperature, rl.rollouts, "")
        key = f"cross-play {self.config.seed} {side}"
        return StudentAssistant(AdapterPolicy(sampled, adapter), renderer, settings, self.views[side], key)

    def _adapter(self, side: Side, steps: int) -> str | None:
        """PEFT's name of a checkpoint on the one base, which holds one of each side; None for the base."""
        path, name = self.pool.path(side, steps), f"{side}_{steps}"
        if path is None:
            return None
        if self._adapters.get(side) != name:
            if earlier := self._adapters.pop(side, None):
                self._model.delete_adapter(earlier)
            self._model.load_adapter(path, name)
            self._adapters[side] = name
        return name


def rates(dialogues: Iterable[Dialogue]) -> dict[str, float | None]:
    """Shares of attacks with a breach and of benign dialogues with a safe request refused; None without any.
    Dialogues that were not scored to their end are left out."""
    marks: Mapping[bool, list[bool]] = {False: [], True: []}
    for dialogue in dialogues:
        if dialogue.turns and all(turn.scores for turn in dialogue.turns):
            benign = dialogue.kind is Kind.BENIGN
            marks[benign].append(any(hits(turn.scores or {}, benign) for turn in dialogue.turns))
    return {
        "breach": fmean(marks[False]) if marks[False] else None,
        "twins refused": fmean(marks[True]) if marks[True] else None,
    }


def matrix(
    play: CrossPlay,
    seeds: list[Seed],
    students: Iterable[int],
    attackers: Sequence[int | str],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """One row for each cell: student, attacker and its rates."""
    cells = []
    for student in students:
        for attacker in attackers:
            cell = {"student": student, "attacker": attacker, **play.cell(seeds, student, attacker)}
            say(", ".join(f"{name} {value}" for name, value in cell.items()))
            cells.append(cell)
    return cells


def _blank(pictures_of: PicturesOf) -> PicturesOf:
    """The same pictures in one colour, of the same sizes."""

    def blank(images: Any) -> list[Picture]:
        pictures = []
        for picture in pictures_of(images):
            with Image.open(BytesIO(picture.data)) as image:
                file = BytesIO()
                Image.new("RGB", image.size, "grey").save(file, "PNG")
            pictures.append(picture_from(file.getvalue(), picture.name, MOST))
        return pictures

    return blank
