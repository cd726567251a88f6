"""The estimate: near what runs ask, exact from a run's own ledger, priced, and calls nobody."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from display import Quiet
from places import ROOT
from safer_steer import pipeline
from safer_steer.cli import app
from safer_steer.config import Config
from safer_steer.config.file import load_config
from safer_steer.dialogue import Kind
from safer_steer.errors import UserError
from safer_steer.files.manifest import Manifest
from safer_steer.plan.assumptions import Assumptions, assumptions
from safer_steer.plan.calls import Estimate, estimate, from_run, price
from safer_steer.plan.calls_table import as_dict, duration, lines, money, rounded
from safer_steer.plan.counting import Sizes, picture_tokens
from safer_steer.plan.material import CHARACTERS, read_material
from safer_steer.prompts.attacker import TECHNIQUES
from safer_steer.prompts.base import CHAT, installed
from safer_steer.prompts.tutor import TUTOR, TUTOR_MEMORY, TutorInput, TutorMemoryInput
from safer_steer.run import measuring
from safer_steer.stages import STAGES
from safer_steer.stages.forecast import CallGroup, Pairs, draws, trajectories
from safer_steer.training.tutor_memory import TutorMemory
from seeds_run import write_pairs

SANDBOX = ROOT / "configs" / "sandbox.yaml"
ENDPOINT = {"model": "org/served", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}


def config(pairs: int = 20, **keys: Any) -> Config:
    small: dict[str, Any] = {
        "seeds": {"sources": [{"limit": pairs}], "max_turns": 6},
        "rl": {"prompts_per_step": 4},
        "bench": {"dialogues": 5},
    }
    return Config.model_validate(small | keys)


def guess(settings: Config, **assumed: Any) -> Estimate:
    return estimate(settings, assumptions(settings, **assumed))


def jobs(found: Estimate, stage: str) -> dict[str, int]:
    return {job: round(count.calls) for (_, job), count in found.stages[stage].items()}


# Against what runs really ask


@pytest.mark.parametrize(
    "keys",
    [
        {"assembly": {}, "rl": {"seeds": 10, "prompts_per_step": 2}},
        {"bootstrap": {"sft": {"single_turn": True}}, "limit": 16},
    ],
    ids=["assembly", "single_turn of a few"],
)
def test_it_agrees_with_a_run_and_is_exact_from_its_ledger(keys: dict[str, Any], tmp_path: Path) -> None:
    settings = config(40, bench={"dialogues": 5, "models": ["base"]}, **keys)
    for stage in ("seeds", "assemble", "bootstrap"):
        pipeline.run_stage(stage, settings, tmp_path / "run", Quiet())
    measuring.bench_endpoints(settings, tmp_path / "bench", Quiet(), name="agent")
    ran = Manifest(tmp_path / "run").stages
    found, compared = estimate(settings), set()
    corrected = from_run(found, tmp_path / "run")
    for stage in ("seeds", "assemble", "bootstrap", "bench"):
        paid = ran[stage] if stage in ran else Manifest(tmp_path / "bench").stages[stage]
        for role, account in paid["calls"].items():
            if (stage, role) == ("bench", "target"):
                continue  # there the model under test takes the student's place and is asked for its layout
            count, exact = found.role(stage, role), corrected.role(stage, role)
            assert count.calls == pytest.approx(account["calls"], rel=0.25), (stage, role)
            assert count.text_tokens == pytest.approx(account["prompt_tokens"], rel=0.3), (stage, role)
            if stage in ran:
                assert exact.calls == pytest.approx(account["calls"]), (stage, role)
                assert exact.text_tokens == pytest.approx(account["prompt_tokens"]), (stage, role)
                assert exact.tokens_out == pytest.approx(account["completion_tokens"]), (stage, role)
            compared.add((stage, role))
    assert len(compared) == (8 if "assembly" in keys else 7)


def test_a_first_try_corrects_what_is_assumed(tmp_path: Path) -> None:
    """The assumptions are those for real models; the sandbox's answers are far shorter."""
    wrong = {"turn_tokens": 60, "answer_tokens": 600, "reason_tokens": 90, "success": 0.2}
    whole, small = (config(pairs, student={"max_turn_tokens": 2000}) for pairs in (40, 12))
    for settings, name in ((whole, "whole"), (small, "small")):
        for stage in ("seeds", "bootstrap"):
            pipeline.run_stage(stage, settings, tmp_path / name, Quiet())
    found = guess(whole, **wrong)
    corrected = from_run(found, tmp_path / "small")
    for stage in ("seeds", "bootstrap"):
        for role, account in Manifest(tmp_path / "whole").stages[stage]["calls"].items():
            for figure, paid in (("text_tokens", "prompt_tokens"), ("tokens_out", "completion_tokens")):
                before, after = (getattr(one.role(stage, role), figure) for one in (found, corrected))
                assert abs(after - account[paid]) < abs(before - account[paid]) / 2, (stage, role, figure)
    assert corrected.stages["bench"] == found.stages["bench"], "which the first try has not done"
    manifest = Manifest(tmp_path / "small")
    manifest.stages["bootstrap"]["calls"]["red"] |= {"prompt_tokens": 0, "completion_tokens": 0}
    (tmp_path / "small" / "manifest.json").write_text(json.dumps({"stages": manifest.stages}))
    silent = from_run(found, tmp_path / "small").role("bootstrap", "red")
    assert silent.calls == corrected.role("bootstrap", "red").calls
    before = found.role("bootstrap", "red")
    assert silent.text_tokens / silent.calls == pytest.approx(before.text_tokens / before.calls)
    with pytest.raises(UserError, match="no stage that asks a model is finished"):
        from_run(found, tmp_path)


# What is counted


def test_every_attack_tried_is_counted() -> None:
    """Twenty pairs, half of them with a hazard mark: a script of each kind, and a second attempt for every
    attack that fails."""
    always, never = guess(config(), success=1.0), guess(config(), success=0.0)
    script = {"probe": 20, "benign": 20, "obfuscated": 10}
    assert script.items() <= jobs(always, "seeds").items()
    assert script.items() <= jobs(never, "seeds").items()
    assert [jobs(always, "seeds")[job] for job in ("caption", "rewrite", "plan")] == [10] * 3
    assert [jobs(never, "seeds")[job] for job in ("caption", "rewrite", "plan")] == [10, 20, 20]
    assert always.scripts == {Kind.BENIGN: 20, Kind.OBFUSCATED: 10, Kind.RED_TEAM: 10}
    assert Kind.RED_TEAM not in never.scripts
    judged = [one.role("seeds", "attack_judge").calls for one in (always, never)]
    assert always.role("seeds", "target").calls == judged[0] < judged[1]
    assert guess(config(), success=0.5).scripts[Kind.RED_TEAM] == pytest.approx(7.5)


def test_attacks_for_the_bench_are_planned_once_and_not_tried() -> None:
    keys: dict[str, Any] = {"assembly": {}, "rl": {"seeds": 8, "prompts_per_step": 4}}
    keys["bench"] = {"suites": ["steer"], "dialogues": 5}

    def asked(**seeds: Any) -> dict[str, int]:
        of_bench = {"sources": [{"limit": 20, "use": "bench"}], **seeds}
        return jobs(guess(config(seeds=of_bench, **keys), success=0.0), "seeds")

    plain = asked()
    assert not {"attack_judge", "chat"} & set(plain)
    assert [plain[job] for job in ("caption", "rewrite", "plan")] == [10] * 3
    filtered = asked(filter_bench=True)
    assert filtered["attack_judge"] == filtered["chat"] > 20
    assert filtered["plan"] == 20, "each is planned once more when it fails"


def test_every_row_is_counted(tmp_path: Path) -> None:
    """Nine pairs in ten are safe and have their answer: nothing is asked for those but a benign script."""
    path = write_pairs(tmp_path / "a", {}, *[{"safe": True, "answer": "42"}] * 9)
    sources = [{"name": "mine", "path": str(path)}, {"limit": 100}]
    found = estimate(config(seeds={"sources": sources, "kinds": ["benign", "obfuscated"]}))
    assert found.pairs == 110
    assert jobs(found, "seeds") == {"probe": 101, "benign": 110, "obfuscated": 51}
    assert found.scripts == {Kind.BENIGN: 110, Kind.OBFUSCATED: 51}


def test_limits_of_the_config_bound_the_stages() -> None:
    whole = guess(config(), success=0.5)
    assert sum(whole.scripts.values()) == 20 + 10 + 7.5
    half = guess(config(bootstrap={"dialogues": 19}), success=0.5)
    assert half.role("bootstrap", "red").calls == pytest.approx(
        whole.role("bootstrap", "red").calls / 2, rel=0.05
    )
    assert whole.trajectories == 26 // 4 * 4 * 5, (
        "the drawn are all others, and benign ones up to their share of a quarter"
    )
    steps = estimate(config(rl={"prompts_per_step": 4, "group_size": 3, "steps": 7, "max_turns": 1}))
    assert steps.trajectories == 7 * 4 * 3
    assert steps.role("rl", "tutor").calls == pytest.approx(7 * 4 * 3)
    one = estimate(config(bench={"dialogues": 5, "models": ["base"]}))
    assert whole.role("bench", "judge").calls == pytest.approx(3 * one.role("bench", "judge").calls)
    assert one.dialogues == 20
    assert "Stage III would not start" in estimate(config(4, rl={"prompts_per_step": 64})).notes[0]
    own = estimate(config(rl={"tutor": "mine:Tutor"}))
    assert "rl" not in own.stages
    assert "mine:Tutor" in own.notes[0]


def test_questions_alone_have_one_turn_and_their_share() -> None:
    rl = {"prompts_per_step": 4, "benign_share": 0.2, "single_turn": True}
    found = estimate(config(rl=rl))
    assert (found.longest, found.trajectories) == (1, 12 * 5), (
        "10 risky questions, and 2 safe ones for their share of a fifth"
    )
    assert found.role("rl", "tutor").calls == pytest.approx(found.trajectories)
    assembled = estimate(config(assembly={}, rl={**rl, "seeds": 12}))
    assert 0 < assembled.trajectories < found.trajectories, "those of STEER-RL's pairs"


def test_suites_from_files_are_counted(tmp_path: Path) -> None:
    files = []
    for name, size, turns, kind in (
        ("a", 300, 4, "red_team"),
        ("b", 100, 4, "red_team"),
        ("c", 50, 1, "red_team"),
        ("d", 80, 4, "benign"),
    ):
        seed = {"kind": kind, "turns": [{"user": "what is it?"}] * turns}
        rows = [json.dumps({"id": f"{name}{i}"} | seed) + "\n" for i in range(size)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
        files.append(str(tmp_path / f"{name}.jsonl"))
    found = estimate(config(bench={"suites": files, "models": ["base"]}))
    assert found.dialogues == 530
    assert found.role("bench", "judge").calls == pytest.approx(4 * 480 + 50)
    assert found.role("bench", "judge").images == 0
    bounded = estimate(config(bench={"suites": files, "models": ["base"], "dialogues": 60}))
    assert bounded.dialogues == 30 + 30 + 50 + 60


def test_assembly_shares_the_scripts_out() -> None:
    settings = config(assembly={}, rl={"seeds": 200, "benign_share": 0.25, "prompts_per_step": 64})
    known, _ = read_material(settings, assumptions(settings, keeps=0.8))
    known = replace(known, pairs=[Pairs("train", safe=500, risky=500)])
    sft, rl, used = draws(settings, known)
    assert rl == {True: 50, False: 150}
    assert sft[True] == pytest.approx(1000 * 0.8 * (1 - used)), "the scripts of STEER-RL's pairs are gone"
    assert trajectories(settings, known) == 3 * 64 * 5
    assert trajectories(settings, replace(known, pairs=[Pairs("train", risky=20)])) == 0
    found = estimate(
        config(
            assembly={"bench_dialogues": 7},
            rl={"seeds": 8},
            seeds={"sources": [{"limit": 40, "use": "bench"}]},
            bench={"suites": ["steer"]},
        )
    )
    assert set(found.stages) == {"seeds", "assemble", "bench"}
    assert found.dialogues == 14
    assert jobs(found, "assemble")["script_check"] == round(sum(found.scripts.values()))


def test_pictures_are_counted_by_their_size() -> None:
    assert picture_tokens(84, 84, "Qwen/Qwen2.5-VL-3B-Instruct") == 9
    assert picture_tokens(1120, 840, "hosted") == 40 * 30
    assert picture_tokens(1024, 1024, "Qwen/Qwen3-VL-32B-Instruct") == 32 * 32
    found = estimate(config(4, roles={"blue": ENDPOINT})).role("bootstrap", "blue")
    assert found.image_tokens == 9 * found.images == 9 * found.calls
    assert found.upload_bytes > 4 * found.text_tokens, "the pictures are in it"
    blind = ENDPOINT | {"pictures": "caption"}
    described = estimate(config(4, roles={"blue": blind, "judge": blind}))
    assert [jobs(described, stage)["caption"] for stage in ("bootstrap", "bench")] == [4, 20]
    assert described.role("bootstrap", "blue").images == 0
    assert described.role("bootstrap", "blue").text_tokens > found.text_tokens


def test_the_tutors_memory_is_counted_at_its_longest() -> None:
    """What it adds to a prompt, against a full table rendered by hand."""
    without, with_it = (
        guess(config(rl={"prompts_per_step": 4, "tutor_memory": memory}, roles={"tutor": ENDPOINT}))
        for memory in (False, True)
    )
    less = without.stages["rl"]["tutor", "tutor"]
    more = with_it.stages["rl"]["tutor", "tutor_memory"]
    assert less.calls == more.calls > 0 and less.images == more.images
    memory = TutorMemory(TECHNIQUES, 0)
    memory.learn({name: {f"another category {n}": [99, 50] for n in range(9)} for name in TECHNIQUES})
    plain = TutorInput(history=[], question="q", answer="a", next_template="n")
    full = TutorMemoryInput(**dict(plain), memory=memory.table(), drawn="persona")
    rendered = sum(map(len, TUTOR_MEMORY.render(full))) - sum(map(len, TUTOR.render(plain)))
    added = (more.text_tokens - less.text_tokens) / more.calls
    assert added == pytest.approx(rendered / CHARACTERS, rel=0.03)


def test_a_prompt_has_its_own_length_and_grows_with_the_history() -> None:
    settings = config(4)
    _, material = read_material(settings, assumptions(settings))
    sizes = Sizes(settings, assumptions(settings), material)
    for job in installed():
        one = sizes.count(CallGroup("red", job, 1, turns=4), False)
        assert one.text_tokens > 100 and one.tokens_out > 5, job
    first, later = (sizes.count(CallGroup("judge", "judge", 1, earlier), True) for earlier in (0, 3))
    exchange = '{\n  "user": "",\n  "assistant": ""\n },\n '
    assert later.text_tokens - first.text_tokens == pytest.approx(3 * (11 + 13 + len(exchange) / 4), abs=2)


@pytest.mark.parametrize(
    "keys",
    [
        {"bootstrap": {"blue": "chat"}, "rl": {"tutor": "mine:Tutor"}},
        {
            "assembly": {},
            "rl": {"seeds": 8, "prompts_per_step": 4},
            "bench": {"adaptive": {}, "dialogues": 5},
        },
        {
            "seeds": {"sources": [{"limit": 20}], "kinds": ["benign"]},
            "bench": {"judged": False, "dialogues": 5},
        },
    ],
)
def test_a_stage_forecasts_the_roles_that_it_asks_and_no_other(keys: dict[str, Any]) -> None:
    settings = config(**keys)
    known, _ = read_material(settings, assumptions(settings))
    for name, stage in STAGES.items():
        asked = list(stage.forecast(settings, known))
        assert {one.who for one in asked} - {"student"} == {*stage.asks(settings)}, name
        assert {one.job for one in asked} <= {*stage.prompts, CHAT}, name


def test_answers_stay_within_the_students_turn() -> None:
    student = config(student={"max_turn_tokens": 60}).student
    assert Assumptions(answer_tokens=150).answer_of(student) == 40
    assert Assumptions(answer_tokens=20).answer_of(student) == 20


def test_the_sandbox_has_its_own_defaults_which_an_option_overrides() -> None:
    real = {"generator": ENDPOINT}
    assert assumptions(config(roles=real)) == Assumptions()
    assert assumptions(config()).success == 1 != assumptions(load_config(SANDBOX)).success
    assert assumptions(config(), turn_tokens=20, success=None).turn_tokens == 20


# Money and time


def test_money_time_and_the_limit() -> None:
    roles = {
        "judge": ENDPOINT | {"price_in": 2, "price_out": 10, "concurrency": 4},
        "red": ENDPOINT,
        "blue": ENDPOINT | {"concurrency": 1},
    }
    settings = config(8, roles=roles, spending_limit=0.01)
    found = estimate(settings)
    priced = price(found)
    line = {(line.stage, line.participant): line for line in priced.lines}
    judge = found.role("bench", "judge")
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
        estimate(config(8, roles=roles | dict.fromkeys(("red", "blue"), ENDPOINT | {"concurrency": 999})))
    )
    waited = [line.count for line in wide.lines if line.participant in ("red", "blue")]
    busy = sum(count.calls * 0.5 + count.tokens_out / 40 for count in waited)
    assert wide.seconds["bootstrap"] == pytest.approx(busy / 999), (
        "red and blue wait for each other, and as many dialogues are in play as one of them answers at once"
    )

    again = price(guess(settings, overhead=0.1))
    assert again.money == pytest.approx(1.1 * priced.money)
    slow = price(estimate(config(8, roles={"judge": ENDPOINT | {"requests_per_minute": 10}})))
    assert slow.seconds["bench"] == pytest.approx(6 * judge.calls)
    tutored = estimate(config(8, roles={"tutor": ENDPOINT}))
    reply = tutored.role("rl", "tutor").tokens_out / tutored.role("rl", "tutor").calls / 40 + 0.5
    assert price(tutored).seconds["rl"] == pytest.approx(
        tutored.trajectories / 20 * tutored.longest * reply
    ), "a step waits for its longest trajectory"


def test_numbers_are_rounded_to_what_they_are_worth() -> None:
    numbers = [rounded(value) for value in (0, 0.2, 743, 12_345, 1_234_567, 999_999, 2.34e9)]
    assert numbers == ["0", "1", "740", "12,300", "1.23 M", "1 M", "2.34 G"]
    sums = [money(value) for value in (None, 0.0, 0.001, 0.123, 23.49, 1234.5)]
    assert sums == ["-", "0.00", "< 0.01", "0.12", "23", "1,200"]
    times = [duration(value) for value in (3.14, 100, 150, 7300, 200_000)]
    assert times == ["3.1 s", "100 s", "2.5 min", "2 h", "2.3 d"]


# The command


def cost(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["cost", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    settings = config(12, rl={"prompts_per_step": 4})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    done = cost(tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    firsts = [line.split()[0] for line in done.stdout.splitlines()[1:12] if not line.startswith(" ")]
    assert firsts == ["seeds", "bootstrap", "rl", "bench", "total"]
    assert "Nothing was called" in done.stdout
    answer = json.loads(cost(tmp_path / "c.yaml", "--json", "--success", "1").stdout)
    found = guess(settings, success=1.0)
    assert answer == json.loads(json.dumps(as_dict(found, price(found))))
    assert [stage["stage"] for stage in answer["stages"]] == ["seeds", "bootstrap", "rl", "bench"]
    assert answer["scripts"] == {"benign": 12, "obfuscated": 6, "red_team": 6}


def test_a_config_in_a_run_is_corrected_by_it(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "c.yaml"
    other.write_text(yaml.safe_dump(config(8).model_dump(mode="json")))
    pipeline.run_stage("seeds", config(6), run, Quiet())
    for options in ([run / "config.yaml"], [other, "--from", run]):
        done = cost(*options)
        assert f"From what {run} asked: seeds." in done.stdout.replace("\n", " "), done.output


@pytest.mark.parametrize(
    "section",
    [{"seeds": {"sources": [{"name": "mine", "path": "gone.jsonl"}]}}, {"bench": {"suites": ["gone.jsonl"]}}],
)
def test_what_is_missing_is_named(tmp_path: Path, section: dict[str, Any]) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(section))
    done = cost(tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1 and "gone.jsonl" in done.stderr


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
    command = [sys.executable, "-c", watched]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.strip()) == (0, "loaded")
    assert "org/served" in done.stdout
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["c.yaml", "tmp"]


def test_an_attacker_that_adapts_is_counted_at_its_longest() -> None:
    attackers = ["sandbox-b", "sandbox-c"]
    adaptive = {"at_most": 4, "turns": 3, "take_backs": 1, "tries": 2, "attackers": attackers}
    bench: dict[str, Any] = {"dialogues": 5, "models": ["base", "sft"]}
    without, found = (estimate(config(bench=one)) for one in (bench, bench | {"adaptive": adaptive}))
    moves = 4 * 2 * 2 * 2 * 4
    assert found.role("bench", "attacker").calls == pytest.approx(moves), "one turn is taken back"
    for role in ("judge", "student"):
        more = found.role("bench", role).calls - without.role("bench", role).calls
        assert more == pytest.approx(moves)
    own = estimate(config(bench=bench | {"adaptive": {"own": ["mine:attack"]}}))
    assert "mine:attack" in own.notes[-1] and not own.role("bench", "attacker").calls
