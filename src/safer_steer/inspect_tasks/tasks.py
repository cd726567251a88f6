"""The static bench: scripts, the dialogue loop, the judge, and the bench's rates as metrics. Inspect finds
all tasks here."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from safer_steer.bench.protocol import refuse_others
from safer_steer.bench.results import ON_ATTACKS, ON_TWINS, Suite
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.summary import summarise
from safer_steer.config import Bench, Config, Student
from safer_steer.config.keys import absolute_suites
from safer_steer.dialogue import Dialogue, Format, Seed
from safer_steer.episode import Script, judge_turn, play
from safer_steer.files.images import PicturesOf, pictures_in
from safer_steer.files.meta import reason_in
from safer_steer.inspect_tasks.adaptive import adaptive
from safer_steer.inspect_tasks.transport import GRADER, judging, keep, under_test
from safer_steer.metrics import LOST, Criterion, ProtocolName, outcomes
from safer_steer.metrics import state as dialogue_state

__all__ = ["adaptive", "bench"]
CRITERIA: tuple[Criterion, ...] = ("safe", "help")
"""What a sample's value tells."""


@task
def bench(
    suites: str | list[str] = "sandbox",
    dialogues: int | None = None,
    format: str = "plain",
    system: str = "You are a helpful assistant.",
    ask_layout: bool = True,
    max_pixels: int = Student().max_pixels,
    judge: str = GRADER,
    verdict: str = "majority",
    judge_requests: bool = False,
    resamples: int = 10_000,
    seed: int = 0,
    protocol: str | None = None,
) -> Task:
    """SaFeR-Steer's bench: multi-turn and single-turn attacks, and safe twins, on any chat model.

    Args:
        suites: JSONL files of scripts, with a comma between them, or `sandbox` for the embedded suites.
        dialogues: at most this many attack dialogues, and as many safe ones, of each protocol.
        format: layout of an answer, `plain` or `thinking_answer`.
        system: system message of every dialogue.
        ask_layout: ask for the layout in the system message.
        max_pixels: a picture with more pixels is scaled down to this many.
        judge: the model role that judges, or `sandbox` for the embedded judge, which knows only the sandbox's
            pictures; several with a comma between them.
        verdict: what several judges' scores of a turn come to: `majority` or `mean`.
        judge_requests: the judge also says of each request whether it would enable harm.
        resamples: draws for the intervals of averages over suites.
        seed: of these draws.
        protocol: a file of `safer-steer protocol`. Suites, layout, prompts, thresholds and the way of joining
            verdicts that differ from it are refused; judge and sampling are Inspect's.
    """
    names = [name.strip() for name in suites.split(",")] if isinstance(suites, str) else list(suites)
    folder = Path(tempfile.mkdtemp(prefix="safer-steer-"))
    brought = bring_in(absolute_suites(names, Path.cwd()), folder, dialogues, max_pixels)
    samples = [
        Sample(
            id=f"{suite.name}/{script.id}",
            input=script.turns[0].user,
            metadata={
                "suite": suite.name,
                "protocol": suite.protocol,
                "twins": suite.safe_twins,
                "script": script.model_dump(mode="json"),
            },
        )
        for suite in brought
        for script in suite.seeds
    ]
    layout, pictures_of = Format(format), pictures_in(folder, max_pixels)
    metadata = {}
    if protocol:
        student = Student(format=layout, system=system, max_pixels=max_pixels)
        settings = Bench.model_validate({"verdict": verdict, "judge_requests": judge_requests})
        here = Config(student=student, bench=settings)
        metadata["protocol"] = refuse_others(Path(protocol), here, folder)
    return Task(
        dataset=MemoryDataset(samples, name="safer_steer"),
        metadata=metadata,
        solver=play_script(layout, system, ask_layout, pictures_of),
        scorer=judged(layout, judge, verdict, judge_requests, pictures_of),
        metrics=[rates(resamples, seed)],
        version="1",
    )


@solver
def play_script(format: Format, system: str, ask_layout: bool, pictures_of: PicturesOf) -> Solver:
    """Plays a sample's script with the model under test."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        assistant = under_test(format, system, ask_layout, pictures_of)
        script = Seed.model_validate(state.metadata["script"])
        keep(state, await play(script, Script(), assistant, critic=None), assistant)
        return state

    return solve


@metric
def rates(resamples: int = 10_000, seed: int = 0) -> Metric:
    """The numbers of the bench's summary, as `<protocol>/<suite or average>/<rate>`: rates in percent, each
    with `_low` and `_high`, and counts of dialogues. Rates without a dialogue are left out.

    Args:
        resamples: draws for the intervals of averages over suites.
        seed: of these draws.
    """

    def compute(scores: list[SampleScore]) -> dict[str, float]:
        results: dict[ProtocolName, dict[str, list[Dialogue]]] = {}
        twins = set()
        for one in scores:
            facts = one.score.metadata or {}
            suites = results.setdefault(facts["protocol"], {})
            suites.setdefault(facts["suite"], []).append(Dialogue.model_validate(facts["dialogue"]))
            if facts["twins"]:
                twins.add(facts["suite"])
        protocols = summarise({"model": results}, twins, resamples, seed).models["model"]
        return {
            f"{protocol}/{suite}/{name}": value
            for protocol, measured in protocols.items()
            for suite, entry in measured.root.items()
            for name, value in _numbers(entry).items()
        }

    return compute


def _numbers(entry: Suite) -> dict[str, float]:
    """The rates and counts of a suite's entry in the summary, by name."""
    by_name: dict[str, float] = {name: getattr(entry, name) for name in ("n", *LOST)}
    for measure in (*ON_ATTACKS, *ON_TWINS):
        rate = measure.of(entry)
        by_name |= rate.by_name(measure.name) if rate else {}
    median = entry.survival.median if entry.survival else None
    return by_name | ({"median_survival": median} if median is not None else {})


@scorer(metrics=[rates()])
def judged(format: Format, judge: str, verdict: str, requests: bool, pictures_of: PicturesOf) -> Scorer:
    """The bench's judge, on every turn.

    A sample's value is 0 or 1 for each of `scored`, `safe` and `help`; a dialogue without a result has 0 in
    all. (Inspect would keep a sample without a value from the metrics, which count those.) The dialogue with
    all scores is in the metadata.
    """

    async def score(state: TaskState, target: Target) -> Score:
        critic = judging(judge, verdict, format, pictures_of, requests)
        dialogue = Dialogue.model_validate(state.metadata["dialogue"])
        await asyncio.gather(*(judge_turn(dialogue, turn, critic) for turn in range(len(dialogue.turns))))
        value = {"scored": int(dialogue_state(dialogue) == "scored")}
        for criterion in CRITERIA:
            passed = outcomes([dialogue], criterion, state.metadata["protocol"])
            value[criterion] = passed.get(dialogue.id, 0)
        facts = {name: state.metadata[name] for name in ("suite", "protocol", "twins")}
        reasons = [f"{turn}: {reason_in(one.meta)}" for turn, one in enumerate(dialogue.turns, 1)]
        return Score(
            value=value,
            answer=dialogue.turns[-1].assistant if dialogue.turns else None,
            explanation="\n".join(reasons),
            metadata={**facts, "dialogue": dialogue.model_dump(mode="json")},
        )

    return score
