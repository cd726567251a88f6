"""The estimate: it counts what the pipeline really asks, scales it to the whole, prices it, and calls
nobody."""

import json
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from display import Quiet
from places import ROOT
from safer_steer import pipeline, prompts
from safer_steer.cli import app
from safer_steer.config import SHIPPED, Config
from safer_steer.config.file import load_config
from safer_steer.dialogue import Format, Kind
from safer_steer.files.manifest import Manifest
from safer_steer.plan import Assumptions, Estimate, as_dict, estimate, price
from safer_steer.plan.answers import Answers
from safer_steer.plan.calls_table import duration, lines, money, rounded
from safer_steer.plan.counting import Count, local_tokenizer, picture_tokens
from safer_steer.plan.draw_sizes import Group, scripts_drawn, trajectories
from safer_steer.prompts.base import Prompt
from safer_steer.run import measuring
from seeds_run import write_pairs

SANDBOX = ROOT / "configs" / "sandbox.yaml"
TERSE = Assumptions(turn_tokens=11, answer_tokens=13)
"""The length of what the sandbox's agents say."""
ENDPOINT = {"model": "org/served", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}


def config(pairs: int = 20, **keys: Any) -> Config:
    small: dict[str, Any] = {
        "seeds": {"sources": [{"limit": pairs}], "max_turns": 6},
        "rl": {"prompts_per_step": 4},
        "bench": {"dialogues": 5},
    }
    return Config.model_validate(small | keys)


def of(found: Estimate, stage: str, role: str) -> Count:
    """A role's count in a stage, over all its jobs."""
    total = Count()
    for (seat, _), count in found.stages[stage].items():
        total = total.plus(count, seat == role)
    return total


def jobs(found: Estimate, stage: str) -> dict[str, int]:
    return {job: round(count.calls) for (_, job), count in found.stages[stage].items()}


# Against what runs really ask


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def success_rate(run: Path) -> float:
    """Share of the red-team scripts tried that succeeded."""
    kept = rows(run / "seeds" / "red_team.jsonl")
    failed = [row for row in rows(run / "seeds" / "dropped.jsonl") if row["reason"] == "failed_attack"]
    return len(kept) / (sum(row["meta"]["attempts"] for row in kept) + 2 * len(failed))


@pytest.mark.parametrize("pairs", [20, 60])
def test_it_agrees_with_a_run(pairs: int, tmp_path: Path) -> None:
    """The sample is all of the 20 pairs, and 40 of the 60."""
    settings = config(pairs)
    for stage in ("seeds", "bootstrap"):
        pipeline.run_stage(stage, settings, tmp_path / "run", Quiet())
    measuring.bench_endpoint(settings, "agent", tmp_path / "bench", Quiet())
    spent = Manifest(tmp_path / "run").stages | {"bench": Manifest(tmp_path / "bench").stages["bench"]}

    assumed = Assumptions(success=success_rate(tmp_path / "run"), turn_tokens=11, answer_tokens=13)
    found = estimate(
        settings.model_copy(update={"bench": settings.bench.model_copy(update={"models": ["base"]})}), assumed
    )
    compared = 0
    for stage in ("seeds", "bootstrap", "bench"):
        for role, account in spent[stage]["calls"].items():
            if (stage, role) == ("bench", "target"):
                continue  # there the model under test takes the student's place and is asked for its layout
            count = of(found, stage, role)
            assert count.calls == pytest.approx(account["calls"], rel=0.25), (stage, role)
            off = (
                0.6 if role == "target" else 0.3
            )  # its prompt is nothing but the dialogue, so what turns are assumed to be long counts in full
            assert count.text_tokens == pytest.approx(account["prompt_tokens"], rel=off), (stage, role)
            compared += 1
    assert compared == 7


def test_it_agrees_with_assembly(tmp_path: Path) -> None:
    settings = config(40, assembly={}, rl={"seeds": 10, "prompts_per_step": 2})
    for stage in ("seeds", "assemble", "bootstrap"):
        pipeline.run_stage(stage, settings, tmp_path, Quiet())
    balance = json.loads((tmp_path / "splits" / "balance.json").read_text())
    keeps = balance["rules"]["rule_1"] / balance["rules"]["candidates"]
    found = estimate(
        settings, Assumptions(success=success_rate(tmp_path), keeps=keeps, turn_tokens=11, answer_tokens=13)
    )
    for stage, rel in (("assemble", 0.25), ("bootstrap", 0.4)):
        for role, account in Manifest(tmp_path).stages[stage]["calls"].items():
            assert of(found, stage, role).calls == pytest.approx(account["calls"], rel=rel), (stage, role)


def test_it_agrees_with_the_single_turn_ablation(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"bootstrap": {"sft": {"single_turn": True}}}
    for stage in ("seeds", "bootstrap"):
        pipeline.run_stage(stage, config(20, **keys), tmp_path, Quiet())
    asked = Manifest(tmp_path).stages["bootstrap"]["calls"]
    assert asked["blue"]["calls"] - asked["red"]["calls"] == 20, (
        "a question of each pair, which no red agent rewrites"
    )
    found = estimate(
        config(20, **keys), Assumptions(success=success_rate(tmp_path), turn_tokens=11, answer_tokens=13)
    )
    for role, account in asked.items():
        assert of(found, "bootstrap", role).calls == pytest.approx(account["calls"], rel=0.25), role
    assert jobs(found, "bootstrap")["blue"] - jobs(found, "bootstrap")["red"] == 20
    few = estimate(config(20, bootstrap={"dialogues": 4, "sft": {"single_turn": True}}), TERSE)
    assert 2 <= jobs(few, "bootstrap")["blue"] - jobs(few, "bootstrap")["red"] <= 5


# What is counted


def test_every_attack_tried_is_counted() -> None:
    """Twenty pairs, half of them with a hazard mark: a script of each kind, and a second attempt for every
    attack that fails."""
    always, never = estimate(config(), Assumptions(success=1)), estimate(config(), Assumptions(success=0))
    script = {"probe": 20, "benign": 20, "obfuscated": 10}
    assert script.items() <= jobs(always, "seeds").items()
    assert script.items() <= jobs(never, "seeds").items()
    assert [jobs(always, "seeds")[job] for job in ("caption", "rewrite", "plan")] == [10] * 3
    assert [jobs(never, "seeds")[job] for job in ("caption", "rewrite", "plan")] == [20] * 3
    assert always.scripts == {Kind.BENIGN: 20, Kind.OBFUSCATED: 10, Kind.RED_TEAM: 10}
    assert Kind.RED_TEAM not in never.scripts
    assert (
        of(always, "seeds", "target").calls
        == of(always, "seeds", "attack_judge").calls
        < of(never, "seeds", "attack_judge").calls
    )
    assert estimate(config(), Assumptions(success=0.5)).scripts[Kind.RED_TEAM] == pytest.approx(7.5, abs=1)


def test_attacks_for_the_bench_are_planned_once_and_not_tried() -> None:
    keys: dict[str, Any] = {
        "assembly": {},
        "rl": {"seeds": 8, "prompts_per_step": 4},
        "bench": {"suites": ["steer"], "dialogues": 5},
    }

    def asked(**seeds: Any) -> dict[str, int]:
        return jobs(
            estimate(
                config(seeds={"sources": [{"limit": 20, "use": "bench"}], **seeds}, **keys),
                Assumptions(success=0),
            ),
            "seeds",
        )

    plain = asked()
    assert not {"attack_judge", "chat"} & set(plain)
    assert [plain[job] for job in ("caption", "rewrite", "plan")] == [10] * 3
    filtered = asked(filter_bench=True)
    assert filtered["attack_judge"] == filtered["chat"] > 20
    assert filtered["plan"] == 20, "each is planned once more when it fails"


def test_a_sample_stands_for_the_whole() -> None:
    few, many = estimate(config(60), Assumptions(sample=20)), estimate(config(6000), Assumptions(sample=20))
    assert (few.pairs, many.pairs) == ((60, 20), (6000, 20))
    for stage in ("seeds", "bootstrap"):
        for role in {seat for seat, _ in few.stages[stage]}:
            assert of(many, stage, role).calls == pytest.approx(100 * of(few, stage, role).calls, rel=0.3), (
                stage,
                role,
            )
    assert jobs(many, "seeds")["probe"] == 6000


def test_an_estimate_is_repeatable() -> None:
    assert estimate(config(), TERSE).stages == estimate(config(), TERSE).stages


def test_every_source_and_stratum_is_in_the_sample(tmp_path: Path) -> None:
    """Nine pairs in ten are safe and have their answer: nothing is asked for those but a benign script."""
    path = write_pairs(tmp_path / "a", {}, *[{"safe": True, "answer": "42"}] * 9)
    settings = config(
        seeds={
            "sources": [{"name": "mine", "path": str(path)}, {"limit": 100}],
            "kinds": ["benign", "obfuscated"],
        }
    )
    found = estimate(settings, Assumptions(sample=8))
    assert found.pairs == (110, 9)
    assert jobs(found, "seeds") == {"probe": 101, "benign": 110, "obfuscated": 51}
    assert found.scripts == {Kind.BENIGN: 110, Kind.OBFUSCATED: 51}


def test_limits_of_the_config_bound_the_stages() -> None:
    whole = estimate(config(), TERSE)
    scripts = sum(whole.scripts.values())
    assert scripts == 20 + 10 + 8
    half = estimate(config(bootstrap={"dialogues": round(scripts / 2)}), TERSE)
    assert of(half, "bootstrap", "red").calls == pytest.approx(
        of(whole, "bootstrap", "red").calls / 2, rel=0.05
    )
    assert whole.trajectories == 28 // 4 * 4 * 5, (
        "the drawn are all others, and benign ones up to their share of a quarter"
    )
    steps = estimate(config(rl={"prompts_per_step": 4, "group_size": 3, "steps": 7, "max_turns": 1}), TERSE)
    assert steps.trajectories == 7 * 4 * 3
    assert of(steps, "rl", "tutor").calls == pytest.approx(7 * 4 * 3)
    one = estimate(config(bench={"dialogues": 5, "models": ["base"]}), TERSE)
    assert of(whole, "bench", "judge").calls == pytest.approx(3 * of(one, "bench", "judge").calls)
    assert one.dialogues[0] == 20
    assert "Stage III would not start" in estimate(config(4, rl={"prompts_per_step": 64})).notes[0]
    own = estimate(config(rl={"tutor": "mine:Tutor"}))
    assert "rl" not in own.stages
    assert "mine:Tutor" in own.notes[0]


def test_questions_alone_have_one_turn_and_their_share() -> None:
    rl = {"prompts_per_step": 4, "benign_share": 0.2, "single_turn": True}
    found = estimate(config(rl=rl), TERSE)
    assert (found.longest, found.trajectories) == (1, 12 * 5), (
        "10 risky questions, and 2 safe ones for their share of a fifth"
    )
    assert of(found, "rl", "tutor").calls == pytest.approx(found.trajectories)
    assembled = estimate(config(assembly={}, rl={**rl, "seeds": 12}), TERSE)
    assert 0 < assembled.trajectories < found.trajectories, "those of STEER-RL's pairs"


def test_suites_from_files_are_sampled(tmp_path: Path) -> None:
    def suite(name: str, size: int, turns: int, kind: str) -> str:
        seeds = [
            {"id": f"{name}{i}", "kind": kind, "turns": [{"user": "what is it?"}] * turns}
            for i in range(size)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
        return str(tmp_path / f"{name}.jsonl")

    files = [
        suite("a", 300, 4, "red_team"),
        suite("b", 100, 4, "red_team"),
        suite("c", 50, 1, "red_team"),
        suite("d", 80, 4, "benign"),
    ]
    found = estimate(config(bench={"suites": files, "models": ["base"]}), Assumptions(sample=8))
    assert found.dialogues == (530, 8)
    assert of(found, "bench", "judge").calls == pytest.approx(4 * 480 + 50)
    assert of(found, "bench", "judge").images == 0
    bounded = estimate(
        config(bench={"suites": files, "models": ["base"], "dialogues": 60}), Assumptions(sample=8)
    )
    assert bounded.dialogues[0] == 30 + 30 + 50 + 60


def test_assembly_shares_the_scripts_out() -> None:
    settings = config(
        assembly={},
        rl={"seeds": 200, "benign_share": 0.25, "prompts_per_step": 64},
        bootstrap={"dialogues": 500},
    )
    groups = {True: Group(1000, 800, 800), False: Group(1000, 800, 600)}
    sft, rl = scripts_drawn(settings, groups)
    assert rl == {True: 50, False: 150}
    assert sft[True] + sft[False] == pytest.approx(500)
    assert trajectories(settings, rl) == 3 * 64 * 5
    assert trajectories(settings, {True: 10, False: 20}) == 0
    sft, _ = scripts_drawn(config(assembly={}, rl={"seeds": 200, "benign_share": 0.25}), groups)
    assert sft == {True: 600, False: 600}, (
        "a quarter of the able attacks is in STEER-RL, and their pairs with them"
    )
    settings = config(
        40,
        assembly={"bench_dialogues": 7},
        rl={"seeds": 8},
        seeds={"sources": [{"limit": 40, "use": "bench"}]},
        bench={"suites": ["steer"]},
    )
    found = estimate(settings, TERSE)
    assert set(found.stages) == {"seeds", "assemble", "bench"}
    assert found.dialogues[0] == 14
    assert jobs(found, "assemble")["script_check"] == round(sum(found.scripts.values()))


def test_pictures_and_tokenizers() -> None:
    assert picture_tokens(84, 84, "Qwen/Qwen2.5-VL-3B-Instruct") == 9
    assert picture_tokens(1120, 840, "hosted") == 40 * 30
    assert picture_tokens(1024, 1024, "Qwen/Qwen3-VL-32B-Instruct") == 32 * 32
    assert local_tokenizer("org/no-folder") is None
    tokenizer = local_tokenizer(str(SHIPPED))
    assert len(tokenizer.encode("what is it?").ids) > 2
    by_rule = estimate(config(4, roles={"blue": ENDPOINT}), TERSE)
    counted = estimate(config(4, roles={"blue": ENDPOINT | {"model": str(SHIPPED)}}), TERSE)
    assert (by_rule.tokenized, counted.tokenized) == (set(), {"blue"})
    assert of(counted, "bootstrap", "blue").text_tokens > of(by_rule, "bootstrap", "blue").text_tokens, (
        "the sandbox's vocabulary is small"
    )
    assert of(by_rule, "bootstrap", "blue").image_tokens == 9 * of(by_rule, "bootstrap", "blue").images
    upload = of(by_rule, "bootstrap", "blue")
    assert upload.upload_bytes > 4 * upload.text_tokens, "the pictures are in it"


def test_every_job_gets_a_valid_answer() -> None:
    answers = Answers(config(student={"format": Format.PLAIN}), Assumptions())
    given = {"turns": "7", "history": "[]", "question": "", "kind": "benign"}
    found = {}
    for module in pkgutil.iter_modules(prompts.__path__):
        for value in vars(import_module(f"safer_steer.prompts.{module.name}")).values():
            if isinstance(value, Prompt):
                found[value.name] = value.output.model_validate_json(
                    answers.do(value.name, given, value.schema(), 0)
                )
    assert {"probe", "plan", "red", "blue", "evaluator", "tutor", "judge"} <= set(found)
    assert len(found["plan"].turns) == len(found["benign"].turns) == 7  # type: ignore[attr-defined]
    assert len(found["red"].user) == pytest.approx(4 * 30, abs=3)  # type: ignore[attr-defined]
    assert len(answers.speak()) == pytest.approx(4 * 150, abs=3)


def test_answers_stay_within_the_students_turn() -> None:
    student = config(student={"max_turn_tokens": 60}).student
    assert Assumptions(answer_tokens=150).answer_of(student) == 40
    assert Assumptions(answer_tokens=20).answer_of(student) == 20


# Money and time


def test_money_time_and_the_limit() -> None:
    roles = {
        "judge": ENDPOINT | {"price_in": 2, "price_out": 10, "concurrency": 4},
        "red": ENDPOINT,
        "blue": ENDPOINT | {"concurrency": 1},
    }
    settings = config(8, roles=roles, spending_limit=0.01)
    found = estimate(settings, TERSE)
    priced = price(found)
    line = {(line.stage, line.participant): line for line in priced.lines}
    judge = of(found, "bench", "judge")
    assert line["bench", "judge"].money == pytest.approx((2 * judge.tokens_in + 10 * judge.tokens_out) / 1e6)
    assert priced.money == line["bench", "judge"].money
    assert line["bench", "judge"].seconds == pytest.approx((0.5 * judge.calls + judge.tokens_out / 40) / 4)
    assert priced.unpriced == ["red", "blue"]
    assert line["bootstrap", "evaluator"].local and line["bootstrap", "evaluator"].seconds is None
    assert line["rl", "student"].local
    assert priced.seconds["bootstrap"] == line["bootstrap", "blue"].seconds, (
        "one call at a time bounds the stage"
    )
    assert priced.seconds["seeds"] == 0
    assert priced.stops_in(settings.spending_limit) == "bench"
    assert any("spending_limit is 0.01: the run would stop in bench" in said for said in lines(found, priced))
    assert any("The total leaves out red, blue: no price is set" in said for said in lines(found, priced))
    assert priced.stops_in(None) is None

    wide = price(
        estimate(
            config(
                8,
                roles=roles
                | {"red": ENDPOINT | {"concurrency": 999}, "blue": ENDPOINT | {"concurrency": 999}},
            ),
            TERSE,
        )
    )
    busy = sum(
        (line.count.calls * 0.5 + line.count.tokens_out / 40)
        for line in wide.lines
        if line.participant in ("red", "blue")
    )
    assert wide.seconds["bootstrap"] == pytest.approx(busy / 999), (
        "red and blue wait for each other, and as many dialogues are in play as one of them answers at once"
    )

    again = price(estimate(settings, Assumptions(turn_tokens=11, answer_tokens=13, overhead=0.1)))
    assert again.money == pytest.approx(1.1 * priced.money)
    slow = price(estimate(config(8, roles={"judge": ENDPOINT | {"requests_per_minute": 10}}), TERSE))
    assert slow.seconds["bench"] == pytest.approx(6 * judge.calls)
    tutored = estimate(config(8, roles={"tutor": ENDPOINT}), TERSE)
    reply = of(tutored, "rl", "tutor").tokens_out / of(tutored, "rl", "tutor").calls / 40 + 0.5
    assert price(tutored).seconds["rl"] == pytest.approx(
        tutored.trajectories / 20 * tutored.longest * reply
    ), "a step waits for its longest trajectory"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.2, "1"),
        (743, "740"),
        (12_345, "12,300"),
        (1_234_567, "1.23 M"),
        (999_999, "1 M"),
        (2.34e9, "2.34 G"),
    ],
)
def test_numbers_are_rounded_to_what_they_are_worth(value: float, shown: str) -> None:
    assert rounded(value) == shown


def test_money_and_durations_to_read() -> None:
    assert [money(value) for value in (None, 0.0, 0.001, 0.123, 23.49, 1234.5)] == [
        "-",
        "0.00",
        "< 0.01",
        "0.12",
        "23",
        "1,200",
    ]
    assert [duration(value) for value in (3.14, 100, 150, 7300, 200_000)] == [
        "3.1 s",
        "100 s",
        "2.5 min",
        "2 h",
        "2.3 d",
    ]


# The command


def test_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["cost", str(SANDBOX)])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[1:12] if not line.startswith(" ")] == [
        "seeds",
        "bootstrap",
        "rl",
        "bench",
        "total",
    ]
    assert "Nothing was called" in done.stdout
    done = CliRunner().invoke(app, ["cost", str(SANDBOX), "--json", "--sample", "10", "--success", "1"])
    told = json.loads(done.stdout)
    found = estimate(load_config(SANDBOX), Assumptions(sample=10, success=1))
    assert told == json.loads(json.dumps(as_dict(found, price(found))))
    assert [stage["stage"] for stage in told["stages"]] == ["seeds", "bootstrap", "rl", "bench"]
    assert told["scripts"] == {"benign": 240, "obfuscated": 120, "red_team": 120}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for section, key in (
        ({"seeds": {"sources": [{"name": "mine", "path": "nowhere.jsonl"}]}}, "nowhere.jsonl"),
        ({"bench": {"suites": ["gone.jsonl"]}}, "gone.jsonl"),
    ):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(section))
        done = CliRunner().invoke(app, ["cost", str(tmp_path / "c.yaml")])
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()) == 1
        assert key in done.stderr


def test_nothing_is_called_loaded_or_left(tmp_path: Path) -> None:
    """Every role at an endpoint whose key is not there; a socket that is connected anywhere ends the
    process."""
    roles = dict.fromkeys(
        ("generator", "target", "attack_judge", "red", "blue", "evaluator", "tutor", "judge"), ENDPOINT
    )
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config(6, roles=roles).model_dump(mode="json")))
    (tmp_path / "tmp").mkdir()
    watched = """
import sys
forbidden = ("socket.connect", "socket.getaddrinfo", "socket.bind")
sys.addaudithook(lambda event, _: sys.exit(event) if event in forbidden else None)
sys.argv = ["safer-steer", "cost", "c.yaml"]
from safer_steer.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "trl", "openai", "aiohttp"}
    print("loaded", *heavy & set(sys.modules), file=sys.stderr)
"""
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        [sys.executable, "-c", watched],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "loaded")
    assert "org/served" in done.stdout
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["c.yaml", "tmp"]


def test_random_texts_are_no_duplicates() -> None:
    """Assembly drops scripts that share their word 3-grams."""
    answers = Answers(config(), Assumptions())
    grams = Counter(
        tuple(words[i : i + 3])
        for words in (answers.text(30).split() for _ in range(100))
        for i in range(len(words) - 2)
    )
    assert max(grams.values()) <= 2


def test_an_attacker_that_adapts_is_counted_at_its_longest() -> None:
    attackers = ["sandbox-b", "sandbox-c"]
    adaptive = {"at_most": 4, "turns": 3, "take_backs": 1, "tries": 2, "attackers": attackers}
    bench: dict[str, Any] = {"dialogues": 5, "models": ["base", "sft"]}
    without, found = (estimate(config(bench=one), TERSE) for one in (bench, bench | {"adaptive": adaptive}))
    moves = 4 * 2 * 2 * 2 * 4
    assert of(found, "bench", "attacker").calls == pytest.approx(moves), "one turn is taken back"
    for role in ("judge", "student"):
        more = of(found, "bench", role).calls - of(without, "bench", role).calls
        assert more == pytest.approx(moves)
    own = estimate(config(bench=bench | {"adaptive": {"own": ["mine:attack"]}}), TERSE)
    assert "mine:attack" in own.notes[-1] and not of(own, "bench", "attacker").calls
