"""The reference pages are what the code says."""

import importlib.util
import re

import pytest

from places import ROOT

spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
assert spec is not None and spec.loader is not None
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


@pytest.mark.parametrize("name", reference.WRITERS)
def test_a_page_is_what_the_code_says(name: str) -> None:
    page = (reference.PAGES / name).read_text(encoding="utf-8")
    assert page == reference.page(name), "write it with: python docs/reference.py"


def test_every_command_and_row_key_is_described() -> None:
    for name in ("commands.md", "run-folder.md"):
        for line in reference.page(name).splitlines():
            assert not re.fullmatch(r"\| `[^|]*` \|  \|", line), (name, line)
