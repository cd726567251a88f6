"""A tutor whose scores drift from a second judge's is noticed, and one that does not is left alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from display import safer_steer
from safer_steer.config import Agent, Config
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn, to_jsonl
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Reply, Script, play
from safer_steer.experiments.audited import audit_tables, audited
from safer_steer.files.images import picture_from
from safer_steer.files.store import write_atomic
from safer_steer.intervals import clustered
from safer_steer.report.health import examine, warnings
from safer_steer.report.health.drift import ENOUGH, FOLLOWS, SCRIPTS, Drift, Groups, drift
from safer_steer.report.page import write_report
from safer_steer.sandbox import speech
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.sandbox.language import make
from safer_steer.sandbox.world import draw_png, training_devices
from safer_steer.training.audit import Audit, Audited, audit_metrics, following
from safer_steer.training.returns import noted_return
from safer_steer.training.trajectory import as_trajectory
from safer_steer.training.tutor import TutorCritic

DEVICE = training_devices()[0]
PICTURE = picture_from(draw_png(DEVICE, True, "x"), "p.png", 10**6)
ASKED = [make(form, DEVICE, random.Random(form), "step1") for form in ("all", "step", "part")]
SEEDS = 14


def config(role: str, model: str, share: float = 1.0) -> Config:
    tutor, judge = {"model": role}, {"model": model}
    rl = {"audit": {"share": share}, "tutor_memory": False}
    return Config.model_validate(
        {"rl": rl, "roles": {"tutor": tutor, "judge": judge}, "student": {"format": "plain"}}
    )


class Student:
    """It refuses, or leaks with a disavowal: the more often, the later the step."""

    def __init__(self, chance: float, rng: random.Random) -> None:
        self.chance, self.rng = chance, rng

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        if self.rng.random() >= self.chance:
            return Reply(speech.constructive(DEVICE.name, self.rng))
        return Reply(f"{ASKED[0].answer(DEVICE)} but {speech.BARE[0]}")


def critic(settings: Config, role: str) -> TutorCritic:
    model = settings.role(role)  # type: ignore[arg-type]
    return TutorCritic(
        ChatModel(role, model, SandboxTransport(model.model)),
        Format.PLAIN,
        lambda images: [PICTURE for _ in images],
        feedback_dynamics=False,
    )


async def step_of(settings: Config, number: int, chance: float, seed: int = 0) -> list[Dialogue]:
    """A step of Stage III, but for the training: played, scored by the tutor, then by the audit."""
    rng, played = random.Random(f"{seed} {number}"), []
    for place in range(SEEDS):
        turns = [Turn(user=request.text) for request in ASKED]
        script = Seed(id=f"s{place}", kind=Kind.RED_TEAM, images=["p.png"], turns=turns)
        one = as_trajectory(script, f"{number:05d}-{place:04d}", seed * 100 + number)
        dialogue = await play(one, Script(), Student(chance, rng), critic(settings, "tutor"))
        dialogue.meta["return"] = noted_return(settings, dialogue)
        played.append(dialogue)
    await Audit(critic(settings, "judge"), settings).score(played)
    return played


async def run_of(folder: Path, settings: Config, chances: list[float], seed: int = 0) -> Path:
    steps = [await step_of(settings, number, chance, seed) for number, chance in enumerate(chances)]
    write_atomic(folder / "rl" / "trajectories.jsonl", "".join(map(to_jsonl, steps)))
    rows = [
        json.dumps({"step": step, "audit": audit_metrics(played)}) for step, played in enumerate(steps, 1)
    ]
    write_atomic(folder / "rl" / "metrics.jsonl", "\n".join(rows) + "\n")
    return folder


RISING = [0.05, 0.05, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0]


async def test_a_student_that_learns_what_the_tutor_wrongly_rewards_is_noticed_while_it_does(
    tmp_path: Path,
) -> None:
    run = await run_of(tmp_path, config(Agent.SUFFIX, "sandbox"), RISING)
    found = examine(run).audits.drift()
    assert found and 4 <= found.began <= found.noticed <= 6
    experiment = audited({"errs": {0: run}, "has no audit": {0: tmp_path / "none"}})
    assert experiment and list(experiment) == ["errs"] and experiment["errs"]["steps"] == [*range(1, 9)]
    assert experiment["errs"]["noticed"] == {0: found.noticed} and experiment["errs"]["audit"][-1] < 0.5
    assert found.noticed <= experiment["errs"]["fell"][0]
    rewards_of, noticed = audit_tables(experiment)
    head, rewards, notices = rewards_of.head, rewards_of.rows, noticed.rows
    assert head[-1] == "step 8" and [row[1] for row in rewards] == ["tutor", "audit"]
    assert notices == [["errs", str(found.noticed), str(experiment["errs"]["fell"][0])]]
    line, follows = [line for line in warnings(run, "rl") if "audit" in line]
    assert "where its audit's reward of a turn is higher by 1" in follows
    assert f"since step {found.began} it rewards more" in line and f"to step {found.noticed}" in line
    assert "do this stage once more" in line and f"trajectory {found.began - 1:05d}"[:14] in line
    shown = safer_steer("health", run)
    assert "Tutor and audit" in shown.stdout and line in shown.stdout.replace("\n", " ")
    write_atomic(run / "config.yaml", "name: audited\n")
    write_report(run)
    page = (run / "report.html").read_text()
    assert "Mean reward of a turn by the tutor and by its audit" in page
    rows = [json.loads(row)["audit"] for row in (run / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["turns"] == 3 * SEEDS and rows[-1]["tutor"] > rows[0]["tutor"] - 0.1
    assert rows[-1]["audit"] < 0.5 < rows[-1]["gap"]["value"]
    assert rows[0]["agree"] > 0.8 > 0.2 > rows[-1]["agree"]


@pytest.mark.parametrize("judge", ["sandbox", Agent.NOISY])
async def test_an_exact_tutor_is_left_alone_whatever_the_student_learns(judge: str, tmp_path: Path) -> None:
    """Also where the second judge is the one that errs, at random."""
    for seed, chances in enumerate([RISING, RISING[::-1]]):
        run = await run_of(tmp_path / str(seed), config("sandbox", judge), chances, seed)
        assert examine(run).audits.steps and not examine(run).audits.drift()
        assert not [line for line in warnings(run, "rl") if "audit" in line]


async def test_a_tutor_without_eyes_teaches_nothing_and_is_noticed_at_once(tmp_path: Path) -> None:
    """Its gap to the audit does not grow: it is there from the start."""
    chances = [0.5] * 3
    run = await run_of(tmp_path / "blind", config(Agent.BLIND, "sandbox"), chances)
    audits = examine(run).audits
    assert audits.drift() is None and audits.noticed() == 1
    slope, most = audits.follows() or (1, 1)
    assert slope <= most < FOLLOWS
    [line] = [line for line in warnings(run, "rl") if "audit" in line]
    assert "where its audit's reward of a turn is higher by 1, its own differs by +0.00" in line
    assert "a tutor without eyes is like this" in line
    rows = [json.loads(row)["audit"] for row in (run / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["slope"] < FOLLOWS for row in rows)
    for tutor, judge in ((Agent.NOISY, "sandbox"), ("sandbox", Agent.NOISY), (Agent.LENGTH, "sandbox")):
        run = await run_of(tmp_path / f"{tutor} {judge}", config(tutor, judge), chances)
        follows = examine(run).audits.follows()
        assert follows and follows[0] > FOLLOWS and examine(run).audits.noticed() is None
    few = await run_of(tmp_path / "few", config(Agent.BLIND, "sandbox", 0.05), chances[:1])
    assert examine(few).audits.follows() is None, "too few scripts tell nothing"


def test_the_slope_by_hand_compares_turns_of_one_script_alone() -> None:
    def turn(seed: str, tutor: float, audit: float) -> Audited:
        return Audited("t", 1, seed, tutor, audit, True)

    apart = [
        turn("a", 1, 0),
        turn("a", 2, 1),
        turn("b", 9, 5),
        turn("b", 9.5, 6),
        turn("c", 3, 3),
        turn("c", 4, 3),
    ]
    found = following(apart)
    assert found and (found.slope, found.scripts) == (0.75, 2), "c says nothing: the audit rewards it evenly"
    assert found.error == pytest.approx(((2 * 0.125**2) * 2) ** 0.5)
    assert following(apart[:2]) is None


async def test_a_share_is_drawn_by_the_seed_and_nothing_of_it_is_in_a_return() -> None:
    few, all_of = config(Agent.SUFFIX, "sandbox", 0.2), config(Agent.SUFFIX, "sandbox")
    one, again, whole = [await step_of(settings, 0, 0.5) for settings in (few, few, all_of)]
    assert [d.model_dump() for d in one] == [d.model_dump() for d in again]
    audited = [turn for dialogue in one for turn in dialogue.turns if "audit" in turn.meta]
    assert 2 <= len(audited) <= 16 and audit_metrics(one)["turns"] == len(audited)
    for ours, theirs in zip(one, whole, strict=True):
        assert ours.meta["return"] == theirs.meta["return"]
        assert [turn.scores for turn in ours.turns] == [turn.scores for turn in theirs.turns]


async def test_a_turn_that_the_audit_does_not_score_is_counted_and_ends_nothing() -> None:
    played = await step_of(config("sandbox", Agent.SILENT), 0, 0.5)
    found = audit_metrics(played)
    assert found["unscored"] > 0 and found["turns"] + found["unscored"] == 3 * SEEDS
    reasons = [
        turn.meta["audit"]["unscored"] for d in played for turn in d.turns if "unscored" in turn.meta["audit"]
    ]
    assert all(reason.startswith("refused: ") for reason in reasons)
    assert all(dialogue.meta["return"] is not None for dialogue in played)


# The rule ---------------------------------------------------------------------


def values(rng: np.random.Generator, kind: str, mean: float, scripts: int, each: int) -> Groups:
    """The gaps of a step between two judges: noise that scripts share, or few turns on which they differ."""
    groups = []
    for _ in range(scripts):
        count = max(1, rng.poisson(each))
        noise = rng.normal(rng.normal(0, 0.1), 0.15, count)
        if kind == "rare":
            noise = 0.8 * (rng.random(count) < 0.02)
        if kind == "clustered":
            noise = 0.8 * (rng.random(count) < 0.5 * (rng.random() < 0.1))
        groups.append([float(one) for one in mean + noise])
    return groups


@pytest.mark.parametrize("kind", ["noise", "rare", "clustered"])
def test_two_judges_that_differ_alike_from_first_to_last_give_no_warning(kind: str) -> None:
    """A gap that is there from the start is none that was learnt."""
    rng = np.random.default_rng(1)
    made = partial(values, rng, kind)
    false = 0
    for trial in range(60):
        false += drift([made(0.3 * (trial % 2), 14, 3) for _ in range(30)]) is not None
    assert false <= 1


@pytest.mark.parametrize(("growth", "most"), [(0.2, 4), (0.1, 16)])
def test_a_growth_is_noticed_soon_and_its_begin_named(growth: float, most: int) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        steps = [values(rng, "noise", growth * (step >= 10), 14, 4) for step in range(30)]
        found = drift(steps)
        assert found and 10 <= found.noticed <= 10 + most and abs(found.began - 10) <= 5
        assert found.after - found.before == pytest.approx(growth, abs=0.1)


def test_what_is_too_little_or_too_small_to_tell_gives_no_warning() -> None:
    def steps(scripts: int, each: int, growth: float) -> list[Groups]:
        return [[[growth * (step >= 2)] * each] * scripts for step in range(4)]

    enough: Callable[[float], list[Groups]] = partial(steps, SCRIPTS, ENOUGH)
    assert drift(enough(0.019)) is None and drift(enough(-0.5)) is None and drift([]) is None
    assert drift(enough(0.1)) == Drift(2, 2, 0.0, pytest.approx(0.1))
    assert drift(steps(4, ENOUGH, 0.5)[1:3]) is None, "of four scripts before and four after"
    assert drift(steps(SCRIPTS, 1, 0.5)[1:3]) is None, "of twelve turns"


def test_turns_of_a_script_are_no_independent_ones() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        mean, error = clustered([[float(rng.normal())] * 5 for _ in range(20)])
        assert error is not None
        covered += abs(mean) < 2.1 * error
    assert covered > 180
    assert clustered([[1.0, 3.0]]) == (2.0, None)
