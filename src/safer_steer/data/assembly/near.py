"""Finds near-duplicate texts. MinHash LSH (datasketch) proposes candidates; the exact Jaccard similarity of
their tokens decides.

Scripts are compared by word 3-grams, which keep the word order. Questions are compared by content words: in a
question of ten words, one changed word breaks a third of the 3-grams, while "how do I" and "how can I" mean
the same.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from safer_steer.data.assembly.candidates import Candidate, picture_id, scaled_from, shown_pictures
from safer_steer.data.seeds.pools import normalise
from safer_steer.dialogue import Seed, read_seeds
from safer_steer.files.store import inside

Tokens = NDArray[np.uint32]
"""Hashes of a text's tokens, each once, sorted."""

PERMUTATIONS = 64
MISSED = 1e-3
"""Maximum probability that LSH misses two texts whose similarity equals the threshold. For more similar texts
it is lower."""
TELLING = 4
"""Minimum number of content words for a text to be matched by its words alone. "What is this in the image?"
has none and occurs on any picture."""

_WORD = re.compile(r"[\u3040-\u9fff]|[^\s\u3040-\u9fff]+")
"""A word, or a single character in writing systems without spaces between words."""
_SAYING_NOTHING = """
    a an the this that these those it its he she they them his her their i me my we us our you your
    and or but if so as than then there here of in on at to from for with by about into over
    is are was were be been being am do does did done can could will would shall should may might must
    have has had yes what which who whom whose when where why how any some all please
    tell give show shown describe explain image picture photo photograph screenshot figure see seen
"""
_EMPTY = frozenset(_SAYING_NOTHING.split())
"""Stop words: they do not tell what a question is about."""


def shingles(script: Sequence[str]) -> Tokens:
    """The normalised word 3-grams of a whole script. A text of fewer than three words is one token."""
    words = _words(" ".join(script))
    return _hashed(" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


def content_words(text: str) -> Tokens:
    """The words of a question that tell what it is about."""
    return _hashed(word for word in _words(text) if word not in _EMPTY)


def telling(text: str) -> bool:
    """Whether the text has enough content words to be matched on another picture."""
    return len(content_words(text)) >= TELLING


def jaccard(one: Tokens, other: Tokens) -> float:
    """Jaccard similarity: the share of all their tokens that both have, 0 to 1."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common or 1)


class Near:
    """An index of texts that finds entries at least `threshold` similar. Results are independent of insertion
    order."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        rows = bands(threshold)
        self._lsh: Any = MinHashLSH(num_perm=PERMUTATIONS, params=(PERMUTATIONS // rows, rows))
        self._names: dict[bytes, str] = {}  # by tokens, so that repeated texts are compared once

    def add(self, name: str, tokens: Tokens) -> None:
        """Add `tokens` under a name."""
        key = tokens.tobytes()
        if key not in self._names:
            self._lsh.insert(key, _signature(tokens), check_duplication=False)
        self._names[key] = min(name, self._names.get(key, name))

    def find(self, tokens: Tokens) -> str | None:
        """The name of an identical entry, or else of a similar one. Of several, the first by name."""
        if same := self._names.get(tokens.tobytes()):
            return same
        likely = self._lsh.query(_signature(tokens))
        near = [key for key in likely if jaccard(tokens, np.frombuffer(key, np.uint32)) >= self.threshold]
        return min((self._names[key] for key in near), default=None)


def bands(threshold: float) -> int:
    """Rows per LSH band: the most that keep the probability of missing a pair at the threshold at or below
    `MISSED`."""
    enough = (rows for rows in range(16, 1, -1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED)
    return next(enough, 1)


def _words(text: str) -> list[str]:
    return _WORD.findall(normalise(text))


def _hashed(tokens: Iterable[str]) -> Tokens:
    return np.unique(np.fromiter((zlib.crc32(token.encode()) for token in tokens), dtype=np.uint32))


_BLANK = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)
"""The permutations are fixed. Tokens are already hashed."""


def _signature(tokens: Tokens) -> MinHash:
    signature = _BLANK.copy()
    signature.update_batch(tokens.tolist())
    return signature


class BenchMaterial:
    """The pictures, questions and scripts of the bench."""

    def __init__(self, threshold: float) -> None:
        self._pictures: dict[str, str] = {}
        self._questions, self._scripts = Near(threshold), Near(threshold)

    def add(self, name: str, seed: Seed, pictures: Iterable[str]) -> None:
        """Add a script of the bench. `pictures` are the ids of its pictures, `name` its name in reports."""
        for picture in pictures:
            if picture:
                self._pictures[picture] = min(name, self._pictures.get(picture, name))
        for question in _questions(seed):
            if telling(question):
                self._questions.add(name, content_words(question))
        if telling(" ".join(seed.script)):
            self._scripts.add(name, shingles(seed.script))

    def add_suite(self, path: Path) -> None:
        """Add a suite file with its pictures. Raises `UserError` if the file or a picture cannot be read."""
        for seed in read_seeds(path):
            pictures = [picture_id(inside(path.parent, image)) for image in seed.all_images]
            # The originals of perturbed or scaled copies, in a suite that another run assembled or imported.
            originals = [str(seed.meta.get("picture") or ""), *scaled_from(seed).values()]
            self.add(f"{path.name} {seed.id}", seed, [*pictures, *originals])

    def shared(self, candidate: Candidate, seed: Seed, script: Tokens) -> tuple[str, str] | None:
        """Why a training script leaks, as (reason, name of the bench script). None if it does not leak.

        Args:
            script: its 3-grams.
        """
        for picture in (candidate.picture, *shown_pictures(seed)):
            if picture in self._pictures:
                return "leak_picture", self._pictures[picture]
        for question in _questions(seed):
            if telling(question) and (name := self._questions.find(content_words(question))):
                return "leak_question", name
        if (name := self._scripts.find(script)) and telling(" ".join(seed.script)):
            return "leak_script", name
        return None


def _questions(seed: Seed) -> list[str]:
    """What a script asks: the question of its pair and its only turn. Where the question is not known, as in
    an imported suite, any turn may be it, and the intent."""
    if question := str(seed.meta.get("question") or ""):
        return [question, *(seed.script if len(seed.turns) == 1 else ())]
    return [seed.intent, *seed.script]
