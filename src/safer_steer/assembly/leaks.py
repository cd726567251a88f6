"""No leakage: what the bench knows, and whether a training script shares any of it.

A script of the training side leaks if the bench has its picture; or its source's question, or nearly, on any
picture; or nearly the whole script, on any picture. The bench is every candidate of a source with `use:
bench`, drawn or not, and every suite in `bench.suites` that is a file. Texts with fewer than `near.TELLING`
content words are known again by their picture alone. Pictures are known by the hash of their file, as it was
before a run scaled it down: the same picture in another encoding, or in a size that somebody else gave it, is
another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safer_steer.assembly.candidates import Candidate, picture_id, scaled_from
from safer_steer.assembly.near import Near, Tokens, content_words, shingles, telling
from safer_steer.dialogue import Seed, read_seeds
from safer_steer.store import inside


class Known:
    """What the bench shows, asks and says."""

    def __init__(self, threshold: float) -> None:
        self._pictures: dict[str, str] = {}
        self._questions, self._scripts = Near(threshold), Near(threshold)

    def add(self, name: str, seed: Seed, pictures: Iterable[str]) -> None:
        """A script of the bench; `pictures` are the ids of what it shows, `name` what a report calls it."""
        for picture in pictures:
            if picture:
                self._pictures[picture] = min(name, self._pictures.get(picture, name))
        for question in (_question(seed), *(seed.script if len(seed.turns) == 1 else ())):
            if telling(question):
                self._questions.add(name, content_words(question))
        if telling(" ".join(seed.script)):
            self._scripts.add(name, shingles(seed.script))

    def add_suite(self, path: Path) -> None:
        """A suite file with its pictures. Raises `UserError` if it, or a picture, cannot be read."""
        for seed in read_seeds(path):
            shown = [picture_id(inside(path.parent, image)) for image in seed.images]
            # Of a perturbed or scaled copy, in a suite that another run assembled or took in.
            originals = [str(seed.meta.get("picture") or ""), *scaled_from(seed).values()]
            self.add(f"{path.name} {seed.id}", seed, [*shown, *originals])

    def shared(self, candidate: Candidate, seed: Seed, said: Tokens) -> tuple[str, str] | None:
        """Why a training script, `said` as 3-grams, leaks, as (reason, whom it shares it with); None if it
        does not."""
        if candidate.picture in self._pictures:
            return "leak_picture", self._pictures[candidate.picture]
        question = _question(seed)
        if telling(question) and (name := self._questions.find(content_words(question))):
            return "leak_question", name
        if (name := self._scripts.find(said)) and telling(" ".join(seed.script)):
            return "leak_script", name
        return None


def _question(seed: Seed) -> str:
    return str(seed.meta.get("question") or "")
