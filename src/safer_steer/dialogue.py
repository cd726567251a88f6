"""The data types every stage shares: `Seed`, `Turn`, `Dialogue`, `StopReason`, and their JSONL form.

A dialogue is D = (x, (u_1, a_1) ... (u_T, a_T)): x the pictures, u_t the user's turn, a_t the assistant's
(docs/explanation/method.md, "The problem"). A seed is the same row with only the user's turns: the script.

The row's pictures are shown with the first turn. Every turn may show pictures of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from safer_steer.errors import Fault, UserError
from safer_steer.files.meta import AsWritten, DialogueMeta, SeedMeta, TurnMeta, without
from safer_steer.files.store import numbered_lines

MOST_TAKEN_BACK = 100
"""Fewer turns than this are taken back in a dialogue."""


class Kind(StrEnum):
    """The pool a script belongs to (docs/explanation/method.md, Stage I)."""

    BENIGN = "benign"
    OBFUSCATED = "obfuscated"
    RED_TEAM = "red_team"


class Format(StrEnum):
    """The layout of an assistant turn."""

    THINKING_ANSWER = "thinking_answer"
    """One `<thinking>...</thinking>` block, then one `<answer>...</answer>` block (the paper's layout)."""
    PLAIN = "plain"


class StopReason(StrEnum):
    """Why a dialogue ended; counted in every report."""

    COMPLETED = "completed"
    """The end of the script, or the turn limit, was reached."""
    SUCCESS = "success"
    """Stage I: the attack reached the success score."""
    HARD_REFUSAL = "hard_refusal"
    """Stage I: a short script was refused outright at its first turn."""
    UNSCORED = "unscored"
    """The critic could not score a turn: the dialogue stops there and has no reward."""
    USER_FAILED = "user_failed"
    """The user (the red agent) failed to write the next turn."""
    ASSISTANT_FAILED = "assistant_failed"
    """The assistant failed to answer."""
    CONTEXT_FULL = "context_full"
    """The next turn would not fit the context length."""


def _not_blank(text: str) -> str:
    if text and not text.strip():
        raise PydanticCustomError("blank", "is blank")
    return text


Said = Annotated[str, Field(min_length=1), AfterValidator(_not_blank)]
"""A text of at least one word."""


class Strict(BaseModel):
    """A pydantic model that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid")


class Pictured(Strict):
    """What has `images`: `image` is accepted for it, and a single path for a list of one."""

    @model_validator(mode="before")
    @classmethod
    def _image_is_images(cls, row: Any) -> Any:
        if not isinstance(row, dict) or "image" not in row or "images" in row:
            return row
        return {"images" if key == "image" else key: value for key, value in row.items()}

    @field_validator("images", mode="before", check_fields=False)
    @classmethod
    def _one_is_a_list(cls, images: Any) -> Any:
        return [images] if isinstance(images, str) else images


class Turn(Pictured):
    """One exchange. `assistant` is the text as sampled, including its thinking; user and critic see
    its `visible_answer`. Of a model behind an endpoint it is the reply without reasoning of its own
    (`endpoints/parse.py`)."""

    user: Said
    """What the user says."""
    images: list[str] = Field(default_factory=list, exclude_if=lambda images: not images)
    """The pictures that the user shows with this turn, besides the row's in the first one; none, and not in
    the row, for most turns. Read and named as the row's (see `Seed`)."""
    assistant: str | None = None
    """The answer as sampled; None in a script."""
    scores: dict[str, float] | None = None
    """Scores by name; None if the turn was not, or could not be, scored."""
    next_user: str | None = Field(None, exclude_if=lambda text: text is None)
    """The tutor's next user turn, adapted to this answer; None (and not in the row) if the script's turn is
    next."""
    meta: Annotated[TurnMeta, AsWritten] = Field(default_factory=TurnMeta)
    """Further facts by name, as below."""

    @field_validator("user", "assistant", "next_user", mode="before")
    @classmethod
    def _writable(cls, text: Any) -> Any:
        """Replace half of a surrogate pair with "?": a model can emit one, but UTF-8 cannot encode it."""
        return text.encode(errors="replace").decode() if isinstance(text, str) else text

    @property
    def words(self) -> str:
        """What the user says, as other seats than the model under test read it: the text, then the words that
        were drawn into its picture."""
        return " ".join(filter(None, (self.user, self.meta.get("in_picture"))))

    @property
    def unscored(self) -> Fault | None:
        """Why it has no scores; None if it has, or was not judged."""
        return _fault(self.meta.get("unscored"))

    @property
    def taken_back(self) -> list[Turn]:
        """The turns that the user took back before this one, in its place."""
        return [Turn.model_validate(row) for row in self.meta.get("taken_back", ())]


def _fault(text: Any) -> Fault | None:
    return Fault.read(str(text)) if text else None


class Seed(Pictured):
    """Pictures, an intent and a script of user turns. Image paths are relative to the run's or suite's
    folder. In a file, `image` is accepted for `images`, and a single path for a list of one."""

    id: str = Field(min_length=1)
    """Unique in its file."""
    kind: Kind
    """`benign`, `obfuscated` or `red_team`."""
    source: str = ""
    """The set it comes from."""
    intent: str = ""
    """What the user is really after."""
    images: list[str] = Field(default_factory=list)
    """Paths of the pictures shown with the first turn."""
    turns: list[Turn] = Field(min_length=1)
    """The user's turns."""
    meta: Annotated[SeedMeta, AsWritten] = Field(default_factory=SeedMeta)
    """Further facts by name, as below."""

    @property
    def script(self) -> list[str]:
        """The user's turns, in order, with the words in their pictures (`Turn.words`)."""
        return [turn.words for turn in self.turns]

    @property
    def category(self) -> str:
        """The category of harm that its source names; "" if it names none."""
        return str(self.meta.get("category") or "")

    @property
    def all_images(self) -> list[str]:
        """The pictures of the row and of all turns, in the order in which they are shown."""
        return [*self.images, *(image for turn in self.turns for image in turn.images)]

    def images_by_turn(self, asked: Turn | None = None) -> list[list[str]]:
        """The pictures shown with each turn; the row's are shown with the first.

        Args:
            asked: a turn that is about to follow. Its pictures come last.
        """
        turns = self.turns if asked is None else [*self.turns, asked]
        return [[*(() if place else self.images), *turn.images] for place, turn in enumerate(turns)]

    def with_images(self, renamed: Callable[[str], str]) -> Self:
        """A copy in which each picture's path is what `renamed` makes of it."""
        turns = [turn.model_copy(update={"images": [*map(renamed, turn.images)]}) for turn in self.turns]
        return self.model_copy(update={"images": [*map(renamed, self.images)], "turns": turns})


class Dialogue(Seed):
    """A played seed: its turns hold the actual exchanges."""

    turns: list[Turn] = Field(default_factory=list)
    """The exchanges that took place; fewer than the script's if it ended early."""
    stop: StopReason | None = None
    """Why it ended."""
    meta: Annotated[DialogueMeta, AsWritten] = Field(default_factory=DialogueMeta)
    """Further facts by name, as below; those of the seed among them."""

    @classmethod
    def begin(cls, seed: Seed) -> Dialogue:
        """An empty dialogue on a seed's pictures and intent. If the seed is a played dialogue, its error is
        left out."""
        return cls(
            id=seed.id,
            kind=seed.kind,
            source=seed.source,
            intent=seed.intent,
            images=list(seed.images),
            meta=without(seed.meta, "error", "taken_back"),
        )

    @property
    def fault(self) -> Fault | None:
        """What ended it; None if no call failed, or only a judge's."""
        return _fault(self.meta.get("error"))

    @property
    def faults(self) -> Iterator[Fault]:
        """Its own fault, then those that left turns without scores."""
        yield from filter(None, (self.fault, *(turn.unscored for turn in self.turns)))

    @property
    def taken_back(self) -> list[Turn]:
        """The turns that the user took back at its end, and put none in their place."""
        return [Turn.model_validate(row) for row in self.meta.get("taken_back", ())]

    def with_scores(self, scores: Iterable[dict[str, float] | None]) -> Self:
        """A copy whose turns have these scores."""
        turns = [
            turn.model_copy(update={"scores": own}) for turn, own in zip(self.turns, scores, strict=True)
        ]
        return self.model_copy(update={"turns": turns})

    def sample(self, asked: Turn) -> int:
        """Tells apart the samples of a reply to the same words: those of several plays of one seed, and those
        before and after a turn was taken back. 0 for a dialogue without either."""
        number = self.meta.get("try")
        return (number if isinstance(number, int) else 0) * MOST_TAKEN_BACK + len(asked.taken_back)


AnySeed = TypeVar("AnySeed", bound="Seed")


def visible_part(text: str, format: Format) -> slice | None:
    """Where the visible answer stands in an assistant turn, with the blanks around it.

    In `thinking_answer` this is the first answer block behind the thinking: one inside it is only thought of.
    If none follows the thinking, it is the first block of all; None without any. An unclosed block runs to
    the end of the text.
    """
    if format is Format.PLAIN:
        return slice(0, len(text))
    opening = text.find("<answer>", max(0, text.find("</thinking>")))
    opening = text.find("<answer>") if opening < 0 else opening
    if opening < 0:
        return None
    begin = opening + len("<answer>")
    end = text.find("</answer>", begin)
    return slice(begin, len(text) if end < 0 else end)


def visible_answer(text: str, format: Format) -> str:
    """The part of an assistant turn that the user, the tutor and the judge see; "" if there is none."""
    part = visible_part(text, format)
    return text[part].strip() if part else ""


def lay_out(thinking: str, answer: str, format: Format) -> str:
    """Format an assistant turn: both blocks, or only the answer in the plain format."""
    return answer if format is Format.PLAIN else f"<thinking>{thinking}</thinking><answer>{answer}</answer>"


def read_seeds(path: Path, may_be_empty: bool = False) -> list[Seed]:
    """Read a JSONL file of seeds or dialogues (only the script is used).

    Raises:
        UserError: the file is missing, or empty without `may_be_empty`, or a line is not a seed. The message
            names file and line.
    """
    return list(each_row(path, Seed, may_be_empty))


def read_dialogues(path: Path) -> list[Dialogue]:
    """Read a JSONL file of played dialogues; an empty file gives an empty list. Raises `UserError` as
    `read_seeds` does."""
    return list(each_row(path, Dialogue, may_be_empty=True))


def each_row(path: Path, form: type[AnySeed], may_be_empty: bool = False) -> Iterator[AnySeed]:
    """Iterate over the rows of a JSONL file, for files too large for memory. Raises `UserError` as
    `read_seeds` does, when iteration reaches the bad line."""
    if not path.is_file():
        what = "is a folder; give a JSONL file" if path.is_dir() else "no such file; check the path"
        raise UserError(f"{path}: {what}")
    rows = 0
    for number, line in numbered_lines(path):
        rows += 1
        try:
            yield _parsed(line, form)
        except ValidationError as error:
            raise UserError(f"{path}:{number}: {_complaint(error, form)}") from None
    if not rows and not may_be_empty:
        raise UserError(f"{path}: no rows in it; a suite needs at least one dialogue")


def _parsed(line: bytes, form: type[AnySeed]) -> AnySeed:
    """One row. A played dialogue is accepted as a seed: its `stop` is the only key that seeds do not have."""
    try:
        return form.model_validate_json(line)
    except ValidationError as error:
        unknown = {one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"}
        if form is Seed and unknown == {("stop",)}:
            return form.model_validate_json(line, extra="ignore")
        raise


def _complaint(error: ValidationError, form: type[Seed]) -> str:
    """The key and what is wrong with it. An unknown key comes first: it often explains why another one is
    missing."""
    errors = error.errors(include_url=False, include_input=False)
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    where = ".".join(map(str, first["loc"])) or "row"
    if first["type"] != "extra_forbidden":
        return f"{where}: {_PLAIN.get(first['type'], first['msg'])}"
    keys = form.model_fields if len(first["loc"]) == 1 else Turn.model_fields
    return f"{where}: {unknown_key(str(first['loc'][-1]), list(keys))}"


_PLAIN = {
    "json_invalid": "not JSON",
    "missing": "the key is missing",
    "too_short": "is empty",
    "string_too_short": "is empty",
    "blank": "has no words, only blanks",
    "string_type": "give a text",
    "list_type": "give a list",
    "dict_type": "give an object",
    "model_type": "give an object",
    "enum": f"give one of: {', '.join(Kind)}",
}
"""Messages in place of pydantic's."""


def unknown_key(key: str, known: list[str]) -> str:
    """What to say about a key that a row must not have."""
    if close := get_close_matches(key.lower(), known, n=1, cutoff=0.7):
        return f"unknown key; did you mean `{close[0]}`?"
    return f"unknown key; the keys are {', '.join(known)}"


def to_jsonl(rows: Iterable[BaseModel]) -> str:
    """Serialise rows as JSONL, one object a line, in the stable row form."""
    return "".join(row.model_dump_json() + "\n" for row in rows)
