"""What a run read from outside its folder: a finished stage does not pass in silence once that is edited."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from PIL import Image
from typer.testing import Result

from display import complaint, safer_steer
from safer_steer.config import Config
from safer_steer.config.file import load_config
from safer_steer.errors import UserError
from safer_steer.experiments.work import Job
from safer_steer.files import inputs
from safer_steer.files.inputs import Compared, Difference, compare
from safer_steer.run.input_files import take_inputs
from safer_steer.stages import STAGES

Edit = Callable[[list[str]], list[str]]
"""Changes the lines of a file."""


def picture(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (84, 84), colour).save(path)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scripts(path: Path, *ids: str) -> Path:
    """A suite, or scripts of one's own, with a picture each."""
    for id in ids:
        picture(path.parent / f"{id}.png", "red")
    turns = [{"user": "What is this?"}, {"user": "And how is it made?"}]
    rows = [{"id": id, "kind": "red_team", "images": [f"{id}.png"], "turns": turns} for id in ids]
    return write_rows(path, rows)


class Project:
    """Pairs and a suite, with a run of made-up answers in `out`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.config = folder, folder / "out", folder / "config.yaml"
        for id in "abcd":
            picture(folder / "data" / "images" / f"{id}.png", "green")
        pairs = [{"id": id, "image": f"{id}.png", "question": f"What is {id}?"} for id in "abcd"]
        self.pairs = write_rows(folder / "data" / "pairs.jsonl", pairs)
        self.suite = scripts(folder / "suites" / "mine.jsonl", "x", "y", "z")
        settings = {
            "seeds": {"sources": [{"name": "mine", "path": "data/pairs.jsonl"}], "kinds": ["benign"]},
            "bench": {"suites": ["suites/mine.jsonl"], "models": ["base"], "resamples": 10},
        }
        self.config.write_text(yaml.safe_dump(settings))

    def stage(self, name: str) -> Result:
        return safer_steer(name, self.config, "--stub", "--out", self.out)

    def done(self, name: str) -> str:
        """Do a stage that succeeds. Returns what it said."""
        result = self.stage(name)
        assert result.exit_code == 0, result.output
        return result.stderr

    def refused(self, name: str) -> str:
        """Try a stage that ends with one line and exit code 2."""
        return complaint(self.stage(name))

    def verified(self, exit_code: int = 0) -> list[str]:
        result = safer_steer("verify", self.out)
        assert result.exit_code == exit_code, result.output
        return result.stdout.splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def other(line: str) -> str:
    """As long as before."""
    return line.replace("What", "Wath", 1)


EDITS: list[tuple[Edit, str]] = [
    (lambda rows: [rows[0], other(rows[1]), *rows[2:]], "line 2 ({1}) differs"),
    (lambda rows: [rows[0], *rows[2:]], "line 2 was removed"),
    (lambda rows: rows[:-1], "line {n} was removed"),
    (
        lambda rows: [*rows, other(rows[0]).replace('"id": "', '"id": "new', 1)],
        "line {more} (new{0}) was added",
    ),
    (lambda rows: [other(rows[0]).replace('"id": "', '"id": "new', 1), *rows], "line 1 (new{0}) was added"),
    (lambda rows: [rows[1], rows[0], *rows[2:]], "line 1 ({1}) differs"),
    (lambda rows: [], "line 1 was removed"),
]


def edited(path: Path, edit: Edit, said: str) -> tuple[bytes, str]:
    """Edit a file of rows. Returns its bytes before, and how the change is named."""
    before = path.read_bytes()
    rows = before.decode().splitlines(keepends=True)
    path.write_text("".join(edit(rows)))
    ids = [json.loads(row)["id"] for row in rows]
    return before, said.format(*ids, n=len(rows), more=len(rows) + 1)


@pytest.mark.parametrize(("edit", "said"), EDITS)
def test_a_row_that_was_edited_is_named(tmp_path: Path, edit: Edit, said: str) -> None:
    path = scripts(tmp_path / "own.jsonl", *"abcd")
    taken = take_inputs(STAGES["seeds"], Config.model_validate({"seeds": {"scripts": str(path)}}))
    _, row = edited(path, edit, said)
    assert compare(taken, whole=False).differing == [Difference(str(path), "changed", row)]


def test_pairs_that_were_edited_after_stage_i_are_named_by_their_row(project: Project) -> None:
    project.done("seeds")
    before, row = edited(project.pairs, *EDITS[0])
    assert project.refused("seeds") == (
        f"error: {project.out}: {project.pairs} changed since `seeds` read it: {row}; restore it, or"
        " delete images, seeds there and run the same command again, which pays for nothing twice"
    )
    assert f"{project.pairs} changed since `seeds` read it: {row}" in project.refused("assemble")
    assert project.verified(1) == [f"{project.pairs}: changed since `seeds` read it: {row}"]
    project.pairs.write_bytes(before)
    assert "seeds: done already" in project.done("seeds")
    assert project.verified() == [f"{project.out}: every file matches the manifest"]


def test_a_suite_or_its_picture_that_was_edited_after_the_bench_is_named(project: Project) -> None:
    project.done("bench")
    path = project.folder / "suites" / "y.png"
    with other_bytes(path):
        assert f"{project.out}: {path} changed since `bench` read it; restore it" in project.refused("bench")
        assert project.verified(1) == [f"{path}: changed since `bench` read it"]
    before, row = edited(project.suite, *EDITS[0])
    assert project.refused("bench") == (
        f"error: {project.out}: {project.suite} changed since `bench` read it: {row}; restore it, or"
        " delete bench, protocol.yaml, suites, summary.json there and run the same command again, which pays"
        " for nothing twice"
    )
    assert project.verified(1) == [f"{project.suite}: changed since `bench` read it: {row}"]
    project.suite.write_bytes(before)
    assert "bench: done already" in project.done("bench")
    edited(project.suite, *EDITS[1])
    for name in ("bench", "suites"):
        shutil.rmtree(project.out / name)
    (project.out / "summary.json").unlink()
    project.done("bench")
    summary = json.loads((project.out / "summary.json").read_text())
    assert summary["models"]["base"]["multi_turn"]["mine"]["n"] == 2
    assert project.verified() == [f"{project.out}: every file matches the manifest"]


@contextmanager
def other_bytes(path: Path) -> Iterator[None]:
    """The file with another last byte, and its old size and time."""
    before, state = path.read_bytes(), path.stat()
    path.write_bytes(before[:-1] + b"?")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_mtime_ns == state.st_mtime_ns and path.stat().st_size == state.st_size
    yield
    path.write_bytes(before)


def test_a_picture_with_other_bytes_is_named(project: Project) -> None:
    project.done("seeds")
    path = project.folder / "data" / "images" / "c.png"
    with other_bytes(path):
        assert f"{project.out}: {path} changed since `seeds` read it; restore it" in project.refused("seeds")
        assert project.verified(1) == [f"{path}: changed since `seeds` read it"]
    project.done("seeds")
    assert project.verified() == [f"{project.out}: every file matches the manifest"]


def test_a_stage_that_others_were_made_from_is_not_to_be_made_anew_alone(project: Project) -> None:
    project.done("seeds")
    project.done("assemble")
    edited(project.pairs, *EDITS[0])
    said = "differs; restore it, or start over with --fresh, or choose another folder"
    assert said in project.refused("seeds")
    assert said in project.refused("bootstrap")
    assert safer_steer("seeds", project.config, "--stub", "--out", project.out, "--fresh").exit_code == 0
    assert project.verified() == [f"{project.out}: every file matches the manifest"]


def test_inputs_that_are_gone_are_no_difference_and_later_stages_go_on(project: Project) -> None:
    """As on another machine."""
    project.done("seeds")
    shutil.move(project.folder / "data", project.folder / "moved")
    said = f"seeds: {project.pairs.parent}/images/a.png and 4 more, which it read, cannot be compared"
    assert said in project.done("seeds")
    for stage in ("assemble", "bootstrap"):
        project.done(stage)
    first, last = project.verified()
    assert first.startswith(said) and last == f"{project.out}: every file matches the manifest"
    shutil.move(project.folder / "moved", project.folder / "data")
    assert "cannot be compared" not in project.done("seeds")


def test_a_file_with_another_time_alone_is_read_once_more_and_trusted_from_then_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.done("seeds")
    state = manifest(project)["seeds"]["inputs"]["files"][str(project.pairs)]
    os.utime(project.pairs, ns=(1, 1))
    project.done("seeds")
    renewed = manifest(project)["seeds"]["inputs"]["files"][str(project.pairs)]
    assert renewed[1] == 1 and renewed[3] == state[3]
    inputs._read_once.cache_clear()
    monkeypatch.setattr(inputs, "sha256_of", lambda path: pytest.fail(f"{path} was read again"))
    project.done("seeds")


def test_verify_reads_every_file_whatever_its_state_says(project: Project) -> None:
    """Sabotage: the manifest holds the state of the file as it is now, with the hash of what it was."""
    project.done("seeds")
    edited(project.pairs, *EDITS[0])
    entries, now = manifest(project), project.pairs.stat()
    taken = entries["seeds"]["inputs"]["files"][str(project.pairs)]
    taken[:3] = [now.st_size, now.st_mtime_ns, now.st_ctime_ns]
    (project.out / "manifest.json").write_text(json.dumps({"stages": entries}))
    project.done("seeds")
    assert project.verified(1) == [f"{project.pairs}: changed since `seeds` read it: line 2 (b) differs"]


def test_what_is_edited_while_its_stage_works_is_noticed(project: Project) -> None:
    taken = take_inputs(STAGES["seeds"], Config.model_validate({"seeds": {"scripts": str(project.suite)}}))
    edited(project.suite, *EDITS[0])
    assert compare(taken, whole=False).differing == [
        Difference(str(project.suite), "changed", "line 2 (y) differs")
    ]


def test_an_experiment_does_not_take_a_run_of_other_data_for_done(project: Project) -> None:
    project.done("seeds")
    job = Job("a", project.out, load_config(project.config, stub=True), ("seeds",))
    assert job.done()
    edited(project.pairs, *EDITS[0])
    with pytest.raises(UserError, match=r"pairs\.jsonl changed since `seeds` read it: line 2 \(b\) differs"):
        job.done()


def manifest(project: Project) -> dict[str, Any]:
    stages: dict[str, Any] = json.loads((project.out / "manifest.json").read_text())["stages"]
    return stages


# Each kind of input


def differing(stage: str, settings: dict[str, Any], change: Callable[[], object]) -> Compared:
    taken = take_inputs(STAGES[stage], Config.model_validate(settings))
    assert compare(taken, whole=True) == Compared()
    change()
    return compare(json.loads(json.dumps(taken)), whole=False)


def test_own_scripts_and_their_pictures_are_inputs_of_stage_i(tmp_path: Path) -> None:
    path = scripts(tmp_path / "own.jsonl", "a", "b")
    settings = {"seeds": {"scripts": str(path)}}
    found = differing("seeds", settings, lambda: picture(tmp_path / "b.png", "blue"))
    assert found.differing == [Difference(str(tmp_path / "b.png"), "changed")]


def test_a_folder_of_parquet_files_is_compared_file_by_file(tmp_path: Path) -> None:
    def shard(number: int, question: str) -> None:
        row = {"id": [f"q{number}"], "image": [{"bytes": png, "path": None}], "question": [question]}
        pyarrow.parquet.write_table(pyarrow.table(row), data / f"train-{number:05}-of-00002.parquet")

    data = tmp_path / "data"
    picture(data / "a.png", "red")
    png = (data / "a.png").read_bytes()
    shard(0, "What is it?")
    settings = {"seeds": {"sources": [{"name": "mine", "path": str(data)}]}}
    found = differing("seeds", settings, lambda: shard(1, "And this?"))
    first, second = (str(data / f"train-{number:05}-of-00002.parquet") for number in (0, 1))
    assert found == Compared([Difference(second, "added")])
    found = differing("seeds", settings, lambda: shard(0, "What is that?"))
    assert found == Compared([Difference(first, "changed")])
    found = differing("seeds", settings, lambda: Path(second).unlink())
    assert found == Compared([Difference(second, "removed")]), "its folder is there"
    found = differing("seeds", settings, lambda: (data / "test.parquet").touch())
    assert found == Compared(), "another split"
    (data / "test.parquet").unlink()
    found = differing("seeds", settings, lambda: shutil.move(data, tmp_path / "moved"))
    assert found == Compared(missing=[first])


def test_the_files_of_a_saved_data_set_are_compared(tmp_path: Path) -> None:
    def save(question: str) -> None:
        row = {"id": "q", "image": {"bytes": png, "path": None}, "question": question}
        datasets.Dataset.from_list([row]).save_to_disk(data)

    data = tmp_path / "data"
    picture(tmp_path / "a.png", "red")
    png = (tmp_path / "a.png").read_bytes()
    save("What is it?")
    settings = {"seeds": {"sources": [{"name": "mine", "path": str(data)}]}}
    found = differing("seeds", settings, lambda: save("What is that?"))
    assert found.differing[0] == Difference(str(data / "data-00000-of-00001.arrow"), "changed")


@pytest.mark.parametrize("stage", ["sft", "rl", "bench"])
def test_weights_of_the_students_folder_and_its_template_are_inputs_of_what_loads_it(
    tmp_path: Path, stage: str
) -> None:
    model, template = tmp_path / "model", tmp_path / "chat.jinja"
    model.mkdir()
    for name in ("model.safetensors", "config.json", "README.md"):
        (model / name).write_text(name)
    template.write_text("{{ messages }}")
    settings = {
        "student": {"model": str(model), "chat_template": str(template)},
        "rl": {"start_from": "base"},
    }
    found = differing(stage, settings, lambda: (model / "model.safetensors").write_text("model.safetensorS"))
    assert found.differing == [Difference(str(model / "model.safetensors"), "changed")]
    found = differing(stage, settings, lambda: template.write_text("{{messages }}"))
    assert found.differing == [Difference(str(template), "changed")]
    found = differing(stage, settings, lambda: (model / "README.md").write_text("words"))
    assert found == Compared(), "it bears on nothing"
    found = differing(stage, settings, lambda: (model / "chat_template.jinja").write_text("another"))
    assert found.differing == [Difference(str(model / "chat_template.jinja"), "added")]


def test_intents_questions_and_attackers_of_ones_own_are_inputs_of_the_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "my_attacker_of_inputs.py"
    module.write_text("async def attack(view): ...\n")
    picture(tmp_path / "later.png", "red")
    intents = write_rows(
        tmp_path / "intents.jsonl", [{"id": "i", "intent": "To know", "later": ["later.png"]}]
    )
    question = {
        "id": "q",
        "question": "Which?",
        "choices": ["this", "that"],
        "answer": 0,
        "image": "later.png",
    }
    facts = write_rows(tmp_path / "facts.jsonl", [question])
    settings = {
        "bench": {
            "suites": ["sandbox", "steer"],
            "capability": ["sandbox", str(facts)],
            "adaptive": {"intents": str(intents), "own": ["my_attacker_of_inputs:attack"]},
        }
    }
    taken = take_inputs(STAGES["bench"], Config.model_validate(settings))
    assert set(taken["files"]) == {str(path) for path in (module, intents, facts, tmp_path / "later.png")}
    found = differing("bench", settings, lambda: module.write_text("async def attack(view): pass\n"))
    assert found.differing == [Difference(str(module), "changed")]
    found = differing("bench", settings, lambda: facts.write_text(facts.read_text().replace("0", "1")))
    assert found.differing == [Difference(str(facts), "changed", "line 1 (q) differs")]


def test_suites_are_inputs_of_the_assembly_which_keeps_their_scripts_out_of_training(tmp_path: Path) -> None:
    path = scripts(tmp_path / "mine.jsonl", "a", "b")
    settings: dict[str, Any] = {"bench": {"suites": [str(path)]}}
    assert take_inputs(STAGES["assemble"], Config.model_validate(settings))["files"] == {}
    settings |= {"assembly": {}, "rl": {"seeds": 4}}
    found = differing("assemble", settings, lambda: scripts(path, "a", "c"))
    assert found.differing[0] == Difference(str(path), "changed", "line 2 (c) differs")


def test_a_change_beyond_the_rows_with_a_hash_is_noticed_without_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MOST_ROWS", 2)
    path = scripts(tmp_path / "own.jsonl", "a", "b", "c")
    found = differing("seeds", {"seeds": {"scripts": str(path)}}, lambda: edited(path, EDITS[2][0], ""))
    assert found.differing == [Difference(str(path), "changed")]


def test_a_module_in_a_package_is_an_input_and_nothing_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "package_of_inputs"
    (package / "deeper").mkdir(parents=True)
    files = [package / "__init__.py", package / "deeper" / "__init__.py", package / "deeper" / "attack.py"]
    for file in files:
        file.write_text("open('ran', 'w')\n")
    for name, expected in (
        ("deeper.attack", {str(files[2])}),
        ("deeper", {str(files[1])}),
        ("no.such", set()),
    ):
        adaptive = {"own": [f"package_of_inputs.{name}:attack"]}
        config = Config.model_validate({"bench": {"suites": ["sandbox"], "adaptive": adaptive}})
        assert set(take_inputs(STAGES["bench"], config)["files"]) == {str(file) for file in expected}
    assert not (tmp_path / "ran").exists()
