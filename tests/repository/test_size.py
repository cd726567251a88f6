"""The package stays small enough to read, and a newcomer finds a way in."""

import sys

import pytest

from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import size

BOUNDS = {
    "lines": 46_188,
    "files": 291,
    "files over 400 lines": 0,
    "functions over 80 lines": 0,
    "names at the top": 26,
    "comprehensions in 1,000 lines": 41,
    "nested conditional expressions": 0,
    "participles as names": 4,
}
"""A change that needs more raises its bound, for all to see; one that needs less lowers it."""


@pytest.fixture(scope="module")
def counts() -> dict[str, float]:
    return size.counts()


@pytest.mark.parametrize("what", BOUNDS)
def test_the_package_does_not_grow_by_the_way(what: str, counts: dict[str, float]) -> None:
    found = [
        *size.long_files(size.PACKAGE),
        *size.long_functions(size.PACKAGE),
        *size.nested_choices(size.PACKAGE),
    ]
    assert counts[what] <= BOUNDS[what], found
