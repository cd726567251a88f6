"""Play many dialogues concurrently. Each is written to disk when it finishes; the next run plays the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from safer_steer.dialogue import Dialogue, Seed, StopReason
from safer_steer.episode import Assistant, Critic, Script, User, play
from safer_steer.errors import EndpointError, UserError
from safer_steer.files.store import Journal
from safer_steer.workers import Patience, Progress, run_jobs


async def play_all(
    seeds: list[Seed],
    assistant: Assistant,
    critic: Critic | None,
    out: Path,
    *,
    user: User | None = None,
    again_if_unreached: bool = False,
    patience: Patience | None = None,
    concurrency: int = 64,
    max_turns: int = 10,
    progress: Progress | None = None,
) -> Iterator[Dialogue]:
    """Play every seed's script, or its first `max_turns` turns.

    Returns an iterator over the dialogues in the seeds' order, read from the journal one by one.

    Args:
        critic: scores the turns; without one the answers are kept and not scored.
        out: the journal, for instance `bench/<model>/<suite>.jsonl`. Dialogues in it are not played again,
            including those with unscored or failed turns: they are data. A journal belongs to one model,
            judge and setting; use another file if any of them changes.
        user: speaks for the user; the script by default.
        again_if_unreached: if True, a dialogue ended by an endpoint's failure does not count as finished: it
            is not journalled, and the call ends in an error.
        patience: with `again_if_unreached`, says how many of those may be left out; by default none. They
            are among the dialogues returned, as far as they came.
        concurrency: maximum number of dialogues in play at once; they start in the seeds' order.
        progress: called with (finished, all, failed) at the start and after every dialogue. Failed are those
            that an endpoint ended, or that could not be scored whole.

    Raises:
        UserError: the journal holds another script under a seed's id; or endpoints failed
            (`again_if_unreached`). `workers.PATIENCE` failures in a row raise it immediately.
    """
    with Journal(out) as journal:
        for seed in seeds:
            if seed.id in journal and user is None:
                _check_same_script(Dialogue.model_validate(journal.rows[seed.id]), seed, max_turns, out)
        waiting = [seed for seed in seeds if seed.id not in journal]
        unreached: dict[str, Dialogue] = {}
        losses = 0

        def report(done: int, total: int, failed: int = 0) -> None:
            if progress:
                progress(done - losses, total, failed + losses)

        async def one(seed: Seed) -> None:
            nonlocal losses
            dialogue = await play(seed, user or Script(), assistant, critic, max_turns)
            failure = next((fault for fault in dialogue.faults if fault.unreached), None)
            if again_if_unreached and failure:
                unreached[seed.id] = dialogue
                raise EndpointError(failure.message)
            journal.append(dialogue.model_dump(mode="json"))
            losses += _is_lost(dialogue, scored=critic is not None)

        await run_jobs(
            waiting,
            one,
            concurrency=concurrency,
            patience=patience or Patience(out.parent.name, "dialogue"),
            total=len(seeds),
            finished=len(seeds) - len(waiting),
            progress=report,
            id_of=lambda seed: seed.id,
        )
    return _dialogues(seeds, out, unreached)


def _dialogues(seeds: list[Seed], out: Path, unreached: Mapping[str, Dialogue]) -> Iterator[Dialogue]:
    with Journal(out) as journal:
        for seed in seeds:
            yield unreached.get(seed.id) or Dialogue.model_validate(journal.rows[seed.id])


def _is_lost(dialogue: Dialogue, scored: bool) -> bool:
    """Whether user or assistant failed, or a turn has no scores although it should."""
    if dialogue.stop in (StopReason.ASSISTANT_FAILED, StopReason.USER_FAILED, StopReason.UNSCORED):
        return True
    return scored and any(turn.scores is None for turn in dialogue.turns)


def _check_same_script(dialogue: Dialogue, seed: Seed, max_turns: int, out: Path) -> None:
    turns = [(turn.user, turn.images) for turn in dialogue.turns]
    script = [(turn.user, turn.images) for turn in seed.turns[:max_turns]]
    if dialogue.stop is not StopReason.COMPLETED:
        script = script[: len(turns)]
    if dialogue.images != seed.images or turns != script:
        raise UserError(
            f"{out}: {seed.id} was played from another script than the suite has now; move the file away to"
            " play it again"
        )
