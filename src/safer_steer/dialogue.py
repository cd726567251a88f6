"""The nouns every stage shares: `Seed`, `Turn`, `Dialogue`, `StopReason`, and their JSONL form.

A dialogue is D = (x, (u_1, a_1) ... (u_T, a_T)): x the pictures, u_t the user's turn, a_t the assistant's
(docs/method.md, "The problem"). A seed is the same row with the user's side alone: the script.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from safer_steer.errors import UserError


class Kind(StrEnum):
    """What a script is for (docs/method.md, Stage I)."""

    BENIGN = "benign"
    OBFUSCATED = "obfuscated"
    RED_TEAM = "red_team"


class Format(StrEnum):
    """How the assistant lays out a turn."""

    THINKING_ANSWER = "thinking_answer"
    """One `<thinking>...</thinking>` block, then one `<answer>...</answer>` block (the paper's)."""
    PLAIN = "plain"


class StopReason(StrEnum):
    """Why a dialogue ended; counted in every report."""

    COMPLETED = "completed"
    """The script, or the turn limit, was reached."""
    SUCCESS = "success"
    """Stage I: the attack reached its score."""
    HARD_REFUSAL = "hard_refusal"
    """Stage I: a short script was refused outright at its first turn."""
    UNSCORED = "unscored"
    """The critic could not score a turn: the dialogue stops there and carries no reward."""
    USER_FAILED = "user_failed"
    """The user's seat (the red agent) failed to write the next turn."""
    ASSISTANT_FAILED = "assistant_failed"
    """The assistant's seat failed to answer."""
    CONTEXT_FULL = "context_full"
    """The next turn would not fit the context length."""


class Strict(BaseModel):
    """A model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid")


class Turn(Strict):
    """One exchange. `assistant` is what was sampled, with its thinking; other seats see `visible_answer` of
    it."""

    user: str = Field(min_length=1)
    assistant: str | None = None
    scores: dict[str, float] | None = None
    """By name of score; None where the turn was not, or could not be, scored."""
    next_user: str | None = Field(None, exclude_if=lambda text: text is None)
    """The tutor's next user turn, fitted to this answer; None (and not in the row) where the script's is
    next."""
    meta: dict[str, Any] = Field(default_factory=dict)

    @field_validator("user", "assistant", "next_user", mode="before")
    @classmethod
    def _writable(cls, text: Any) -> Any:
        """A model can emit half of a surrogate pair, which no UTF-8 file can hold: it becomes "?"."""
        return text.encode(errors="replace").decode() if isinstance(text, str) else text


class Seed(Strict):
    """Pictures, an intent and a script of user turns. Image paths are relative to the folder of the run or
    suite."""

    id: str = Field(min_length=1)
    kind: Kind
    source: str = ""
    intent: str = ""
    images: list[str] = Field(default_factory=list)
    turns: list[Turn] = Field(min_length=1)
    meta: dict[str, Any] = Field(default_factory=dict)

    @property
    def script(self) -> list[str]:
        """The user's turns, in order."""
        return [turn.user for turn in self.turns]


class Dialogue(Seed):
    """A seed that was played: its turns hold what was really said."""

    turns: list[Turn] = Field(default_factory=list)
    stop: StopReason | None = None

    @classmethod
    def begin(cls, seed: Seed) -> Dialogue:
        """An empty dialogue on a seed's pictures and intent."""
        return cls(
            id=seed.id,
            kind=seed.kind,
            source=seed.source,
            intent=seed.intent,
            images=list(seed.images),
            meta=dict(seed.meta),
        )


AnySeed = TypeVar("AnySeed", bound="Seed")

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def visible_answer(text: str, format: Format) -> str:
    """What the user, the tutor and the judge see of an assistant's turn.

    In `thinking_answer` the text of the answer block; "" where there is none (an unclosed block counts up to
    its end).
    """
    if format is Format.PLAIN:
        return text.strip()
    match = _ANSWER.search(text)
    if match:
        return match[1].strip()
    _, found, rest = text.partition("<answer>")
    return rest.strip() if found else ""


def lay_out(thinking: str, answer: str, format: Format) -> str:
    """An assistant's turn in the format: both blocks, or the answer alone."""
    return answer if format is Format.PLAIN else f"<thinking>{thinking}</thinking><answer>{answer}</answer>"


def read_seeds(path: Path, may_be_empty: bool = False) -> list[Seed]:
    """Read a JSONL file of seeds or dialogues (the script is what counts).

    Raises:
        UserError: the file is missing, or empty where it may not be, or a line is no seed; names file and
            line.
    """
    return list(each_row(path, Seed, may_be_empty))


def read_dialogues(path: Path) -> list[Dialogue]:
    """Read a JSONL file of played dialogues. Raises `UserError` as `read_seeds` does; an empty file is an
    empty list."""
    return list(each_row(path, Dialogue, may_be_empty=True))


def each_row(path: Path, form: type[AnySeed], may_be_empty: bool = False) -> Iterator[AnySeed]:
    """The rows of a JSONL file one by one, for files too large to hold. Raises `UserError` as `read_seeds`
    does, when it gets there."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    rows = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            rows += 1
            try:
                yield form.model_validate_json(line, extra="ignore" if form is Seed else None)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "row"
                raise UserError(f"{path}:{number}: {where}: {first['msg']}") from None
    if not rows and not may_be_empty:
        raise UserError(f"{path}: no rows in it; a suite needs at least one dialogue")


def to_jsonl(rows: Iterable[BaseModel]) -> str:
    """One JSON object a line, in the stable row form."""
    return "".join(row.model_dump_json() + "\n" for row in rows)
