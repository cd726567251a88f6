"""The command line: one line for what a user can mend, exit codes, and a bench of a served model from end to
end."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import Result

from display import Quiet, complaint, safer_steer
from endpoint_server import EndpointServer, says
from made_up_run import write_run
from places import CONFIGS
from safer_steer.config import Config
from safer_steer.dialogue import read_dialogues
from safer_steer.run.folder import Run
from safer_steer.sandbox.suites import write_suites

NOBODY = "http://127.0.0.1:9/v1"
"""The discard port, at which nothing listens."""


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The URL of `safer-steer sandbox serve` in a process of its own, which Ctrl-C ends, as a user would."""
    command = [sys.executable, "-m", "safer_steer", "sandbox", "serve", "--port", "0"]
    # A background job, as these tests may be, has children that ignore Ctrl-C.
    heeding = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, **pipes, env=environment, preexec_fn=heeding)
    assert server.stdout is not None
    yield server.stdout.readline().split()[1]
    server.send_signal(signal.SIGINT)
    _, said = server.communicate(timeout=20)
    assert said == "interrupted; run the same command to continue\n"
    assert server.returncode == 130


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites")
    write_suites(folder, 10, 5)
    return folder


def bench(
    out: Path, url: str, *suites: Path, judge: tuple[object, ...] = ("--judge-model", "sandbox")
) -> Result:
    chosen = [part for path in suites for part in ("--suite", path)]
    model = ("--model", "org/model", "--base-url", url, "--set", "student.format=thinking_answer")
    return safer_steer("bench", *model, "--out", out, *chosen, *judge)


def config_file(folder: Path, **keys: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(keys or {"name": "run"}))
    return path


def one_row(folder: Path, **keys: Any) -> Path:
    row = {"id": "a", "kind": "red_team", "images": ["a.png"], "turns": [{"user": "hello"}]} | keys
    path = folder / "mine.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path


def test_a_port_that_is_taken(served: str) -> None:
    assert "--port" in complaint(
        safer_steer("sandbox", "serve", "--port", served.split(":")[2].removesuffix("/v1"))
    )


def test_the_sources_are_looked_at_before_an_older_run_is_deleted(tmp_path: Path) -> None:
    config = config_file(tmp_path, seeds={"sources": [{"limit": 2}], "max_turns": 2}, roles={})
    assert safer_steer("seeds", config, "--out", tmp_path / "out").exit_code == 0
    config_file(tmp_path, seeds={"sources": [{"name": "mine", "path": str(tmp_path / "pairs.jsonl")}]})
    assert "pairs.jsonl: no such file" in complaint(
        safer_steer("seeds", config, "--out", tmp_path / "out", "--fresh")
    )
    assert (tmp_path / "out/seeds/benign.jsonl").exists()


def test_a_run_of_stubs_says_so_to_another_config(tmp_path: Path) -> None:
    config = config_file(tmp_path, seeds={"sources": [{"limit": 2}]})
    assert safer_steer("seeds", config, "--stub", "--out", tmp_path / "out").exit_code == 0
    said = complaint(safer_steer("bootstrap", config, "--out", tmp_path / "out"))
    assert "out: holds a run with --stub; give --stub too, or choose another folder" in said
    assert safer_steer("seeds", config, "--out", tmp_path / "real").exit_code == 0
    said = complaint(safer_steer("bootstrap", config, "--stub", "--out", tmp_path / "real"))
    assert "real: holds a run without --stub; leave --stub out, or choose another folder" in said


STEERING = "\x1b]0;PWNED\x07"
"""What gives a terminal another title."""


@pytest.mark.parametrize(
    "keys", [{"id": STEERING}, {"images": [STEERING]}, {STEERING: 1}], ids=["id", "image", "key"]
)
def test_an_error_about_a_row_steers_no_terminal(tmp_path: Path, keys: dict[str, Any]) -> None:
    result = bench(tmp_path / "out", NOBODY, one_row(tmp_path, **keys))
    line = complaint(result)
    assert "mine.jsonl" in line and "?]0;PWNED?" in line and line.isprintable()


def test_verify_and_health_steer_no_terminal(tmp_path: Path) -> None:
    name = f"m{STEERING}"
    write_run(tmp_path, dialogues=2, models=("base",))
    (tmp_path / "bench/base").rename(tmp_path / "bench" / name)
    files = {f"bench/{name}/unmarked.jsonl": {"sha256": "0", "bytes": 1}}
    entry = {"files": files, "built_on": {}, "prompts": {}}
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {"bench": entry}}))
    for command, code in (("verify", 1), ("health", 0)):
        result = safer_steer(command, tmp_path)
        assert result.exit_code == code, result.output
        assert "m?]0;PWNED?" in result.stdout and result.stdout.replace("\n", "").isprintable()


# Stages


def test_seeds_alone_once_by_one_process_of_one_config(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"seeds": {"sources": [{"limit": 4}]}}
    out = tmp_path / "out"
    first = safer_steer("seeds", config_file(tmp_path, **keys), "--out", out)
    assert first.exit_code == 0, first.output
    assert (out / "seeds" / "benign.jsonl").stat().st_size
    assert re.search(r"^seeds: 4 benign, 2 obfuscated, \d red team$", first.stderr, re.MULTILINE), (
        first.stderr
    )
    before = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.name not in ("config.yaml", ".lock")
    }

    assert "seeds: done already" not in first.stderr
    fewer = config_file(tmp_path, seeds={"sources": [{"limit": 3}]}, name="renamed")
    assert "differs in seeds.sources[0].limit (4 there, 3 here)" in complaint(
        safer_steer("seeds", fewer, "--out", out)
    )
    moved = config_file(tmp_path, **keys, name="renamed", roles={"judge": {"concurrency": 2}})
    assert "differs in roles.judge" in complaint(safer_steer("seeds", moved, "--out", out))
    again = safer_steer("seeds", config_file(tmp_path, **keys, name="renamed"), "--out", out)
    assert "seeds: done already" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}

    with Run(Config.model_validate(keys | {"name": "renamed"}), out, Quiet()):
        assert "another process is at work" in complaint(
            safer_steer("seeds", tmp_path / "config.yaml", "--out", out)
        )

    other = config_file(tmp_path, **keys, seed=5)
    assert "differs in seed (0 there, 5 here)" in complaint(safer_steer("seeds", other, "--out", out))
    (out / "notes.txt").write_text("mine")
    assert safer_steer("seeds", other, "--out", out, "--fresh").exit_code == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 5
    assert (out / "notes.txt").read_text() == "mine"
    assert all(path.stat().st_mtime_ns != time for path, time in before.items() if path.exists())


def test_a_limit_keeps_a_stage_small(tmp_path: Path) -> None:
    """The folder's config says how small, so the same command without the option is another run."""
    config, out = config_file(tmp_path, seeds={"max_turns": 3}), tmp_path / "out"
    first = safer_steer("seeds", config, "--out", out, "--limit", 2)
    assert first.exit_code == 0, first.output
    assert "seeds: 2 benign, " in first.stderr
    assert "differs in limit (2 there, null here)" in complaint(safer_steer("seeds", config, "--out", out))


def test_a_served_model_is_benched_resumed_and_verified(tmp_path: Path, suites: Path, served: str) -> None:
    chosen = [suites / f"{name}.jsonl" for name in ("probing", "order", "safe_twins", "blunt")]
    out = tmp_path / "out"
    first = bench(out, served, *chosen)
    assert first.exit_code == 0, first.output
    assert "Over-refusal" in first.stdout
    assert f"report: {out / 'report.html'}" in first.stdout
    entry = json.loads((out / "summary.json").read_text())["models"]["org_model"]
    assert entry["multi_turn"]["average"]["n"] == 4
    assert entry["multi_turn"]["safe_twins"]["over_refusal"]["value"] == 0
    assert entry["multi_turn"]["average"]["safe"]["value"] == 0, (
        "the target policy complies with all but blunt first questions"
    )
    assert entry["single_turn"]["blunt"]["n"] == 10
    [row, *_] = read_dialogues(out / "bench" / "org_model" / "single_turn_blunt.jsonl")
    assert (out / row.images[0]).is_file()

    journals = {path: path.read_bytes() for path in (out / "bench").rglob("*.jsonl")}
    again = bench(out, served, *chosen)
    assert again.exit_code == 0
    assert "bench: done already" in again.stderr
    assert journals == {path: path.read_bytes() for path in journals}

    assert safer_steer("verify", out).exit_code == 0
    (out / "summary.json").write_text((out / "summary.json").read_text().replace("100", "101"))
    (out / "report.html").unlink()
    differing = safer_steer("verify", out)
    assert differing.exit_code == 1
    assert differing.stdout.splitlines() == [
        "summary.json: changed since `bench` finished",
        "report.html: missing (report)",
    ]


async def test_a_served_model_is_asked_under_the_system_message_that_was_given(tmp_path: Path) -> None:
    Image.new("RGB", (84, 84)).save(tmp_path / "a.png")
    asked = (
        "--suite",
        one_row(tmp_path),
        "--set",
        "student.system=Answer in one word.",
        "--no-judge",
        "--no-check",
    )
    async with EndpointServer(always=says("hello")) as server:
        command = partial(safer_steer, "bench", "--model", "m", "--base-url", server.url, *asked)
        done = await asyncio.to_thread(command, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert [body["messages"][0]["content"] for body in server.bodies] == ["Answer in one word."]


def test_an_option_that_there_is_not_names_the_keys_of_its_name() -> None:
    for command in (("bench", "--dialogues", 3), ("run", "c.yaml", "--dialogues", 3)):
        assert "--set bench.dialogues=..." in " ".join(safer_steer(*command).stderr.split())
    assert "--set" not in safer_steer("health", "run", "--dialogues", 3).stderr


def test_the_bench_of_a_runs_models_ends_with_the_page(tmp_path: Path) -> None:
    student = {"dtype": "float32", "device": "cpu", "max_turn_tokens": 8, "max_length": 2048}
    config = config_file(tmp_path, student=student, bench={"models": ["base"], "dialogues": 1})
    done = safer_steer("bench", config, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert f"report: {tmp_path / 'out' / 'report.html'}" in done.stdout


@pytest.mark.slow
def test_too_many_unscored_is_no_result_and_played_again(tmp_path: Path, served: str) -> None:
    Image.new("RGB", (84, 84)).save(tmp_path / "a.png")  # no picture of the sandbox: its agents decline
    suite, out = one_row(tmp_path), tmp_path / "out"
    judge = ("--judge-model", "behind-http", "--judge-base-url", served)

    def failed() -> int:
        summary = json.loads((out / "summary.json").read_text())
        return int(summary["models"]["org_model"]["single_turn"]["mine"]["failed"])

    result = bench(out, served, suite, judge=judge)
    assert result.exit_code == 3
    assert "no result: 100.0% of a model's dialogues have no scores" in result.stderr
    assert (out / "report.html").is_file() and failed() == 1
    picture = next(
        (write_suites(tmp_path / "world", 1, 0)["single_turn"][0].parent / "images").glob("blunt*")
    )
    for place in (tmp_path / "a.png", out / "suites" / "mine" / "a.png"):
        place.write_bytes(picture.read_bytes())
    mended = bench(out, served, suite, judge=judge)
    assert mended.exit_code == 0, mended.output
    assert failed() == 0


# The rest


def test_a_misspelt_agent_of_the_served_sandbox_is_named(tmp_path: Path, served: str, suites: Path) -> None:
    """Else a comparison with `sandbox-firm` would show no difference."""
    model = ("--model", "sandbox-frm", "--base-url", served)
    judge = ("--judge-model", "sandbox")
    done = safer_steer("bench", *model, "--out", tmp_path / "o", "--suite", suites / "probing.jsonl", *judge)
    assert done.exit_code == 2 and not (tmp_path / "o" / "bench").exists()
    assert "no model 'sandbox-frm' here; there are sandbox, " in done.stderr


def test_the_version_is_the_packages() -> None:
    result = safer_steer("--version")
    assert (result.exit_code, result.stdout) == (0, f"safer-steer {version('safer-steer')}\n")


def test_suites_are_written(tmp_path: Path) -> None:
    result = safer_steer("sandbox", "suites", "--out", tmp_path, "--marked", 5, "--unmarked", 0)
    assert result.exit_code == 0
    assert f"single_turn: {tmp_path / 'blunt.jsonl'}" in result.stdout
    assert not (tmp_path / "safe_twins.jsonl").exists()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_dry_run_writes_nothing_and_shows_all(config: Path, tmp_path: Path) -> None:
    result = safer_steer("run", config, "--out", tmp_path / "out", "--dry-run", "--gpu-memory", 80)
    assert result.exit_code == 0, result.output
    text = result.stdout
    titles = ["Config", "Trainer arguments", "Roles", "Data", "Steps", "GPU memory", "Would not start"]
    titles = [title for title in titles if title != "Would not start" or f"\n{title}\n" in text]
    assert [line for line in text.splitlines() if line in titles] == titles
    parts = dict(
        zip(titles, re.split(r"^(?:" + "|".join(titles) + r")\n", text, flags=re.MULTILINE)[1:], strict=True)
    )
    written, arguments = yaml.safe_load(parts["Config"]), yaml.safe_load(parts["Trainer arguments"])
    assert written["name"] == config.stem
    assert len(parts["Roles"].split("\n\n")[0].splitlines()) == 8
    paper = config.stem not in ("sandbox", "pretrained")
    assert ("rl: 31 steps of 64 seeds; 16 of 2,000 seeds are left over" in parts["Steps"]) == paper
    assert arguments["rl"]["scale_rewards"] == "none"
    step = arguments["rl"]["per_device_train_batch_size"] * arguments["rl"]["gradient_accumulation_steps"]
    assert step == written["rl"]["group_size"] * written["rl"]["prompts_per_step"]
    memory = parts["GPU memory"]
    if config.stem == "sandbox":
        assert re.search(r"^rl rollouts +< 0\.1 ", memory, re.MULTILINE)
        assert "All stages fit a card of 80 GB" in memory
    else:
        assert len(memory.strip().splitlines()) == 1
        assert memory.startswith("  no estimate: student ")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_who_does_what(tmp_path: Path) -> None:
    roles = {
        "judge": {"model": "large", "base_url": NOBODY, "pictures": False, "concurrency": 2},
        "blue": {"model": "stub"},
    }
    said = safer_steer(
        "run", config_file(tmp_path, roles=roles), "--out", tmp_path / "out", "--dry-run"
    ).stdout
    assert f"  judge         large at {NOBODY}, gets no pictures, 2 calls in flight, temperature 0.7" in said
    assert "  blue          a stub: made-up answers, no model" in said
    assert "  red           the sandbox's agent" in said


def test_a_dry_run_names_the_keys_and_the_folder_that_are_not_there(tmp_path: Path) -> None:
    roles = {
        "judge": {"model": "large", "base_url": NOBODY, "api_key_env": "NO_SUCH_KEY"},
        "attacker": {"model": "idle", "base_url": NOBODY, "api_key_env": "NOT_ASKED_FOR"},
    }
    config = config_file(tmp_path, roles=roles, student={"model": "./gone"})
    said = safer_steer("run", config, "--out", tmp_path / "out", "--dry-run").stdout
    refused = said.partition("Would not start\n")[2].partition("\n\n")[0].splitlines()
    assert (
        refused[0]
        == f"  student {tmp_path}/gone: no such folder; give a model's folder or its Hugging Face id"
    )
    assert len(refused) == 2 and refused[1].startswith("  roles.judge: ") and "NO_SUCH_KEY" in refused[1]


def test_a_dry_run_says_what_processes_share_and_which_stage_does_not_fit(tmp_path: Path) -> None:
    def said(*options: object, **keys: Any) -> str:
        command = ("run", config_file(tmp_path, **keys), "--out", tmp_path / "out", "--dry-run", *options)
        return safer_steer(*command).stdout

    whole = said("--processes", 2, student={"sharding": "none"})
    shared = said("--processes", 2, student={"sharding": "full"})
    assert "2 processes train, each on its own card (DDP). Each holds all weights" in whole
    assert "2 processes train, each on its own card (FSDP2). Each holds a share" in shared
    large = said("--gpu-memory", 2, rl={"micro_batch_size": 40})
    assert "  rl does not fit a card of 2 GB with 5% left free: " in large


@pytest.mark.parametrize("command", ["bench", "experiment", "run", "report", "verify"])
def test_torchrun_starts_the_stages_that_train_and_nothing_else(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    said = complaint(safer_steer(command, tmp_path / "c.yaml", "--out", tmp_path / "out"))
    assert f"`{command}` runs in one process" in said
    assert not (tmp_path / "out").exists()


def test_keys_are_listed_all_or_by_a_word_in_them() -> None:
    shown = [line.split()[0] for line in safer_steer("config", "tcsr").stdout.splitlines()[1:2]]
    assert shown == ["rl.tcsr"] and "bench.suites" not in safer_steer("config", "tcsr").stdout
    assert "bench.suites" in safer_steer("config").stdout
    assert "config: no key contains 'tscr'" in complaint(safer_steer("config", "tscr"))
