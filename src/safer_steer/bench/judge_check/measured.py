"""What `judge-check` finds, as plain numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Any

from safer_steer.bench.agreement import SCORES, Pair, alpha, compared
from safer_steer.bench.judge_check.corrected import Labelled, corrected_rate, errors_differ
from safer_steer.bench.judge_check.labels import Label
from safer_steer.bench.judge_check.played import Place, ScoredBench
from safer_steer.bench.judge_check.probes import PROBES, UNCHANGED, changed
from safer_steer.bench.judging import critic_by
from safer_steer.bench.watch import Watch
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Format, Turn, visible_answer
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Critic
from safer_steer.errors import BoundaryError, UserError
from safer_steer.files.images import PicturesOf
from safer_steer.intervals import rate
from safer_steer.metrics import AVERAGE, Criterion, ProtocolName, averaged, outcomes
from safer_steer.workers import Progress

Again = dict[Place, Sequence[dict[str, float] | None]]
"""The scores of every turn of every dialogue; None where the judge gave none."""


Times = Mapping[str, tuple[int, Callable[[Dialogue, int], Dialogue]]]
"""How the judge is asked again, by name: which sample of its verdicts, and what it is shown instead of a
dialogue when it scores a turn (0-based)."""


def repeated(repeats: int) -> Times:
    """So many further samples of the same verdicts."""
    return {str(repeat): (repeat, lambda dialogue, _: dialogue) for repeat in range(1, repeats + 1)}


def probed(format: Format) -> Times:
    """Every probe of `probes.PROBES` once."""
    return {probe: (int(probe == UNCHANGED), partial(changed, probe, format=format)) for probe in PROBES}


async def asked_again(
    config: Config,
    judges: Sequence[ChatModel],
    dialogues: Mapping[Place, Dialogue],
    times: Times,
    pictures_of: PicturesOf,
    progress: Progress,
) -> dict[str, Again]:
    """The scores, of several judges the joined ones, by name of the time. Replies that are paid for are in
    the cache, so a second call asks only for the rest. The judges are asked as in the bench of `config`.

    Raises:
        UserError: the judge failed many times in a row.
    """
    watch = Watch()
    total = len(times) * sum(len(dialogue.turns) for dialogue in dialogues.values())
    done = failed = 0
    progress(0, total, 0)

    async def one(critic: Critic, dialogue: Dialogue, turn: int) -> dict[str, float] | None:
        nonlocal done, failed
        try:
            return (await critic.judge(dialogue, turn, None)).scores
        except BoundaryError:
            failed += 1
            return None
        finally:
            done += 1
            progress(done - failed, total, failed)

    again: dict[str, Again] = {}
    for name, (sample, view) in times.items():
        critic = critic_by(config, judges, pictures_of, watch, sample)
        calls = [
            [one(critic, view(dialogue, turn), turn) for turn in range(len(dialogue.turns))]
            for dialogue in dialogues.values()
        ]
        scores = await asyncio.gather(*(asyncio.gather(*turns) for turns in calls))
        again[name] = dict(zip(dialogues, scores, strict=True))
    return again


CRITERIA: dict[ProtocolName, tuple[Criterion, ...]] = {
    "multi_turn": ("safe", "help", "joint"),
    "single_turn": ("safe", "help"),
}
"""The rates that are corrected."""
FLIPS: tuple[Criterion, ...] = ("safe", "help")
"""The outcomes of dialogues that may change when the judge is asked again, in the order of `SCORES`."""
Scores = dict[str, float]


def of_judge(config: Config) -> dict[str, Any]:
    """Who the judge is, and whether it is the model that taught the student."""
    judges = config.models_of("judge")
    return {
        "model": ", ".join(judges),
        "base_url": ", ".join(judge.base_url or "" for judge in judges.values()) or None,
        "is_tutor": config.judge_is_tutor,
        "tutor": config.role("tutor").model,
    }


# Against people ---------------------------------------------------------------


def against_people(
    bench: ScoredBench, labels: Sequence[Label], format: Format, seed: int = 0
) -> dict[str, Any]:
    """The judge and people: agreement on every labelled turn, the judge's errors by dialogue, and rates
    corrected for them.

    Returns:
        `agreement.compared` of judge and people, and `annotators`, `alpha` and `alpha_people` (by score; of
        judge and people together, and of people alone), `errors` (`{"group", "model", "criterion", ...}`; for
        all models together with `differ`, see `corrected.errors_differ`), and `corrected`, `{model:
        {protocol: {suite or "average": {criterion: rate}}}}`, where `average` is over the attack suites and
        has `twin_help` too. A rate has the form of `corrected.corrected_rate`, with `judged` beside it.
    """
    pairs = [
        _pair(label.place, label.turn, _turn(bench, label.place, label.turn), label.scores, format)
        for label in labels
    ]
    people = sorted({label.annotator for label in labels})
    return {
        **compared(pairs, seed),
        "annotators": len(people),
        "alpha": {score: alpha(_ratings(bench, labels, people, score, judge=True)) for score in SCORES},
        "alpha_people": {
            score: alpha(_ratings(bench, labels, people, score, judge=False)) if len(people) > 1 else None
            for score in SCORES
        },
        **_dialogues(bench, labels),
    }


def _turn(bench: ScoredBench, place: Place, number: int) -> Turn:
    return bench.dialogues[place].turns[number - 1]


def _pair(place: Place, number: int, turn: Turn, second: Mapping[str, float], format: Format) -> Pair:
    length = len(visible_answer(turn.assistant or "", format))
    first = {score: (turn.scores or {})[score] for score in SCORES}
    return Pair(place.code, number, length, first, dict(second))


def _ratings(
    bench: ScoredBench, labels: Sequence[Label], people: Sequence[str], score: str, judge: bool
) -> list[list[float | None]]:
    """[raters][turns] of one score, the judge first."""
    turns = list(dict.fromkeys((label.place, label.turn) for label in labels))
    scores = {(label.annotator, label.place, label.turn): float(label.scores[score]) for label in labels}
    ours: list[float | None] = [(_turn(bench, place, number).scores or {})[score] for place, number in turns]
    theirs = [[scores.get((person, *turn)) for turn in turns] for person in people]
    return [ours, *theirs] if judge else theirs


def _dialogues(bench: ScoredBench, labels: Sequence[Label]) -> dict[str, Any]:
    """The judge's errors on whole dialogues, and the corrected rates."""
    by_people = _relabelled(bench, labels)
    ours, theirs = _outcomes(bench.dialogues), _outcomes(by_people)
    errors, corrected = [], dict[str, Any]()
    groups: dict[tuple[ProtocolName, bool], dict[str, dict[str, list[Place]]]] = {}
    for model, suite in bench.suites:
        by_model = groups.setdefault((suite.protocol, suite.safe_twins), {})
        every = (Place(model, suite.protocol, suite.name, seed.id) for seed in suite.seeds)
        by_model.setdefault(model, {})[suite.name] = [place for place in every if place in bench.dialogues]
    for protocol, twins in sorted(groups):
        by_model = groups[protocol, twins]
        means = averaged({one.name: one.seeds for _, one in bench.suites if one.protocol == protocol})
        name = f"{'safe twins' if twins else 'attacks'}, {protocol.replace('_', '-')}"
        for criterion in CRITERIA[protocol]:
            judge, people = ours[criterion], theirs[criterion]
            labelled = {
                model: _labelled(chain.from_iterable(suites.values()), judge, people)
                for model, suites in by_model.items()
            }
            of_all = Labelled(*map(sum, zip(*labelled.values(), strict=True)))
            differ = errors_differ(labelled.values())
            errors.append(_errors(name, "all", criterion, of_all) | {"differ": differ})
            for model, suites in by_model.items():
                errors.append(_errors(name, model, criterion, labelled[model]))
                rates = corrected.setdefault(model, {}).setdefault(protocol, {})
                for name_of_suite, places in suites.items():
                    rates.setdefault(name_of_suite, {})[criterion] = _corrected([places], judge, people)
                mean = _corrected([suites[one] for one in means if one in suites], judge, people)
                if not twins:
                    rates.setdefault(AVERAGE, {})[criterion] = mean
                elif criterion == "help":
                    rates.setdefault(AVERAGE, {})["twin_help"] = mean
    return {"errors": [row for row in errors if row["labels"]], "corrected": corrected}


def _relabelled(bench: ScoredBench, labels: Sequence[Label]) -> dict[Place, Dialogue]:
    """The dialogues of which people labelled every turn, with the mean of people's scores."""
    by_place: dict[Place, dict[int, list[dict[str, int]]]] = {}
    for label in labels:
        by_place.setdefault(label.place, {}).setdefault(label.turn, []).append(label.scores)
    relabelled = {}
    for place, turns in by_place.items():
        dialogue = bench.dialogues[place]
        if len(turns) == len(dialogue.turns):
            means = [
                {name: fmean(scores[name] for scores in ratings) for name in SCORES}
                for _, ratings in sorted(turns.items())
            ]
            relabelled[place] = dialogue.with_scores(means)
    return relabelled


def _outcomes(dialogues: Mapping[Place, Dialogue]) -> dict[Criterion, dict[Place, int]]:
    """0 or 1 by dialogue, for every criterion."""
    by_criterion: dict[Criterion, dict[Place, int]] = {"safe": {}, "help": {}, "joint": {}}
    for place, dialogue in dialogues.items():
        for criterion in CRITERIA[place.protocol]:
            by_criterion[criterion][place] = outcomes([dialogue], criterion, place.protocol)[dialogue.id]
    return by_criterion


def _labelled(places: Iterable[Place], ours: Mapping[Place, int], theirs: Mapping[Place, int]) -> Labelled:
    pairs = [(theirs[place], ours[place]) for place in places if place in theirs]
    return Labelled(pairs.count((1, 1)), pairs.count((1, 0)), pairs.count((0, 1)), pairs.count((0, 0)))


def _errors(group: str, model: str, criterion: str, labelled: Labelled) -> dict[str, Any]:
    return {
        "group": group,
        "model": model,
        "criterion": criterion,
        "labels": labelled.n,
        **labelled._asdict(),
        "sensitivity": labelled.sensitivity,
        "specificity": labelled.specificity,
    }


def _corrected(
    suites: Sequence[Sequence[Place]],
    ours: Mapping[Place, int],
    theirs: Mapping[Place, int],
) -> dict[str, Any]:
    counts = [(sum(ours[place] for place in places), len(places)) for places in suites]
    own = [_labelled(places, ours, theirs) for places in suites]
    return corrected_rate(counts, own) | {"judged": rate(counts, resamples=1)["value"]}


# Against another judge, and against itself -------------------------------------


def against_judge(ours: ScoredBench, theirs: ScoredBench, format: Format, seed: int = 0) -> dict[str, Any]:
    """Two judges on the same answers.

    Raises:
        UserError: they have no answer in common.
    """
    pairs = []
    for place, dialogue in ours.dialogues.items():
        other = theirs.dialogues.get(place)
        if other is None or _talk(other) != _talk(dialogue):
            continue
        for number, (turn, again) in enumerate(zip(dialogue.turns, other.turns, strict=True), 1):
            pairs.append(_pair(place, number, turn, again.scores or {}, format))
    if not pairs:
        raise UserError("--second: the two judges have scored no answer in common")
    both = [[pair.first for pair in pairs], [pair.second for pair in pairs]]
    alphas = {score: alpha([[row[score] for row in rows] for rows in both]) for score in SCORES}
    return {**compared(pairs, seed), "alpha": alphas}


def _talk(dialogue: Dialogue) -> list[tuple[str, str | None]]:
    return [(turn.user, turn.assistant) for turn in dialogue.turns]


def against_itself(
    dialogues: Mapping[Place, Dialogue], repeats: Sequence[Mapping[Place, Sequence[Scores | None]]]
) -> dict[str, Any]:
    """The judge's scores of the same answers when it is asked again.

    Args:
        dialogues: as they were scored at first.
        repeats: of each further time, the scores of every turn; None where it gave none.

    Returns:
        `{"repeats", "turns", "missing", "alpha", "exact", "flips"}`. `exact` is the percentage of turns with
        one and the same score every time, by score; `flips` is the percentage of dialogues whose outcome
        (safe, help) is not the same every time.
    """
    every: list[list[Scores | None]] = [
        [turn.scores for dialogue in dialogues.values() for turn in dialogue.turns],
        *([scores for place in dialogues for scores in again[place]] for again in repeats),
    ]
    ratings = {
        score: [[None if one is None else one[score] for one in row] for row in every] for score in SCORES
    }
    firm = [place for place in dialogues if all(None not in again[place] for again in repeats)]
    times = [{place: dialogues[place].with_scores(again[place]) for place in firm} for again in repeats]
    outcomes_of = [_outcomes(scored) for scored in ({place: dialogues[place] for place in firm}, *times)]
    flips = {}
    for criterion in FLIPS:
        changed = [
            len({by_criterion[criterion][place] for by_criterion in outcomes_of}) > 1 for place in firm
        ]
        flips[criterion] = 100 * fmean(changed) if changed else None
    return {
        "repeats": len(repeats),
        "turns": len(every[0]),
        "missing": sum(row.count(None) for row in every),
        "alpha": {score: alpha(rows) for score, rows in ratings.items()},
        "exact": {score: _same(rows) for score, rows in ratings.items()},
        "flips": flips,
    }


def _same(rows: Sequence[Sequence[float | None]]) -> float | None:
    """The percentage of turns whose scores are all one, over those with a score every time."""
    whole = [column for column in zip(*rows, strict=True) if None not in column]
    return 100 * fmean(len(set(column)) == 1 for column in whole) if whole else None
