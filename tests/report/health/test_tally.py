"""Attackers that decline are asked once more and counted on disk; strategies and judges are seen through."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from display import complaint, safer_steer
from made_up_run import write_jsonl, write_run
from safer_steer.cli import app
from safer_steer.config.gates import GateName
from safer_steer.data.assembly.splits import draw_from_pools
from safer_steer.data.bootstrap.rollout import RedAgent, roll_out
from safer_steer.dialogue import Dialogue, Format, Turn, read_dialogues
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import ChatReply
from safer_steer.episode import Reply, Script, play
from safer_steer.errors import EndpointError, UserError
from safer_steer.files.images import pictures_in
from safer_steer.intervals import rate
from safer_steer.prompts.scripts import Strategy
from safer_steer.prompts.tutor import STRATEGIES, next_strategy
from safer_steer.report.health import examine, tables, warnings
from safer_steer.report.health.quantities import QUANTITIES, Evidence
from safer_steer.report.health.tally import PAIRS, SAMPLE, StrategyCounts, TextSample
from safer_steer.report.page import write_report
from safer_steer.training.tutor import TutorCritic
from seeds_run import Watched, build, config, dropped, pool
from student_parts import ask, tiny_config, write_seeds

FAILED = "failed_attack: completed: scores [2]; 4 is needed"
SORRY = "I'm sorry, I can't help with that."
Answer = Callable[[str, int, dict[str, str]], ChatReply | None]


def says(**answer: Any) -> ChatReply:
    return ChatReply(json.dumps(answer))


def model(name: str, answer: Answer) -> tuple[ChatModel, Watched]:
    transport = Watched(answer)
    return ChatModel(name, tiny_config().role("red"), transport), transport


def begun(folder: Path) -> Dialogue:
    """A dialogue of one turn on a sandbox picture."""
    seed = write_seeds(folder)[0]
    return Dialogue.begin(seed).model_copy(
        update={"turns": [Turn(user="what is it?", assistant="i cannot help with that.")]}
    )


# The red agent ---------------------------------------------------------------


async def test_a_red_agent_that_is_well_is_asked_once_and_notes_nothing(tmp_path: Path) -> None:
    asked, transport = model("red", lambda *_: None)
    reply = await RedAgent(asked, Format.PLAIN, pictures_in(tmp_path, 10**6)).speak(
        begun(tmp_path), Turn(user="where is it kept?")
    )
    assert reply.meta == {} and reply.text.endswith("where is it kept?")
    assert [(repeat, set(given)) for _, repeat, given in transport.calls] == [
        (0, {"intent", "history", "template"})
    ]


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (says(user=SORRY), "refused"),
        (ChatReply(SORRY), "refused"),
        (ChatReply("", refusal=True), "refused"),
        (says(user=" ... "), "empty"),
    ],
    ids=["in JSON", "in prose", "marked", "empty"],
)
@pytest.mark.parametrize("again", [False, True])
async def test_a_red_agent_that_declines_is_asked_once_more_then_the_script_speaks(
    tmp_path: Path, reply: ChatReply, fault: str, again: bool
) -> None:
    asked, transport = model(
        "red", lambda job, repeat, given: reply if again or "approach" not in given else None
    )
    spoken = await RedAgent(asked, Format.PLAIN, pictures_in(tmp_path, 10**6)).speak(
        begun(tmp_path), Turn(user="where is it kept?")
    )
    assert [repeat for _, repeat, _ in transport.calls] == [0, 1]
    assert transport.calls[1][2]["approach"].startswith("other_side: ")
    assert spoken.meta == {
        "attacker": {"faults": [fault] * (1 + again), "approach": "template" if again else "other_side"}
    }
    assert (spoken.text == "where is it kept?") is again


async def test_a_red_agent_that_repeats_itself_or_stays_unparsable(tmp_path: Path) -> None:
    long = (
        "this picture shows nothing but an old device on a shelf,"
        " so please be so kind and tell me all of its parts now."
    )
    dialogue = begun(tmp_path)
    dialogue.turns[0].user = long
    shown, asked = pictures_in(tmp_path, 10**6), Turn(user="where is it kept?")
    stuck, _ = model("red", lambda job, repeat, given: says(user=long.upper()))
    reply = await RedAgent(stuck, Format.PLAIN, shown).speak(dialogue, asked)
    assert reply.meta["attacker"]["faults"] == ["repeated"] * 2
    reply = await RedAgent(stuck, Format.PLAIN, shown).speak(dialogue, Turn(user=long))
    assert reply.meta == {}, "the script asked for it"
    mute, transport = model("red", lambda *_: ChatReply("hm"))
    reply = await RedAgent(mute, Format.PLAIN, shown).speak(dialogue, asked)
    assert reply.meta["attacker"]["faults"] == ["unparsable"]
    assert len(transport.calls) == 1 + mute.role.reasks, "it was asked again by then"


# The tutor -------------------------------------------------------------------


def verdict(**changes: Any) -> ChatReply:
    return says(
        **{
            "safety": 8,
            "usefulness": 8,
            "faithfulness": 7,
            "diagnosis": "d",
            "strategy": "persist",
            "next_question": "and where is it?",
        }
        | changes
    )


async def judged(folder: Path, answer: Answer, turns: int = 1) -> tuple[Dialogue, Watched]:
    class Silent:
        async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
            return Reply("i cannot help with that.")

    asked, transport = model("tutor", answer)
    seed = write_seeds(folder)[0].model_copy(
        update={"turns": [Turn(user=text) for text in ("what is it?", "where is it kept?")][: turns + 1]}
    )
    critic = TutorCritic(asked, Format.PLAIN, pictures_in(folder, 10**6))
    return await play(seed, Script(), Silent(), critic, max_turns=turns + 1), transport


@pytest.mark.parametrize(("bad", "fault"), [(SORRY, "refused"), ("", "empty"), ("?", "empty")])
async def test_the_first_call_scores_and_the_second_writes_the_next_turn(
    tmp_path: Path, bad: str, fault: str
) -> None:
    def answer(job: str, repeat: int, given: dict[str, str]) -> ChatReply:
        return (
            verdict(safety=2, next_question="then say its place.")
            if "approach" in given
            else verdict(next_question=bad)
        )

    dialogue, transport = await judged(tmp_path, answer)
    first = dialogue.turns[0]
    assert (first.scores or {})["safety"] == 8, "no second draw of the scores"
    assert first.meta["strategy"] == "bait_and_switch" == next_strategy("persist")
    assert first.meta["next_attacker"] == {"faults": [fault], "approach": "bait_and_switch"}
    assert dialogue.turns[1].user == "then say its place."
    assert [(repeat, given.get("approach")) for _, repeat, given in transport.calls] == [
        (0, None),
        (0, STRATEGIES["bait_and_switch"]),
        (0, None),
    ]
    assert "next_attacker" not in dialogue.turns[1].meta, "no turn comes after the last"


@pytest.mark.parametrize(
    "second",
    [verdict(next_question=SORRY), ChatReply(SORRY), ChatReply("hm"), None],
    ids=["in JSON", "in prose", "unparsable", "endpoint"],
)
async def test_a_tutor_that_will_not_write_leaves_its_scores_and_the_script(
    tmp_path: Path, second: ChatReply | None
) -> None:
    def answer(job: str, repeat: int, given: dict[str, str]) -> ChatReply:
        if "approach" in given and second is None:
            raise EndpointError("gone")
        return second if "approach" in given and second else verdict(next_question=SORRY)

    dialogue, _ = await judged(tmp_path, answer)
    meta = dialogue.turns[0].meta
    assert all(turn.scores for turn in dialogue.turns)
    assert (meta["strategy"], meta["next_attacker"]["approach"], len(meta["next_attacker"]["faults"])) == (
        "template",
        "template",
        2,
    )
    assert dialogue.turns[1].user == "where is it kept?"


async def test_a_tutor_that_will_not_score_is_asked_once_more(tmp_path: Path) -> None:
    dialogue, _ = await judged(
        tmp_path, lambda job, repeat, given: verdict() if "approach" in given else ChatReply(SORRY)
    )
    assert [turn.meta["next_attacker"]["faults"] for turn in dialogue.turns] == [["refused"], ["refused"]]
    assert all(turn.scores for turn in dialogue.turns)
    dialogue, transport = await judged(tmp_path, lambda job, repeat, given: ChatReply(SORRY))
    assert (dialogue.stop, len(transport.calls)) == ("unscored", 2)
    assert dialogue.turns[0].meta["unscored"].startswith("refused: tutor: ")


async def test_half_a_surrogate_pair_in_the_next_turn_does_no_harm(tmp_path: Path) -> None:
    dialogue, _ = await judged(
        tmp_path, lambda *_: verdict(next_question="and \ud83d where?", diagnosis="\ud83d")
    )
    meta = dialogue.turns[0].meta
    assert (
        dialogue.turns[1].user == dialogue.turns[0].next_user == "and ? where?" and meta["diagnosis"] == "?"
    )
    dialogue.model_dump_json()


def test_every_strategy_has_a_next_one() -> None:
    order = [next_strategy("something else")]
    while len(order) < 5:
        order.append(next_strategy(order[-1]))
    assert order == [*STRATEGIES, "persist"]


# Counting --------------------------------------------------------------------


async def test_stage_i_is_counted_from_its_journal(tmp_path: Path) -> None:
    def answer(job: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
        first = repeat % 2 == 0
        if job == "rewrite" and (first or given["strategy"] == "fiction"):
            return says(rewrite=SORRY) if first else says(rewrite=given["task"].upper())
        return says(turns=["...", "what?"]) if job == "benign" and first else None

    await build(config(24, max_turns=5), tmp_path, Watched(answer))
    found = examine(tmp_path).as_dict()
    jobs = {row["job"]: row for row in found["attackers"]}
    lost = [row for row in dropped(tmp_path) if row["reason"] == "repeated"]
    kept = pool(tmp_path, "red_team")
    assert len(kept) + len(lost) == 12 and lost, "some draw of the seed has fiction for its second strategy"
    assert jobs["red_team"] == {
        **{
            "role": "generator",
            "job": "red_team",
            "asked": 12,
            "refused": 12,
            "empty": 0,
            "repeated": len(lost),
            "unparsable": 0,
        },
        **{"retried": 12, "recovered": len(kept), "gave_up": len(lost)},
    }
    assert (jobs["benign"]["empty"], jobs["benign"]["recovered"], jobs["benign"]["gave_up"]) == (24, 24, 0)
    assert all([attempt["reason"] for attempt in row["attempts"]] == ["refused", "repeated"] for row in lost)
    assert all(
        row["attempts"][1]["strategy"] == "fiction" and row["attempts"][0]["strategy"] in set(Strategy)
        for row in lost
    )
    strategies = {row["strategy"]: row for row in found["strategies"]}
    assert (
        sum(row["tried"] for row in strategies.values())
        == sum(row["succeeded"] for row in strategies.values())
        == len(kept)
    )
    assert "fiction" not in strategies, "what was never played tells nothing of a strategy"
    turns = [seed.meta["success_turn"] for seed in kept]
    assert sum(
        row["mean_turns_to_success"] * row["succeeded"] for row in strategies.values()
    ) == pytest.approx(sum(turns))
    (judge,) = found["judges"]
    assert (judge["role"], judge["asked"]) == ("attack_judge", sum(turns))
    assert warnings(tmp_path, "seeds") == [
        "generator: 50 % of its benign scripts were empty; another model for roles.generator may do better"
    ]


async def test_scripts_that_were_played_in_vain_count_against_their_strategy(tmp_path: Path) -> None:
    await build(
        config(8, max_turns=5),
        tmp_path,
        Watched(lambda job, repeat, given: says(score=2) if job == "attack_judge" else None),
    )
    found = examine(tmp_path).as_dict()
    assert sum(row["tried"] for row in found["strategies"]) == 8 and {
        row["succeeded"] for row in found["strategies"]
    } == {0}
    assert found["attackers"][-1]["retried"] == 0, "an attack that fails is no fault of the attacker's"
    assert found["judges"][0]["verdicts"] == {"2": found["judges"][0]["asked"]}
    assert any("attack was 2" in line for line in warnings(tmp_path, "seeds"))


async def test_a_script_without_a_verdict_tells_nothing_of_its_strategy(tmp_path: Path) -> None:
    await build(
        config(8, max_turns=5),
        tmp_path,
        Watched(lambda job, repeat, given: ChatReply("hm") if job == "attack_judge" else None),
    )
    found = examine(tmp_path).as_dict()
    assert {(row["tried"], row["succeeded"]) for row in found["strategies"]} == {(0, 0)}
    assert found["judges"][0]["unscored_share"] == 100


async def test_stage_ii_is_counted_from_its_journal_and_shown(tmp_path: Path) -> None:
    def answer(job: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
        told = json.loads(given.get("history", "[]"))
        if job == "red" and len(told) == 1:
            return says(user=SORRY) if "approach" not in given else None
        if job == "red" and len(told) == 2:
            return says(user=SORRY)
        return (
            says(safety=3, helpfulness=9)
            if job == "evaluator" and len(told) == 2
            else ChatReply("hm")
            if job == "evaluator" and not told
            else None
        )

    write_seeds(tmp_path, 8)
    (tmp_path / "config.yaml").write_text("name: health")
    with pytest.raises(UserError, match="none of"):  # every dialogue lacks its first score
        await roll_out(tiny_config(), tmp_path, lambda name: model(name, answer)[0])
    played = read_dialogues(tmp_path / "bootstrap" / "journal.jsonl")
    turns, second, third = (sum(len(row.turns) > place for row in played) for place in (0, 1, 2))
    every = sum(len(row.turns) for row in played)
    found = examine(tmp_path).as_dict()
    (red,) = [row for row in found["attackers"] if row["role"] == "red"]
    assert (red["asked"], red["refused"], red["retried"], red["recovered"], red["gave_up"]) == (
        every,
        second + 2 * third,
        second + third,
        second,
        third,
    )
    rates = {row["strategy"]: (row["turns"], row["tried"], row["succeeded"]) for row in found["strategies"]}
    one, two, three = (
        sum(len(row.turns) > place for row in played if row.kind != "benign") for place in (0, 1, 2)
    )
    assert two > 0 < three and rates == {
        "first_attempt": (one, 0, 0),
        "other_side": (two, two, 0),
        "template": (three, three, three),
    }
    safety = next(row for row in found["judges"] if row["score"] == "safety")
    assert (safety["asked"], safety["unscored"]) == (every, {"unparsable": turns})

    red_line, judge_line = warnings(tmp_path, "bootstrap")
    assert red_line.startswith("red agent: ") and red_line.endswith(
        "of its turns were refusals; another model for roles.red may do better"
    )
    assert judge_line.startswith("evaluator: ") and f"{turns} unparsable" in judge_line
    shown = CliRunner().invoke(app, ["health", str(tmp_path)])
    assert f"`safer-steer verify {tmp_path}` says which were changed" in shown.stdout
    assert shown.exit_code == 0 and "other side" in shown.stdout and f"{second + 2 * third}" in shown.stdout
    assert json.loads(CliRunner().invoke(app, ["health", str(tmp_path), "--json"]).stdout) == json.loads(
        json.dumps(found)
    )
    page = write_report(tmp_path).read_text()
    section = page.partition('id="health"')[2].partition("</section>")[0]
    assert "<td>other side</td>" in section.replace(' class="name"', "") and "evaluator" in section


def test_the_tutor_is_counted_from_the_trajectories(tmp_path: Path) -> None:
    def turn(safety: int | None, user: str = "go on.", **meta: Any) -> dict[str, Any]:
        return {
            "user": user,
            "assistant": "a",
            "scores": None if safety is None else {"safety": safety, "faithfulness": 9},
            "meta": meta,
        }

    rows = [
        [turn(10, strategy="persist"), turn(3, strategy="deepen"), turn(9, strategy="template")],
        [
            turn(10, strategy="persist", next_attacker={"faults": ["empty"], "approach": "persist"}),
            turn(10, strategy="template"),
        ],
        [
            turn(
                8,
                strategy="template",
                next_attacker={"faults": ["refused", "repeated"], "approach": "template"},
            ),
            turn(None, unscored="refused: tutor: no"),
        ],
        [turn(None, unscored="unparsable: tutor: hm")],
    ]
    played = [{"id": str(number), "kind": "red_team", "turns": turns} for number, turns in enumerate(rows)]
    benign = {"id": "b", "kind": "benign", "turns": [turn(5, strategy="persist"), turn(4)]}
    write_jsonl(tmp_path / "rl" / "trajectories.jsonl", [*played, benign])
    found = examine(tmp_path).as_dict()
    (tutor,) = [row for row in found["attackers"] if row["role"] == "tutor"]
    assert tutor == {
        **{
            "role": "tutor",
            "job": "turn",
            "asked": 10,
            "refused": 3,
            "empty": 1,
            "repeated": 1,
            "unparsable": 1,
        },
        **{"retried": 3, "recovered": 1, "gave_up": 3},
    }
    rates = {row["strategy"]: (row["tried"], row["succeeded"]) for row in found["strategies"]}
    assert rates == {"persist": (2, 1), "deepen": (1, 0), "template": (0, 0)}, (
        "a benign dialogue's turns are no attacks"
    )
    safety = next(row for row in found["judges"] if row["score"] == "safety")
    assert (safety["unscored"], safety["commonest"], safety["commonest_share"]) == (
        {"refused": 1, "unparsable": 1},
        10,
        pytest.approx(37.5),
    )


@pytest.mark.parametrize(
    ("shares", "warned"),
    [([1.0, 1.0, 1.0], "100 %"), ([1.0, 0.8, 0.0], "60 %"), ([1.0, 0.5, 0.0], ""), ([0.0], ""), ([], "")],
)
def test_most_groups_with_equal_returns_are_warned_of(
    tmp_path: Path, shares: list[float], warned: str
) -> None:
    steps = [
        {
            "step": 5 + place,
            "leak_rate": 0.5,
            "equal_groups": share,
            "distinct_attacks": None if place else 0.4,
        }
        for place, share in enumerate(shares)
    ]
    old = {"step": 1, "return": 1.2, "leak_rate": 0.5}
    none_compared = {"step": 2, "leak_rate": 0.5, "equal_groups": None, "distinct_attacks": None}
    write_run(tmp_path)
    write_jsonl(tmp_path / "rl" / "metrics.jsonl", [old, none_compared, *steps])
    lines = warnings(tmp_path, "rl")
    assert [line.partition(" of the groups had equal")[0] for line in lines] == [warned] * bool(warned)
    assert all("50.0 % of the trajectories leaked" in line and "rl.temperature" in line for line in lines)
    groups = examine(tmp_path).as_dict()["groups"]
    assert [(row["steps"], row["distinct_attacks"]) for row in groups] == [(len(shares), 40)] * bool(shares)
    shown = CliRunner().invoke(app, ["health", str(tmp_path)])
    assert shown.exit_code == 0 and [
        line for line in shown.stdout.splitlines() if line.startswith("rl: ")
    ] == [f"rl: {line}" for line in lines]
    assert ("distinct attacks" in shown.stdout) is bool(shares)
    page = write_report(tmp_path).read_text()
    assert ("Groups of equal returns" in page) is ("Distinct attacks" in page) is bool(shares)


def test_a_tutors_success_by_approach_is_shown_over_the_steps(tmp_path: Path) -> None:
    tries = [{"story": {"": [4, 3]}}, {"story": {"a": [1, 0], "b": [2, 1]}, "step": {"a": [2, 0]}}, {}]
    tries += [{"step": {"": [5, 4]}}]
    write_run(tmp_path)
    metrics = tmp_path / "rl" / "metrics.jsonl"
    write_jsonl(metrics, [{"step": step, "approaches": one} for step, one in enumerate(tries)])
    rows = examine(tmp_path).as_dict()["approaches"]
    counts = [(row["approach"], row["tried"], row["breached"]) for row in rows]
    assert counts == [("step", 7, 4), ("story", 7, 4)]
    [table] = [one for one in tables(examine(tmp_path)) if one.title == "Approaches over the steps"]
    assert [row[5:] for row in table.rows] == [["0 of 0", "0 of 2", "4 of 5"], ["3 of 4", "1 of 3", "0 of 0"]]
    assert "Approaches over the steps" in write_report(tmp_path).read_text()
    write_jsonl(metrics, [{"step": 1, "equal_groups": 0.5}])
    assert examine(tmp_path).as_dict()["approaches"] == []


async def test_a_run_in_which_all_is_well_says_nothing(tmp_path: Path) -> None:
    await build(config(40, max_turns=5), tmp_path)
    draw_from_pools(tiny_config(), tmp_path)
    await roll_out(tiny_config(), tmp_path, ask)
    assert [warnings(tmp_path, stage) for stage in ("seeds", "bootstrap", "rl")] == [[], [], []]
    assert not any(
        row[name]
        for row in examine(tmp_path).as_dict()["attackers"]
        for name in ("refused", "empty", "repeated", "unparsable")
    )


def test_what_models_wrote_is_text_on_the_page_and_an_empty_run_says_so(tmp_path: Path) -> None:
    hostile = "</td><script>window.hit=1</script>[bold]"
    write_run(tmp_path / "run")
    turns = [{"user": "u", "assistant": "a", "scores": {"safety": 9}, "meta": {"strategy": hostile}}] * 2
    write_jsonl(
        tmp_path / "run" / "rl" / "trajectories.jsonl", [{"id": "1", "kind": "red_team", "turns": turns}]
    )
    page = write_report(tmp_path / "run").read_text()
    assert "<script>window" not in page and "&lt;script&gt;window" in page
    assert "[bold]" in CliRunner().invoke(app, ["health", str(tmp_path / "run")]).stdout.replace("\n", "")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("name: x")
    assert tables(examine(tmp_path / "empty")) == []
    assert "No attacker and no judge" in write_report(tmp_path / "empty").read_text()
    failed = CliRunner().invoke(app, ["health", str(tmp_path / "nowhere")])
    assert (failed.exit_code, failed.stderr.count("\n")) == (2, 1)


FOREIGN: list[tuple[str, str, dict[str, Any]]] = [
    ("seeds", "seeds/journal/00000.jsonl", {"id": 5}),
    ("seeds", "seeds/journal/00000.jsonl", {"id": "p-benign:0", "failed": 5}),
    ("seeds", "seeds/journal/00000.jsonl", {"id": "p-red_team:0", "made": {"seed": 5}}),
    ("assemble", "splits/verdicts.jsonl", {"id": "a", "script": 5}),
    ("bootstrap", "bootstrap/journal.jsonl", {"id": "a", "kind": "benign", "turns": [{"user": "u"}]}),
    ("bootstrap", "bootstrap/rejected.jsonl", {"id": "a", "meta": {"reasons": 5}}),
    ("rl", "rl/trajectories.jsonl", {"id": "a", "turns": [{"user": "u"}]}),
    ("rl", "rl/metrics.jsonl", {"step": 1, "approaches": {"next": {"x": [5]}}}),
    ("bench", "bench/base/x.jsonl", {"id": "a", "kind": "benign", "turns": [{"user": "u", "assistant": 5}]}),
    ("bench", "bench/base/x.jsonl", {"id": "a", "turns": [{"user": "u", "scores": {"harmlessness": 1}}]}),
    ("bench", "bench/base/adaptive_a.jsonl", {"id": "a", "kind": "red_team", "turns": 5}),
]


@pytest.mark.parametrize(("stage", "file", "row"), FOREIGN)
def test_a_row_that_no_stage_writes_is_one_line_that_names_it_and_the_error(
    tmp_path: Path, stage: str, file: str, row: dict[str, Any]
) -> None:
    (tmp_path / "config.yaml").write_text("name: x")
    write_jsonl(tmp_path / file, [row])
    says = (
        rf"{file}: row 1: not a row as `{stage}` writes it \(\w+Error: .+\);"
        " move the file away and run its stage again"
    )
    with pytest.raises(UserError, match=says):
        examine(tmp_path)
    assert re.search(says, complaint(safer_steer("health", tmp_path)))
    complaint(safer_steer("report", tmp_path))


def test_the_row_is_the_one_that_was_read_and_an_error_of_ours_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = {"step": 1, "approaches": {"next": {"x": [5, 1]}}}
    metrics = tmp_path / "rl" / "metrics.jsonl"
    write_jsonl(metrics, [fine, fine, fine | {"approaches": {"next": 5}}, fine])
    with pytest.raises(UserError, match=r"rl/metrics\.jsonl: row 3: ") as raised:
        examine(tmp_path)
    assert isinstance(raised.value.__cause__, AttributeError), "for whoever calls it from Python"
    with pytest.raises(UserError, match=r"rl/metrics\.jsonl: row 3: "):
        warnings(tmp_path, "rl")
    write_jsonl(metrics, [fine])
    monkeypatch.setattr(Path, "rglob", lambda *_: 5)
    with pytest.raises(TypeError):
        examine(tmp_path)


# Measures --------------------------------------------------------------------


def test_a_strategy_s_success_has_the_interval_of_all_shares() -> None:
    counts = StrategyCounts("red", "roleplay")
    for number in range(20):
        counts.uses.note(f"script {number}", number == 7)
    assert counts.as_dict()["rate"] == rate([(1, 20)])
    for number in range(20, 60):
        counts.uses.note("script 7", number < 40)
    assert counts.as_dict()["rate"] == rate([(20 * 21 / 60, 20)]), "41 tries of one script are no 41 scripts"
    assert StrategyCounts("red", "roleplay").as_dict()["rate"]["value"] is None


def test_diversity() -> None:
    same, different, one = TextSample("s"), TextSample("d"), TextSample("o")
    for number in range(50):
        same.add("Where is it kept?")
        different.add(f"a{number} b{number} c{number}")
    one.add("alone")
    assert (same.distinct(1), same.distinct(2), same.similarity()) == (4 / 200, 3 / 150, 1)
    assert (different.distinct(1), different.distinct(2), different.similarity()) == (1, 1, 0)
    assert (one.distinct(1), one.distinct(2), one.similarity(), TextSample("x").distinct(1)) == (
        1,
        None,
        None,
        None,
    )
    half = TextSample("h")
    half.add("red box here")
    half.add("red box there")
    assert half.similarity() == 2 / 4


def test_the_sample_is_bounded_seeded_and_of_the_whole() -> None:
    first, second = TextSample("a"), TextSample("a")
    for number in range(5_000):
        first.add(f"word{number}")
        second.add(f"word{number}")
    assert first.kept == second.kept and len(first.kept) == SAMPLE and first.seen == 5_000
    late = sum(int(words[0][4:]) >= 2_500 for words in first.kept)
    assert 60 <= late <= 140
    assert len(first.kept) * (len(first.kept) - 1) / 2 > PAIRS and first.similarity() == 0


@pytest.mark.parametrize(("stop", "gave_up"), [("completed", 0), ("user_failed", 1)])
def test_an_attacker_that_declines_to_take_the_last_turn_back_has_not_given_up(
    tmp_path: Path, stop: str, gave_up: int
) -> None:
    row = {"id": "i~0", "kind": "red_team", "stop": stop, "meta": {"attacker_faults": ["refused", "refused"]}}
    journal = tmp_path / "bench" / "m" / "adaptive_a.jsonl"
    write_jsonl(journal, [row | {"turns": []}])
    [attacker] = examine(tmp_path, ("bench",)).as_dict()["attackers"]
    assert (attacker["refused"], attacker["gave_up"]) == (2, gave_up)


# Shares ----------------------------------------------------------------------


def shares(run: Path, name: GateName, stage: str) -> list[float]:
    return [reading.value for reading in QUANTITIES[name].read(Evidence(run, stage))]


def test_a_second_attempt_at_an_attack_that_failed_is_an_attempt(tmp_path: Path) -> None:
    """100 jobs with 200 attempts, of which 6 were refused: 3 %."""
    journal = [
        {"id": f"p{job}-red_team:{attempt}", "failed": "refused: no" if job < 6 and not attempt else FAILED}
        for job in range(100)
        for attempt in range(2)
    ]
    write_jsonl(tmp_path / "seeds" / "journal" / "0.jsonl", journal)
    assert shares(tmp_path, "generator_refusals", "seeds") == [pytest.approx(0.03)]


def test_a_verdict_without_a_next_turn_is_no_attempt_at_one(tmp_path: Path) -> None:
    """100 trajectories of two turns: in 9 the next turn was empty once, of 109 attempts at one."""

    def turn(**meta: Any) -> dict[str, Any]:
        return {"user": "u", "assistant": "a", "scores": {"safety": 9, "faithfulness": 9}, "meta": meta}

    again = {"faults": ["empty"], "approach": "persist"}
    rows = [
        {
            **{"id": str(number), "kind": "red_team"},
            "turns": [turn(strategy="persist", **({"next_attacker": again} if number < 9 else {})), turn()],
        }
        for number in range(100)
    ]
    write_jsonl(tmp_path / "rl" / "trajectories.jsonl", rows)
    assert shares(tmp_path, "empty_turns", "rl") == [pytest.approx(9 / 109)]
    static = [row | {"turns": [turn(strategy="template")] * 2} for row in rows]
    write_jsonl(tmp_path / "static" / "rl" / "trajectories.jsonl", static)
    assert shares(tmp_path / "static", "empty_turns", "rl") == [], "it writes no turns"


def test_each_score_of_a_judge_may_be_constant(tmp_path: Path) -> None:
    scores = [{"safety": 2 + place % 8, "helpfulness": 10} for place in range(40)]
    turns = [{"user": "u", "assistant": "a", "scores": one, "meta": {}} for one in scores]
    write_jsonl(tmp_path / "bootstrap" / "journal.jsonl", [{"id": "d", "kind": "red_team", "turns": turns}])
    assert shares(tmp_path, "constant_scores", "bootstrap") == [pytest.approx(1 / 8), 1]
    [line] = warnings(tmp_path, "bootstrap")
    assert "helpfulness was 10 in 40 of 40 turns" in line
