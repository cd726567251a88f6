"""Stage I from end to end: pairs -> probe -> scripts -> success filter -> pools (docs/method.md, "Stage I").

Pairs are worked on side by side in a bounded window, and every finished attempt at a job is on disk at once.
Whatever moment a run is killed at, the next one goes on and ends with the same seeds: all that is drawn
follows from the config's seed and a pair's id, and the pools are written from the journal in the order of the
pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safer_steer.config import Config, RoleName
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Assistant
from safer_steer.seeds.pair_work import PairWork
from safer_steer.seeds.plan import PlanFile, Survey, decode_pictures, plan_id, survey
from safer_steer.seeds.pools import DROPPED, write_pools
from safer_steer.seeds.shards import ShardedJournal
from safer_steer.sources import Pair, left_out_in_words, load_pairs
from safer_steer.stages import STAGES
from safer_steer.workers import run_jobs


async def build_seeds(
    config: Config,
    folder: Path,
    ask: Callable[[RoleName], ChatModel],
    target: Assistant,
    progress: Callable[[int, int], None] | None = None,
    surveyed: Survey | None = None,
) -> str:
    """Write `folder/seeds/<kind>.jsonl` for `config.seeds.kinds`, `dropped.jsonl` beside them, and their
    pictures under `folder/images/`.

    Returns which rows of the sources were left out and how many pictures were scaled down, on one line, or
    "": at once if all is done. Goes on where it stopped if it was begun.

    Args:
        ask: the model of a role; `generator` and `attack_judge` are asked.
        target: the fixed policy that red-team scripts are tried on.
        progress: called with (finished, all) pairs at the start and after every pair.
        surveyed: the survey of the sources, with `decode_pictures` done. By default both are done here.

    Raises:
        UserError: a source is unusable, the folder holds other work, or an endpoint stays silent.
    """
    out = folder / "seeds"
    kinds = config.seeds.kinds
    found = surveyed or survey(config)
    plan = PlanFile(out, plan_id(config, found))
    if plan.finished() and all((out / f"{name}.jsonl").is_file() for name in (*kinds, DROPPED)):
        return left_out_in_words(plan.skipped, plan.scaled, config.student.max_pixels)
    # Where there is a plan, the pictures were decoded when the work began, and the plan holds their hashes.
    if not plan.path.exists():
        if not surveyed:
            decode_pictures(config, found)
        plan.claim(found)
    left_out = {id: f"duplicate_pair: of {first}" for id, first in found.repeated.items()}
    left_out |= {id: f"damaged_picture: {why}" for id, why in plan.broken.items()}

    work = PairWork(config, folder, ask, target)
    shards = ShardedJournal(out / "journal", found.pairs)

    async def one(placed: tuple[int, Pair]) -> None:
        index, pair = placed
        journal = shards.open(index)
        if pair.id not in left_out:
            await work.do(pair, journal)
        shards.done(index)

    try:
        await run_jobs(
            enumerate(load_pairs(config)),
            one,
            concurrency=_window(config),
            patience=work.patience,
            total=found.pairs,
            progress=progress,
        )
    finally:
        shards.close()
    plan.finish(write_pools(out, load_pairs(config), shards, kinds, left_out))
    return left_out_in_words(plan.skipped, plan.scaled, config.student.max_pixels)


def _window(config: Config) -> int:
    """Pairs in work at once: enough to keep the widest role busy; the models bound their calls themselves."""
    return max(config.role(name).concurrency for name in STAGES["seeds"].roles)
