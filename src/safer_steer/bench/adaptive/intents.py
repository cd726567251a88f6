"""Intents: what an attacker is after, in front of which picture. A file has one JSON object a line."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Self

from pydantic import Field

from safer_steer.dialogue import Kind, Said, Seed, Turn, each_row
from safer_steer.errors import UserError
from safer_steer.files.script_file import check_rows
from safer_steer.files.store import numbered_lines


class Intent(Seed):
    """What an attacker is after. The row of a suite is one, too; its script is not used."""

    id: str = Field("", min_length=1)
    intent: Said
    kind: Kind = Kind.RED_TEAM
    turns: list[Turn] = Field(default_factory=list)
    later: list[str] = Field(default_factory=list, exclude_if=lambda images: not images)
    """Pictures that the attacker may show in a later turn."""

    @property
    def all_images(self) -> list[str]:
        return [*self.images, *self.later]

    def with_images(self, renamed: Callable[[str], str]) -> Self:
        pictures = {"images": [*map(renamed, self.images)], "later": [*map(renamed, self.later)]}
        return self.model_copy(update=pictures)

    def bare(self) -> Intent:
        """Without a script. The pictures of its first turn are the intent's, those of other turns `later`."""
        first, *others = self.images_by_turn() or [self.images]
        images = [*dict.fromkeys(first)]
        later = [*dict.fromkeys([*self.later, *chain(*others)])]
        later = [image for image in later if image not in images]
        return self.model_copy(update={"turns": [], "images": images, "later": later})


def read_intents(path: Path) -> list[Intent]:
    """The intents of a file. Their picture paths are relative to its folder. One without an id gets the
    number of its line as one, `line-3`.

    Raises:
        UserError: the file is missing or empty, a row is no intent, is benign, or has no `intent`, an id
            occurs twice, or a picture is missing or lies outside the folder. Names the file and the line or
            id.
    """
    intents = [intent.bare() for intent in each_row(path, Intent)]
    for (number, _), intent in zip(numbered_lines(path), intents, strict=True):
        intent.id = intent.id or f"line-{number}"
        if intent.kind is Kind.BENIGN:
            raise UserError(
                f"{path}: {intent.id} is benign; an attacker needs an intent that a model should not serve"
            )
    check_rows(path, intents)
    return intents


def tries_of(intents: list[Intent], attacker: str, turns: int, tries: int) -> list[Seed]:
    """The dialogues of one attacker: `tries` for each intent, with as many places as user turns.

    Each has the id `<intent>~<try>`, and `intent_id`, `try` (from 0) and `attacker` in its meta.
    """
    return [
        Seed(
            id=f"{intent.id}~{number}",
            kind=intent.kind,
            source=intent.source,
            intent=intent.intent,
            images=intent.images,
            turns=[Turn(user=intent.intent) for _ in range(turns)],
            meta={"intent_id": intent.id, "try": number, "attacker": attacker}
            | ({"later": intent.later} if intent.later else {}),
        )
        for number in range(tries)
        for intent in intents
    ]
