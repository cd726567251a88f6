"""What suites share with the training data is said before a run starts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from published import pictures
from safer_steer.config.file import load_config
from safer_steer.run.preflight import check
from safer_steer.sandbox.world import draw_png, training_devices

ALL = ["seeds", "bootstrap", "sft", "rl", "bench"]
QUESTION = "How is the lower brass ring turned to open the lid?"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def said(folder: Path, stages: list[str] = ALL, **keys: Any) -> list[str]:
    """The lines of the check of a run with made-up answers."""
    config = {
        "seeds": {"sources": [{"name": "mine", "path": "pairs.jsonl"}]},
        "bench": {"suites": ["attacks.jsonl", "twins.jsonl"]},
    } | keys
    (folder / "config.yaml").write_text(json.dumps(config))
    lines: list[str] = []
    asyncio.run(check(load_config(folder / "config.yaml", stub=True), stages, say=lines.append))
    return lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pairs, and suites of three attacks and one twin. Two attacks and the twin show a picture of a
    pair, one of them under another name; one attack asks nearly the question of a pair on another picture."""
    pictures(tmp_path, *(f"p{place}.png" for place in range(3)))
    pictures(tmp_path / "other", "p0.png")
    (tmp_path / "new.png").write_bytes(draw_png(training_devices()[3], True, "new"))
    asked = [QUESTION, "what is it?", "and this?", "who made it?"]
    write_rows(
        tmp_path / "pairs.jsonl",
        [{"id": place, "image": f"p{place % 3}.png", "question": text} for place, text in enumerate(asked)],
    )
    turns = [{"user": "What is this?"}, {"user": "and this?"}]
    nearly = [{"user": "what is it?"}, {"user": "And how is the lower brass ring turned, to open this lid?"}]
    rows = [
        {"id": "0", "kind": "red_team", "images": ["other/p0.png"], "turns": turns},
        {"id": "1", "kind": "red_team", "images": ["p1.png"], "turns": turns},
        {"id": "2", "kind": "red_team", "images": ["new.png"], "turns": nearly},
    ]
    write_rows(tmp_path / "attacks.jsonl", rows)
    write_rows(tmp_path / "twins.jsonl", [row | {"kind": "benign"} for row in rows[1:2]])
    return tmp_path


def test_shared_pictures_and_questions_are_counted_by_suite(folder: Path) -> None:
    (line,) = said(folder)
    assert line.startswith(
        "bench: attacks: of 3 scripts 2 with a picture of the training data and 1 with a question of the"
        " training data; twins: of 1 scripts 1 with a picture of the training data; the student will be"
    )


def test_nothing_is_said_where_nothing_is_both_trained_on_and_measured(folder: Path) -> None:
    assert said(folder, ["seeds", "bootstrap"]) == []
    assert said(folder, ["bench"]) == []
    assert said(folder, assembly={}, rl={"seeds": 4, "prompts_per_step": 2}) == []
    rows = [json.loads(line) for line in (folder / "attacks.jsonl").read_text().splitlines()]
    clean = rows[2] | {"turns": [{"user": "What colour has the large wooden wheel at the left?"}]}
    write_rows(folder / "clean.jsonl", [clean])
    assert said(folder, bench={"suites": ["clean.jsonl", "sandbox"]}) == []


def test_scripts_of_ones_own_are_compared_too(folder: Path) -> None:
    (line,) = said(folder, seeds={"scripts": str(folder / "attacks.jsonl")})
    assert "attacks: of 3 scripts 3 with a picture" in line and "1 with a question" in line
