"""Manifest and `verify`: everything that can differ is named, and a lawful continuation is no difference."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
import yaml
from pydantic import Field, create_model

from aliases import laughs
from display import Quiet
from safer_steer.config import Config
from safer_steer.config.file import dump_config
from safer_steer.errors import UserError
from safer_steer.files.manifest import NO_INPUTS, Manifest, config_sha256, not_compared, verify
from safer_steer.files.store import canonical, write_atomic
from safer_steer.prompts import base
from safer_steer.prompts.base import Prompt, fingerprints, installed
from safer_steer.prompts.judge import EVALUATOR, JudgeInput
from safer_steer.report.health import gates_table
from safer_steer.run.folder import Run
from safer_steer.stages import STAGES
from safer_steer.training.cotrain.pool import crossplay_of


def work(folder: Path, config: Config | None = None) -> None:
    """A run whose `bootstrap` is a file and a half-done checkpoint, entered as `Run` enters it."""
    with Run(config or Config(), folder, Quiet()) as run:
        (folder / "bootstrap").mkdir(exist_ok=True)
        run.once(
            "bootstrap", lambda progress: (folder / "bootstrap" / "kept.jsonl").write_text("{}\n"), needs=()
        )


@pytest.fixture
def run(tmp_path):
    work(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda file: None, None),
        (lambda file: file.write_text("[]\n"), "bootstrap/kept.jsonl: changed since `bootstrap` finished"),
        (lambda file: file.unlink(), "bootstrap/kept.jsonl: missing (bootstrap)"),
    ],
)
def test_a_changed_or_missing_file_is_named(run, change, line):
    change(run / "bootstrap" / "kept.jsonl")
    assert verify(run) == ([line] if line else [])


def test_an_added_file_is_named_but_not_what_is_only_a_means(run):
    for name in ("new.jsonl", "kept.jsonl.part", ".hidden"):
        (run / "bootstrap" / name).touch()
    (run / "bootstrap" / "checkpoint-3").mkdir()
    (run / "bootstrap" / "checkpoint-3" / "weights").touch()
    (run / "cache.sqlite").touch()
    (run / "seeds").mkdir()  # the next stage is at work
    (run / "seeds" / "journal.jsonl").touch()
    assert verify(run) == ["bootstrap/new.jsonl: added since `bootstrap` finished"]


def test_a_cross_play_is_no_difference(tmp_path):
    write_atomic(tmp_path / "rl" / "metrics.jsonl", "")
    Manifest(tmp_path).record("rl", ("rl",), (), {})
    for blank in (False, True):
        write_atomic(crossplay_of(tmp_path, blank) / "5.jsonl", "")
        write_atomic(crossplay_of(tmp_path, blank).with_suffix(".json"), "[]")
    assert verify(tmp_path) == []
    write_atomic(tmp_path / "rl" / "other.json", "[]")
    assert verify(tmp_path) == ["rl/other.json: added since `rl` finished"]


def test_a_changed_template_is_named(run, monkeypatch):
    loader = base._templates().loader
    texts = {name: loader.get_source(base._templates(), name)[0] for name in loader.list_templates()}
    for changed, names in (("red.j2", ["red"]), ("_evaluation.j2", None)):
        altered = base._templates().overlay(
            loader=jinja2.DictLoader(texts | {changed: texts[changed] + "\nand more\n"})
        )
        with monkeypatch.context() as patch:
            patch.setattr(base, "_templates", lambda altered=altered: altered)
            users = names or [name for name in STAGES["bootstrap"].prompts if changed in texts[f"{name}.j2"]]
            assert users, "some prompt includes it"
            assert verify(run) == [
                f"prompt {name}: the one installed now is another than `bootstrap` asked with"
                for name in sorted(users)
            ]
    assert verify(run) == []


def test_a_changed_answer_schema_is_named(run, monkeypatch):
    stricter = create_model("EvaluatorVerdict", __base__=EVALUATOR.output, safety=(int, Field(ge=2, le=10)))
    changed = {**installed(), "evaluator": Prompt("evaluator", JudgeInput, stricter)}
    monkeypatch.setattr(base, "installed", lambda: changed)
    assert verify(run) == ["prompt evaluator: the one installed now is another than `bootstrap` asked with"]
    del changed["evaluator"]
    assert verify(run) == ["prompt evaluator: the one installed now is another than `bootstrap` asked with"]


def test_a_changed_config_is_named(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["bootstrap"]["tau_safe"] = 3
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert verify(run) == ["config.yaml: another one than `bootstrap` ran with"]
    (run / "config.yaml").unlink()
    assert verify(run) == ["config.yaml: another one than `bootstrap` ran with"]


def test_a_lawful_continuation_is_no_difference(run):
    settings = Config().model_dump(mode="json") | {"name": "another", "spending_limit": 3.5}
    settings["roles"] = {}
    changed = Config.model_validate(settings)
    with Run(changed, run, Quiet()) as going_on:
        assert going_on.manifest.finished("bootstrap")
    assert yaml.safe_load((run / "config.yaml").read_text())["name"] == "another"
    assert verify(run) == []


def test_the_configs_hash_is_of_what_counts(tmp_path):
    """Which keys count: tests/config/test_config_changes.py."""
    path = tmp_path / "config.yaml"

    def digest(**changes: object) -> str | None:
        path.write_text(dump_config(Config.model_validate(changes)))
        return config_sha256(path)

    assert digest(name="b") == digest(spending_limit=1) == digest() != digest(seed=1)
    path.write_text("a: [")
    assert config_sha256(path) is None


def test_every_prompt_is_some_stages(run):
    assert Manifest(run).stages["bootstrap"]["prompts"] == fingerprints(STAGES["bootstrap"].prompts)


def test_the_manifest_is_canonical_json(run):
    text = (run / "manifest.json").read_bytes()
    found = json.loads(text)
    assert (
        text == json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    )
    facts = found["stages"]["bootstrap"]["files"]["bootstrap/kept.jsonl"]
    assert facts == {"bytes": 3, "sha256": hashlib.sha256(b"{}\n").hexdigest()}
    assert canonical({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}\n'
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


def test_an_export_is_verified_alike(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").write_bytes(b"a")
    Manifest(tmp_path).record("export", (".",), (), {})
    assert verify(tmp_path) == []
    (tmp_path / "data" / "a.parquet").write_bytes(b"b")
    (tmp_path / "README.md").touch()
    write_atomic(tmp_path / "more" / "b.parquet", "b")
    assert verify(tmp_path) == [
        "data/a.parquet: changed since `export` finished",
        "README.md: added since `export` finished",
        "more/b.parquet: added since `export` finished",
    ]


def test_a_folder_without_manifest_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match=r"no manifest.json in it; give an export"):
        verify(tmp_path)
    whole: dict[str, object] = {"files": {}, "built_on": {}, "outputs": [], "inputs": NO_INPUTS}
    for entry in (
        {},
        {"files": 1},
        whole | {"files": {"a": 5}},
        whole | {"outputs": [5]},
        whole | {"inputs": 3},
        whole | {"inputs": NO_INPUTS | {"files": {"a": [1]}}},
        whole | {"inputs": NO_INPUTS | {"folders": {"/": ["**/*"]}}},  # every file of the machine
        whole | {"inputs": NO_INPUTS | {"folders": {"/": ["*/../*"]}}},
    ):
        (tmp_path / "manifest.json").write_text(json.dumps({"stages": {"sft": entry}}))
        with pytest.raises(UserError, match=r"/manifest\.json: not a valid manifest"):
            verify(tmp_path)
    overridden = {"stage": "rl", "gate": "kept_share", "step": None}
    for overrides in (5, [5], [{}], [overridden | {"gate": []}]):
        (tmp_path / "manifest.json").write_text(json.dumps({"stages": {}, "overrides": overrides}))
        with pytest.raises(UserError, match=r"/manifest\.json: not a valid manifest"):
            gates_table(tmp_path, {"gates": {"kept_share": {"at_most": 0.5}}})
    for text in ("{", "[]", '{"stages": []}', "[" * 100_000):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"/manifest\.json: not a valid manifest"):
            verify(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {"sft": whole | {"outputs": ["/"]}}}))
    with pytest.raises(UserError, match=r"^/: leads out of "):
        verify(tmp_path)


def test_a_run_without_a_finished_stage_is_not_praised(tmp_path):
    (tmp_path / "report.html").write_text("")
    Manifest(tmp_path).record("report", ("report.html",), (), {})
    with pytest.raises(UserError, match="no stage is finished in it"):
        verify(tmp_path)


@pytest.fixture
def in_time() -> Iterator[None]:
    """Ends a test that would never return."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("took too long"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("in_time")
def test_an_input_without_end_is_one_that_is_not_there(run: Path, tmp_path: Path) -> None:
    """A run from somebody else names what its own machine has, or anything."""
    os.mkfifo(tmp_path / "pipe")
    content = json.loads((run / "manifest.json").read_text())
    endless = ["/dev/zero", str(tmp_path / "pipe"), "/\0"]
    content["stages"]["bootstrap"]["inputs"]["files"] = {name: [0, 0, 0, "x"] for name in endless}
    write_atomic(run / "manifest.json", canonical(content))
    assert verify(run) == []
    assert not_compared(run) == [
        "bootstrap: /\0 and 2 more, which it read, cannot be compared: not there any more"
    ]


@pytest.mark.usefixtures("in_time")
def test_no_link_to_a_folder_is_entered(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.jsonl").touch()
    for name, to in (("a", "."), ("b", "."), ("c", ".."), ("d.jsonl", tmp_path / "elsewhere.jsonl")):
        (run / "bootstrap" / name).symlink_to(to)
    assert verify(run) == ["bootstrap/d.jsonl: added since `bootstrap` finished"]


@pytest.mark.usefixtures("in_time")
def test_a_config_that_cannot_be_read_is_another_one(run: Path) -> None:
    config = run / "config.yaml"
    for text in (laughs(), "[" * 9999):
        config.write_text(text)
        assert verify(run) == ["config.yaml: another one than `bootstrap` ran with"]
    config.unlink()
    config.symlink_to("/dev/zero")
    assert verify(run) == ["config.yaml: another one than `bootstrap` ran with"]
