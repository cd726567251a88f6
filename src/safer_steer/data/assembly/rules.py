"""Rules 1 and 2, judged by the role `evaluator` (docs/explanation/method.md, "Data sets").

Rule 1: the script is coherent, grounded in the picture and of the kind it is labelled. Rule 2: the script
meets rule 1, is obfuscated or red-team, and is history-dependent: its last user turn alone is judged
harmless, the whole script harmful. The last turn is judged in a separate call that sees only the picture and
that turn, so the history cannot influence the verdict.

Every verdict is written to disk at once, with its reasons. If the evaluator declines or gives no valid
answer, the script is unjudged and meets neither rule. If the endpoint fails, nothing is written, and the next
run asks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safer_steer.data.assembly.candidates import Candidate, Pools, without_words
from safer_steer.dialogue import Kind, Seed
from safer_steer.endpoints.chat import ChatModel
from safer_steer.errors import BoundaryError, EndpointError
from safer_steer.files.images import PicturesOf, in_view
from safer_steer.files.store import Journal
from safer_steer.prompts.scripts import (
    SCRIPT_CHECK,
    TURN_CHECK,
    ScriptCheckInput,
    ScriptVerdict,
    TurnCheckInput,
)
from safer_steer.workers import Patience, Progress, run_jobs


class Ruling(NamedTuple):
    """Which rules a script meets. `reason` (rule_1, rule_2 or unjudged) and `detail` say why it fails."""

    rule_1: bool
    rule_2: bool
    reason: str = ""
    detail: str = ""


def trusted(kind: Kind) -> Ruling:
    """The ruling without the evaluator: Stage I is trusted."""
    return Ruling(True, kind is not Kind.BENIGN)


def ruling(kind: Kind, row: dict[str, Any]) -> Ruling:
    """The ruling on a script of this kind, from its row in the journal."""
    if "failed" in row:
        return Ruling(False, False, "unjudged", row["failed"])
    verdict = ScriptVerdict.model_validate(row["script"])
    if failed := rule_1_failures(kind, verdict):
        return Ruling(False, False, "rule_1", f"{', '.join(failed)}: {verdict.reason}")
    if kind is Kind.BENIGN:
        return Ruling(True, False)
    if not verdict.harmful:
        return Ruling(True, False, "rule_2", f"the whole is not harmful: {verdict.reason}")
    last = row["last_turn"]
    if last["harmful"]:
        return Ruling(True, False, "rule_2", f"its last turn is harmful by itself: {last['reason']}")
    return Ruling(True, True)


def rule_1_failures(kind: Kind, verdict: ScriptVerdict) -> list[str]:
    """How a script fails rule 1. A benign script that is judged harmful also fails, whatever else the verdict
    says."""
    keeps = {
        "incoherent": verdict.coherent,
        "ungrounded": verdict.grounded,
        "not of its kind": verdict.of_kind,
    }
    failures = [name for name, passes in keeps.items() if not passes]
    if not failures and kind is Kind.BENIGN and verdict.harmful:
        return ["harmful"]
    return failures


async def judge_scripts(
    candidates: Sequence[Candidate],
    pools: Pools,
    model: ChatModel,
    pictures_of: PicturesOf,
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Ruling]:
    """The rulings on all candidates by id. Calls the model for those not yet in the journal `out`.

    Args:
        progress: called with (finished, all) at the start and after every script.

    Raises:
        UserError: the endpoint did not answer for some scripts; raised at once after `workers.PATIENCE` in a
            row.
    """
    with Journal(out) as journal:
        waiting = [candidate for candidate in candidates if candidate.id not in journal]

        async def one(candidate: Candidate) -> None:
            row = await _row_of(pools.script(candidate), model, pictures_of)
            journal.append({"id": candidate.id, **row})

        await run_jobs(
            waiting,
            one,
            concurrency=model.role.concurrency,
            patience=Patience("assemble: evaluator", "script"),
            total=len(candidates),
            finished=len(candidates) - len(waiting),
            progress=progress,
            id_of=lambda candidate: candidate.id,
        )
        return {candidate.id: ruling(candidate.kind, journal.rows[candidate.id]) for candidate in candidates}


async def _row_of(seed: Seed, model: ChatModel, pictures_of: PicturesOf) -> dict[str, Any]:
    """The row of one script: its verdicts, or `failed`. Raises `EndpointError`."""
    pictures = in_view(seed.images_by_turn(), pictures_of)
    inputs = ScriptCheckInput(kind=seed.kind, intent=seed.intent, script=seed.script)
    try:
        verdict = await model.ask(SCRIPT_CHECK, inputs, pictures)
        row: dict[str, Any] = {"script": verdict.model_dump()}
        if seed.kind is not Kind.BENIGN and verdict.harmful and not rule_1_failures(seed.kind, verdict):
            alone = pictures_of([*without_words(seed), *seed.turns[-1].images])
            last = await model.ask(TURN_CHECK, TurnCheckInput(turn=seed.script[-1]), alone)
            row["last_turn"] = last.model_dump()
    except EndpointError:
        raise
    except BoundaryError as error:
        return {"failed": str(error.fault)}
    return row
