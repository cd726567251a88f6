"""Candidates: the facts about Stage I's scripts that decide where they go. The rows themselves stay on
disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern

from pydantic import ValidationError

from safer_steer.dialogue import Kind, Seed
from safer_steer.errors import UserError
from safer_steer.files.store import content_id, inside, sha256_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """A script without its text."""

    id: str
    kind: Kind
    source: str
    category: str
    """As in the source; "" if there is none."""
    bench: bool
    """Whether it is meant for STEER-Bench; if not, it is for the training sets."""
    pair: str
    """The single-turn pair it was made from."""
    picture: str
    """16 hex digits of the SHA-256 of the pair's picture as in its set, even if the script shows a changed
    copy. "" without a picture."""
    turns: int
    order: str
    """Sort key in every draw: a hash of the config's seed and the id, so independent of reading order."""
    place: int
    """Byte offset of its row in the pool's file."""


class Pools:
    """The pools of a run, read in sequence or row by row."""

    def __init__(self, folder: Path, kinds: Sequence[Kind], seed: int) -> None:
        """`folder` is the run's folder, `seed` the config's seed."""
        self.folder, self.kinds, self.seed = folder, kinds, seed

    def __iter__(self) -> Iterator[tuple[Candidate, Seed]]:
        """Every script, one in memory at a time. Raises `UserError`: a pool is missing, or a row is not a
        seed. The message names file and row."""
        for kind in self.kinds:
            path = self._path(kind)
            if not path.is_file():
                raise UserError(f"{path}: no such pool; `safer-steer seeds` writes it")
            with path.open("rb") as rows:
                place = 0
                for number, row in enumerate(rows, 1):
                    seed = _parsed(row, f"{path}:{number}")
                    yield self.candidate(kind, seed, place), seed
                    place += len(row)

    def row(self, candidate: Candidate) -> bytes:
        """The candidate's row, unchanged from its pool."""
        with self._path(candidate.kind).open("rb") as rows:
            rows.seek(candidate.place)
            return rows.readline()

    def script(self, candidate: Candidate) -> Seed:
        """The candidate's script."""
        return _parsed(self.row(candidate), f"{self._path(candidate.kind)}: {candidate.id}")

    def _path(self, kind: Kind) -> Path:
        return self.folder / "seeds" / f"{kind.value}.jsonl"

    def candidate(self, kind: Kind, seed: Seed, place: int = 0) -> Candidate:
        """The facts about a script; `place` is that of its row, if a pool has it."""
        meta = seed.meta
        return Candidate(
            id=seed.id,
            kind=kind,
            source=intern(seed.source),
            category=intern(str(meta.get("category") or "")),
            bench=meta.get("use") == "bench",
            pair=str(meta.get("pair") or seed.id.removesuffix(f"-{kind}")),
            picture=str(meta.get("picture") or self._picture(seed)),
            turns=len(seed.turns),
            order=content_id("splits", self.seed, seed.id),
            place=place,
        )

    def _picture(self, seed: Seed) -> str:
        names = [str(seed.meta["original"])] if seed.meta.get("original") else seed.images
        return picture_id(inside(self.folder, names[0])) if names else ""


def picture_id(path: Path) -> str:
    """A picture's id: 16 hex digits of its file's SHA-256. Raises `UserError` if the file cannot be read."""
    try:
        return sha256_of(path)[:16]
    except OSError:
        raise UserError(
            f"{path}: no such picture, or it cannot be read; check the `images` of the row that names it"
        ) from None


def shown_pictures(seed: Seed) -> list[str]:
    """The ids of all pictures that a script of a run shows. A run names each after its original."""
    return [Path(image).stem[:16] for image in seed.all_images]


def without_words(seed: Seed) -> list[str]:
    """The row's pictures. One that the first turn's words were drawn into is shown as it was before."""
    original = seed.meta.get("original")
    return [original] if original and seed.turns[0].meta.get("in_picture") else seed.images


def scaled_from(seed: Seed) -> dict[str, str]:
    """The originals' ids (`picture_id`) of pictures that a run scaled down or wrote anew, by path."""
    originals = seed.meta.get("scaled_from")
    return {str(image): str(id) for image, id in originals.items()} if isinstance(originals, dict) else {}


def _parsed(row: bytes, where: str) -> Seed:
    try:
        return Seed.model_validate_json(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{where}: {'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']};"
            " build the seeds again with --fresh"
        ) from None
