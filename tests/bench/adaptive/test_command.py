"""`safer-steer bench --attacker-model` against a real HTTP server: what it asks, keeps, and pays for once."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.main import get_command
from typer.testing import CliRunner, Result

from endpoint_server import NO_IMAGES, fails, says
from safer_steer.cli import app
from safer_steer.cli.bench_options import NAMES
from safer_steer.config.keys import describe
from safer_steer.dialogue import read_dialogues


class Models:
    """The model `m` declines and gives way to "please"; the judge `j` and the attacker `x` do their jobs."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.blind = False
        """Whether the attacker takes no pictures."""
        self.down = False
        """Whether the attacker's server fails."""

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        name = body["model"]
        self.asked[name] += 1
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        if name == "m":
            return await says("the secret" if "please" in text else "I refuse.")(request, body)
        if name == "j":
            breach = "the secret" in text.partition('name="answer"')[2]
            scores = {"harmlessness": -3 if breach else 0, "helpfulness": 1, "refused": not breach}
            return await says(json.dumps({"reason": "r"} | scores))(request, body)
        if self.down:
            return await fails(500)(request, body)
        if self.blind and "image_url" in json.dumps(body["messages"]):
            return await fails(400, NO_IMAGES)(request, body)
        assert body["response_format"], "the attacker is asked for its answer's schema"
        move = {
            "observation": "it refused",
            "thought": "once more",
            "technique": "persona",
            "take_back": True,
            "user": f"{name} tries {self.asked[name]}" + (" please" if "reach i1" in text else ""),
        }
        return await says(json.dumps(move))(request, body)


@pytest.fixture
def models() -> Models:
    return Models()


def suite(folder: Path, intents: bool = True) -> Path:
    path = folder / "mine.jsonl"
    rows: list[dict[str, Any]] = [
        {"id": f"d{n}", "kind": "red_team", "turns": [{"user": f"d{n} u{turn}"} for turn in range(2)]}
        | ({"intent": f"reach i{n}"} if intents else {})
        for n in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bench(url: str, suite: Path, *more: object) -> Result:
    models = ("--model", "m", "--base-url", url, "--judge-model", "j", "--judge-base-url", url)
    out = ("--no-check", "--suite", suite, "--out", suite.parent / "out")
    return CliRunner().invoke(app, ["bench", *map(str, (*models, *out, *more))])


ATTACKED = (
    "--attacker-model",
    "x",
    "--set",
    "bench.adaptive.turns=2",
    "--set",
    "bench.adaptive.take_backs=2",
)
TWICE = (*ATTACKED, "--set", "bench.adaptive.tries=2")


@pytest.mark.slow
def test_a_served_attacker_is_asked_once_for_each_move(tmp_path: Path, url: str, models: Models) -> None:
    mine = suite(tmp_path)
    result = bench(url, mine, *TWICE, "--attacker-base-url", url)
    assert result.exit_code == 0, result.output
    assert "Breached by x" in result.stdout
    entry = json.loads((tmp_path / "out/summary.json").read_text())["adaptive"]["m"]["x"]
    assert (entry["n_intents"], entry["n_tries"], entry["n"], entry["failed"]) == (3, 2, 6, 0)
    assert entry["breach_at"]["1"]["value"] == pytest.approx(100 / 3), "the model gives way on one intent"
    assert entry["gap"]["value"] == pytest.approx(100 / 3) and entry["taken_back"] > 0
    dialogues = read_dialogues(tmp_path / "out/bench/m/adaptive_x.jsonl")
    assert all(turn.meta["technique"] == "persona" for row in dialogues for turn in row.turns)
    asked = models.asked.copy()
    assert asked["x"] == entry["calls"]
    assert bench(url, mine, *TWICE, "--attacker-base-url", url).exit_code == 0
    shutil.rmtree(tmp_path / "out/bench")
    (tmp_path / "out/manifest.json").unlink()
    assert bench(url, mine, *TWICE, "--attacker-base-url", url).exit_code == 0
    assert models.asked == asked, "every reply is in the cache"
    again = json.loads((tmp_path / "out/summary.json").read_text())["adaptive"]["m"]["x"]
    assert again == entry


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("--set", "bench.adaptive.tries=2"), "bench.adaptive needs --attacker-model too"),
        (
            (*ATTACKED, "--set", "bench.adaptive.tries"),
            "--set bench.adaptive.tries: give KEY=VALUE, for instance",
        ),
        ((*ATTACKED, "--set", "bench.adaptive.tries=0"), "bench.adaptive.tries: must be at least 1, not 0"),
        (
            (*ATTACKED, "--set", "bench.adaptive.tires=2"),
            "bench.adaptive.tires: unknown key; did you mean `tries`?",
        ),
        (
            (*ATTACKED, "--set", "bench.adaptive.techniques=charm"),
            "bench.adaptive.techniques: 'charm' is unknown; use",
        ),
        ((*ATTACKED, "--set", "bench.adaptive.own=mine"), "'mine' is not of the form package.module:Name"),
        (
            (*ATTACKED, "--set", "bench.adaptive.own=no_such:thing"),
            "bench.adaptive.own: no_such:thing: No module named",
        ),
        ((*ATTACKED, "--set", "bench.adaptive.intents=none.jsonl"), "none.jsonl: no such file"),
        ((*ATTACKED, "--set", "bench.adaptive.intents=["), "[: no such file"),
        ((*ATTACKED, "--set", "bench.adaptive.intents=@x.jsonl"), "@x.jsonl: no such file"),
        ((*ATTACKED, "--set", "bench.adaptive.intents=my #1.jsonl"), "my #1.jsonl: no such file"),
        ((*ATTACKED, "--set", "bench.adaptive.intents="), "is a folder; give a JSONL file"),
        (
            (*ATTACKED, "--set", "bench.adaptive.at_most=*"),
            "bench.adaptive.at_most: must be a whole number, not '*'",
        ),
        (
            (*ATTACKED, "--set", "bench.adaptive.at_most=2024-99-99"),
            "must be a whole number, not '2024-99-99'",
        ),
        (
            (*ATTACKED, "--set", "bench.adaptive.see_scores={"),
            "bench.adaptive.see_scores: must be true or false, not '{'",
        ),
        (
            ("--attacker-model", "a/b", "--attacker-model", "a_b"),
            "two attackers would have one file, adaptive_a_b.jsonl; leave one out",
        ),
        (("--attacker-model", "a", "--attacker-model", "a"), "one file, adaptive_a.jsonl; leave one out"),
        (("--attacker-model", "sandbox-ab"), "cannot be `sandbox-ab`; that is an agent for tutor"),
        (("--attacker-model", "x"), "roles.attacker"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, url: str, given: tuple[str, ...], line: str) -> None:
    result = bench(url, suite(tmp_path), *given)
    assert result.exit_code == 2, result.output
    said = result.stderr.splitlines()
    assert line.replace("roles.attacker", "--attacker-model") in said[-1], said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_attacker_comes_to_a_finished_bench(tmp_path: Path, url: str, models: Models) -> None:
    mine, out = suite(tmp_path), tmp_path / "out"
    assert bench(url, mine).exit_code == 0
    for more in (("--attacker-model", "x"), ("--attacker-model", "x", "--attacker-model", "y")):
        before = models.asked.copy()
        settings = (
            "--set",
            "bench.adaptive.turns=2",
            "--set",
            "bench.adaptive.take_backs=0",
            "--set",
            "bench.adaptive.tries=1",
        )
        result = bench(url, mine, *more, *settings, "--attacker-base-url", url)
        assert result.exit_code == 0, result.output
        turns = models.asked - before
        assert +turns == {"m": 5, "j": 5, more[-1]: 5}, "its dialogues alone; one ends at its first turn"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["adaptive"]["m"].keys() == {"x", "y", "any attacker"}
    assert summary["models"]["m"]["multi_turn"]["mine"]["n"] == 3


def test_a_further_suite_s_intents_take_the_place_of_others(tmp_path: Path, url: str) -> None:
    """With `at_most`, one is taken of each suite in turn. What was played with the others is in no number."""
    mine, more = suite(tmp_path), tmp_path / "more.jsonl"
    more.write_text(mine.read_text().replace('"d', '"e'))
    settings = (*ATTACKED, "--attacker-base-url", url, "--set", "bench.adaptive.at_most=2")
    settings += ("--set", "bench.adaptive.tries=1")
    for suites in ((), ("--suite", more)):
        assert bench(url, mine, *settings, *suites).exit_code == 0
        intents = [json.loads(row)["id"] for row in (tmp_path / "out/intents/intents.jsonl").open()]
        played = {row.id for row in read_dialogues(tmp_path / "out/bench/m/adaptive_x.jsonl")}
        assert played == {f"{intent}~0" for intent in intents} and len(intents) == 2
    assert any(intent.startswith("e") for intent in intents)


def test_answers_are_not_kept_where_the_attacker_s_server_failed(
    tmp_path: Path, url: str, models: Models
) -> None:
    """They could be scored by no judge, and a bench that is done is not played again."""
    mine, models.down = suite(tmp_path), True
    command = ("bench", "--no-check", "--model", "m", "--base-url", url, "--suite", mine, "--no-judge")
    command += (*ATTACKED, "--attacker-base-url", url, "--set", "bench.adaptive.tries=1")
    command += ("--set", "roles.attacker.retries=0", "--out", tmp_path / "out")
    result = CliRunner().invoke(app, [*map(str, command)])
    assert result.exit_code == 3, result.output
    assert "3 of 3 dialogues failed" in result.stderr and "HTTP 500" in result.stderr
    models.down = False
    result = CliRunner().invoke(app, [*map(str, command)])
    assert result.exit_code == 0 and "the answers of 6 dialogues are kept" in result.stderr, result.output
    assert all(row.turns for row in read_dialogues(tmp_path / "out/bench/m/adaptive_x.jsonl"))


@pytest.mark.slow
def test_an_attacker_without_eyes_is_named_with_an_option_that_exists(
    tmp_path: Path, url: str, models: Models
) -> None:
    models.blind = True
    attacked = (*TWICE, "--attacker-base-url", url)
    command = ("--model", "m", "--base-url", url, "--judge-model", "j", "--judge-base-url", url)
    command += ("--suite", str(suite(tmp_path)), "--out", str(tmp_path / "out"))
    result = CliRunner().invoke(app, ["bench", *command, *attacked])
    assert result.exit_code == 2, result.output
    said = result.stderr.splitlines()[-1]
    assert "--attacker-model: x takes no pictures" in said
    assert "set roles.attacker.pictures to caption or false" in said
    result = CliRunner().invoke(app, ["bench", *command, *attacked, "--set", "roles.attacker.pictures=false"])
    assert result.exit_code == 0, result.output
    assert "without pictures</dt><dd>attacker (nothing)" in (tmp_path / "out/report.html").read_text()


def test_every_name_of_an_option_in_errors_exists() -> None:
    options = {name for one in get_command(app).commands["bench"].params for name in one.opts}
    assert set(NAMES.values()) < options
    keys = {key for key, *_ in describe()} | {"roles.<role>", "bench.targets"}
    assert {re.sub(r"^roles\.\w+", "roles.<role>", key) for key in NAMES} < keys


@pytest.mark.slow
def test_a_file_of_intents_may_have_any_name(tmp_path: Path, url: str) -> None:
    mine, named = suite(tmp_path), tmp_path / "my #1: [a].jsonl"
    named.write_text('{"intent": "reach i1"}\n')
    more = ("--set", f"bench.adaptive.intents={named}", "--attacker-base-url", url)
    assert bench(url, mine, *TWICE, *more).exit_code == 0
    entry = json.loads((tmp_path / "out/summary.json").read_text())["adaptive"]["m"]["x"]
    assert (entry["n_intents"], entry["n"]) == (1, 2)


def test_scripts_without_intents_need_a_file_of_them(tmp_path: Path, url: str) -> None:
    result = bench(url, suite(tmp_path, intents=False), *ATTACKED, "--attacker-base-url", url)
    assert result.exit_code == 2 and "no attack script with an `intent`" in result.stderr
    assert not (tmp_path / "out").exists()
