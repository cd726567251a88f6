"""The table of stages: it names what is there, and is the only place that does."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import get_args

import pytest

from places import PACKAGE
from safer_steer import pipeline
from safer_steer.config import Config
from safer_steer.config.rl import ALGORITHMS, AlgorithmName
from safer_steer.errors import UserError
from safer_steer.plan.dry_run import dry_run
from safer_steer.prompts.base import CHAT, installed
from safer_steer.run.preflight import check
from safer_steer.stages import STAGES


def test_every_stage_has_its_work_and_its_prompts_exist() -> None:
    assert pipeline.WORK.keys() == STAGES.keys()
    assert pipeline.ALGORITHMS.keys() == ALGORITHMS.keys() == {*get_args(AlgorithmName)}
    asked = {name for stage in STAGES.values() for name in stage.prompts}
    assert asked == installed().keys(), "a prompt that no stage asks, or a stage whose prompt is not there"
    assert all({*stage.chain} <= {*stage.prompts, CHAT} for stage in STAGES.values())


def test_a_stage_needs_earlier_ones_alone_and_no_two_write_one_place() -> None:
    order = list(STAGES)
    configs = (
        Config(),
        Config.model_validate({"rl": {"start_from": "base"}}),
        Config.model_validate({"assembly": {}, "rl": {"seeds": 5}, "bench": {"suites": ["steer"]}}),
    )
    for config in configs:
        for name, stage in STAGES.items():
            assert all(order.index(before) < order.index(name) for before in stage.needs(config))
    written = [path for stage in STAGES.values() for path in stage.writes]
    assert len(written) == len(set(written))


@pytest.mark.parametrize(
    ("config", "stage", "roles"),
    [
        ({}, "seeds", ("generator", "target", "attack_judge")),
        ({"seeds": {"kinds": ["benign", "obfuscated"]}}, "seeds", ("generator",)),
        ({}, "assemble", ()),
        ({"assembly": {}, "rl": {"seeds": 5}}, "assemble", ("evaluator",)),
        ({"assembly": {"rules": False}, "rl": {"seeds": 5}}, "assemble", ()),
        ({"rl": {"tutor": "a.b:C"}}, "rl", ()),
        ({}, "rl", ("tutor",)),
        ({"gates": {"twin_refusals": {"at_most": 0.1}}}, "rl", ("tutor", "judge")),
        ({}, "bench", ("judge",)),
    ],
)
def test_the_roles_asked_follow_the_config(config: dict, stage: str, roles: tuple[str, ...]) -> None:
    assert STAGES[stage].asks(Config.model_validate(config)) == roles


def test_a_gate_that_has_twins_judged_brings_the_judges_prompt_into_the_manifest() -> None:
    gates = {"gates": {"twin_refusals": {"at_most": 0.1}}}
    assert "judge" in STAGES["rl"].asked_with(Config.model_validate(gates))
    assert "judge" not in STAGES["rl"].asked_with(Config())
    assert STAGES["assemble"].asked_with(Config()) == (), "without `assembly` it asks nobody"


def test_no_other_file_lists_the_stages() -> None:
    """A second list of three or more stages in a row would have to be kept in step with the first."""
    names = "|".join(STAGES)
    listed = re.compile(rf'(?:"(?:{names})",\s*){{3,}}')
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if listed.search(path.read_text())
    }
    assert found <= {"cli/stages.py", "report/health/stages.py", "export/card.py"}


BENCH_ONLY = {"sources": [{"use": "bench"}]}


@pytest.mark.parametrize(
    ("config", "stage", "line"),
    [
        ({"rl": {"seeds": 8}}, "rl", "rl.prompts_per_step: 64 seeds a step, but rl.seeds is 8"),
        ({"bench": {"suites": ["steer"]}}, "bench", "bench.suites: `steer` means the suites that"),
        ({"assembly": {}, "rl": {"seeds": 64}, "seeds": BENCH_ONLY}, "bootstrap", "seeds.sources: all have"),
        (
            {"assembly": {}, "rl": {"seeds": 64}, "seeds": {"kinds": ["benign"]}},
            "rl",
            "rl.benign_share: a share of 0.25 needs risky scripts",
        ),
        ({"rl": {"tutor": "no_such:Tutor"}}, "rl", "rl.tutor: no_such"),
        ({"rl": {"rollouts": {"engine": "no_such:engine"}}}, "bench", "rl.rollouts.engine: no_such"),
    ],
)
def test_the_preflight_says_what_the_stage_says(config: dict, stage: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        asyncio.run(check(Config.model_validate(config), [stage]))
    assert str(refused.value).startswith(line)


def test_a_dry_run_says_it_too(tmp_path: Path) -> None:
    settings = Config.model_validate({"rl": {"seeds": 8, "tutor": "no_such:Tutor"}})
    planned = dry_run(settings, tmp_path)
    line = "rl.prompts_per_step: 64 seeds a step, but rl.seeds is 8; change one of them"
    assert planned.refusals[0] == f"rl: {line}" and "no_such" in planned.refusals[1]
    assert planned.steps["rl"] == f"no step: {line}"


def test_no_words_of_a_check_stand_twice() -> None:
    said = [path.read_text() for path in PACKAGE.rglob("*.py")]
    assert sum(text.count("seeds a step") for text in said) == 1
