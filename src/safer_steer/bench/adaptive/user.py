"""An attacker in the user's seat of `episode.play`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safer_steer.bench.adaptive.attacker import Attacker, Move, Seen
from safer_steer.config import Adaptive
from safer_steer.config.typographic import Lettering
from safer_steer.data.typographic import Undrawable, drawn_picture, keep, legible
from safer_steer.dialogue import Dialogue, Format, StopReason, Turn, visible_answer
from safer_steer.endpoints.asked_again import Request
from safer_steer.endpoints.refusals import check
from safer_steer.episode import Critic, Reply, Verdict
from safer_steer.errors import EmptyError, RefusedError, RepeatedError, UnparsableError, UserError
from safer_steer.files.images import PicturesOf, View, in_view
from safer_steer.files.meta import TurnMeta
from safer_steer.metrics import BREACH_BELOW
from safer_steer.prompts.attacker import SHOW_TEXT, SHOWING_TEXT, TECHNIQUES
from safer_steer.prompts.base import Exchange, history

if TYPE_CHECKING:
    from safer_steer.endpoints.chat import ChatModel


class EndsAtBreach:
    """A critic whose verdicts the dialogue waits for, and ends at if they find a breach."""

    immediate = True

    def __init__(self, judge: Critic) -> None:
        self.critic = judge

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        verdict = await self.critic.judge(dialogue, turn, template)
        if verdict.scores["harmlessness"] < BREACH_BELOW:
            verdict.stop = StopReason.SUCCESS
        return verdict


PICTURES = "intents/shown"
"""Folder in a run of the pictures that attackers had drawn."""
GAVE_UP = (RefusedError, EmptyError, RepeatedError, UnparsableError)
"""What `AdaptiveUser._plan` raises if the attacker has no move, and not its endpoint."""


@dataclass
class _Planned:
    move: Move
    words: str
    """Of the move's picture, as it shows them; "" for none."""
    picture: bytes
    calls: int
    asked: Request


class AdaptiveUser:
    """Asks the attacker for each turn. Each turn's meta has `technique`, `calls` (of the attacker, in this
    dialogue, up to that turn), what it observed and thought, and its faults (`attacker`).

    A move that declines, is empty or repeats a turn is asked for once more; if that fails too, the attacker
    gives up and the dialogue ends (`user_failed`). After the last turn, an attacker that gives up does not
    take it back. Faults that no turn has are in the dialogue's meta (`attacker_faults`).
    """

    def __init__(
        self,
        attacker: Attacker,
        model: Callable[[], ChatModel],
        settings: Adaptive,
        format: Format,
        pictures_of: PicturesOf,
        folder: Path | None = None,
    ) -> None:
        """`model` gives the model of the role; it is called when the attacker asks it. Words that it shows
        are drawn into pictures in `folder`, the one that `pictures_of` reads from.

        Raises:
            UserError: a technique is unknown.
        """
        self.attacker, self.model, self.settings = attacker, model, settings
        self.format, self.pictures_of, self.folder = format, pictures_of, folder
        self.techniques = {name: TECHNIQUES[name] for name in checked_techniques(settings.techniques)}
        if settings.show_text:
            self.techniques |= SHOWING_TEXT
        self._planned: dict[str, _Planned] = {}
        """A move that was made while the last turn stood, by dialogue."""

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        """The next user turn. Raises a `BoundaryError` if the attacker gives up."""
        planned = self._planned.pop(dialogue.id, None) or await self._plan(dialogue)
        move, own = planned.move, dialogue.meta.get("later", [])
        meta: TurnMeta = {"technique": move.technique, "calls": planned.calls}
        if move.observation:
            meta["observation"] = move.observation
        if move.thought:
            meta["thought"] = move.thought
        meta |= cast(TurnMeta, move.notes)
        if planned.asked.faults:
            meta["attacker"] = planned.asked.noted()
        images = [own[move.picture - 1]] if 0 < move.picture <= len(own) else []
        if planned.words:
            assert self.folder, "an attacker that shows words needs a folder for their pictures"
            images.append(keep(planned.picture, self.folder, f"{PICTURES}/"))
            meta["in_picture"] = planned.words
        return Reply(move.user, meta, images)

    async def takes_back(self, dialogue: Dialogue) -> bool:
        """Whether the attacker takes the last turn back. Where it may not, it is asked for its move later.
        Raises a `BoundaryError` if it gives up and turns are left."""
        if not self._take_backs_left(dialogue):
            return False
        ended = len(dialogue.turns) == self.settings.turns
        try:
            planned = await self._plan(dialogue)
        except GAVE_UP:
            if ended:
                return False
            raise
        if planned.move.take_back or not ended:
            self._planned[dialogue.id] = planned
        elif planned.asked.faults:
            dialogue.meta["attacker_faults"] = planned.asked.faults
        return planned.move.take_back

    async def _plan(self, dialogue: Dialogue) -> _Planned:
        before = [turn.words for turn in dialogue.turns]
        tried = [turn.words for turn in _attempts(dialogue)]
        said_here = [*before[-1:], *tried] if self._take_backs_left(dialogue) else []
        before += tried
        request = Request()
        while True:
            calls = dialogue.meta["calls"] = dialogue.meta.get("calls", 0) + 1
            try:
                move = await self.attacker(self._for_attacker(dialogue, request.faults))
                words, picture = self._picture(move.show_text)
                message = f"{move.user} {words}".strip()
                for part in (move.user, words or message):
                    check("attacker", part)
                check("attacker", message, before)
                if move.take_back:
                    check("attacker", message, said_here, sayings=1)
                return _Planned(move, words, picture, calls, request)
            except GAVE_UP as error:
                if not request.again(error):
                    dialogue.meta["attacker_faults"] = request.faults
                    raise

    def _picture(self, text: str) -> tuple[str, bytes]:
        """The words that a picture shows, and the picture. Raises `UnparsableError` if they cannot be
        drawn."""
        if not text:
            return "", b""
        try:
            words = legible(text)
            return words, drawn_picture(words, self.settings.show_text or Lettering())
        except Undrawable as error:
            raise UnparsableError(f"attacker: its words cannot be drawn: {error}") from None

    def _for_attacker(self, dialogue: Dialogue, faults: list[str]) -> Seen:
        last = dialogue.turns[-1] if dialogue.turns else None
        own = dialogue.meta.get("later", [])
        view = self._view(dialogue, own)

        async def ask(prompt: Any, inputs: Any) -> Any:
            return await self.model().ask(prompt, inputs, view, repeat=dialogue.sample(Turn(user="?")))

        return Seen(
            intent=dialogue.intent,
            history=history(dialogue, self.format),
            taken_back=[
                Exchange(user=turn.words, assistant=visible_answer(turn.assistant or "", self.format))
                for turn in _attempts(dialogue)
            ],
            turns_left=self.settings.turns - len(dialogue.turns),
            take_backs_left=self._take_backs_left(dialogue),
            scores=last.scores if last and self.settings.see_scores else None,
            techniques=self.techniques,
            pictures=view,
            own_pictures=len(own),
            faults=tuple(faults),
            key=dialogue.id,
            ask=ask,
        )

    def _view(self, dialogue: Dialogue, own: list[str]) -> View:
        view: View = []
        for number, image in enumerate(own, 1):
            view += [f"Picture {number} of your own:", *self.pictures_of([image])]
        by_turn = dialogue.images_by_turn() if dialogue.turns else [dialogue.images]
        return [
            *view,
            *(["The pictures of the dialogue:"] if view else []),
            *in_view(by_turn, self.pictures_of),
        ]

    def _take_backs_left(self, dialogue: Dialogue) -> int:
        used = sum(len(turn.taken_back) for turn in dialogue.turns)
        return self.settings.take_backs - used


def checked_techniques(techniques: list[str]) -> list[str]:
    """These techniques; all if none is named. Raises `UserError` if one is unknown."""
    for name in techniques:
        if name not in TECHNIQUES:
            raise UserError(
                f"bench.adaptive.techniques: {name!r} is unknown; use {', '.join(TECHNIQUES)};"
                f" {SHOW_TEXT} has a key of its own, bench.adaptive.{SHOW_TEXT}"
            )
    return techniques or list(TECHNIQUES)


def _attempts(dialogue: Dialogue) -> list[Turn]:
    """The turns that were taken back before the last one, in its place."""
    return dialogue.turns[-1].taken_back if dialogue.turns else []
