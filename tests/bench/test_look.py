"""`suite NAME --show N`: what is read, before anything is written or paid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from published import MM_SAFETYBENCH_PLUS, XSTEST, write_csv
from published_trees import mmds_tree, one_table, vlguard_tree
from safer_steer.bench.look import NO_CATEGORY, look_at
from safer_steer.bench.suites import read_suite
from safer_steer.cli import app
from safer_steer.config import Source
from safer_steer.dialogue import Kind


def show(name: str, path: Path, *more: object) -> Result:
    arguments = ("suite", name, "--path", path, "--show", 3, *more)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(result: Result) -> list[str]:
    """The lines of the output, with single spaces."""
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_a_look_says_what_is_read_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = mmds_tree(tmp_path / "mmds")
    Image.new("RGB", (40, 30)).save(tree / "images/2.png")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    done = show("mmds", tree)
    assert done.exit_code == 0, done.output
    assert words(done) == [
        "mmds: 2 rows, 2 scripts (1 obfuscated, 1 benign)",
        "by user turns: 1 of 1, 1 of 3",
        "pictures: 4, from 40 x 30 to 84 x 84 pixels, 3 of them 84 x 84",
        "",
        "category obfuscated benign",
        "devices 1 0",
        "- 0 1",
        "",
        "id kind category pictures first turn",
        "mmds-test-4 obfuscated devices 84 x 84, 84 x 84, 40 x 30 what is it?",
        "mmds-test-5 benign - 84 x 84 is this a box?",
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_look_counts_twins_and_shows_the_first_scripts_only(tmp_path: Path) -> None:
    done = show("mm_safetybench_plus", one_table(tmp_path / "plus", MM_SAFETYBENCH_PLUS))
    lines = words(done)
    assert lines[0] == "mm_safetybench_plus: 8 rows, 8 scripts (4 obfuscated, 4 benign); 4 pairs of twins"
    assert lines[2] == "pictures: 8, all 84 x 84 pixels"
    assert [line.split()[0] for line in lines[-3:]] == [
        f"mm_safetybench_plus-Gen-{name}" for name in ("rings-0000", "rings-0001", "boxes-0000")
    ]


@pytest.mark.parametrize("damage", ["gone", "broken"])
def test_a_look_leaves_out_what_the_suite_does(tmp_path: Path, damage: str) -> None:
    """A picture that is not there is missed when rows are read, one that is cut off when it is decoded."""
    tree = vlguard_tree(tmp_path / "set")
    picture = tree / "test/ads/2.png"
    whole = picture.read_bytes()
    picture.unlink()
    if damage == "broken":
        picture.write_bytes(whole[: len(whole) // 2])
    error = show("vlguard", tree, "--split", "test")
    assert error.exit_code == 2 and error.stdout == ""
    (said,) = [line for line in error.stderr.splitlines() if line.startswith("error: ")]
    assert said == error.stderr.splitlines()[-1] and "ads/2.png" in said
    options = ("--split", "test", "--bad-rows", "skip")
    seen = words(show("vlguard", tree, *options))
    out = ("--out", tmp_path / "s.jsonl")
    done = CliRunner().invoke(app, ["suite", "vlguard", "--path", str(tree), *options, *map(str, out)])
    assert seen[0] == "vlguard/test: 2 rows, 2 scripts (1 obfuscated, 1 benign)"
    assert seen[1] == done.stdout.splitlines()[-1] and "1 left out" in seen[1]
    assert [len(read_suite(tmp_path / name).seeds) for name in ("s.jsonl", "s_safe.jsonl")] == [1, 1]


def test_a_look_at_prompts_without_pictures(tmp_path: Path) -> None:
    done = show("xstest", write_csv(tmp_path / "xstest.csv", XSTEST))
    assert "pictures: none; 2 scripts without one" in words(done)


def test_text_of_a_set_cannot_steer_the_terminal(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    row = {
        "id": "a\x1b[2Jb",
        "question": "what\nis\x1b]0;it\x07 " + "long " * 50,
        "image": "0.png",
        "category": "\x1b[31m",
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    done = show("mine", tmp_path / "rows.jsonl")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output and "\x07" not in done.output
    assert any("what is?]0;it? long" in line and line.endswith("...") for line in words(done))


def test_a_look_at_a_draw_is_a_look_at_what_a_draw_writes(tmp_path: Path) -> None:
    path = one_table(tmp_path / "plus", MM_SAFETYBENCH_PLUS)
    source = Source(name="mm_safetybench_plus", path=str(path), limit=2)
    look = look_at(source, 5, 9)
    assert (look.rows, look.pairs) == (8, 2)
    assert look.kinds == {Kind.OBFUSCATED: 2, Kind.BENIGN: 2}
    assert NO_CATEGORY not in look.categories
    out = tmp_path / "s.jsonl"
    options = ["--path", str(path), "--limit", "2", "--seed", "5", "--out", str(out)]
    CliRunner().invoke(app, ["suite", "mm_safetybench_plus", *options])
    assert {row.id for row in look.first if row.kind is Kind.OBFUSCATED} == {
        seed.id for seed in read_suite(out).seeds
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "suite: give either --out FILE, to write the suite, or --show 3, to look at it first"),
        (["--show", "1", "--out", "a.jsonl"], "suite: give either --out FILE"),
        (["--show", "0"], "suite: --show: is 0; give 1 or more"),
        (["--show", "1"], "x: no such file or folder"),
    ],
)
def test_mistakes_cost_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["suite", "mine", "--path", "x", *options])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {said}")
    assert list(tmp_path.iterdir()) == []
