"""The benchmarks run, on little, and print what they say they do. Their numbers are for docs/performance.md, not for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_scale_prints_a_row_a_size(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "scale.py"), "--pairs", "40", "200", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    head, _, *table = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert [row[0] for row in table] == ["40", "200"]
    for pairs, row in zip((40, 200), table, strict=True):
        found = dict(zip(head, row, strict=True))
        assert 2 * pairs < int(found["scripts"]) <= 3 * pairs, "every pair gives two scripts, and most a third"
        assert float(found["again, s"]) < float(found["s"])
        assert 20 < int(found["peak MB"]) < 300


def test_endpoint_prints_a_row_a_variant_and_a_row_a_target() -> None:
    command = [sys.executable, str(BENCHMARKS / "endpoint.py"), "--calls", "24", "--in-flight", "4", "--dialogues", "3", "--markdown"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    calls, judged, targets = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()] for part in done.stdout.strip().split("\n\n")
    )
    assert [row[:2] for row in calls[2:]] == [["0.3 s", "ours"], ["0.3 s", "thread pool"], ["0 s", "ours"], ["0 s", "thread pool"]]
    assert all(float(row[2].removesuffix(" ms")) > 0 for row in calls[2:])
    assert all(float(row[4].removesuffix(" s")) > 24 / 4 * 0.15 for row in calls[2:4]), "the latency is at least half its mean"
    assert [row[:2] for row in judged[2:]] == [["one after the other", "64"], ["side by side", "64"], ["side by side", "640"]]
    assert len({row[2] for row in judged[2:]}) == 1, "every order judges the same turns"
    assert float(judged[3][4].removesuffix(" x")) < 0.9
    assert {row[-1] for row in targets[2:]} <= {"yes", "no"} and len(targets) == 8
