"""Identifies what a stage's work on disk was made from: the part of the config that determines its content,
and the source pairs."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safer_steer.config import Config, Role, same_model
from safer_steer.config.changes import settings_of
from safer_steer.data.seeds.pools import Seen, normalise
from safer_steer.data.sources.load import Skipped, label, left_out_in_words, pairs_of
from safer_steer.data.sources.pair import Pair
from safer_steer.dialogue import Seed
from safer_steer.errors import UserError, refuse
from safer_steer.files.images import PictureError, Trial
from safer_steer.files.store import content_id, write_atomic
from safer_steer.stages import STAGES


def bench_selection(config: Config) -> str:
    """How the red-team scripts of STEER-Bench were selected, for its card."""
    if not config.seeds.filter_bench:
        return "not filtered by success"
    target = config.role("target").title()
    return f"filtered by success against {target} at success_at {config.seeds.success_at}"


def refuse_selected(scripts: Iterable[Seed], measured: str, suite: str) -> None:
    """Raises `UserError` if a script of the suite was selected by its success against the model being
    measured."""
    for seed in scripts:
        against = seed.meta.get("filtered_against")
        if isinstance(against, str) and same_model(against, measured):
            raise UserError(
                f"{suite}: {seed.id} was kept because it broke {against},"
                f" so {against} cannot be measured on it; use a suite that was not filtered"
            )


@dataclass
class Survey:
    """The result of reading all sources once, before any model call."""

    pairs: int = 0
    digest: str = ""
    """SHA-256 over every pair and its picture."""
    repeated: dict[str, str] = field(default_factory=dict)
    """Repeated pairs: by id, the id of an earlier pair with the same question, picture and use."""
    skipped: Skipped = field(default_factory=dict)
    """Rows that yielded no pair."""
    scaled: dict[str, int] = field(default_factory=dict)
    """Pictures with more than `student.max_pixels` pixels, by source: the run scales them down."""
    broken: dict[str, str] = field(default_factory=dict)
    """Pairs whose picture is damaged after the header, or not for the student: by id, what is wrong. Filled
    by `decode_pictures`."""


def survey(config: Config, on_pair: Callable[[Pair, str], None] | None = None) -> Survey:
    """Read all pairs and hash their pictures, without decoding them.

    Args:
        on_pair: called with each pair and its picture's hash.

    Raises:
        UserError: a row is unusable, a picture's file cannot be read, an id occurs twice, or a source has no
            pairs.
    """
    result, digest, ids, earlier = Survey(), hashlib.sha256(), set(), Seen()
    for source in config.seeds.sources:
        before, large = result.pairs, set[str]()
        for pair in pairs_of(source, config, result.skipped):
            if pair.id in ids:
                raise UserError(
                    f"{pair.where or pair.source}: id: {pair.id} occurs twice;"
                    " sources of one set must differ in split, your own in name"
                )
            ids.add(pair.id)
            picture = pair.picture_hash()
            if on_pair:
                on_pair(pair, picture)
            if pair.is_large(config.student.max_pixels):
                large.add(picture)
            if picture:
                first = earlier.first(content_id(normalise(pair.question), picture, pair.use), pair.id)
                if first != pair.id:
                    result.repeated[pair.id] = first
            row = [pair.id, picture, pair.question, pair.source, pair.intent, pair.safe]
            row += [pair.answer, pair.category, pair.use]
            digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            result.pairs += 1
        if result.pairs == before:
            raise UserError(
                f"seeds.sources: {left_out_in_words(result.skipped) or label(source)}: no pair is left of it;"
                " docs/how-to/data.md has the columns of each set"
            )
        if large:
            result.scaled[label(source)] = result.scaled.get(label(source), 0) + len(large)
    result.digest = digest.hexdigest()
    return result


def decode_pictures(config: Config, result: Survey, trial: Trial | None = None) -> None:
    """Decode every picture, and try it on the student, before anything is written or any call costs money.
    Call once per survey.

    In sources with `bad_rows: skip`, pairs with an unusable picture go into `result.broken` and are counted
    in `result.skipped`. Raises `UserError`: unusable pictures of other sources.
    """
    unusable = []
    for source in config.seeds.sources:
        for pair in pairs_of(source, config):
            try:
                pair.check_picture(trial)
            except PictureError as error:
                if source.bad_rows == "error":
                    unusable.append(str(error))
                    continue
                result.broken[pair.id] = str(error)
                result.skipped[label(source)][error.reason] += 1
    refuse(unusable)


def plan_id(config: Config, sources: Survey) -> str:
    """The hash of everything that determines the seeds. Of roles these are the keys of kind `run`: not the
    models' addresses, prices, limits and concurrency."""
    seeds = config.seeds.model_dump(mode="json", exclude={"sources", "filter_bench", "max_unanswered"})
    if any(source.use == "bench" for source in config.seeds.sources):  # has no effect without a bench source
        seeds["filter_bench"] = config.seeds.filter_bench
    roles: dict[str, Any] = {
        name: settings_of(config.role(name).model_dump(mode="json"), model=Role)
        for name in STAGES["seeds"].roles
    }
    keys = {"format", "system", "max_pixels"}
    if config.student_is_target:
        keys |= {"model", "max_turn_tokens"}
    student = config.student.model_dump(mode="json", include=keys)
    return content_id(config.seed, seeds, roles, student, sources.digest)


class PlanFile:
    """`seeds/plan.json`: which plan the folder's work belongs to, what was left out, and whether it is
    finished."""

    def __init__(self, folder: Path, plan: str) -> None:
        self.path = folder / "plan.json"
        self.folder = folder
        self.plan = plan
        self.skipped: Skipped = {}
        self.scaled: dict[str, int] = {}
        self.broken: dict[str, str] = {}
        """Pairs with an unusable picture, by id."""

    def finished(self) -> bool:
        """Whether all the work is done. Raises `UserError`: the folder holds the work of another plan, or
        seeds of unknown origin."""
        try:
            row = json.loads(self.path.read_bytes())
            plan, finished = row["plan"], row["finished"]
            self.skipped = {name: Counter(counts) for name, counts in row["skipped"].items()}
            self.scaled, self.broken = dict(row["scaled"]), row["broken"]
        except FileNotFoundError:
            if any(self.folder.glob("*.jsonl")) or any(self.folder.glob("journal/*")):
                raise UserError(
                    f"{self.folder}: has seeds but no plan.json, so it is not known how they were made;"
                    " move them away or start over with --fresh"
                ) from None
            return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path}: cannot be read; start over with --fresh") from None
        if plan != self.plan:
            raise UserError(
                f"{self.folder}: begun with other settings or other source pairs; restore them,"
                " or start over with --fresh"
            )
        return bool(finished)

    def claim(self, sources: Survey) -> None:
        """Record the plan, and what is left out. Call before any work is written."""
        self.skipped, self.scaled, self.broken = sources.skipped, sources.scaled, sources.broken
        self._write({"finished": False})

    def finish(self, counts: dict[str, int]) -> None:
        """Record that all work is done. Call last. `counts`: rows of each pool and of `dropped.jsonl`."""
        self._write({"finished": True, "rows": counts})

    def _write(self, state: dict[str, Any]) -> None:
        skipped = {name: dict(counts) for name, counts in self.skipped.items() if counts}
        row = {"plan": self.plan, **state, "skipped": skipped, "scaled": self.scaled, "broken": self.broken}
        write_atomic(self.path, json.dumps(row, ensure_ascii=False) + "\n")
