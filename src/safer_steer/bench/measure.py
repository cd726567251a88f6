"""The whole bench: every model on every suite, then the summary."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from safer_steer.bench.judging import JudgeCritic
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import Suite
from safer_steer.bench.summary import incomplete, summarise, unscored_share
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, read_dialogues, to_jsonl
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Assistant, Critic
from safer_steer.episodes import play_all
from safer_steer.errors import NoResult
from safer_steer.images import pictures_in
from safer_steer.metrics import ProtocolName, state
from safer_steer.scaling import in_words
from safer_steer.store import write_atomic

Results = dict[ProtocolName, dict[str, list[Dialogue]]]
"""A model's dialogues by protocol and suite."""


def measure_models(
    config: Config,
    folder: Path,
    models: Mapping[str, Callable[[], Assistant]],
    judge: ChatModel,
    wait: Callable[[Coroutine[Any, Any, Results]], Results],
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Measure models by name, one after the other, and write `summary.json`.

    Args:
        models: what makes the assistant's seat of each; called when its turn comes, so that one student at a
            time is in memory.
        wait: runs a coroutine to its end.
        progress: called with dialogues (finished, all), over all models.
        say: told in one line which pictures of a suite were scaled down, and how many dialogues ran out of
            context.

    Raises:
        NoResult: more than `bench.max_unscored` of a protocol's dialogues have no scores. Called again, those
            are played once more.
    """
    bench, summary = config.bench, folder / "summary.json"
    if summary.exists():
        forget_unscored(folder / "bench")
        judge.forget_unparsable()
    suites = bring_in(bench.suites, folder, bench.dialogues, config.student.max_pixels)
    for suite in suites:
        if say and suite.scaled:
            say(f"{suite.name}: {in_words(suite.scaled, config.student.max_pixels)}")
    each = sum(len(suite.seeds) for suite in suites)
    critic = JudgeCritic(judge, config.student.format, pictures_in(folder, config.student.max_pixels))
    results = {}
    for place, (name, make) in enumerate(models.items()):

        def shown(done: int, _: int, before: int = place * each) -> None:
            if progress:
                progress(before + done, len(models) * each)

        assistant = make()
        results[name] = wait(measure(suites, assistant, critic, folder / "bench" / name, shown))
        del assistant
        gc.collect()
    twins = {suite.name for suite in suites if suite.safe_twins}
    found = summarise(results, twins, bench.resamples, config.seed)
    write_atomic(summary, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if say and (cut := incomplete(found)):
        say(
            f"{cut} of {len(models) * each} dialogues ran out of context and count as incomplete;"
            " for a run that has none, raise student.max_length (a served model's: at its server)"
            " or lower student.max_turn_tokens (a served model's: max_tokens)"
        )
    if (share := unscored_share(found)) > bench.max_unscored:
        raise NoResult(
            f"{share:.1%} of a model's dialogues have no scores, more than bench.max_unscored = {bench.max_unscored:.1%}: this is no result;"
            f" see `stops` in {summary} and `error` and `unscored` in the dialogues, fix the cause and run the same command to play them again"
        )


async def measure(
    suites: Sequence[Suite],
    assistant: Assistant,
    critic: Critic,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Play all suites with one model, side by side so that its batches are full. Finished dialogues are in
    `out` at once and not played again.

    Args:
        out: `bench/<model>`; a suite's journal is `<suite>.jsonl`, with `single_turn_` before it where the
            protocol is single-turn.
        progress: called with dialogues (finished, all), over all suites.
    """
    finished = dict.fromkeys((suite.name for suite in suites), 0)
    total = sum(len(suite.seeds) for suite in suites)

    def report(name: str) -> Callable[[int, int], None]:
        def of_suite(done: int, _: int) -> None:
            finished[name] = done
            if progress:
                progress(sum(finished.values()), total)

        return of_suite

    tasks = [
        asyncio.ensure_future(
            play_all(suite.seeds, assistant, critic, journal(out, suite), progress=report(suite.name))
        )
        for suite in suites
    ]
    try:
        played = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    results: Results = {}
    for suite, dialogues in zip(suites, played, strict=True):
        results.setdefault(suite.protocol, {})[suite.name] = list(dialogues)
    return results


def journal(out: Path, suite: Suite) -> Path:
    """Where a model's dialogues on a suite are kept."""
    return out / f"{'single_turn_' if suite.protocol == 'single_turn' else ''}{suite.name}.jsonl"


def forget_unscored(bench: Path) -> None:
    """Drop unscored and failed dialogues from a bench's journals: they are to be played again.

    Incomplete ones stay, for they would end alike.
    """
    for path in sorted(bench.glob("*/*.jsonl")):
        dialogues = read_dialogues(path)
        stay = [dialogue for dialogue in dialogues if state(dialogue) in ("scored", "incomplete")]
        if len(stay) < len(dialogues):
            write_atomic(path, to_jsonl(stay))
