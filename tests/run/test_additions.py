"""What a run's bench may be given after it is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safer_steer.config import Config
from safer_steer.config.changes import another_run
from safer_steer.config.file import dump_config
from safer_steer.files.manifest import Manifest, config_sha256, verify
from safer_steer.run.additions import with_additions

ATTACKER = {"model": "x", "base_url": "http://h/v1"}


def config(**given: Any) -> dict[str, Any]:
    return Config.model_validate(given).model_dump(mode="json")


def attacked(*attackers: str, **more: Any) -> dict[str, Any]:
    role = ATTACKER | {"model": attackers[0]} if attackers else ATTACKER
    return config(bench={"adaptive": {"attackers": attackers, **more}}, roles={"attacker": role})


def served(*models: str, **role: Any) -> dict[str, Any]:
    targets = [{"model": model} for model in models] if len(models) > 1 else []
    return config(
        bench={"targets": targets}, roles={"target": {"model": models[0], "base_url": "http://h/v1", **role}}
    )


ASSEMBLED: dict[str, Any] = {"assembly": {}, "rl": {"seeds": 64}}


@pytest.mark.parametrize(
    ("old", "new", "more", "differs"),
    [
        (config(), config(), False, None),
        (config(bench={"models": ["base"]}), config(bench={"models": ["base", "sft"]}), True, None),
        (config(bench={"models": ["base", "sft"]}), config(bench={"models": ["sft", "base"]}), False, None),
        (config(bench={"models": ["base", "sft"]}), config(bench={"models": ["sft"]}), False, "bench.models"),
        (config(bench={"suites": ["/a"]}), config(bench={"suites": ["/b", "/a"]}), True, None),
        (
            config(bench={"suites": ["/a"]}, **ASSEMBLED),
            config(bench={"suites": ["/a", "/b"]}, **ASSEMBLED),
            False,
            "bench.suites",
        ),
        (
            config(bench={"suites": ["/a"], "dialogues": 8}),
            config(bench={"suites": ["/a", "/b"], "dialogues": 8}),
            False,
            "bench.suites",
        ),
        (
            config(bench={"suites": ["sandbox"], "dialogues": 8}),
            config(bench={"suites": ["sandbox", "/b"], "dialogues": 8}),
            True,
            None,
        ),
        (config(), config(bench={"capability": ["sandbox"]}), True, None),
        (config(), attacked("x"), True, None),
        (attacked("x"), config(), False, "roles.attacker"),
        (attacked("x"), attacked("y", "x"), True, None),
        (attacked("x"), attacked("y"), False, "roles.attacker.model (x there, y here)"),
        (attacked("x"), attacked("x", own=["a.b:c"]), True, None),
        (attacked("x"), attacked("x", trained=["/t"]), True, None),
        (attacked("x", trained=["/t"]), attacked("x", "y"), True, "bench.adaptive.trained"),
        (attacked("x"), attacked("x", "y", turns=7), True, "bench.adaptive.turns"),
        (config(bench={"adaptive": {"own": ["a:b"]}}), attacked("x"), True, "bench.adaptive.own"),
        (attacked(), attacked("y"), False, "roles.attacker.model"),
        (served("a"), served("a", "b"), True, None),
        (served("a"), served("b", "a"), True, None),
        (served("a", "b"), served("b", "a"), False, None),
        (served("a", "b"), served("b"), False, "bench.targets (a, b there, b here)"),
        (served("a"), served("b"), False, "roles.target.model"),
        (served("a"), served("a", "b", temperature=0), True, "roles.target.temperature"),
    ],
)
def test_a_bench_may_get_more_and_nothing_else(
    old: dict[str, Any], new: dict[str, Any], more: bool, differs: str | None
) -> None:
    *compared, again = with_additions(old, new)
    assert again == ({"bench"} if more else set())
    found = another_run(*compared)
    assert found is None if differs is None else str(found).startswith(differs)


def test_what_was_finished_before_stays_finished_and_verified(tmp_path: Path) -> None:
    """The other stages of a run ran with the config that it has now, but for what its bench got."""
    before, after = Config(), Config.model_validate({"bench": {"capability": ["sandbox"]}})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(before))
    (tmp_path / "seeds").mkdir()
    manifest = Manifest(tmp_path)
    for stage in ("seeds", "bench"):
        manifest.record(stage, (stage,), (), {"config": config_sha256(path)})
    Manifest(tmp_path).go_on(path, after.model_dump(mode="json"), {"bench"})
    path.write_text(dump_config(after))
    assert Manifest(tmp_path).stages.keys() == {"seeds"}
    assert verify(tmp_path) == []
