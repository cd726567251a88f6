"""`safer-steer bench` against a real HTTP server: how many calls it makes at once, what ends it, and what is
kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from PIL import Image
from typer.testing import CliRunner, Result

from endpoint_server import EndpointServer, fails, says
from safer_steer.bench.answers import COUNTED
from safer_steer.bench.protocol import read as read_protocol
from safer_steer.bench.results import Summary
from safer_steer.cli import app
from safer_steer.config.file import config_in
from safer_steer.files.manifest import Manifest
from safer_steer.workers import PATIENCE
from served_bench import Models, bench, line, rows, suite, verdict
from threads import serving


def measured(url: str, suite: Path, *more: object, model: str = "m", judge: str = "j") -> Result:
    """A bench of `model` by `judge`, its run folder `out` beside the suite. Models are not checked before it:
    what ends a bench that has begun is seen here."""
    return bench(
        "--no-check",
        *("--model", model, "--base-url", url, "--suite", suite, "--out", suite.parent / "out"),
        *("--judge-model", judge, "--judge-base-url", url, *more),
    )


@pytest.mark.slow
def test_a_concurrency_above_64_reaches_the_model(tmp_path: Path, url: str, models: Models) -> None:
    models.does["m"] = says("No.", after_s=0.3)
    result = measured(url, suite(tmp_path, 120), "--set", "roles.*.concurrency=100")
    assert result.exit_code == 0, result.output
    assert models.most["m"] == 100


@pytest.mark.slow
def test_a_judge_that_is_not_there_ends_it_and_no_answer_is_paid_for_twice(
    tmp_path: Path, url: str, models: Models
) -> None:
    judge = models.does.pop("j")
    mine = suite(tmp_path, 60, turns=2)
    said = line(measured(url, mine, "--set", "roles.*.concurrency=4"))
    assert said.startswith(f"error: bench: the judge j at {url} failed {PATIENCE} times in a row, the last: ")
    assert "HTTP 404: no model j" in said and "run the same command" in said
    assert models.asked["j"] <= 2 * PATIENCE
    assert models.asked["m"] < 60, "it did not play the whole suite"
    models.does["j"] = judge
    assert measured(url, mine, "--set", "roles.*.concurrency=4").exit_code == 0
    assert models.asked["m"] == 120
    assert all(turn["scores"] for row in rows(tmp_path / "out") for turn in row["turns"])


@pytest.mark.slow
def test_a_model_that_is_not_there_ends_it(tmp_path: Path, url: str, models: Models) -> None:
    model = models.does.pop("m")
    said = line(measured(url, suite(tmp_path, 60)))
    assert said.startswith(f"error: bench: the model m at {url} failed {PATIENCE} times in a row")
    assert "HTTP 404: no model m" in said
    models.does["m"] = model
    assert measured(url, tmp_path / "mine.jsonl").exit_code == 0
    assert len(rows(tmp_path / "out")) == 60


@pytest.mark.slow
def test_a_judge_that_never_gives_a_verdict_is_asked_again_after_it_ended_the_bench(
    tmp_path: Path, url: str, models: Models
) -> None:
    judge, models.does["j"] = models.does["j"], says("{}")
    assert "failed 20 times in a row, the last: unparsable: " in line(measured(url, suite(tmp_path, 30)))
    models.does["j"] = judge
    assert measured(url, tmp_path / "mine.jsonl").exit_code == 0


@pytest.mark.slow
def test_where_there_is_no_result_the_commonest_error_is_named(
    tmp_path: Path, url: str, models: Models
) -> None:
    del models.does["j"]
    said = line(measured(url, suite(tmp_path, 5)), exit_code=3)
    assert "100.0% of a model's dialogues have no scores" in said
    assert "the commonest cause: endpoint: " in said and "HTTP 404: no model j" in said


def test_a_silent_server_is_given_up_after_the_timeout(tmp_path: Path, url: str, models: Models) -> None:
    answers = models.does["m"]

    async def silent_at_first(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        models.does["m"] = answers
        await asyncio.sleep(60)
        return web.Response()

    models.does["m"] = silent_at_first
    assert measured(url, suite(tmp_path, 1), "--set", "roles.*.timeout_s=0.2").exit_code == 0
    assert models.asked["m"] == 2


@pytest.mark.slow
def test_answers_are_kept_and_judged_later_by_as_many_judges_as_one_likes(
    tmp_path: Path, url: str, models: Models
) -> None:
    mine, out = suite(tmp_path, 3, turns=2), tmp_path / "out"
    kept = bench(
        *("--model", "m", "--base-url", url, "--suite", mine, "--out", out, "--no-judge", "--no-check"),
    )
    assert kept.exit_code == 0, kept.output
    assert f"score them with `safer-steer bench --judge-only {out} --judge-model" in kept.stderr
    assert models.asked == {"m": 6}
    assert not Summary.read(out / "summary.json").scored
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    models.does |= {"strict/j": verdict(0)}
    for judge, safe in (("j", 100), ("strict/j", 0)):
        result = bench("--judge-only", out, "--judge-model", judge, "--judge-base-url", url, "--no-check")
        assert result.exit_code == 0, result.output
        folder = out / "judged" / judge.replace("/", "_")
        assert f"report: {folder / 'report.html'}" in result.stdout
        entry = json.loads((folder / "summary.json").read_text())["models"]["m"]["multi_turn"]["mine"]
        assert (entry["n"], entry["safe"]["value"]) == (3, safe)
        answers = {row["id"]: [turn["assistant"] for turn in row["turns"]] for row in rows(folder)}
        assert answers == {row["id"]: [turn["assistant"] for turn in row["turns"]] for row in rows(out)}
    assert models.asked == {"m": 6, "j": 6, "strict/j": 6}, "the model is asked no second time"
    assert before == {path: path.read_bytes() for path in before}
    again = bench("--judge-only", out, "--judge-model", "j", "--judge-base-url", url)
    assert "bench: done already" in again.stderr


@pytest.mark.slow
def test_exported_answers_are_judged_anew_whatever_lies_in_their_folder(
    tmp_path: Path, url: str, models: Models
) -> None:
    """Their author may have put verdicts of that judge, finished results and code into it."""
    mine, run, answers = suite(tmp_path, 3, turns=2), tmp_path / "run", tmp_path / "answers"
    judging = ("--judge-model", "j", "--judge-base-url", url, "--no-check")
    assert bench("--model", "m", "--base-url", url, "--suite", mine, "--out", run, *judging).exit_code == 0
    exported = CliRunner().invoke(app, ["export", str(run), "--answers", "--to", str(answers)])
    assert exported.exit_code == 0, exported.output
    shutil.copyfile(run / "cache.sqlite", answers / "cache.sqlite")
    shutil.copytree(run, answers / "judged" / "j")
    config = yaml.safe_load((answers / "config.yaml").read_text())
    config |= {"rl": {"rollouts": {"engine": "planted:make"}}}
    (answers / "config.yaml").write_text(yaml.safe_dump(config))
    (answers / "planted.py").write_text("open('ran', 'w')")
    manifest = Manifest(answers)
    manifest.record("answers", tuple(manifest.stages["answers"]["outputs"]), (), {})
    models.does["j"] = verdict(0)
    with contextlib.chdir(answers):
        result = bench("--judge-only", ".", *judging)
    assert result.exit_code == 0, result.output
    entry = json.loads((tmp_path / "answers-judged/j/summary.json").read_text())["models"]["m"]
    assert entry["multi_turn"]["mine"]["safe"]["value"] == 0
    assert not (answers / "ran").exists() and models.asked == {"m": 6, "j": 12}


def test_an_export_says_how_models_were_asked_though_the_config_changed_since(
    tmp_path: Path, url: str
) -> None:
    mine, run, answers = suite(tmp_path, 3), tmp_path / "run", tmp_path / "answers"
    models = ("--no-check", "--model", "m", "--base-url", url, "--judge-model", "j", "--judge-base-url", url)
    begun = (*models, "--suite", mine, "--out", run, "--set", "roles.judge.max_tokens=99")
    assert bench(*begun).exit_code == 0
    later = ("--set", "roles.judge.max_tokens=77", "--set", "roles.target.max_tokens=55")
    assert "done already" in bench(*begun, *later).stderr
    CliRunner().invoke(app, ["export", str(run), "--answers", "--to", str(answers)])
    roles, held = config_in(answers).roles, read_protocol(answers / "protocol.yaml")
    [judge] = held.judges
    assert roles["judge"].max_tokens == judge.max_tokens == 99
    assert roles["target"].max_tokens == held.answers.max_tokens == 2048


@pytest.mark.slow
def test_exported_answers_that_were_changed_are_judged_only_if_that_is_wanted(
    tmp_path: Path, url: str, models: Models
) -> None:
    first, second = suite(tmp_path, 3, turns=2).rename(tmp_path / "z.jsonl"), suite(tmp_path, 2, turns=2)
    run, answers, judging = (
        tmp_path / "run",
        tmp_path / "answers",
        ("--judge-model", "j", "--judge-base-url", url),
    )
    begun = ("--no-check", "--model", "m", "--base-url", url, "--suite", first, "--suite", second, *judging)
    assert bench(*begun, "--out", run).exit_code == 0
    CliRunner().invoke(app, ["export", str(run), "--answers", "--to", str(answers)])
    journal = answers / "bench/m/z.jsonl"
    journal.write_text(journal.read_text().replace("No, I will not.", "Another answer.", 1))
    (answers / "summary.json").unlink()
    again = ("--no-check", "--judge-only", answers, *judging)
    said = line(bench(*again))
    assert f"{answers}: bench/m/z.jsonl: changed since `answers` finished, and 1 more; undo that, or" in said
    assert "delete manifest.json there to judge what there is now" in said and models.asked["j"] == 6
    (answers / "manifest.json").unlink()
    assert bench(*again).exit_code == 0
    suites = Summary.read(tmp_path / "answers-judged/j/summary.json").suites("m", "multi_turn")
    assert [*suites] == ["z", "mine"], "the order that intervals depend on, which the summary had"


@pytest.mark.slow
@pytest.mark.parametrize("manifest", ["none", "forged"])
def test_verdicts_in_a_folder_without_a_manifest_do_not_count_and_others_are_named(
    tmp_path: Path, url: str, models: Models, manifest: str
) -> None:
    run, got, judging = tmp_path / "run", tmp_path / "got", ("--judge-model", "j", "--judge-base-url", url)
    begun = ("--no-check", "--model", "m", "--base-url", url, "--suite", suite(tmp_path, 3), *judging)
    assert bench(*begun, "--out", run).exit_code == 0
    CliRunner().invoke(app, ["export", str(run), "--answers", "--to", str(got)])
    shutil.copyfile(run / "cache.sqlite", got / "cache.sqlite")
    written = (got / "manifest.json").read_text()
    (got / "manifest.json").write_text(written.replace('"answers":', '"bench":'))
    if manifest == "none":
        (got / "manifest.json").unlink()
    models.does["j"] = verdict(0)
    done = bench("--no-check", "--judge-only", got, *judging)
    assert done.exit_code == 0
    named = f"judge: verdicts in {got}/cache.sqlite count; if that folder is not yours, move the file away"
    assert (named in " ".join(done.stderr.split())) is (manifest == "forged")
    assert models.asked["j"] == (3 if manifest == "forged" else 6)
    assert (tmp_path / "got-judged/j").is_dir() is (manifest == "none")


@pytest.mark.slow
def test_the_report_of_answers_that_were_judged_later_shows_the_scores(
    tmp_path: Path, url: str, models: Models
) -> None:
    models.does["strict"] = verdict(0)
    mine, out = suite(tmp_path, 3, turns=2), tmp_path / "out"
    bench(*("--model", "m", "--base-url", url, "--suite", mine, "--out", out, "--no-judge", "--no-check"))
    page = (out / "report.html").read_text()
    assert "Nothing is measured yet" in page and "Answers by rule" in page
    for judge, heads in (("j", ["m"]), ("strict", ["m", "m", "Differ&shy;ence"])):
        judged = bench("--judge-only", out, "--judge-model", judge, "--judge-base-url", url, "--no-check")
        assert judged.exit_code == 0, judged.output
        result = CliRunner().invoke(app, ["report", str(out)])
        assert result.stdout == f"report: {out / 'report.html'}\n"
        page = (out / "report.html").read_text()
        assert "Nothing is measured yet" not in page
        [head] = re.findall(r'<table class="headline">\s*<thead>(.*?)</thead>', page)
        assert re.findall(r"(?:</small>|\"col\">)([^<]+)</th>", head) == heads
    assert "<small>j</small>m" in page and "<small>strict</small>m" in page, (
        "a run of the page for each judge"
    )
    assert '"file":"judged/j/bench/m/mine.jsonl"' in page


@pytest.mark.slow
def test_what_is_seen_of_answers_without_a_judge(tmp_path: Path, url: str, models: Models) -> None:
    """Three dialogues of two turns: all refused barely, all answered, none said anything."""
    models.does |= {"n": says("It is a lamp."), "o": says(" ")}
    asked = [*("--model", "m"), *("--model", "n"), *("--model", "o"), "--no-judge", "--no-check"]
    mine, out = suite(tmp_path, 3, turns=2), tmp_path / "out"
    result = bench(*asked, "--base-url", url, "--suite", mine, "--out", out)
    assert result.exit_code == 0, result.output
    found = {
        model: protocols["multi_turn"].suites["mine"]
        for model, protocols in Summary.read(out / "summary.json").models.items()
    }
    wanted = {"m": (100, 6, 0, 6, 15), "n": (0, 0, 0, 6, 13), "o": (0, 0, 6, 0, 0)}
    for model, entry in found.items():
        seen = entry.by_rule
        assert seen and seen.lengths and entry.safe.value is None and entry.unscored == entry.n == 3
        counts = seen.refused.value, seen.bare, entry.empty, entry.identical, seen.lengths.median
        assert counts == wanted[model], model
    page, said = (out / "report.html").read_text(), " ".join(result.stdout.split())
    refused = found["m"].by_rule and str(found["m"].by_rule.refused)
    assert f"mine multi-turn m {refused} 6 6 0 0 6 0 0 0 15 (15–15)" in said
    assert f"<td>{refused}</td>" in page and "15 (15–15)" in page


@pytest.mark.slow
def test_judging_takes_all_answers_of_a_bench_that_had_a_limit(tmp_path: Path, url: str) -> None:
    mine, out = suite(tmp_path, 4, turns=2), tmp_path / "out"
    kept = bench(
        *("--model", "m", "--base-url", url, "--suite", mine, "--suite", "sandbox", "--out", out),
        *("--no-judge", "--no-check", "--limit", 3),
    )
    assert kept.exit_code == 0, kept.output
    result = bench("--judge-only", out, "--judge-model", "j", "--judge-base-url", url, "--no-check")
    assert result.exit_code == 0, result.output
    found = json.loads((out / "judged" / "j" / "summary.json").read_text())["models"]["m"]
    judged = {name: entry["n"] for suites in found.values() for name, entry in suites.items()}
    for journal in out.glob("bench/*/*.jsonl"):
        name = journal.stem.removeprefix("single_turn_")
        assert judged[name] == len(journal.read_text().splitlines()), name
    assert judged["mine"] == 3


@pytest.mark.slow
def test_an_answer_torn_by_a_kill_is_judged_as_not_played(tmp_path: Path, url: str, models: Models) -> None:
    mine, out = suite(tmp_path, 3), tmp_path / "out"
    bench(*("--model", "m", "--base-url", url, "--suite", mine, "--out", out, "--no-judge", "--no-check"))
    [journal] = out.glob("bench/*/*.jsonl")
    journal.write_bytes(journal.read_bytes()[:-20])
    torn = journal.read_bytes()
    result = bench("--judge-only", out, "--judge-model", "j", "--judge-base-url", url, "--no-check")
    assert "not played to its end; run that bench again first" in line(result, 3)
    assert journal.read_bytes() == torn
    assert models.asked == {"m": 3, "j": 2}


@pytest.mark.slow
def test_after_a_fresh_start_the_new_answers_are_judged(tmp_path: Path, url: str) -> None:
    out = tmp_path / "out"
    for dialogues, fresh in ((1, ()), (3, ("--fresh",))):
        mine = suite(tmp_path, dialogues)
        kept = bench(
            *("--model", "m", "--base-url", url, "--suite", mine, "--out", out, "--no-judge", "--no-check"),
            *fresh,
        )
        assert kept.exit_code == 0, kept.output
        result = bench("--judge-only", out, "--judge-model", "j", "--judge-base-url", url, "--no-check")
        assert result.exit_code == 0, result.output
        found = json.loads((out / "judged" / "j" / "summary.json").read_text())["models"]["m"]
        assert found["single_turn"]["mine"]["n"] == dialogues


@pytest.mark.slow
def test_answers_that_changed_after_they_were_judged_are_judged_again_and_the_others_are_not(
    tmp_path: Path, url: str, models: Models
) -> None:
    """One had failed and was mended by the same command; one was answered anew."""
    mine, out = suite(tmp_path, 3, turns=2), tmp_path / "out"
    fine, broken = models.does["m"], fails(500)

    async def at_first(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (broken if "d0" in json.dumps(body["messages"]) else fine)(request, body)

    models.does["m"] = at_first
    for _ in range(2):
        bench(*("--model", "m", "--base-url", url, "--suite", mine, "--out", out, "--no-judge", "--no-check"))
        judging = ("--judge-only", out, "--judge-model", "j", "--judge-base-url", url, "--no-check")
        bench(*judging)
        models.does["m"] = fine
    [entry] = Summary.read(out / "judged/j/summary.json").suites("m", "multi_turn").values()
    assert (entry.n, entry.failed, models.asked["j"]) == (3, 0, 6)
    [journal] = out.glob("bench/*/*.jsonl")
    journal.write_text(journal.read_text().replace("No, I will not.", "Another answer.", 1))
    assert "bench: done already" not in bench(*judging).stderr
    said = {row["id"]: row["turns"][0]["assistant"] for row in rows(out / "judged/j")}
    assert sorted(said.values()) == ["Another answer.", "No, I will not.", "No, I will not."]
    assert models.asked["j"] == 6 + 2 and "bench: done already" in bench(*judging).stderr


def test_an_option_without_effect_is_refused(tmp_path: Path) -> None:
    """Else the numbers would be those of another suite or judge than the one that was named."""
    (tmp_path / "config.yaml").write_text("name: x\n")
    for typed in (("--suite", "x.jsonl"), ("--judge-model", "j")):
        said = line(bench(tmp_path / "config.yaml", "--out", tmp_path / "run", *typed))
        assert f"{typed[0]} has no effect with CONFIG; use --set or change the config" in said
    for typed in (("--suite", "x.jsonl"), ("--limit", 3), ("--set", "bench.dialogues=3")):
        said = line(bench("--judge-only", tmp_path, "--judge-model", "j", *typed))
        assert f"{typed[0]} " in said and "has no effect with --judge-only; it is as in the bench" in said
    said = line(bench("--judge-only", tmp_path, "--judge-model", "j", "--set", "roles.*.temperature=0"))
    assert "--set roles.*.temperature has no effect with --judge-only" in said, (
        "the answers' would be another"
    )
    for key in ("spending_limit=5", "bench.max_unscored=0.5", "roles.judge.temperature=0"):
        said = line(bench("--judge-only", tmp_path, "--judge-model", "j", "--set", key))
        assert "no suites in it" in said, "judging goes by it"
    served = (
        "--model",
        "m",
        "--base-url",
        "http://x/v1",
        "--suite",
        "s",
        "--judge-model",
        "j",
        "--out",
        tmp_path / "o",
    )
    for key, what in {
        "rl.steps=5": "has no effect with --model; nothing is trained",
        "roles.target={temperature: 0}": "roles.target is a section of the config; write roles",
        "bench.judged=maybe": "bench.judged: must be true or false",
    }.items():
        assert what in line(bench(*served, "--set", key))
    said = line(bench(*served, "--model", "n", "--set", "roles.target.api_key_env=K"))
    assert "--set roles.target.api_key_env is of one model; give --api-key-env" in said


def test_judging_wants_a_run_with_answers_and_a_judge(tmp_path: Path) -> None:
    assert "--judge-only needs --judge-model too" in line(bench("--judge-only", tmp_path))
    said = line(bench("--judge-only", tmp_path, "--judge-model", "j"))
    assert "no run in it (no config.yaml); give the folder of an earlier `safer-steer bench --out`" in said


@pytest.mark.slow
@pytest.mark.parametrize("model", ["..", ".", "a/" + 3 * "very-long-" + 400 * "ß", "../../x"])
def test_any_name_of_a_model_gives_a_folder_of_the_run(
    tmp_path: Path, url: str, models: Models, model: str
) -> None:
    models.does[model] = says("No.")
    assert measured(url, suite(tmp_path, 1), model=model).exit_code == 0
    [journal] = tmp_path.rglob("bench/**/*.jsonl")
    assert journal.parent.parent == tmp_path / "out" / "bench"


def test_another_setting_is_named_as_it_was_typed(tmp_path: Path, url: str) -> None:
    mine = suite(tmp_path, 1)
    assert measured(url, mine, "--set", "name=Mine").exit_code == 0
    assert "name: Mine" in (tmp_path / "out/config.yaml").read_text()
    assert "differs in --model (m there, n here)" in line(measured(url, mine, model="n"))
    assert "differs in --judge-model (j there, k here)" in line(measured(url, mine, judge="k"))
    assert "differs in roles.judge.pictures (true there, false here)" in line(
        measured(url, mine, "--set", "roles.judge.pictures=false")
    )
    assert "differs in student.max_pixels (1048576 there, 5000 here)" in line(
        measured(url, mine, "--set", "student.max_pixels=5000")
    )


@pytest.mark.slow
def test_a_suite_or_questions_edited_after_the_bench_are_named(
    tmp_path: Path, url: str, models: Models
) -> None:
    mine, facts = suite(tmp_path, 3), question_set(tmp_path, 4)
    models.does["m"] = says("A")
    assert measured(url, mine, "--set", f"bench.capability={facts}").exit_code == 0
    before = Counter(models.asked)
    for path, old, new, row in (
        (mine, "d1 u0", "d1 u1", "line 2 (d1)"),
        (facts, "q03?", "q04?", "line 4 (q03)"),
    ):
        whole = path.read_text()
        path.write_text(whole.replace(old, new))
        said = line(measured(url, mine, "--set", f"bench.capability={facts}"))
        assert (
            f"{tmp_path / 'out'}: {path} changed since `bench` read it: {row} differs; restore it, or" in said
        )
        verified = CliRunner().invoke(app, ["verify", str(tmp_path / "out")])
        assert verified.exit_code == 1
        assert verified.stdout == f"{path}: changed since `bench` read it: {row} differs\n"
        path.write_text(whole)
        assert "bench: done already" in measured(url, mine, "--set", f"bench.capability={facts}").stderr
    assert models.asked == before


def test_a_script_of_more_than_ten_turns_is_refused_by_its_line(tmp_path: Path, url: str) -> None:
    mine = suite(tmp_path, 2, turns=10)
    long = {"id": "long", "kind": "red_team", "turns": [{"user": f"u{turn}"} for turn in range(11)]}
    mine.write_text(mine.read_text() + "\n" + json.dumps(long) + "\n")
    said = line(measured(url, mine))
    assert said.startswith(f"error: {mine}:4: long has 11 turns, and a script may have 10")
    assert not (tmp_path / "out").exists()


def test_answers_that_the_token_limit_cut_off_are_counted(tmp_path: Path, url: str, models: Models) -> None:
    whole, cut = says("No, I will not."), says("No, I", finish="length")

    async def sometimes_cut(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (cut if body["messages"][-1]["content"][0]["text"] < "d2" else whole)(request, body)

    models.does["m"] = sometimes_cut
    result = measured(url, suite(tmp_path, 5))
    assert "bench: 2 of 5 answers were cut off at the token limit" in result.stderr
    assert "raise roles.target.max_tokens" in result.stderr
    assert re.search(r"Answers cut off +2 of 5 +\n", result.stdout)
    health = CliRunner().invoke(app, ["health", str(tmp_path / "out")]).stdout
    assert re.search(r"m +bench +5 +2 +40\.0 ", health), health


def test_answers_without_words_of_their_own_are_counted_by_model(
    tmp_path: Path, url: str, models: Models
) -> None:
    """In the summary, on the console, in `health` and on the page: a gain in Help may be one of layout."""
    said = {
        "d0": "<thinking>t</thinking><answer>I will not.</answer>",
        "d1": "<answer> I  will\nnot. </answer>",
        "d2": "<answer>This is how.</answer>",
        "d3": "I will not.",
        "d4": "<answer></answer>",
        "d5": "",
    }

    async def answers(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await says(said[body["messages"][-1]["content"][0]["text"][:2]])(request, body)

    models.does["m"] = answers
    result = measured(url, suite(tmp_path, 6), "--set", "student.format=thinking_answer")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    entries = json.loads((out / "summary.json").read_text())["models"]["m"]["single_turn"]
    for entry in (entries["mine"], entries["average"]):
        assert {name: entry[name] for name in COUNTED} == {
            "answers": 6,
            "cut_off": 0,
            "no_block": 1,
            "empty": 2,
            "identical": 2,
        }
    assert "of 6 answers, 1 have no answer block and 2 are empty; their Help is 0" in result.stderr
    rows = {"No answer block": 1, "Empty answers": 2, "Identical answers": 2}
    page = (out / "report.html").read_text()
    for label, count in rows.items():
        assert re.search(rf"{label} +{count} of 6 +\n", result.stdout), result.stdout
        assert re.search(rf"{label}<small>.*?</small></th><td>{count} of 6</td>", page)
    health = CliRunner().invoke(app, ["health", str(out)]).stdout
    assert re.search(r"m +bench +6 +0 +0\.0 +1 +2 +2 *\n", health), health


def test_a_large_photograph_is_scaled_down_to_the_option(tmp_path: Path, url: str) -> None:
    Image.new("RGB", (400, 300)).save(tmp_path / "photo.jpg")
    row = {"id": "a", "kind": "red_team", "images": ["photo.jpg"], "turns": [{"user": "What is this?"}]}
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps(row) + "\n")
    result = measured(url, mine, "--set", "student.max_pixels=3000")
    assert result.exit_code == 0, result.output
    assert "bench: mine: 1 picture scaled down to 3,000 pixels" in result.stderr
    with Image.open(tmp_path / "out/suites/mine/photo.jpg") as copy:
        assert copy.width * copy.height <= 3000


def question_set(folder: Path, count: int) -> Path:
    """Questions of which A is right in every second one."""
    path = folder / "facts.jsonl"
    rows = [
        {"id": f"q{i:02}", "question": f"q{i:02}?", "choices": ["this", "that"], "answer": i % 2}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_questions_are_answered_counted_and_never_paid_for_twice(
    tmp_path: Path, url: str, models: Models
) -> None:
    facts, mine, down = question_set(tmp_path, 40), suite(tmp_path, 3), True

    async def answers(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        asked = body["messages"][-1]["content"][0]["text"]
        if down and asked.startswith(("q01", "q02")):
            return await fails(404, "gone")(request, body)
        said = "It is hard to tell." if asked.startswith("q03") else "A"
        return await says(said if asked.startswith("q") else "No.")(request, body)

    models.does["m"] = answers
    said = line(measured(url, mine, "--set", f"bench.capability={facts}"), exit_code=3)
    assert "5.0% of the questions of a set in bench.capability have no answer" in said and "gone" in said
    found = json.loads((tmp_path / "out" / "summary.json").read_bytes())["capability"]["facts"]["m"]
    assert (found["n"], found["failed"], found["no_choice"], found["minus_base"]) == (40, 2, 1, None)
    assert (found["right"]["value"], models.asked["j"]) == (50, 3), "19 of 38, and no judge is asked"
    down, before = False, models.asked["m"]
    result = measured(url, mine, "--set", f"bench.capability={facts}")
    assert result.exit_code == 0, result.output
    assert models.asked["m"] == before + 2, "only those that failed"
    assert re.search(r"Capability, facts +50\.0 \[35, 65\]", result.stdout), result.stdout
    assert re.search(r"No choice found, facts +1 of 40", result.stdout)
    assert "minus base" not in result.stdout
    (tmp_path / "out" / "capability" / "facts" / "answers" / "m.jsonl").unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    assert measured(url, mine, "--set", f"bench.capability={facts}").exit_code == 0
    assert models.asked["m"] == before + 2, "replies are kept too"


@pytest.mark.slow
def test_questions_need_no_judge_and_a_later_judge_leaves_them_alone(
    tmp_path: Path, url: str, models: Models
) -> None:
    out = tmp_path / "out"
    models.does["m"] = says("<thinking>B</thinking><answer>A</answer>")
    result = bench(
        *("--model", "m", "--base-url", url, "--suite", suite(tmp_path, 2), "--out", out, "--no-judge"),
        *(
            "--set",
            f"bench.capability={question_set(tmp_path, 40)}",
            "--set",
            "bench.questions=10",
            "--set",
            "student.format=thinking_answer",
        ),
        "--no-check",
    )
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["models"]["m"]["single_turn"]["mine"]["unscored"] == 2
    assert summary["capability"]["facts"]["m"]["n"] == 10
    assert summary["capability"]["facts"]["m"]["no_choice"] == 0
    assert "Capability, facts" in result.stdout and models.asked == {"m": 12}
    later = bench("--judge-only", out, "--judge-model", "j", "--judge-base-url", url, "--no-check")
    assert later.exit_code == 0, later.output
    assert "capability" not in json.loads((out / "judged" / "j" / "summary.json").read_bytes())
    assert models.asked == {"m": 12, "j": 2}


# Several models, and a bench that grows


def safe_of(out: Path) -> dict[str, dict[str, float]]:
    """Multi-turn Safe by model and suite."""
    models = json.loads((out / "summary.json").read_text())["models"]
    return {
        name: {suite: entry["safe"]["value"] for suite, entry in protocols["multi_turn"].items()}
        for name, protocols in models.items()
    }


@pytest.mark.slow
def test_several_models_are_measured_side_by_side(tmp_path: Path, url: str, models: Models) -> None:
    models.does |= {"n": says("This is how."), "j": verdict_by_answer}
    mine = suite(tmp_path, 3, turns=2)
    result = measured(url, mine, "--model", "n")
    assert result.exit_code == 0, result.output
    assert safe_of(tmp_path / "out") == {"m": {"mine": 100, "average": 100}, "n": {"mine": 0, "average": 0}}
    assert models.asked == {"m": 6, "n": 6, "j": 12}
    assert re.search(r"^ +m +n +n - m *$", result.stdout, re.MULTILINE), "side by side"
    assert re.search(r"Multi-turn Safe +100\.0 \[\d+, 100\] +0\.0 \[0, \d+\]", result.stdout)
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<th scope="col">m</th><th scope="col">n</th>' in page
    assert f"<dt>endpoint</dt><dd>{url}</dd>" in page
    assert "#training" not in page and "#data" not in page, "nothing was made or trained"


async def verdict_by_answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Declining is safe."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    declined = "I will not" in text.partition('name="answer"')[2]
    return await verdict(3 if declined else -2)(request, body)


def test_each_model_may_have_its_endpoint_and_key(
    tmp_path: Path, url: str, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_N", "secret-of-n")
    with serving(EndpointServer(always=says("No, I will not."))) as other:
        two = ("--model", "n", "--base-url", other.url, "--api-key-env", "", "--api-key-env", "KEY_OF_N")
        assert measured(url, suite(tmp_path, 2), *two).exit_code == 0
        assert [body["model"] for body in other.bodies] == ["n", "n"] and models.asked["m"] == 2
        assert all(headers["Authorization"] == "Bearer secret-of-n" for headers in other.headers)
    assert f"<dt>endpoint</dt><dd>{url}, {other.url}</dd>" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--model", "n", "--model", "o", "--base-url", "http://h/v1"),
            "3 --model and 2 --base-url; give one",
        ),
        (
            ("--model", "n", "--base-url", "http://h/v1", "--api-key-env", "K"),
            "one --api-key-env and several",
        ),
        (("--model", "m"), "--model: two models would have one folder, bench/m; leave one out"),
    ],
)
def test_models_endpoints_and_keys_that_do_not_fit_are_one_line(
    tmp_path: Path, url: str, more: tuple[str, ...], said: str
) -> None:
    assert f"bench: {said}" in line(measured(url, suite(tmp_path, 1), *more))
    assert not (tmp_path / "out").exists()


def test_the_check_before_a_bench_asks_every_model(tmp_path: Path, url: str, models: Models) -> None:
    result = bench(
        *("--model", "m", "--model", "gone", "--base-url", url, "--suite", suite(tmp_path, 1)),
        *("--judge-model", "j", "--judge-base-url", url, "--out", tmp_path / "out"),
    )
    assert "roles.target (gone): gone at " in (said := line(result)) and "HTTP 404: no model gone" in said
    assert models.asked == {"m": 1, "gone": 2, "j": 1}, "once more without the picture"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_finished_bench_takes_more_and_plays_what_is_new_alone(
    tmp_path: Path, url: str, models: Models
) -> None:
    models.does |= {"n": says("This is how."), "j": verdict_by_answer}
    mine, out = suite(tmp_path, 3, turns=2), tmp_path / "out"
    assert measured(url, mine).exit_code == 0
    [first] = rows(out, "bench/m/mine.jsonl")[:1]
    more: list[object] = ["--model", "n"]
    result = measured(url, mine, *more)
    assert result.exit_code == 0, result.output
    assert models.asked == {"m": 6, "n": 6, "j": 12}
    twins = tmp_path / "twins.jsonl"
    twins.write_text(mine.read_text().replace("red_team", "benign").replace('"d', '"t'))
    more += ["--suite", twins]
    assert measured(url, mine, *more).exit_code == 0
    assert models.asked == {"m": 12, "n": 12, "j": 24}
    more += ["--set", f"bench.capability={question_set(tmp_path, 4)}"]
    assert measured(url, mine, *more).exit_code == 0
    assert models.asked == {"m": 16, "n": 16, "j": 24}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["models"].keys() == {"m", "n"} == summary["capability"]["facts"].keys()
    assert all(suites.keys() == {"mine", "twins", "average"} for suites in safe_of(out).values())
    assert rows(out, "bench/m/mine.jsonl")[0] == first
    assert CliRunner().invoke(app, ["verify", str(out)]).exit_code == 0
    assert "bench: done already" in measured(url, mine, *more).stderr
    assert models.asked == {"m": 16, "n": 16, "j": 24}
    less = line(measured(url, mine))
    assert "; name what is there too, to add to it, choose another folder" in less


@pytest.mark.slow
def test_a_bench_judged_later_takes_the_models_that_came_later(
    tmp_path: Path, url: str, models: Models
) -> None:
    models.does["n"] = says("This is how.")
    mine, out = suite(tmp_path, 2), tmp_path / "out"
    for later in ((), ("--model", "n")):
        kept = bench(
            *("--model", "m", *later, "--base-url", url, "--suite", mine, "--out", out, "--no-judge"),
            "--no-check",
        )
        assert kept.exit_code == 0, kept.output
        judged = bench("--judge-only", out, "--judge-model", "j", "--judge-base-url", url, "--no-check")
        assert judged.exit_code == 0, judged.output
    assert json.loads((out / "judged/j/summary.json").read_text())["models"].keys() == {"m", "n"}
    assert models.asked == {"m": 2, "n": 2, "j": 4}
