"""The benchmarks run, on little, and print what they say they do. Their numbers are for
docs/explanation/performance.md, not for a test."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from places import ROOT

BENCHMARKS = ROOT / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def printed(name: str, *options: str) -> str:
    """What a benchmark prints."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


@pytest.mark.slow
def test_scale_prints_a_row_a_size(tmp_path: Path) -> None:
    head, _, *rows = table(printed("scale", "--pairs", "40", "120", "--out", str(tmp_path)))
    assert [row[0] for row in rows] == ["40", "120"]
    for pairs, row in zip((40, 120), rows, strict=True):
        found = dict(zip(head, row, strict=True))
        assert 2 * pairs < int(found["scripts"]) <= 3 * pairs, "two scripts a pair, and mostly a third"
        assert float(found["again, s"]) < float(found["s"])
        assert 20 < int(found["peak MB"]) < 300


@pytest.mark.slow
def test_endpoint_prints_a_row_a_variant_and_a_row_a_target() -> None:
    few = ("--calls", "24", "--in-flight", "4", "--dialogues", "3", "--markdown")
    calls, judged, targets = (table(part)[2:] for part in printed("endpoint", *few).strip().split("\n\n"))
    variants = [[latency, way] for latency in ("0.3 s", "0 s") for way in ("ours", "thread pool")]
    assert [row[:2] for row in calls] == variants
    assert all(float(row[2].removesuffix(" ms")) > 0 for row in calls)
    latencies = [float(row[4].removesuffix(" s")) for row in calls[:2]]
    assert min(latencies) > 24 / 4 * 0.15, "the latency is at least half its mean"
    orders = [["one after the other", "64"], ["side by side", "64"], ["side by side", "640"]]
    assert [row[:2] for row in judged] == orders
    assert len({row[2] for row in judged}) == 1, "every order judges the same turns"
    assert float(judged[1][4].removesuffix(" x")) < 0.9
    assert {row[-1] for row in targets} <= {"yes", "no"} and len(targets) == 6


@pytest.mark.slow
def test_bench_finds_the_scores_of_the_thread_pool_and_prints_ratios() -> None:
    _, _, *rows = table(printed("bench", "--sizes", "6x3", "--pairs", "1", "--latency", "0.01"))
    assert [row[:2] for row in rows] == [["6, 3", label] for label in ("ours", "thread pool", "ratio")]
    mine, theirs, ratios = ([float(cell.split()[0]) for cell in row[2:]] for row in rows)
    assert all(value > 0 for value in (*mine, *theirs))
    assert ratios[2] == pytest.approx(mine[2] / theirs[2], abs=0.02)


@pytest.mark.slow
def test_rollout_finds_the_same_trajectories_in_every_way_and_prints_ratios() -> None:
    """It fails where two ways of playing give other tokens."""
    small = ("--trajectories", "4", "--turns", "3", "--latency", "0.05", "--pairs", "1", "--json")
    found = json.loads(printed("rollout", *small))
    ways = {row["way"]: row for row in found["rows"]}
    assert list(ways) == ["student alone, nothing kept", "student alone", "coroutines", "lock-step"]
    assert len({row["sampled"] for row in found["rows"]}) == 1
    read = {way: row["prefilled"] for way, row in ways.items()}
    assert read["student alone"] == read["coroutines"] == read["lock-step"]
    assert found["prefill"] == read["student alone, nothing kept"] / read["student alone"] > 1.2
    assert found["rate"] == ways["lock-step"]["wall"] / ways["coroutines"]["wall"]
    bound = max(ways["student alone"]["wall"], *found["tutor_s"])
    assert found["share"] == bound / ways["coroutines"]["wall"]
    *_, rate, share, prefill = load("rollout").table(found).splitlines()
    shown = [line.split("|")[2].strip() for line in (rate, share, prefill)]
    assert shown == [f"{found[name]:.2f} x" for name in ("rate", "share", "prefill")]


@pytest.mark.slow
@pytest.mark.parametrize("n", [24, 200])
def test_intervals_hold_the_truth_as_often_as_they_say(n: int) -> None:
    """Exact for one suite; simulated for averages, so the bound is lower by what the simulation may err."""
    coverage = load("coverage")
    for share in coverage.SHARES:
        assert coverage.of_one_suite(share, n) >= 0.93
        for suites in (2, 5):
            assert coverage.of_average((share,) * suites, n, trials=300) >= 0.91


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 4, 8, 11])
@pytest.mark.parametrize("shares", [(0.03,), (0.15,), (0.4,), (0.5,), (0.1, 0.3, 0.5, 0.7, 0.8)])
def test_so_they_do_with_few_dialogues_in_each_of_five_suites(n: int, shares: tuple[float, ...]) -> None:
    assert load("coverage").of_average(shares * (5 // len(shares)), n, trials=600) >= 0.88


def test_coverage_prints_a_row_a_size_and_a_row_a_spread() -> None:
    parts = printed("coverage", "--trials", "20", "--seed-trials", "5").strip().split("\n\n")
    shares, unlike, lowest, seeds = (part.splitlines() for part in parts)
    sizes = [[str(m), str(n)] for m in (1, 2, 5) for n in load("coverage").SIZES]
    assert [row[:2] for row in table("\n".join(shares[2:]))] == sizes
    assert unlike[0].count("(n = ") == lowest[0].count("(n = ") == len(sizes) / 3
    assert len(seeds) == 2 + 3


@pytest.mark.slow
def test_gpu_measures_every_part_of_a_tiny_student(tmp_path: Path) -> None:
    """Those that need no server; `sharding`, which starts processes, by itself below."""
    out = tmp_path / "tiny.json"
    parts = ("rollouts", "training", "guard", "adapters", "step", "sync", "verl")
    lines = printed("gpu", *parts, "--out", str(out), "--work", str(tmp_path), "--tiny").splitlines()
    found = json.loads(out.read_text())
    rows = {part: [row for row in found["rows"] if row["part"] == part] for part in parts}
    assert [(row["trajectories"], row["turns"]) for row in rows["rollouts"]] == [(4, 1), (4, 2)]
    assert all(16 < row["tokens"] <= 8 * 4 * row["turns"] for row in rows["rollouts"])
    for row, (weights, length) in zip(
        rows["training"], [("LoRA", 512), ("LoRA", 768), ("all", 512), ("all", 768)], strict=True
    ):
        assert (row["weights"], row["length"]) == (weights, length)
        assert length - 4 < row["tokens"] <= length and row["tokens_per_s"] > 0
    for row in (*rows["rollouts"], *rows["training"], *rows["step"]):
        assert row["planned_gb"] > 0 and row["peak_gb"] is None
    assert [row["checks"] for row in rows["guard"]] == ["none", "at every step", "a look at every step"]
    alone, *others = (row["seconds"] for row in rows["guard"])
    assert [row["share"] for row in rows["guard"][1:]] == [seconds / alone - 1 for seconds in others]
    exact, rounded = rows["adapters"]
    assert exact["gap"] == 0 < rounded["gap"] < 0.1 * rounded["shift"]
    assert exact["megabytes"] == 2 * rounded["megabytes"]
    [step] = rows["step"]
    whole = step["rollouts_s"] + step["training_s"] + step["sync_s"]
    assert step["step_s"] == pytest.approx(whole) and min(step["rollouts_s"], step["training_s"]) > 0
    for busy in (step["student_busy_s"], step["tutor_busy_s"]):
        assert 0 < busy <= step["rollouts_s"]
    assert step["student_busy_s"] + step["tutor_busy_s"] > 0.5 * step["rollouts_s"]
    assert 0 < step["gap"] <= step["gap_max"] < 1e-4
    assert [line.partition(":")[0] for line in lines if "left out" in line] == ["sync", "verl"]
    assert rows["sync"] == rows["verl"] == []
    [run] = found["runs"]
    assert run["card"] is None and run["versions"]["torch"]
    assert run["seconds"].keys() == {"rollouts", "training", "guard", "adapters", "step"}
    assert sum(line.startswith("| transformers |") for line in lines) == 3
    missing = [line.split("|")[1].strip() for line in lines if "not measured" in line]
    assert missing == ["vllm", "vllm", "LoRA", "all", "vllm", "LoRA", "all", "1", "2"]


@pytest.mark.slow
def test_gpu_measures_a_student_that_processes_share_though_another_part_fails(tmp_path: Path) -> None:
    out, command = tmp_path / "tiny.json", [sys.executable, str(BENCHMARKS / "gpu.py"), "sync", "sharding"]
    options = ("--tiny", "--out", str(out), "--work", str(tmp_path), "--vllm", "/bin/false")
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=280)
    assert done.returncode == 1 and "UserError: /bin/false: no vLLM server" in done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["part"], row["weights"], row["processes"]) for row in rows] == [
        ("sharding", "LoRA", 2),
        ("sharding", "all", 2),
    ]
    assert all(2032 < row["tokens"] <= 2048 and row["tokens_per_s"] > 0 for row in rows)


def test_the_page_has_the_tables_that_gpu_prints() -> None:
    """As long as no GPU was used, nothing in them is measured."""
    page = (ROOT / "docs/explanation/performance.md").read_text()
    for part in printed("gpu", "table", "--out", "none.json").strip().split("\n\n"):
        assert f"\n\n{part}\n" in page, part


@pytest.mark.slow
def test_train_prints_a_row_a_stage() -> None:
    head, _, *rows = table(printed("train", "--rows", "10", "--micro", "2", "--steps", "1"))
    assert [row[0] for row in rows] == ["sft", "rl"]
    for row in rows:
        found = dict(zip(head, row, strict=True))
        rate, bare, ratio = (float(found[name]) for name in ("tokens/s", "bare, tokens/s", "ratio"))
        assert ratio == pytest.approx(rate / bare, abs=0.01)
        assert int(found["padding"].removesuffix(" %")) < 30
