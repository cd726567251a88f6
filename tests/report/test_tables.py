"""Tables on narrow terminals: nothing is cut off."""

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from safer_steer.cli import app
from safer_steer.config.keys import describe
from safer_steer.data.sources.sets import SETS
from safer_steer.report.fitted_table import fitted

HEAD = [
    "role",
    "strategy",
    "tried",
    "succeeded",
    "success, %",
    "turns to success",
    "turns",
    "distinct-1",
    "distinct-2",
    "similarity",
]
ROW = [
    "generator",
    "reverse psychology",
    "1,000",
    "1,000",
    "100.0 [100, 100]",
    "2.0",
    "9,000",
    "0.61",
    "0.74",
    "0.23",
]


def shown(width: int, head: list[str], rows: list[list[str]], **columns: range) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as kept:
        console.print(fitted(console, head, rows, **columns), crop=False)
    return kept.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_numbers_and_words_stay_whole(width: int) -> None:
    lines = shown(width, HEAD, [ROW], numbers=range(2, len(HEAD)))
    for word in (*" ".join(ROW[:2]).split(), *ROW[2:]):
        assert any(word in line for line in lines), (word, lines)
    assert "\u2026" not in "".join(lines)
    assert width < 100 or max(map(cell_len, lines)) <= width


def test_a_list_wraps_and_a_table_without_rows_is_its_heading() -> None:
    lines = shown(
        60,
        ["score", "all verdicts"],
        [["safety", "  ".join(f"{score}: 1,000" for score in range(11))]],
        numbers=range(1, 2),
    )
    assert max(map(cell_len, lines)) <= 60
    assert "9: 1,000" in "".join(lines)
    assert shown(60, ["a", "b"], [], numbers=range(1, 2)) == ["a  b"]


@pytest.mark.parametrize("width", [80, 100])
def test_names_can_be_copied_from_a_terminal(width: int) -> None:
    terminal = {"COLUMNS": str(width), "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "dumb"}
    keys = CliRunner().invoke(app, ["config"], env=terminal).stdout.splitlines()
    assert max(map(len, keys)) <= width
    assert {key for key, *_ in describe()} <= {line.split(" ")[0] for line in keys}
    sets = CliRunner().invoke(app, ["sets"], env=terminal).stdout
    assert all(layout.hub in sets for layout in SETS.values() if layout.hub)
