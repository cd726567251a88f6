"""Writes the three pools from the journal, in the order of the pairs, and `dropped.jsonl`: what is in no
pool, and why. Of scripts with the same content, the first is kept."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from safer_steer.data.seeds.journal import (
    SHARD,
    Row,
    ShardedJournal,
    failed_for,
    key_of,
    kinds_of,
    outcome,
    reasons,
)
from safer_steer.data.sources.pair import Pair
from safer_steer.dialogue import Kind, Seed, read_seeds
from safer_steer.errors import Fault, UserError
from safer_steer.files.store import content_id, read_rows, writing
from safer_steer.workers import UNANSWERED, Reasons

DROPPED = "dropped"
"""The name of `dropped.jsonl` without its suffix."""
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


def read_pools(folder: Path, kinds: Sequence[Kind]) -> list[Seed]:
    """The seeds of a run's folder, pool by pool; a pool may be empty. Raises `UserError`: a pool is missing,
    or all are empty."""
    seeds: list[Seed] = []
    for kind in kinds:
        seeds += read_seeds(folder / "seeds" / f"{kind.value}.jsonl", may_be_empty=True)
    if not seeds:
        raise UserError(
            f"{folder}/seeds: there is no script; dropped.jsonl says why, `safer-steer seeds` writes them"
        )
    return seeds


def write_pools(
    folder: Path,
    pairs: Iterable[Pair],
    shards: ShardedJournal,
    kinds: Sequence[Kind],
    left_out: dict[str, str],
    unanswered: Mapping[str, Mapping[str, str]],
) -> dict[str, int]:
    """Write `<kind>.jsonl` for each of these kinds, and `dropped.jsonl`. Return the number of rows of each.

    Scripts for the bench and for training are compared separately, so a bench script is never dropped for a
    training script.

    A row of `dropped.jsonl` is {"id", "pair", "kind", "reason", "detail", "attempts"}. The reason is refused,
    empty, repeated, unparsable, rejected, failed_attack, duplicate, duplicate_pair, unusable_picture or
    unanswered. Pairs in `left_out` have the reason given there. `attempts` holds the reason and, for red-team
    scripts, the strategy of each failed attempt.

    `unanswered` has the jobs without an outcome: by pair and job, why an endpoint gave no answer.

    All files are written to temporary files and then moved into place.
    """
    names = [*(kind.value for kind in kinds), DROPPED]
    counts = dict.fromkeys(names, 0)
    earlier, rows = Seen(), dict[str, Row]()
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for name in names:
            files[name] = stack.enter_context(writing(folder / f"{name}.jsonl"))

        def drop(pair: Pair, id: str, kind: Kind | None, why: str, job: str) -> None:
            reason, detail = Fault.read(why)
            row: dict[str, Any] = {"id": id, "pair": pair.id, "kind": kind}
            row |= {"reason": reason, "detail": detail}
            if attempts := reasons(rows, job):
                row["attempts"] = attempts
            files[DROPPED].write(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n")
            counts[DROPPED] += 1

        for index, pair in enumerate(pairs):
            if index % SHARD == 0:
                rows = shards.rows(index // SHARD)
            if pair.id in left_out:
                drop(pair, pair.id, None, left_out[pair.id], pair.id)
                continue
            probe = key_of(pair, "probe")
            probed = outcome(rows, probe)
            for kind in kinds_of(pair, kinds):
                id = key_of(pair, kind)
                result = outcome(rows, id)
                if why := failed_for(probed, kind):
                    drop(pair, id, kind, why, probe)
                    continue
                if result is None:
                    job = kind if kind in unanswered[pair.id] else "probe"
                    why = f"{UNANSWERED}: {job}: {unanswered[pair.id][job]}"
                    drop(pair, id, kind, why, key_of(pair, job))
                    continue
                if "failed" in result:
                    drop(pair, id, kind, result["failed"], id)
                    continue
                seed = Seed.model_validate(result["made"]["seed"])
                first = earlier.first(script_key(seed.script, f"{result['made']['picture']} {pair.use}"), id)
                if first != id:
                    drop(pair, id, kind, f"duplicate: of {first}", id)
                    continue
                files[kind].write(seed.model_dump_json().encode() + b"\n")
                counts[kind] += 1
    return counts


def refuse_nothing(folder: Path, kinds: Sequence[Kind]) -> None:
    """Raises `UserError` if every pool in `folder` is empty."""
    if any((folder / f"{kind}.jsonl").stat().st_size for kind in kinds):
        return
    details = (row.get("detail") for row in read_rows(folder / f"{DROPPED}.jsonl"))
    commonest = Reasons(detail for detail in details if detail).commonest
    cause = f"; the commonest cause: {commonest}" if commonest else ""
    raise UserError(
        f"{folder}: not one script was made ({dropped_in_words(folder)}){cause}; {DROPPED}.jsonl has each"
        " reason; change the models in `roles`, then start over with --fresh"
    )


def dropped_in_words(folder: Path) -> str:
    """What was dropped, on one line: "dropped: 5 unparsable, 2 attack failed"; "" if nothing was."""
    counter = Counter(row["reason"] for row in read_rows(folder / f"{DROPPED}.jsonl"))
    counts = [f"{count:,} {reason_in_words(reason)}" for reason, count in counter.most_common()]
    return f"dropped: {', '.join(counts)}" if counts else ""


def reason_in_words(reason: str) -> str:
    """A reason in `dropped.jsonl`, to read."""
    return "attack failed" if reason == "failed_attack" else reason.replace("_", " ")
