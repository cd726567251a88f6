"""Leak check: finds training scripts that share content with the bench.

A training script leaks if the bench has one of its pictures; or the same or nearly the same source question,
or nearly the same script, on any picture. The bench is every candidate of a source
with `use: bench`, drawn or not, and every suite in `bench.suites` that is a file.

Texts with fewer than `near.TELLING` content words are matched by their picture only. Pictures are identified
by the hash of their file before the run scaled it down. The same picture in another encoding, or resized by
others, counts as a different picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safer_steer.data.assembly.candidates import Candidate, picture_id, scaled_from, shown_pictures
from safer_steer.data.assembly.near import Near, Tokens, content_words, shingles, telling
from safer_steer.dialogue import Seed, read_seeds
from safer_steer.files.store import inside


class Known:
    """The pictures, questions and scripts of the bench."""

    def __init__(self, threshold: float) -> None:
        self._pictures: dict[str, str] = {}
        self._questions, self._scripts = Near(threshold), Near(threshold)

    def add(self, name: str, seed: Seed, pictures: Iterable[str]) -> None:
        """Add a script of the bench. `pictures` are the ids of its pictures, `name` its name in reports."""
        for picture in pictures:
            if picture:
                self._pictures[picture] = min(name, self._pictures.get(picture, name))
        for question in (_question(seed), *(seed.script if len(seed.turns) == 1 else ())):
            if telling(question):
                self._questions.add(name, content_words(question))
        if telling(" ".join(seed.script)):
            self._scripts.add(name, shingles(seed.script))

    def add_suite(self, path: Path) -> None:
        """Add a suite file with its pictures. Raises `UserError` if the file or a picture cannot be read."""
        for seed in read_seeds(path):
            shown = [picture_id(inside(path.parent, image)) for image in seed.all_images]
            # The originals of perturbed or scaled copies, in a suite that another run assembled or imported.
            originals = [str(seed.meta.get("picture") or ""), *scaled_from(seed).values()]
            self.add(f"{path.name} {seed.id}", seed, [*shown, *originals])

    def shared(self, candidate: Candidate, seed: Seed, said: Tokens) -> tuple[str, str] | None:
        """Why a training script leaks, as (reason, name of the bench script). None if it does not leak.

        Args:
            said: the script's 3-grams.
        """
        for picture in (candidate.picture, *shown_pictures(seed)):
            if picture in self._pictures:
                return "leak_picture", self._pictures[picture]
        question = _question(seed)
        if telling(question) and (name := self._questions.find(content_words(question))):
            return "leak_question", name
        if (name := self._scripts.find(said)) and telling(" ".join(seed.script)):
            return "leak_script", name
        return None


def _question(seed: Seed) -> str:
    return str(seed.meta.get("question") or "")
