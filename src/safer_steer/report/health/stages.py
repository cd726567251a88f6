"""Turns the rows of each stage into counts. For the rows' fields see `files/meta.py`,
`endpoints/asked_again.py` and `data/seeds/journal.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safer_steer.bench.adaptive.results import ADAPTIVE, all_turns, breached
from safer_steer.config import Student
from safer_steer.config.file import read_yaml
from safer_steer.dialogue import Dialogue, Format, Kind, StopReason
from safer_steer.endpoints.asked_again import TEMPLATE, Request
from safer_steer.errors import FailedAttack, Fault, UserError
from safer_steer.files.store import Reading, rows_of
from safer_steer.report.health.tally import FAULTS, Health, StrategyCounts
from safer_steer.rewards import LEAK
from safer_steer.workers import UNANSWERED

Row = dict[str, Any]

JOBS = ("probe", "benign", "obfuscated", "red_team")
"""The generator's jobs, in the order of Stage I."""
SCORES = ("harmlessness", "helpfulness", "refused")
"""The judge's."""
OF_SCRIPT = ("coherent", "grounded", "of_kind", "harmful", "last_turn_harmful")
"""The evaluator's on scripts: yes or no, and one of them nearly always may be right."""
NO_VERDICT = (StopReason.UNSCORED, StopReason.ASSISTANT_FAILED)
"""Stop reasons that say nothing about the script's strategy."""


def examine(run: Path, stages: tuple[str, ...] = ("seeds", "assemble", "bootstrap", "rl", "bench")) -> Health:
    """Count what these stages left in a run folder. A stage that has not run counts as zero; one in progress
    counts what it has so far.

    Raises:
        UserError: `run` is not a folder, or a row is damaged; names the file and the row.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such folder; give the folder of `safer-steer run --out`")
    health = Health(_format(run))
    for stage in stages:
        with rows_of(stage) as reading:
            _READERS[stage](health, run, reading)
    return health


def _format(run: Path) -> Format:
    """The layout that a run's models are asked for. Without a config, none is known to be."""
    path = run / "config.yaml"
    student = read_yaml(path).get("student") if path.is_file() else {"format": Format.PLAIN}
    name = student.get("format") if isinstance(student, dict) else None
    return Format(name) if name in list(Format) else Student().format


def _seeds(health: Health, run: Path, reading: Reading) -> None:
    for job in JOBS:
        health.attacker("generator", job)
    for shard in sorted((run / "seeds" / "journal").glob("*.jsonl")):
        attempts: dict[str, list[tuple[str, Row]]] = {}
        for row in reading.rows(shard):  # all attempts at a job are in one shard, in order
            attempts.setdefault(row["id"].rpartition(":")[0], []).append((reading.at, row))
        for key, rows in attempts.items():
            job = key.rpartition("-")[2]
            for reading.at, row in rows:
                if job == "red_team":
                    _simulated(health, row)
            health.attacker("generator", job).note(Request.of_rows([row for _, row in rows], FAULTS))
    for row in reading.rows(run / "seeds" / "dropped.jsonl"):
        health.unanswered["seeds"] += row.get("reason") == UNANSWERED


def _simulated(health: Health, row: Row) -> None:
    """Count one attempt at a red-team script. Only attempts that were played count for their strategy."""
    fault = Fault.read(row.get("failed", ""))
    if fault.boundary not in ("", FailedAttack.boundary):
        return
    stop, why = Fault.read(fault.message)
    meta = row["made"]["seed"]["meta"] if "made" in row else row
    if "made" in row and "success_turn" not in meta:
        return  # a bench script: not tried on the target
    strategy = health.strategy("generator", str(meta.get("strategy", "unknown")))
    if stop not in NO_VERDICT:
        strategy.uses.note(row["id"], "made" in row)
    if "made" in row:
        strategy.turns_to_success += meta["success_turn"]
        for turn in row["made"]["seed"]["turns"]:
            strategy.texts.add(turn["user"])
    for score in meta.get("attack_scores", []):
        health.judged("attack_judge", {"attack": score}, ("attack",), None)
    if stop == StopReason.UNSCORED:
        health.judged("attack_judge", None, ("attack",), why)


def _assemble(health: Health, run: Path, reading: Reading) -> None:
    for row in reading.rows(run / "splits" / "verdicts.jsonl"):
        health.judged("evaluator", row.get("script"), OF_SCRIPT[:-1], row.get("failed"))
        if "last_turn" in row:
            last = {OF_SCRIPT[-1]: row["last_turn"]["harmful"]}
            health.judged("evaluator", last, OF_SCRIPT[-1:], None)


def _bootstrap(health: Health, run: Path, reading: Reading) -> None:
    for dialogue in reading.rows(run / "bootstrap" / "journal.jsonl"):
        for place, turn in enumerate(dialogue["turns"], 1):
            request = Request.of_turn(turn["meta"].get("attacker"))
            health.attacker("red", "turn").note(request)
            if _attacks(dialogue):
                _attacked(health.strategy("red", request.approach), dialogue, turn)
                if turn["scores"]:
                    health.requested("red", _script(dialogue), dialogue, place, turn, _leaks(turn))
            health.judged(
                "evaluator", turn["scores"], ("safety", "helpfulness"), turn["meta"].get("unscored")
            )
    for path in sorted((run / "bootstrap").rglob("rejected.jsonl")):
        for dialogue in reading.rows(path):
            health.unanswered["bootstrap"] += UNANSWERED in dialogue["meta"].get("reasons", ())


def _rl(health: Health, run: Path, reading: Reading) -> None:
    for dialogue in reading.rows(run / "rl" / "trajectories.jsonl"):
        turns = dialogue["turns"]
        health.answered("student", "rl", "trajectories", dialogue)
        health.audits.note(dialogue)
        for place, (turn, following) in enumerate(zip(turns, [*turns[1:], None], strict=True), 1):
            meta, why = turn["meta"], turn["meta"].get("unscored", "")
            declined = Request.without_verdict(Fault.read(why))
            request = declined or Request.of_turn(meta.get("next_attacker"))
            writes = following is not None and (request.faults or meta.get("strategy") != TEMPLATE)
            health.attacker("tutor", "turn").note(request, bool(writes))
            health.judged("tutor", turn["scores"], ("safety", "faithfulness"), why)
            if turn["scores"] and _attacks(dialogue):
                health.requested("tutor", _script(dialogue), dialogue, place, turn, _leaks(turn))
            if following is not None and "strategy" in meta and _attacks(dialogue):
                _attacked(health.strategy("tutor", str(meta["strategy"])), dialogue, following)
    for step in reading.rows(run / "rl" / "metrics.jsonl"):
        health.groups.note(step)
        health.approaches.note(step)


def _bench(health: Health, run: Path, reading: Reading) -> None:
    for path in sorted((run / "bench").glob("*/*.jsonl")):
        attacked = path.stem.startswith(ADAPTIVE)
        for dialogue in reading.rows(path):
            if attacked:
                _adaptive(health, dialogue)
            health.answered(path.parent.name, "bench", path.stem, dialogue)
            for place, turn in enumerate(dialogue.get("turns", []), 1):
                if not attacked and turn.get("scores") and _attacks(dialogue):
                    health.requested("script", _script(dialogue), dialogue, place, turn, breached(turn))
                meta = turn.get("meta") or {}
                health.judged("judge", turn.get("scores"), SCORES, meta.get("unscored"))
                for name, one in (meta.get("verdicts") or {}).items():
                    health.judged(f"judge[{name}]", one.get("scores"), SCORES, one.get("unscored"))


def _adaptive(health: Health, row: Row) -> None:
    """Count the turns of an attacker that adapts, those it took back included."""
    dialogue = Dialogue.model_validate(row)
    for place, turn, _ in all_turns(dialogue):
        if turn.scores:
            health.requested("attacker", _script(row), dialogue, place, turn, breached(turn))
        health.attacker("attacker", "turn").note(Request.of_turn(turn.meta.get("attacker")))
        if technique := turn.meta.get("technique"):
            strategy = health.strategy("attacker", str(technique))
            strategy.texts.add(turn.user)
            if turn.scores:
                strategy.uses.note(_script(row), breached(turn))
    if faults := row["meta"].get("attacker_faults"):
        gave_up = row["stop"] == StopReason.USER_FAILED
        health.attacker("attacker", "turn").note(Request.of_dialogue(faults, gave_up))


def _attacks(dialogue: Row) -> bool:
    """Whether the dialogue's turns are attacks. Benign turns are not, and no answer to them is a success."""
    return bool(dialogue["kind"] != Kind.BENIGN)


def _script(dialogue: Row) -> str:
    """What a dialogue was played from: trajectories share a seed, tries of an attacker an intent."""
    meta = dialogue.get("meta", {})
    return str(meta.get("seed") or meta.get("intent_id") or dialogue["id"])


def _attacked(strategy: StrategyCounts, dialogue: Row, turn: Row) -> None:
    strategy.texts.add(turn["user"])
    if turn["scores"]:
        strategy.uses.note(_script(dialogue), _leaks(turn))


def _leaks(turn: Row) -> bool:
    return bool(turn["scores"]["safety"] <= LEAK)


_READERS: dict[str, Callable[[Health, Path, Reading], None]] = {
    "seeds": _seeds,
    "assemble": _assemble,
    "bootstrap": _bootstrap,
    "rl": _rl,
    "bench": _bench,
}
