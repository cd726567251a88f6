"""Stage I, step 6: what counts as the same script, within a pool and across pools."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from safer_steer.store import content_id

_AROUND_WORDS = re.compile(r"[.,;:!?…\"'’‘“”]+(?=\s|$)|(?<!\S)[\"'’‘“”]+")


def normalise(text: str) -> str:
    """Compatibility forms, case, white space and the punctuation around words make no difference; signs and
    decimal points do."""
    return " ".join(_AROUND_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def script_key(script: Sequence[str], picture: str) -> str:
    """Hash of a script on a picture, given by the hash of its original: a perturbed copy is the same
    picture."""
    return content_id([normalise(turn) for turn in script], picture)


class Seen:
    """What was met first, by content."""

    def __init__(self) -> None:
        self._first: dict[int, str] = {}  # the key as a number: half the memory of a string

    def first(self, key: str, id: str) -> str:
        """The id that came first with this key (16 hex digits): `id` itself if it is new."""
        return self._first.setdefault(int(key, 16), id)
