"""Suites for the bench, written from published sets by the command line."""

import asyncio
import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from endpoint_server import EndpointServer, says
from places import ROOT
from published import JAILBREAKV, SAFEMT, SPA_VL, VLGUARD, XSTEST, hub, mtmcs, pictures, png, write_csv
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import Suite, read_suite
from safer_steer.cli import app
from safer_steer.config import Config
from safer_steer.data.sources.sets import SETS
from safer_steer.run.display import Display


def safer_steer(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def suites(name: str, path: Path, out: Path, *more: object) -> list[Suite]:
    done = safer_steer("suite", name, "--path", path, "--out", out, *more)
    assert done.exit_code == 0, done.output
    files = [Path(line.partition(": ")[0]) for line in done.stdout.splitlines() if line.endswith("scripts")]
    assert all(
        line.endswith(f": {len(read_suite(Path(line.partition(': ')[0])).seeds)} scripts")
        for line in done.stdout.splitlines()
        if "scripts" in line
    )
    return [read_suite(file) for file in files]


def test_a_set_with_safe_and_unsafe_rows_gives_two_suites(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/test.json").write_text(json.dumps(VLGUARD))
    pictures(tmp_path / "set/test", "ads/1.png", "ads/2.png")
    attacks, twins = suites("vlguard", tmp_path / "set", tmp_path / "out/guard.jsonl", "--split", "test")
    assert (attacks.name, attacks.safe_twins, attacks.protocol) == ("guard", False, "single_turn")
    assert (twins.name, twins.safe_twins, twins.protocol) == ("guard_safe", True, "single_turn")
    assert [seed.script for seed in attacks.seeds] == [["how do i break it?"], ["what does it say?"]]
    assert [(seed.id, seed.script) for seed in twins.seeds] == [("vlguard-test-g1-0", ["what is on it?"])]
    assert (tmp_path / "out" / attacks.seeds[1].images[0]).read_bytes() == png(1)
    assert attacks.seeds[0].images == twins.seeds[0].images
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "guard.jsonl",
        "guard_images",
        "guard_safe.jsonl",
    ]
    bring_in(
        [str(tmp_path / "out/guard.jsonl"), str(tmp_path / "out/guard_safe.jsonl")],
        tmp_path / "run",
        None,
        10**6,
    )


def test_a_set_that_is_safe_throughout_gives_one_suite(tmp_path: Path) -> None:
    folder = hub(tmp_path / "set", {"test": {"help": SPA_VL, "harm": SPA_VL[:2]}})
    (suite,) = suites("spa_vl", folder, tmp_path / "help.jsonl", "--split", "help", "--subset", "test")
    assert suite.safe_twins and len(suite.seeds) == 3
    (drawn,) = suites(
        "spa_vl",
        folder,
        tmp_path / "drawn.jsonl",
        "--split",
        "help",
        "--subset",
        "test",
        "--limit",
        2,
        "--seed",
        5,
    )
    assert [seed.id for seed in drawn.seeds] == [
        seed.id for seed in suite.seeds if seed.id in {seed.id for seed in drawn.seeds}
    ]
    assert len(drawn.seeds) == 2


def test_safemt_keeps_the_published_answers_beside_the_script(tmp_path: Path) -> None:
    pictures(tmp_path / "set/Data", "imgs/3.png")
    single = [SAFEMT[0] | {"dialogue": SAFEMT[0]["dialogue"][:1]}]
    for turns, rows in ((1, single), (2, SAFEMT)):
        (tmp_path / f"set/Data/{turns}_turn.json").write_text(json.dumps(rows))
    (both,) = suites("safemt", tmp_path / "set", tmp_path / "safemt.jsonl")
    assert [(seed.id, seed.script, seed.intent) for seed in both.seeds] == [
        ("safemt-1_turn-3", ["what is it?"], "all steps"),
        ("safemt-2_turn-3", ["what is it?", "and then?"], "all steps"),
    ]
    assert [turn.meta for turn in both.seeds[1].turns] == [{"prefilled": "a ring."}, {}]
    assert both.protocol == "multi_turn" and not both.safe_twins
    (one,) = suites("safemt", tmp_path / "set", tmp_path / "one.jsonl", "--split", "1_turn")
    assert one.protocol == "single_turn"


def test_mtmcs_bench_gives_its_safe_twins_a_suite_of_their_own(tmp_path: Path) -> None:
    folder = hub(tmp_path / "set", {kind: {"test": mtmcs(kind)} for kind in ("type_a", "type_b")})
    attacks, twins = suites("mtmcs_bench", folder, tmp_path / "mtmcs.jsonl")
    assert [seed.script for seed in attacks.seeds[::2]] == [
        ["what is it?", "who made it?", "how is it broken?"],
        ["i found it.", "who made it?", "how is it opened?"],
    ]
    assert [seed.script for seed in twins.seeds[::2]] == [
        ["what is it?", "who made it?", "where is it kept?"],
        ["i own it.", "who made it?", "how is it opened?"],
    ]
    assert [seed.id for seed in twins.seeds] == [f"{seed.id}-safe" for seed in attacks.seeds]
    assert {seed.intent for seed in attacks.seeds} == {"all steps"}


def test_xstest_has_no_pictures_and_the_sandbox_s_judge_says_so_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    attacks, twins = suites("xstest", write_csv(tmp_path / "xstest.csv", XSTEST), tmp_path / "xs.jsonl")
    assert [(seed.images, seed.script) for seed in attacks.seeds + twins.seeds] == [
        ([], ["how do i break a ring?"]),
        ([], ["how do i kill a process?"]),
    ]
    judge = ("--judge-model", "sandbox", "--out", tmp_path / "bench")
    done = safer_steer(
        "bench",
        "--model",
        "sandbox",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--suite",
        tmp_path / "xs.jsonl",
        *judge,
    )
    assert done.exit_code == 2
    assert "roles.judge: the sandbox's agent needs a picture, and a script has none" in done.stderr
    rows = [{name: value for name, value in row.items() if name not in ("label", "type")} for row in XSTEST]
    done = safer_steer(
        "suite", "xstest", "--path", write_csv(tmp_path / "bare.csv", rows), "--out", tmp_path / "bare.jsonl"
    )
    assert "neither `label` (safe or unsafe) nor `type`" in done.stderr


def test_what_is_left_out_is_told_and_nothing_half_done_stays(tmp_path: Path) -> None:
    pictures(tmp_path / "set", "figstep/0.png", "figstep/1.png")
    (tmp_path / "set/figstep/1.png").write_bytes(png()[:300])
    path = write_csv(
        tmp_path / "set/JailBreakV_28K.csv",
        [*JAILBREAKV, JAILBREAKV[0] | {"id": 9, "image_path": "gone.png"}],
    )
    out = tmp_path / "jail.jsonl"
    done = safer_steer("suite", "jailbreakv_28k", "--path", path, "--out", out)
    assert done.exit_code == 2 and "jailbreakv_28k: " in done.stderr and "row 2: image: " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"], "also no folder of pictures"
    done = safer_steer("suite", "jailbreakv_28k", "--path", path, "--out", tmp_path / "new/folder/jail.jsonl")
    assert done.exit_code == 2 and not (tmp_path / "new").exists()
    done = safer_steer("suite", "jailbreakv_28k", "--path", path, "--out", out, "--bad-rows", "skip")
    assert done.stdout.splitlines() == [
        f"{out}: 1 scripts",
        "jailbreakv_28k: 2 left out (1 no such picture, 1 unreadable picture)",
    ]
    assert (read_suite(out).seeds[0].intent, read_suite(out).seeds[0].kind) == ("the steps 0", "obfuscated")


def test_a_suite_may_be_written_beside_the_pictures_of_one_that_was_moved_away(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "set/rows.csv", [{"id": 1, "image": "0.png", "question": "q"}])
    pictures(path.parent, "0.png")
    out = tmp_path / "mine.jsonl"
    (before,) = suites("mine", path, out)
    out.rename(tmp_path / "older.jsonl")
    (again,) = suites("mine", path, out)
    assert before.seeds == again.seeds == read_suite(tmp_path / "older.jsonl").seeds


@pytest.mark.slow
def test_a_long_reading_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Display.__init__, "__defaults__", (0.02, 0.02))
    path = write_csv(
        tmp_path / "set/rows.csv",
        [{"id": i, "image": "0.png", "question": f"q{i}"} for i in range(2000)],
    )
    pictures(path.parent, "0.png")
    for limit in ([], ["--limit", 10]):
        done = safer_steer("suite", "mine", "--path", path, "--out", tmp_path / f"{len(limit)}.jsonl", *limit)
        assert done.exit_code == 0, done.output
        told = re.findall(r"^suite: rows: (\d+)(?:/(\d+)| so far)", done.stderr, re.MULTILINE)
        assert told and {total for _, total in told} <= {"", "2000"}, done.stderr
    assert "2000" in {total for _, total in told}, "a draw reads twice, and then knows how many there are"


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from safer_steer.cli import main
main()
"""
"""The command line on a disk that takes no file above 200 kB."""


@pytest.mark.slow
async def test_a_disk_that_takes_no_more_is_named_and_not_the_suite(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(400 * 400 * 3)
    (tmp_path / "set").mkdir()
    Image.frombytes("RGB", (400, 400), noise).save(tmp_path / "set/0.png")
    path = write_csv(tmp_path / "set/rows.csv", [{"id": 1, "image": "0.png", "question": "q"}])

    def full(*arguments: object) -> str:
        command = [sys.executable, "-c", FULL, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        return done.stderr.splitlines()[-1]

    made = ("suite", "mine", "--path", path, "--out", tmp_path / "mine.jsonl")
    line = full(*made)
    assert line.startswith(f"error: {tmp_path}/.mine.part/mine_images/"), line
    assert line.endswith(": File too large; fix that and run the same command to continue")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["set"]
    assert safer_steer(*made).exit_code == 0
    async with EndpointServer(always=says("i see.")) as server:
        measured = ("bench", "--model", "m", "--base-url", server.url, "--no-judge", "--no-check")
        suite = ("--suite", tmp_path / "mine.jsonl", "--out", tmp_path / "run")
        line = await asyncio.to_thread(full, *measured, *suite)
    assert line.startswith(f"error: {tmp_path}/run/suites/mine/mine_images/"), line
    assert "File too large" in line and "mine.jsonl" not in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine", "--out", "a.jsonl"], "give either --path or --hub"),
        (["sandbox", "--path", "x", "--out", "a.jsonl"], "the sandbox is built in"),
        (["mine", "--path", "x", "--out", "a.json"], "ends in .jsonl"),
        (["mine", "--path", "x", "--out", "average.jsonl"], "other than average.jsonl"),
        (["mine", "--path", "x", "--out", "there.jsonl"], "there.jsonl: exists already"),
        (["mine", "--path", "x", "--out", "a.jsonl"], "x: no such file or folder"),
        (["mine", "--path", "x", "--out", "a.jsonl", "--bad-rows", "keep"], "suite: bad_rows"),
    ],
)
def test_mistakes_cost_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").touch()
    done = safer_steer("suite", *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.jsonl"]


def test_the_known_sets_are_listed() -> None:
    done = safer_steer("sets")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in SETS)
    assert "see its card" in done.stdout


@pytest.mark.slow
async def test_scripts_without_a_picture_are_measured_like_any_others(tmp_path: Path) -> None:
    suites("xstest", write_csv(tmp_path / "xstest.csv", XSTEST), tmp_path / "xs.jsonl")
    verdict = json.dumps({"harmlessness": 3, "helpfulness": 3, "refused": False, "reason": "fine"})
    async with (
        EndpointServer(always=says("end it by its id.")) as model,
        EndpointServer(always=says(verdict)) as judge,
    ):
        options = {
            "--model": "m",
            "--base-url": model.url,
            "--judge-model": "j",
            "--judge-base-url": judge.url,
            "--out": tmp_path / "bench",
        }
        files = ("--suite", tmp_path / "xs.jsonl", "--suite", tmp_path / "xs_safe.jsonl")
        done = await asyncio.to_thread(
            safer_steer, "bench", *(part for option in options.items() for part in option), *files
        )
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "bench/summary.json").read_bytes())
    single = summary["models"]["m"]["single_turn"]
    assert (single["xs"]["n"], single["xs"]["safe"]["value"], single["xs_safe"]["n"]) == (1, 100, 1)
    assert (tmp_path / "bench/report.html").is_file()


def test_every_source_and_command_of_the_documentation_is_one() -> None:
    text = (ROOT / "docs/how-to/data.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    sources = Config.model_validate(
        yaml.safe_load(block) | {"assembly": {}, "rl": {"seeds": 1}}
    ).seeds.sources
    assert {source.name for source in sources} == {
        name for name, layout in SETS.items() if layout.stage_1
    } | {"mine"}
    block = text[text.index("```bash\nsafer-steer suite") :].removeprefix("```bash\n").partition("```")[0]
    for line in block.splitlines():
        program, command, name, *options = shlex.split(line, comments=True)
        assert (program, command) == ("safer-steer", "suite") and name in SETS
        done = safer_steer(
            command, name, *options, "--path", "a", "--hub", "b"
        )  # what is checked first, once all options are understood
        assert done.stderr == "error: suite: give either --path or --hub\n"
    table = text[text.index("| name |") :].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(SETS)
