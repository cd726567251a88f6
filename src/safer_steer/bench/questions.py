"""Sets of multiple-choice questions, copied into the run's folder: `capability/<set>/questions.jsonl` and
pictures.

A question is a script of one turn. Its meta has the options (`choices`) and the place of the right one
(`answer`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safer_steer.bench.suites import SANDBOX
from safer_steer.config import Source
from safer_steer.data.sources.choice_rows import QUESTIONS
from safer_steer.data.sources.load import draw, read_samples
from safer_steer.data.sources.set_row import Sample
from safer_steer.dialogue import Dialogue, Kind, Seed, Turn, read_dialogues, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.images import EMBEDDED, Picture, Trial, check_whole, picture_from
from safer_steer.files.store import file_name, write_atomic

FOLDER = "capability"
"""In the run's folder: a folder for each set."""
ANSWERS = "answers"
"""In a set's folder: each model's answers, `<model>.jsonl`."""


@dataclass(frozen=True)
class QuestionSet:
    """Questions that are reported under one name. Picture paths are relative to the run's folder."""

    name: str
    seeds: list[Seed]

    def journal(self, folder: Path, model: str) -> Path:
        """Where a model's answers are kept in a run's folder."""
        return folder / FOLDER / self.name / ANSWERS / f"{model}.jsonl"


def answers_of(run: Path, model: str) -> Iterator[tuple[str, list[Dialogue]]]:
    """The sets that a model was asked, by name, with its answers."""
    for path in sorted((run / FOLDER).glob(f"*/{ANSWERS}/{model}.jsonl")):
        yield path.parent.parent.name, read_dialogues(path)


def check_sets(names: Sequence[str], most: int | None, trial: Trial | None = None) -> None:
    """Read the sets that are files or folders from end to end, decode the pictures that will be shown, and
    try them on the student. Nothing is written. `most` and errors as in `bring_in_sets`."""
    for name, path in _paths(names).items():
        for sample in _samples(name, path, most):
            for image in sample.images:
                with _named_row(sample):
                    check_whole(*_file(image), trial)


def count(entry: str, most: int | None) -> int:
    """How many questions of a set will be asked. Arguments and errors as in `bring_in_sets`."""
    ((name, path),) = _paths([entry]).items()
    return sum(1 for _ in _samples(name, path, most))


def bring_in_sets(names: Sequence[str], folder: Path, most: int | None, max_pixels: int) -> list[QuestionSet]:
    """Copy the sets into `folder`. Pictures get the form that all readers take alike.

    Args:
        most: at most so many questions of each set, drawn at random; the same for every run.

    Raises:
        UserError: there is no such file or folder, a row or a picture cannot be used, or two sets have one
           name.
    """
    sets = []
    for name, path in _paths(names).items():
        below = f"{FOLDER}/{name}"
        seeds = [_seed(sample, folder, below, max_pixels) for sample in _samples(name, path, most)]
        write_atomic(folder / below / "questions.jsonl", to_jsonl(seeds))
        sets.append(QuestionSet(name, seeds))
    return sets


def _paths(names: Sequence[str]) -> dict[str, Path | None]:
    """The sets by name, a file's stem or a folder's name; None for the embedded one."""
    paths: dict[str, Path | None] = {}
    for entry in names:
        path = None if entry == SANDBOX else Path(entry)
        if path is not None and not path.exists():
            raise UserError(f"bench.capability: {path}: no such file or folder")
        name = SANDBOX if path is None else file_name(path.stem if path.is_file() else path.name)
        if name in paths or (path is not None and name == SANDBOX):
            raise UserError(f"bench.capability: {entry}: another set is called {name!r} too; rename it")
        paths[name] = path
    return paths


def _samples(name: str, path: Path | None, most: int | None) -> Iterator[Sample]:
    if path is None:
        from safer_steer.sandbox.suites import questions

        every = [
            Sample(q.id, (q.picture,), (q.text,), True, answer=q.choices[q.right], choices=q.choices)
            for q in questions()
        ]
        return iter(draw(every, lambda sample: sample.id, most, seed=0))
    source = Source(name=name, path=str(path), limit=most)
    return read_samples(source, seed=0, pictureless=True, layout=QUESTIONS)


def _seed(sample: Sample, folder: Path, below: str, max_pixels: int) -> Seed:
    images = []
    for image in sample.images:
        picture = _picture(image, sample, max_pixels)
        images.append(f"{below}/images/{picture.original[:16]}{picture.suffix}")
        copy = folder / images[-1]
        if not copy.is_file() or copy.read_bytes() != picture.data:
            write_atomic(copy, picture.data, sync=False)
    meta = {"choices": list(sample.choices), "answer": sample.choices.index(sample.answer or "")}
    turns = [Turn(user=sample.turns[0])]
    return Seed(id=sample.id, kind=Kind.BENIGN, source=sample.category, images=images, turns=turns, meta=meta)


def _picture(image: Path | bytes, sample: Sample, max_pixels: int) -> Picture:
    with _named_row(sample):
        data, called = _file(image)
        return picture_from(data, "", max_pixels, called)


def _file(image: Path | bytes) -> tuple[bytes, str]:
    """A picture's file, and what it is called in messages."""
    return (image, EMBEDDED) if isinstance(image, bytes) else (image.read_bytes(), str(image))


@contextmanager
def _named_row(sample: Sample) -> Iterator[None]:
    """Names the row in an error about its picture."""
    try:
        yield
    except (UserError, OSError) as error:
        raise UserError(f"{sample.where}: image: {error}") from None
