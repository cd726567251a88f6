"""Stage I, step 6: detects duplicate scripts, within a pool and across pools."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from safer_steer.files.store import content_id

_AROUND_WORDS = re.compile(r"[.,;:!?…\"'’‘“”]+(?=\s|$)|(?<!\S)[\"'’‘“”]+")


def normalise(text: str) -> str:
    """Removes differences of compatibility form, case, white space and punctuation around words. Keeps signs
    and decimal points."""
    return " ".join(_AROUND_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def script_key(script: Sequence[str], picture: str) -> str:
    """Hash of a script and its picture. `picture` is the hash of the original, so a perturbed copy counts as
    the same picture."""
    return content_id([normalise(turn) for turn in script], picture)


class Seen:
    """Remembers the first id of each content key."""

    def __init__(self) -> None:
        self._first: dict[int, str] = {}  # keys as numbers: half the memory of strings

    def first(self, key: str, id: str) -> str:
        """The first id seen with this key (16 hex digits): `id` itself if the key is new."""
        return self._first.setdefault(int(key, 16), id)
