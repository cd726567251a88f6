"""Data for the page's dialogue browser: the bench dialogues of all models by script, with outcome and
pictures. The size is limited."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from safer_steer.bench.adaptive.results import breached
from safer_steer.bench.journals import BEGINS, kind_of, name_in
from safer_steer.bench.results import model_label
from safer_steer.dialogue import Turn
from safer_steer.errors import UserError
from safer_steer.files.meta import reason_in
from safer_steer.files.store import inside
from safer_steer.metrics import asks_safely
from safer_steer.report.played import DialogueRow, is_safe, outcome, technique, techniques
from safer_steer.report.plots import number
from safer_steer.report.runs import ShownRun, models_of
from safer_steer.report.shorten import evenly, shorten
from safer_steer.rewards import has_thinking_answer

MAX_SIDE, MAX_BYTES = 512, 60_000
"""Larger pictures (longest side in pixels, or file size in bytes) are shrunk and saved as JPEG. Others are
embedded unchanged."""
THUMBNAIL, THUMBNAIL_BYTES = 128, 6_000
"""The same for thumbnails."""
PICTURES = 24_000_000
"""Maximum bytes of all pictures on the page, thumbnails included. Beyond it, only paths are shown."""


class Pictures:
    """Pictures as data URLs. Those for which there is no room, and files that are missing or no pictures, are
    named only."""

    def __init__(self, in_all: int = PICTURES) -> None:
        self.room = in_all
        self.urls: list[str] = []
        self.table: list[list[Any]] = []
        """Path, and the places in `urls` of the thumbnail and of the larger picture, or None."""
        self._places: dict[str, int] = {}
        self._by_path: dict[tuple[Path, str], int] = {}
        self._same: dict[tuple[str, str | None], int] = {}
        self._large: list[tuple[int, str]] = []
        self._waiting = 0

    def place(self, folder: Path, relative: str) -> int:
        """The place in `table` of a picture, by its path in a run folder. The same picture under the same
        path in two runs has one place."""
        if (folder, relative) not in self._by_path:
            small, large = _urls(folder, relative)
            place = self._same.setdefault((relative, large), len(self.table))
            self._by_path[folder, relative] = place
            if place == len(self.table):
                self.table.append([relative, self._add(small), None])
                if large is not None and large != small and self._waiting <= self.room:
                    self._large.append((place, large))
                    self._waiting += len(large)
        return self._by_path[folder, relative]

    def finish(self) -> None:
        """Take in the larger pictures, now that all thumbnails are there."""
        for row in self.table:
            row[2] = row[1]
        for place, url in self._large:
            if (picture := self._add(url)) is not None:
                self.table[place][2] = picture

    def _add(self, url: str | None) -> int | None:
        if url is None:
            return None
        if url not in self._places:
            if len(url) > self.room:
                return None
            self.room -= len(url)
            self._places[url] = len(self.urls)
            self.urls.append(url)
        return self._places[url]


def _urls(folder: Path, relative: str) -> tuple[str | None, str | None]:
    """Thumbnail and larger picture; None for what is no picture of the run."""
    from safer_steer.files.images import MIME, open_picture
    from safer_steer.files.scaling import decode

    try:
        path = inside(folder, relative)
        with open_picture(path, relative) as picture:
            mime, longest, image = MIME[picture.format or ""], max(picture.size), picture
            decode(picture, MAX_SIDE**2)
            raw, urls = path.read_bytes(), list[str]()
            for side, most in ((MAX_SIDE, MAX_BYTES), (THUMBNAIL, THUMBNAIL_BYTES)):
                if len(raw) > most or longest > side:
                    image, buffer = image.convert("RGB"), io.BytesIO()
                    image.thumbnail((side, side))
                    image.save(buffer, "JPEG", quality=80)
                    raw, mime = buffer.getvalue(), MIME["JPEG"]
                urls.append(f"data:{mime};base64,{base64.b64encode(raw).decode()}")
            return urls[1], urls[0]
    except UserError:
        return None, None


SCRIPTS = 3_000
"""Maximum number of scripts on the page."""
IN_ALL = 9_000
"""Maximum number of dialogues: scripts times models."""

Row = dict[str, Any]


def browser_data(
    runs: Sequence[ShownRun],
    page: Path,
    scripts: int = SCRIPTS,
    in_all: int = IN_ALL,
    picture_bytes: int = PICTURES,
) -> Row:
    """Data for the page's script, ready for JSON.

    Dialogues are matched by suite and id, across runs too. A suite over the limit shows those whose ids hash
    lowest: the same for every model, and not hand-picked.

    Args:
        page: where the page will be; links to rows of files lead from there.

    Returns:
        `{"models": [[key, label]], "suites": [{"file", "name", "protocol", "total", "scripts"}],
        "pictures": {"table", "urls"}}`. Keys that say nothing are left out of a script's rows.
    """
    models = models_of(runs)
    suites: dict[str, dict[str, list[tuple[str, ShownRun, DialogueRow]]]] = {}
    for run in runs:
        for name, by_model in run.bench.items():
            for model, dialogues in by_model.items():
                for id, answer in dialogues.items():
                    suites.setdefault(name, {}).setdefault(id, []).append((run.key(model), run, answer))
    names = sorted(suites, key=lambda name: ([*BEGINS].index(kind_of(name)), name))
    sizes = [len(suites[name]) for name in names]
    limit = evenly(sizes, max(sizes, default=1), min(scripts, in_all // max(1, len(models))))
    places = {model: place for place, model in enumerate(models)}
    pictures = Pictures(picture_bytes)
    data = []
    for name in names:
        ids = sorted(suites[name], key=lambda id: sha256(id.encode(errors="replace")).digest())
        rows = [
            _script(sorted(suites[name][id], key=lambda one: places[one[0]]), places, pictures, page)
            for id in sorted(ids[: max(1, limit)])
        ]
        about = {"file": name, "name": name_in(name), "protocol": kind_of(name), "total": len(ids)}
        data.append({**about, "scripts": rows})
    pictures.finish()
    shorten(data)
    return {
        "models": [[model, model_label(model)] for model in models],
        "suites": data,
        "pictures": {"table": pictures.table, "urls": pictures.urls},
    }


def _script(
    answers: list[tuple[str, ShownRun, DialogueRow]], places: dict[str, int], pictures: Pictures, page: Path
) -> Row:
    """One script and each model's answers. What the user said is with the script, and with an answer only
    where that differs, as with an attacker that adapts."""
    longest = max((answer for _, _, answer in answers), key=lambda answer: len(answer.dialogue.turns))
    first, run = answers[0][2].dialogue, answers[0][1]
    folder = next(run.folder for _, run, answer in answers if answer is longest)
    questions = [_user(turn, pictures, folder) for turn in longest.dialogue.turns]
    images = [pictures.place(run.folder, image) for image in first.images]
    return _without_nothing(
        {
            "id": first.id,
            "kind": str(first.kind).replace("_", "-"),
            "source": first.source,
            "intent": first.intent,
            "category": first.category,
            "safe": is_safe(first),
            "images": images,
            "asked": questions,
            "answers": [
                _answer(answer, places[model], questions, images, pictures, run, page)
                for model, run, answer in answers
            ],
        }
    )


def _answer(
    answer: DialogueRow,
    model: int,
    questions: list[Row],
    images: list[int],
    pictures: Pictures,
    run: ShownRun,
    page: Path,
) -> Row:
    dialogue = answer.dialogue
    ended = outcome(dialogue, answer.adaptive)
    turns = []
    for place, one in enumerate(dialogue.turns):
        question = _user(one, pictures, run.folder)
        own_words = {"asked": question if question != questions[place] else None}
        taken_back = {"taken": _taken_back(one.taken_back, pictures, run.folder)}
        turns.append(_without_nothing(own_words | _assistant(one) | taken_back))
    own = [pictures.place(run.folder, image) for image in dialogue.images]
    return _without_nothing(
        {
            "model": model,
            "outcome": ended.name,
            "turn": ended.turn,
            "by": ended.technique,
            "breached": ended.name == "gave_way" and any(map(breached, dialogue.turns)),
            "techniques": techniques(dialogue),
            "stop": str(dialogue.stop or ""),
            "error": str(dialogue.fault or ""),
            "images": own if own != images else None,
            "turns": turns,
            "taken": _taken_back(dialogue.taken_back, pictures, run.folder),
            "file": os.path.relpath(run.folder / answer.file, page.parent).replace(os.sep, "/"),
            "row": answer.row,
        }
    )


def _user(turn: Turn, pictures: Pictures, folder: Path) -> Row:
    """The user's side of a turn."""
    return _without_nothing(
        {
            "user": turn.user,
            "technique": technique(turn),
            "thought": str(turn.meta.get("thought") or ""),
            "images": [pictures.place(folder, image) for image in turn.images],
        }
    )


def _assistant(turn: Turn) -> Row:
    """The assistant's side of a turn, and the judge's."""
    calls = number(turn.meta.get("calls"))
    return {
        **_answer_parts(turn.assistant or ""),
        "scores": _scores(turn.scores),
        "safe": asks_safely(turn),
        "calls": None if calls is None else int(calls),
        "unscored": str(turn.unscored or ""),
        "reason": reason_in(turn.meta),
    }


def _taken_back(turns: Sequence[Turn], pictures: Pictures, folder: Path) -> list[Row]:
    """The turns that an attacker took back at one place."""
    return [_without_nothing({"asked": _user(turn, pictures, folder)} | _assistant(turn)) for turn in turns]


def _answer_parts(text: str) -> Row:
    """Thinking and answer are apart if the format was kept, else the text is as sampled."""
    if not has_thinking_answer(text):
        return {"answer": text}
    before, _, after = text.partition("</thinking>")
    thinking = before.partition("<thinking>")[2].strip()
    return {"thinking": thinking, "answer": after.partition("<answer>")[2].rpartition("</answer>")[0].strip()}


def _scores(scores: Any) -> list[list[Any]]:
    """Names and values."""
    pairs = scores.items() if isinstance(scores, dict) else ()
    return [[str(name), _whole(number(value))] for name, value in pairs]


def _whole(value: float | None) -> float | None:
    """A whole number as such, which is shorter."""
    return int(value) if value is not None and value.is_integer() else value


def _without_nothing(row: Row) -> Row:
    return {key: value for key, value in row.items() if value or (value == 0 and value is not False)}
