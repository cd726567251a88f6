"""Stage III under a gate that probes: killed in a probe it pays for nothing twice, and stopped by the gate it
goes on from its checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from forked import Forked
from killing import lines
from safer_steer.config import SHIPPED
from safer_steer.config.file import dump_config
from safer_steer.dialogue import read_dialogues
from safer_steer.endpoints.cache import Cache
from safer_steer.errors import ExitCode
from safer_steer.files.manifest import Manifest
from safer_steer.stages import STAGES
from student_parts import drawn_for_rl, tiny_config, write_seeds

STEPS = 2


def ready(folder: Path, url: str) -> Path:
    """A folder whose next stage is RL, and its config: the judge is served, and no student can keep its
    gate."""
    rl = tiny_config().rl.model_dump() | {"steps": STEPS, "save_steps": 1}
    judge = {"model": "sandbox", "base_url": url}
    gates = {"twin_refusals": {"at_least": 1, "means": "nobody does"}, "equal_groups": {"at_most": 1}}
    config = tiny_config(rl=rl, roles={"judge": judge}, gates=gates)
    write_seeds(folder, 6)
    shutil.copytree(SHIPPED, folder / "sft" / "model")
    drawn_for_rl(config, folder)
    (folder / "config.yaml").write_text(dump_config(config))
    for stage in ("seeds", "assemble", "bootstrap", "sft"):
        Manifest(folder).record(stage, STAGES[stage].writes, (), {})
    given = folder.with_suffix(".yaml")
    given.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    return given


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_a_probe_stopped_by_its_gate_and_overridden(tmp_path: Path, served_by_core: str) -> None:
    run = tmp_path / "run"
    config, first = ready(run, served_by_core), run / "rl" / "probe" / "00001"

    def start(*options: str) -> Forked:
        return Forked(tmp_path / "log", "safer_steer", "rl", config, "--out", run, "--no-check", *options)

    def judged() -> int:
        """Calls of the judge that were paid."""
        cache = Cache(run / "cache.sqlite")
        calls = sum(row[1] for row in cache.spent() if row[0] == "judge")
        cache.close()
        return calls

    assert start().kill_when(lambda: len(lines(first / "safe_twins.jsonl")) >= 5)
    played = lines(first / "safe_twins.jsonl")
    assert len(played) < 50 and not (first / "done").exists()

    for _ in range(2):  # the second time nothing is played or asked again
        stopped = start()
        stopped.process.join()
        assert stopped.process.exitcode == ExitCode.OUT_OF_BAND, stopped.printed
        [line] = [line for line in stopped.printed.splitlines() if line.startswith("gate: ")]
        assert "rl, step 1: twin_refusals is" in line and "below 1 by" in line and "nobody does" in line
        assert "of 50 safe twins" in line and line.endswith("--override twin_refusals goes on all the same")
        twins = read_dialogues(first / "safe_twins.jsonl")
        assert lines(first / "safe_twins.jsonl")[: len(played)] == played, "finished work was done again"
        assert judged() == sum(len(dialogue.turns) for dialogue in twins) and len(twins) == 50
        assert len(lines(run / "rl" / "metrics.jsonl")) == 1 and "rl" not in Manifest(run).stages
        assert "twin_refusals" in (run / "report.html").read_text()

    assert "gate overridden: twin_refusals" in start("--override", "twin_refusals").wait()
    manifest = Manifest(run)
    noted = [(one["gate"], one["stage"], one["step"]) for one in manifest.overrides]
    assert noted == [("twin_refusals", "rl", step) for step in (1, STEPS, None)]
    assert "rl" in manifest.stages and (run / "rl" / "probe" / "00002" / "done").is_file()
    steps = [json.loads(line)["step"] for line in lines(run / "rl" / "metrics.jsonl")]
    assert steps == [1, STEPS]
    start().wait()  # done already, and what was overridden stays so
