"""Several judges of one bench, over real HTTP: what they come to together and alone, what happens when one
fails, and what a further judge costs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from endpoint_server import fails, says
from safer_steer.bench.judging import joined
from safer_steer.cli import app
from safer_steer.config import Config, JoinedBy
from safer_steer.config.file import load_config
from safer_steer.errors import UserError
from served_bench import Models, bench, line, rows, suite, verdict

SCORES = {"j": 3, "k": 1, "strict": -2}


@pytest.fixture(autouse=True)
def panel(models: Models) -> None:
    models.does |= {name: verdict(score) for name, score in SCORES.items()}


def typed(url: str, mine: Path, *judges: str) -> list[object]:
    options: list[object] = ["--no-check", "--model", "m", "--base-url", url, "--suite", mine]
    return [*options, "--out", mine.parent / "out", *named(url, *judges)]


def named(url: str, *judges: str) -> list[object]:
    every: list[object] = ["--judge-base-url", url]
    for name in judges:
        every += ["--judge-model", name]
    return every


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


@pytest.mark.parametrize(
    ("by", "scores", "harmlessness", "refused"),
    [
        ("majority", [3, 1, -2], 1, 0),
        ("majority", [3, 3, -3], 3, 0),
        ("majority", [3, -1], -1, 1),
        ("majority", [3, 2, 0, -3], 0, 1),
        ("mean", [3, 1, -2], 2 / 3, 0),
        ("mean", [3, -1], 1, 1),
    ],
)
def test_scores_are_joined_and_a_tie_is_the_worse(
    by: JoinedBy, scores: list[float], harmlessness: float, refused: float
) -> None:
    given = [{"harmlessness": score, "refused": float(score < 1)} for score in scores]
    assert joined(given, by) == {"harmlessness": pytest.approx(harmlessness), "refused": refused}


@pytest.mark.slow
@pytest.mark.parametrize(("by", "harmlessness"), [("majority", 1.0), ("mean", 2 / 3)])
def test_every_judge_scores_every_turn_and_stands_beside_the_joined_rate(
    tmp_path: Path, url: str, models: Models, by: str, harmlessness: float
) -> None:
    result = bench(*typed(url, suite(tmp_path, 3, turns=2), *SCORES), "--set", f"bench.verdict={by}")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert models.asked == {"m": 6, "j": 6, "k": 6, "strict": 6}
    for turn in [turn for row in rows(out) for turn in row["turns"]]:
        assert turn["scores"]["harmlessness"] == pytest.approx(harmlessness)
        verdicts = turn["meta"]["verdicts"]
        assert {name: one["scores"]["harmlessness"] for name, one in verdicts.items()} == SCORES
        assert {one["reason"] for one in verdicts.values()} == {"it declines"}
    judges = summary(out)["judges"]
    assert judges["joined_by"] == by
    assert [(two["first"], two["second"]) for two in judges["pairs"]] == [
        ("j", "k"),
        ("j", "strict"),
        ("k", "strict"),
    ]
    safe = {name: one["rates"]["m"]["multi_turn"]["safe"]["value"] for name, one in judges["each"].items()}
    assert safe == {"j": 100, "k": 0, "strict": 0}
    page = (out / "report.html").read_text()
    for place in (result.stdout, page):
        assert "Rates by judge" in place and "Agreement between the judges" in place
    assert re.search(r"Multi-turn Safe +0\.0 \[0, \d+\] +100\.0 \[\d+, 100\] +0\.0", result.stdout)
    assert "j, k, strict" in page
    health = CliRunner().invoke(app, ["health", str(out)]).stdout
    assert "judge[strict]" in health
    calls = json.loads((out / "manifest.json").read_text())["stages"]["bench"]["calls"]
    assert {name: account["calls"] for name, account in calls.items()} == {
        "target": 6,
        **{f"judge[{name}]": 6 for name in SCORES},
    }


@pytest.mark.slow
def test_one_judge_in_a_list_is_the_judge(tmp_path: Path, url: str) -> None:
    role = {"model": "j", "base_url": url}
    assert Config.model_validate({"roles": {"judge": [role]}}) == Config.model_validate(
        {"roles": {"judge": role}}
    )
    assert bench(*typed(url, suite(tmp_path, 1), "j")).exit_code == 0
    assert "judges" not in summary(tmp_path / "out")
    assert "verdicts" not in rows(tmp_path / "out")[0]["turns"][0]["meta"]


@pytest.mark.slow
def test_a_judge_that_fails_leaves_the_turns_to_the_others_and_is_counted(
    tmp_path: Path, url: str, models: Models
) -> None:
    """Its failing is no end of the bench, however long it lasts; it is not asked for ever."""
    models.does["k"] = fails(404, "no model k")
    result = bench(*typed(url, suite(tmp_path, 60), "j", "k"), "--set", "roles.*.concurrency=4")
    assert result.exit_code == 0, result.output
    said = "bench: the judge k gave no scores for 60 of 60 turns"
    assert said in result.stderr and "no model k" in result.stderr
    assert 20 <= models.asked["k"] < 60 and models.asked["j"] == 60
    assert summary(tmp_path / "out")["judges"]["each"]["k"]["unscored"] == 60
    assert summary(tmp_path / "out")["models"]["m"]["single_turn"]["mine"]["unscored"] == 0
    assert "Turns that it gave no scores: j 0 of 60, k 60 of 60." in " ".join(result.stdout.split())


@pytest.mark.slow
def test_a_turn_that_fewer_than_half_scored_is_unscored_and_keeps_what_was_said(
    tmp_path: Path, url: str, models: Models
) -> None:
    models.does |= {"k": says("{}"), "strict": says("I'm sorry, but I can't help with that.")}
    mine = suite(tmp_path, 2)
    said = line(bench(*typed(url, mine, *SCORES)), 3)
    assert "the commonest cause: judges: 1 of 3 judges gave scores; k: unparsable: " in said
    [turn] = rows(tmp_path / "out")[0]["turns"]
    assert turn["scores"] is None
    assert turn["meta"]["verdicts"]["j"]["scores"]["harmlessness"] == 3
    assert turn["meta"]["verdicts"]["strict"]["unscored"].startswith("refused: ")
    models.does["k"], before = verdict(1), models.asked["j"]
    assert bench(*typed(url, mine, *SCORES)).exit_code == 0, "two of three are enough"
    assert models.asked["j"] == before, "it is paid for no second time"


def test_too_many_dead_judges_end_the_bench(tmp_path: Path, url: str, models: Models) -> None:
    models.does |= {"k": fails(404, "no model k"), "strict": fails(404, "no model strict")}
    said = line(bench(*typed(url, suite(tmp_path, 60), *SCORES), "--set", "roles.*.concurrency=4"))
    assert re.match(r"error: bench: the judge (k|strict) at \S+ failed 20 times in a row", said)


@pytest.mark.slow
def test_a_further_judge_costs_its_own_verdicts_alone(tmp_path: Path, url: str, models: Models) -> None:
    out = tmp_path / "out"
    assert bench(*typed(url, suite(tmp_path, 3, turns=2), "j")).exit_code == 0
    said = line(bench(*typed(url, tmp_path / "mine.jsonl", "j", "k")))
    assert "`bench --judge-only` scores its answers with further judges" in said
    both = bench("--no-check", "--judge-only", out, *named(url, "j", "k"))
    assert both.exit_code == 0, both.output
    assert models.asked == {"m": 6, "j": 6, "k": 6}
    three = bench("--no-check", "--judge-only", out, *named(url, *SCORES))
    assert three.exit_code == 0, three.output
    assert models.asked == {"m": 6, "j": 6, "k": 6, "strict": 6}
    for folder, judges in (("j_k", 2), ("j_k_strict", 3)):
        for row in rows(out / "judged" / folder):
            assert all(len(turn["meta"]["verdicts"]) == judges for turn in row["turns"])


@pytest.mark.slow
def test_after_a_kill_no_verdict_is_paid_for_twice(tmp_path: Path, url: str, models: Models) -> None:
    models.does |= {name: verdict_after(name) for name in SCORES}
    arguments = typed(url, suite(tmp_path, 40, turns=2), *SCORES)
    command = [
        sys.executable,
        "-m",
        "safer_steer",
        "bench",
        *map(str, arguments),
        "--set",
        "roles.*.concurrency=2",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while models.asked["strict"] < 15 and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = dict(models.asked)
    assert 15 <= before["strict"] < 80, "it was killed at work"
    assert bench(*arguments).exit_code == 0
    for name in ("m", *SCORES):
        assert models.asked[name] <= 80 + 2, f"{name}: only what was in flight is sent again"
    assert all(len(t["meta"]["verdicts"]) == 3 for row in rows(tmp_path / "out") for t in row["turns"])


def verdict_after(name: str) -> Any:
    scores = {"harmlessness": SCORES[name], "helpfulness": 2, "refused": True, "reason": "it declines"}
    return says(json.dumps(scores), after_s=0.02)


CONFIG = """
roles:
  judge:
  - {{model: j, base_url: "{url}", price_in: 1, price_out: 1}}
  - {{model: k, base_url: "{url}", temperature: 0}}
"""


def test_check_cost_and_the_dry_run_name_each_judge(tmp_path: Path, url: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(url=url))
    for command in (["check"], ["cost"], ["run", "--dry-run", "--out", str(tmp_path / "run")]):
        result = CliRunner().invoke(app, [command[0], str(path), *command[1:]])
        assert result.exit_code == 0, result.output
        names = ("j", "k") if command == ["check"] else ("judge[j]", "judge[k]")
        assert all(name in result.stdout for name in names), result.stdout
    assert load_config(path).models_of("judge")["k"].temperature == 0


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ("{judge: [{model: a}, {modle: b}]}", "roles.judge.1.modle: unknown key; did you mean `model`?"),
        ("{judge: []}", "roles.judge: needs at least 1 entry"),
        ("{judge: [{model: org/a}, {model: org_a}]}", "judge: two models would have one name, org_a"),
        ("{tutor: [{model: a}, {model: b}]}", "tutor cannot be a list; only the judge can"),
        ("{judge: [3]}", "roles.judge.0: must be a section of keys, not 3"),
        ("{judge: [{model: student}, {model: b}]}", "judge cannot be `student`"),
    ],
)
def test_a_list_that_cannot_be_is_refused_in_one_line(tmp_path: Path, roles: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(f"roles: {roles}\n")
    with pytest.raises(UserError, match=re.escape(said)):
        load_config(tmp_path / "config.yaml")
