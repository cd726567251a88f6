"""Stage I from end to end: pairs -> probe -> scripts -> success filter -> pools (docs/explanation/method.md,
"Stage I").

Every finished attempt is written to disk at once. A run may be killed at any moment; the next run resumes and
produces the same seeds. All random draws depend only on the config's seed and the pair's id, and the pools
are written from the journal in the order of the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safer_steer.config import Config, RoleName
from safer_steer.data.seeds.identity import PlanFile, Survey, decode_pictures, plan_id, survey
from safer_steer.data.seeds.journal import ShardedJournal
from safer_steer.data.seeds.pair_work import PairWork, Seats
from safer_steer.data.seeds.pools import DROPPED, write_pools
from safer_steer.data.sources.load import left_out_in_words, load_pairs
from safer_steer.data.sources.pair import Pair
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Assistant
from safer_steer.stages import STAGES
from safer_steer.workers import Bound, Patience, Progress, run_jobs


async def build_seeds(
    config: Config,
    folder: Path,
    ask: Callable[[RoleName], ChatModel],
    target: Assistant,
    progress: Progress | None = None,
    surveyed: Survey | None = None,
) -> list[str]:
    """Write `folder/seeds/<kind>.jsonl` for `config.seeds.kinds`, `dropped.jsonl` beside them, and their
    pictures under `folder/images/`.

    Resumes a run that was interrupted, and returns at once if everything is done.

    Args:
        ask: returns the model of a role; `generator` and `attack_judge` are used.
        target: the fixed policy that red-team scripts are played against.
        progress: called with (finished, all, failed) pairs at the start and after every pair.
        surveyed: the survey of the sources, after `decode_pictures`. By default both are done here.

    Returns:
        Lines to say: which rows of the sources were left out and how many pictures were scaled down, and
        which pairs got no answer from an endpoint.

    Raises:
        UserError: a source is unusable, the folder holds the work of another plan, or an endpoint does not
            respond.
    """
    out = folder / "seeds"
    kinds = config.seeds.kinds
    sources = surveyed or survey(config)
    plan = PlanFile(out, plan_id(config, sources))

    def lines(*more: str) -> list[str]:
        rows = left_out_in_words(plan.skipped, plan.scaled, config.student.max_pixels)
        return [line for line in (rows, *more) if line]

    if plan.finished() and all((out / f"{name}.jsonl").is_file() for name in (*kinds, DROPPED)):
        return lines()
    # If a plan exists, the pictures were decoded when the work began, and the plan holds their hashes.
    if not plan.path.exists():
        if not surveyed:
            decode_pictures(config, sources)
        plan.claim(sources)
    left_out = {id: f"duplicate_pair: of {first}" for id, first in sources.repeated.items()}
    left_out |= {id: f"unusable_picture: {why}" for id, why in plan.broken.items()}

    bound = Bound("seeds.max_unanswered", config.seeds.max_unanswered, sources.pairs)
    patience = Patience("seeds", "pair", bound)
    seats = Seats(config, folder, ask("generator"), ask("attack_judge"), target, patience)
    shards = ShardedJournal(out / "journal", sources.pairs)

    async def one(placed: tuple[int, Pair]) -> None:
        index, pair = placed
        journal = shards.open(index)
        if pair.id not in left_out:
            await PairWork(seats, pair).do(journal)
        shards.done(index)

    try:
        await run_jobs(
            enumerate(load_pairs(config)),
            one,
            # Pairs in progress at once. Models limit their own calls.
            concurrency=max(config.role(name).concurrency for name in STAGES["seeds"].roles),
            patience=patience,
            total=sources.pairs,
            progress=progress,
            id_of=lambda placed: placed[1].id,
        )
    finally:
        shards.close()
    plan.finish(write_pools(out, load_pairs(config), shards, kinds, left_out, patience.unanswered))
    return lines(patience.left_out)
