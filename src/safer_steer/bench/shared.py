"""What suites have in common with the pairs and scripts that a run trains on, said before it starts.

With the section `assembly` `data/assembly/near.py` keeps such pairs out of training; without it nothing is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from safer_steer.bench.suites import Suite
from safer_steer.config import Assembly
from safer_steer.data.assembly.candidates import picture_id, scaled_from
from safer_steer.data.assembly.near import Near, content_words, telling
from safer_steer.files.store import inside


@dataclass
class _Scripts:
    """Scripts of a suite that have something in common with training."""

    all: int
    pictures: set[str] = field(default_factory=set)
    questions: set[str] = field(default_factory=set)


class Shared:
    """Counts the scripts of suites whose pictures or questions are those of training pairs."""

    def __init__(self, suites: Sequence[Suite]) -> None:
        """Hash the suites' pictures and words. Raises `UserError` if a picture cannot be read."""
        self._scripts = {suite.name: _Scripts(len(suite.seeds)) for suite in suites}
        self._pictures: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self._turns: defaultdict[bytes, set[tuple[str, str]]] = defaultdict(set)
        self._near = Near(Assembly().near_duplicate)
        for suite in suites:
            for seed in suite.seeds:
                script = (suite.name, seed.id)
                originals = {str(seed.meta.get("picture") or ""), *scaled_from(seed).values()}
                for image in seed.all_images:
                    originals.add(picture_id(inside(suite.folder, image)))
                for picture in originals - {""}:
                    self._pictures[picture].add(script)
                for turn in (str(seed.meta.get("question") or ""), *seed.script):
                    if telling(turn):
                        tokens = content_words(turn)
                        self._turns[tokens.tobytes()].add(script)
                        self._near.add(tokens.tobytes().hex(), tokens)

    def add(self, pictures: Iterable[str], questions: Iterable[str]) -> None:
        """Count what a training pair or script has in common with the suites.

        Args:
            pictures: the SHA-256 of its pictures' files, or its first 16 digits.
            questions: its question, or the user's turns.
        """
        for picture in pictures:
            for suite, id in self._pictures.get(picture[:16], ()):
                self._scripts[suite].pictures.add(id)
        for question in questions:
            if telling(question) and (same := self._near.find(content_words(question))):
                for suite, id in self._turns[bytes.fromhex(same)]:
                    self._scripts[suite].questions.add(id)

    def in_words(self) -> str:
        """The counts on one line; "" if nothing is shared."""
        parts = []
        for name, scripts in self._scripts.items():
            counts = (("a picture", scripts.pictures), ("a question", scripts.questions))
            words = [f"{len(ids)} with {what} of the training data" for what, ids in counts if ids]
            if words:
                parts.append(f"{name}: of {scripts.all} scripts {' and '.join(words)}")
        return "; ".join(parts)
