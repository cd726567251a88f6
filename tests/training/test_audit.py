"""The audit of Stage III: paid once, also over kill -9, and no part of what is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forked import Forked
from safer_steer.config import SHIPPED, Agent, Config
from safer_steer.config.file import dump_config
from safer_steer.endpoints.cache import Cache
from safer_steer.files.manifest import Manifest
from safer_steer.files.store import write_atomic
from safer_steer.plan.calls import estimate
from safer_steer.run.calls_check import roles_asked
from safer_steer.stages import STAGES
from safer_steer.stages.checks import another_judge
from student_parts import drawn_for_rl, tiny_config, write_seeds

AUDIT = {"role": "judge", "share": 0.5}


def config(url: str, audit: dict[str, Any] | None = AUDIT, judge: str = Agent.NOISY, **rl: Any) -> Config:
    """A short Stage III whose tutor and judge are behind an endpoint."""
    section = tiny_config().rl.model_dump() | {"seeds": 5, "audit": audit, "save_steps": 2} | rl
    roles = {"tutor": {"model": "sandbox", "base_url": url}, "judge": {"model": judge, "base_url": url}}
    return tiny_config(rl=section, roles=roles)


def start(folder: Path, settings: Config) -> Forked:
    """Stage III in a process of its own, in the folder of a run that is ready for it."""
    if not folder.exists():
        write_seeds(folder, 6)
        shutil.copytree(SHIPPED, folder / "sft" / "model")
        drawn_for_rl(settings, folder)
        write_atomic(folder / "config.yaml", dump_config(settings))
        for stage in ("seeds", "assemble", "bootstrap", "sft"):
            Manifest(folder).record(stage, STAGES[stage].writes, (), {})
    arguments = ("rl", folder / "config.yaml", "--out", folder, "--no-check")
    return Forked(folder.with_suffix(".log"), "safer_steer", *arguments)


def calls(folder: Path) -> dict[str, int]:
    """The calls that were paid, by role."""
    if not (folder / "cache.sqlite").exists():
        return {}
    cache = Cache(folder / "cache.sqlite")
    found = {row[0]: row[1] for row in cache.spent()}
    cache.close()
    return found


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rl" / name).read_text().splitlines()]


def unaudited(folder: Path) -> list[dict[str, Any]]:
    found = rows(folder, "trajectories.jsonl")
    for row in found:
        for turn in row["turns"]:
            turn["meta"].pop("audit", None)
    return found


@pytest.mark.slow
def test_it_is_paid_once_over_kill_9_and_trains_nothing(tmp_path: Path, served_by_core: str) -> None:
    killed, without = tmp_path / "killed", tmp_path / "without"
    run = start(killed, config(served_by_core))
    assert run.kill_when(lambda: calls(killed).get("judge", 0) >= 3)
    start(killed, config(served_by_core)).wait()
    start(without, config(served_by_core, None)).wait()

    turns = [turn["meta"] for row in rows(killed, "trajectories.jsonl") for turn in row["turns"]]
    audited = len([meta for meta in turns if "audit" in meta])
    steps = [row["audit"] for row in rows(killed, "metrics.jsonl")]
    assert 5 < audited < len(turns) and calls(killed)["judge"] == audited, "a turn was paid twice"
    assert sum(step["turns"] for step in steps) == audited
    assert all(step["tutor"] is not None and step["unscored"] == 0 for step in steps)

    assert "judge" not in calls(without) and calls(without)["tutor"] == calls(killed)["tutor"]
    assert unaudited(killed) == rows(without, "trajectories.jsonl")
    assert "audit" not in rows(without, "metrics.jsonl")[0]
    ours, theirs = (load_file(folder / "rl/model/model.safetensors") for folder in (killed, without))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_its_calls_are_forecast_and_its_role_is_checked() -> None:
    audited, plain = config("http://127.0.0.1:1/v1"), config("http://127.0.0.1:1/v1", None)
    for settings in (audited, plain):
        settings.seeds.sources[0].limit = 12
    asked, unasked = (estimate(settings).stages["rl"] for settings in (audited, plain))
    assert asked["judge", "tutor"].calls == pytest.approx(asked["tutor", "tutor"].calls / 2)
    assert ("judge", "tutor") not in unasked
    assert roles_asked(audited, ["rl"]) == ["tutor", "judge"] and roles_asked(plain, ["rl"]) == ["tutor"]


def test_a_model_that_audits_itself_is_named_before_it_is_paid() -> None:
    assert another_judge(config("http://127.0.0.1:1/v1")) == ""
    line = another_judge(config("http://127.0.0.1:1/v1", judge="sandbox"))
    assert "judge is the tutor's model (sandbox)" in line and "name another model in roles.judge" in line
    assert line in STAGES["rl"].warns(config("http://127.0.0.1:1/v1", judge="sandbox"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"algorithm": "dpo"}, "has no use for audit"),
        ({"reward": "a.b:c"}, "audit needs a reward for every turn, and a.b:c gives one"),
        ({"audit": {"share": 0}}, "greater than 0"),
        ({"audit": {"role": "target"}}, "judge"),
    ],
)
def test_what_cannot_be_audited_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        config("http://127.0.0.1:1/v1", **changes)
