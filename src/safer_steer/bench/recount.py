"""Every number of a bench once more, from the answers and verdicts that it kept. No model is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from safer_steer.bench.attacks import kept_attacks, kept_intents
from safer_steer.bench.kept import KeptModel, kept_models
from safer_steer.bench.measure import BenchDialogues, Material, Results, summary_of
from safer_steer.bench.protocol import FILE as PROTOCOL
from safer_steer.bench.protocol import read as read_protocol
from safer_steer.bench.questions import answers_of
from safer_steer.bench.results import Summary
from safer_steer.bench.suites import Suite, read_suite
from safer_steer.config.changes import first_difference
from safer_steer.config.file import config_in
from safer_steer.dialogue import Dialogue, Seed, read_dialogues, read_seeds
from safer_steer.metrics import ProtocolName


def recounted(run: Path) -> str:
    """The first number of summary.json that does not follow from the rows in `bench` and `capability`, with
    both values; "" if all follow. Raises `UserError` if a file is missing or damaged."""
    config, there = config_in(run), Summary.read(run / "summary.json")
    if (sha256 := read_protocol(run / PROTOCOL).sha256) != there.protocol:
        return f"protocol ({there.protocol} in summary.json, {sha256} in {PROTOCOL})"
    suites = {suite.name: suite for suite in map(read_suite, sorted((run / "suites").glob("*/*.jsonl")))}
    attacked = config.bench.adaptive is not None and bool(there.adaptive)
    intents = kept_intents(run) if attacked else []
    material = Material([*suites.values()], [], intents, [])
    results, models = BenchDialogues(), {*kept_models(run)}
    for model in (name for name in there.models if name in models):
        folder = run / "bench" / model
        results.scripted[model] = _scripted(there, suites, folder)
        results.attacked[model] = {}
        for attack in kept_attacks(KeptModel(folder), run) if attacked else ():
            results.attacked[model][attack.name] = _in_order(attack.journal(folder), attack.seeds)
        answers = dict(answers_of(run, model))
        results.answers[model] = {}
        for name in there.capability:
            if name in answers:
                questions = read_seeds(run / "capability" / name / "questions.jsonl")
                by_id = {dialogue.id: dialogue for dialogue in answers[name]}
                results.answers[model][name] = [by_id[seed.id] for seed in questions]
    here = summary_of(config, material, results, there.scored, there.protocol or "")
    return first_difference(there.as_dict(), json.loads(json.dumps(here.as_dict()))) or ""


def _scripted(there: Summary, suites: Mapping[str, Suite], folder: Path) -> Results:
    """A model's dialogues, suite by suite in the summary's order: the draws of the intervals depend on it."""
    results: Results = {}
    protocols: tuple[ProtocolName, ...] = tuple(there.models[folder.name])
    for protocol in protocols:
        results[protocol] = {}
        for name in there.suites(folder.name, protocol):
            suite = suites[name]
            results[protocol][name] = _in_order(suite.journal(folder), suite.seeds)
    return results


def _in_order(journal: Path, seeds: Iterable[Seed]) -> list[Dialogue]:
    """The dialogues of a journal in the order of their scripts."""
    by_id = {dialogue.id: dialogue for dialogue in read_dialogues(journal)}
    return [by_id[seed.id] for seed in seeds if seed.id in by_id]
