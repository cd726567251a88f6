"""Sources that cannot be used: one clear line, and nothing written."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from safer_steer.cli import app
from safer_steer.data.sources.load import load_pairs
from safer_steer.errors import UserError
from safer_steer.sandbox.world import draw_png, training_devices
from seeds_run import build, config, write_pairs

PNG = draw_png(training_devices()[0], True, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "broken.png"}, "pairs.jsonl:2: image: .*broken.png: not a readable PNG, JPEG or WebP"),
        ({"id": "p0"}, "pairs.jsonl:2: id: mine-p0 occurs twice"),
    ],
)
async def test_a_bad_row_is_named_and_nothing_is_written(
    tmp_path: Path, row: dict[str, str], message: str
) -> None:
    """`test_set_row.py` has the other messages."""
    path = write_pairs(tmp_path / "data", {})
    (tmp_path / "data/broken.png").write_bytes(PNG[: len(PNG) // 2])
    with path.open("a") as file:
        file.write(json.dumps({"id": "a", "image": "0.png", "question": "q"} | row) + "\n")
    with pytest.raises(UserError, match=message) as error:
        await build(config(path=path), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_blank_cell_is_no_intent_and_no_answer(tmp_path: Path) -> None:
    path = write_pairs(tmp_path, {"question": "what is it?", "intent": " ", "answer": "\t", "safe": True})
    (pair,) = load_pairs(config(path=path))
    assert (pair.intent, pair.answer) == ("what is it?", None), "the question stands for the intent"


async def test_images_is_accepted_for_image(tmp_path: Path) -> None:
    path = write_pairs(tmp_path, {"question": "what is it?"})
    row = json.loads(path.read_text())
    row["images"] = [row.pop("image")]
    path.write_text(json.dumps(row))
    (pair,) = load_pairs(config(path=path))
    assert pair.image == tmp_path / "0.png"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "vlguard"}, "vlguard is not a built-in set"),
        ({"name": "x", "path": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"name": "x", "path": "/dev/null"}, "/dev/null: no such file"),
        ({"name": "x", "path": "empty.jsonl"}, "empty.jsonl: no rows in it"),
    ],
)
async def test_an_unusable_source_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=message):
        await build(config(sources=[source]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ({"min_turns": 5, "max_turns": 4}, "min_turns is 5"),
        ({"kinds": ["benign", "benign"]}, "twice"),
        ({"sources": []}, "name at least one"),
        ({"sources": [{"path": "a.jsonl"}]}, "a name of its own"),
    ],
)
def test_a_plan_that_cannot_be_is_no_config(seeds: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**seeds)


@pytest.mark.parametrize("key", ["path", "images"])
def test_a_path_that_is_too_long_is_one_line(tmp_path: Path, key: str) -> None:
    source = {"name": "mine", "path": str(write_pairs(tmp_path / "data", {}))} | {key: "y" * 5000}
    (tmp_path / "config.yaml").write_text(json.dumps({"seeds": {"sources": [source]}}))
    out = str(tmp_path / "run")
    done = CliRunner().invoke(app, ["seeds", str(tmp_path / "config.yaml"), "--out", out])
    assert done.exit_code == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ") and "File name too long" in line and len(line) < 400
