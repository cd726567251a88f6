"""CONTRIBUTING.md names files, targets and settings that are there."""

import re

import pytest

from places import ROOT
from safer_steer.config.file import describe

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
NAMED = set(re.findall(r"`([\w./-]+)`", TEXT)) | set(re.findall(r"\]\(([\w./-]+)\)", TEXT))
FILES = sorted(name for name in NAMED if re.search(r"\.(py|j2|md|txt)$|/$", name) and "NAME" not in name)


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_there(name: str) -> None:
    assert (ROOT / name).exists() or (ROOT / "src/safer_steer" / name).exists()


def test_the_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", TEXT):
        assert f"\n{target}:" in makefile


def test_the_settings_are_there() -> None:
    keys = {key for key, *_ in describe()}
    named = {name for name in NAMED if re.fullmatch(r"(rl|bootstrap|bench|seeds)\.\w+", name)}
    assert named
    assert named <= keys
