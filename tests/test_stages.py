"""The table of stages: it names what is there, and is the only place that does."""

from __future__ import annotations

import re

import pytest

from places import PACKAGE
from safer_steer import pipeline
from safer_steer.config import Config
from safer_steer.prompts.fingerprint import installed
from safer_steer.stages import CHAT, STAGES


def test_every_stage_has_its_work_and_its_prompts_exist() -> None:
    assert pipeline.WORK.keys() == STAGES.keys()
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
        ({}, "bench", ("judge",)),
    ],
)
def test_the_roles_asked_follow_the_config(config: dict, stage: str, roles: tuple[str, ...]) -> None:
    assert STAGES[stage].asks(Config.model_validate(config)) == roles


def test_no_other_file_lists_the_stages() -> None:
    """A second list of three or more stages in a row would have to be kept in step with the first."""
    names = "|".join(STAGES)
    listed = re.compile(rf'(?:"(?:{names})",\s*){{3,}}')
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if listed.search(path.read_text())
    }
    assert found <= {"cli/stages.py", "report/health/stages.py", "export/card.py"}
