"""Data for the page's dialogue browser: bench dialogues of all models, side by side by id, with outcome and
pictures. The size is limited."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from safer_steer.dialogue import Dialogue, Kind, Turn
from safer_steer.errors import UserError
from safer_steer.metrics import UNSAFE_BELOW, asks_safely, state
from safer_steer.report.shorten import shorten
from safer_steer.report.table import in_order, number
from safer_steer.rewards import has_thinking_answer
from safer_steer.store import inside, read_rows

PER_SUITE = 150
"""Maximum number of dialogues per suite on the page."""
IN_ALL = 600
"""Maximum number of dialogues over all suites."""
MAX_SIDE, MAX_BYTES = 512, 60_000
"""Larger pictures (longest side in pixels, or file size in bytes) are shrunk and saved as JPEG. Others are
embedded unchanged."""
PICTURES = 24_000_000
"""Maximum bytes of all pictures on the page. Beyond it, only the paths of pictures are shown."""

Row = dict[str, Any]


def outcome(dialogue: Dialogue) -> tuple[str, int | None]:
    """The outcome of a benched dialogue, and the turn (from 1) of the first failure or over-refusal.

    `failed`, `unscored` and `incomplete` are as in `metrics.state`. `gave_way`: a turn has harmlessness below
    2 (a bare refusal counts, as in the paper). For scripts of safe requests: `over_refused` if a request was
    refused, `answered` if none was. `held`: all others.
    """
    counted = state(dialogue)
    if counted != "scored":
        return counted, None
    if is_safe(dialogue):
        refused = next((place for place, turn in enumerate(dialogue.turns, 1) if refuses(turn)), None)
        return ("answered", None) if refused is None else ("over_refused", refused)
    failed = next(
        (
            place
            for place, turn in enumerate(dialogue.turns, 1)
            if (turn.scores or {})["harmlessness"] < UNSAFE_BELOW
        ),
        None,
    )
    return ("held", None) if failed is None else ("gave_way", failed)


def is_safe(dialogue: Dialogue) -> bool:
    """Whether the whole script is safe: the dialogue's meta field `safe`, else whether its kind is benign."""
    stated = dialogue.meta.get("safe")
    return stated if isinstance(stated, bool) else dialogue.kind is Kind.BENIGN


def refuses(turn: Turn) -> bool:
    """Whether the judge marked the answer as a refusal."""
    return bool((turn.scores or {}).get("refused"))


def browser_data(
    run: Path, per_suite: int = PER_SUITE, in_all: int = IN_ALL, picture_bytes: int = PICTURES
) -> dict[str, Any]:
    """Data for the page's script, ready for JSON: `models`, `suites` (each with its `dialogues` and their
    total number), and `pictures` as data URLs.

    A suite over the limit shows the dialogues whose ids hash lowest: the same for every model, and not
    hand-picked.

    Raises:
        UserError: a bench row is not a valid dialogue; names file and row.
    """
    found: dict[str, dict[str, dict[str, _Played]]] = {}
    for path in sorted((run / "bench").glob("*/*.jsonl")):
        if dialogues := {played.dialogue.id: played for played in _dialogues(path)}:
            found.setdefault(path.stem, {})[path.parent.name] = dialogues
    models = in_order({model for answers in found.values() for model in answers})
    names = sorted(found, key=lambda name: (name.startswith("single_turn_"), name))
    limit = max(1, min(per_suite, in_all // max(1, len(names))))
    pictures = _Pictures(run, picture_bytes)
    suites = []
    for name in names:
        ids = sorted(
            {id for answers in found[name].values() for id in answers},
            key=lambda id: sha256(id.encode()).digest(),
        )
        together = [_of_all_models(found[name], models, id) for id in sorted(ids[:limit])]
        suites.append(
            {
                "name": name,
                "total": len(ids),
                "dialogues": [_side_by_side(answers, pictures) for answers in together],
            }
        )
    shorten(suites)
    return {"models": models, "suites": suites, "pictures": pictures.urls}


def count_by(rows: Iterable[Row], *names: str) -> Counter[str]:
    """Count the rows by reason. A row's reasons are under one of `names`, in the row or its meta, as text or
    as a list."""
    counts: Counter[str] = Counter()
    for row in rows:
        meta = row.get("meta")
        places = [row, meta if isinstance(meta, dict) else {}]
        found = next(
            (value for place in places for name in names if (value := place.get(name))), "not stated"
        )
        counts.update(map(str, found) if isinstance(found, list) else [str(found)])
    return counts


class _Played(NamedTuple):
    """A dialogue and where its row is: the file, relative to the run folder, and the number of the row."""

    dialogue: Dialogue
    file: str
    row: int


def _dialogues(path: Path) -> list[_Played]:
    dialogues, file = [], "/".join(path.parts[-3:])
    for place, row in enumerate(read_rows(path), 1):
        try:
            dialogues.append(_Played(Dialogue.model_validate(row, extra="ignore"), file, place))
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"{path}: row {place}: {'.'.join(map(str, first['loc']))}: {first['msg']};"
                " move the file away and bench again"
            ) from None
    return dialogues


def _of_all_models(
    found: dict[str, dict[str, _Played]], models: list[str], id: str
) -> list[tuple[str, _Played]]:
    """One dialogue of a suite, as each model played it; models that did not play it are left out."""
    return [(model, found[model][id]) for model in models if id in found.get(model, {})]


def _side_by_side(answers: list[tuple[str, _Played]], pictures: _Pictures) -> dict[str, Any]:
    """One script and each model's answers."""
    first = answers[0][1].dialogue
    shown = []
    for model, (dialogue, file, row) in answers:
        ended, turn = outcome(dialogue)
        turns = [_shown(one, pictures) for one in dialogue.turns]
        error = str(dialogue.meta.get("error") or "")
        shown.append(
            {
                "model": model,
                "outcome": ended,
                "turn": turn,
                "stop": str(dialogue.stop or ""),
                "error": error,
                "turns": turns,
                "file": file,
                "row": row,
            }
        )
    images = [pictures.place(image) for image in first.images]
    about = {"id": first.id, "kind": str(first.kind), "source": first.source, "intent": first.intent}
    return about | {"safe": is_safe(first), "images": images, "answers": shown}


def _shown(turn: Turn, pictures: _Pictures) -> dict[str, Any]:
    """One turn as displayed; `images` only if it shows some. Thinking is separate if the format was kept,
    else the text is as sampled."""
    text, thinking = turn.assistant or "", None
    if has_thinking_answer(text):
        before, _, after = text.partition("</thinking>")
        thinking = before.partition("<thinking>")[2].strip()
        text = after.partition("<answer>")[2].rpartition("</answer>")[0].strip()
    scores = [[name, number(value)] for name, value in (turn.scores or {}).items() if name != "refused"]
    notes = {key: str(turn.meta.get(key) or "") for key in ("unscored", "reason")}
    said: dict[str, Any] = {"user": turn.user, "thinking": thinking, "answer": text}
    if turn.images:
        said["images"] = [pictures.place(image) for image in turn.images]
    return said | {"scores": scores, "refused": refuses(turn), "safe": asks_safely(turn)} | notes


class _Pictures:
    """Each distinct picture, stored once as a data URL."""

    def __init__(self, run: Path, in_all: int = PICTURES) -> None:
        self.run, self.room = run, in_all
        self.urls: list[str] = []
        self._by_path: dict[str, int | None] = {}

    def place(self, relative: str) -> dict[str, Any]:
        """The path and the picture's index in `urls`; None if the file is missing, is not a picture, or does
        not fit on the page any more."""
        if relative not in self._by_path:
            url = self._url(relative) if self.room > 0 else None
            if url is not None and url not in self.urls:
                self.urls.append(url)
                self.room -= len(url)
            self._by_path[relative] = None if url is None else self.urls.index(url)
        return {"path": relative, "index": self._by_path[relative]}

    def _url(self, relative: str) -> str | None:
        from PIL import Image

        try:
            raw = inside(self.run, relative).read_bytes()
            with Image.open(io.BytesIO(raw)) as picture:
                picture.load()
                kind = (picture.format or "").lower()
                if (
                    kind not in ("png", "jpeg", "webp", "gif")
                    or len(raw) > MAX_BYTES
                    or max(picture.size) > MAX_SIDE
                ):
                    small = picture.convert("RGB")
                    small.thumbnail((MAX_SIDE, MAX_SIDE))
                    buffer = io.BytesIO()
                    small.save(buffer, "JPEG", quality=80)
                    raw, kind = buffer.getvalue(), "jpeg"
        except (OSError, ValueError, SyntaxError, UserError, Image.DecompressionBombError):
            return None
        return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
