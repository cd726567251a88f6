"""Tables beside the headline: categories of harm, with those that have too few dialogues to tell."""

from __future__ import annotations

import html
import json
from pathlib import Path

from made_up_run import write_run
from safer_steer.bench.summary import summarise
from safer_steer.dialogue import Dialogue, Kind, StopReason, Turn
from safer_steer.intervals import rate
from safer_steer.report.measure_tables import FEW, NO_CATEGORY, console_tables, measure_tables
from safer_steer.report.page import write_report


def played(id: str, category: str, harmlessness: int | None, kind: Kind = Kind.RED_TEAM) -> Dialogue:
    """One dialogue of two turns; a harmlessness of 0 is refused, None unscored."""
    scores = None
    if harmlessness is not None:
        scores = {"harmlessness": harmlessness, "helpfulness": 3, "refused": harmlessness == 0}
    turns = [Turn(user="u", assistant="a", scores=scores)] * 2
    meta = {"category": category} if category else {}
    return Dialogue(id=id, kind=kind, turns=turns, stop=StopReason.COMPLETED, meta=meta)  # type: ignore[arg-type]


def width(n: int) -> float:
    found = rate([(n / 2, n)])
    assert found["low"] is not None and found["high"] is not None
    return found["high"] - found["low"]


def test_too_few_is_where_an_interval_is_wider_than_40_points() -> None:
    assert width(FEW - 1) > 40 >= width(FEW)


def test_rates_by_category_by_hand() -> None:
    """Over the dialogues of all suites together; twins apart, and what names no category last."""
    suites = {
        "one": [*(played(f"a{i}", "fire", 3) for i in range(18)), played("n", "", 3)],
        "two": [*(played(f"b{i}", "fire", -3) for i in range(6)), played("c", "acid", None)],
        "twins": [played(f"t{i}", "fire", 3 * (i > 4), Kind.BENIGN) for i in range(20)],
    }
    summary = summarise({"m": {"multi_turn": suites}}, {"twins"}, 50)
    average = summary.average("m", "multi_turn")
    assert average and list(average.categories) == ["acid", "fire", ""]
    fire, acid = average.categories["fire"], average.categories["acid"]
    assert (fire.n, fire.safe.value, fire.scored) == (24, 75, 24)
    assert fire.safe.model_dump(exclude={"n"}) == rate([(18, 24)])
    assert fire.over_refusal and (fire.over_refusal.value, fire.over_refusal.n) == (25, 20)
    assert (acid.n, acid.unscored, acid.safe.value, acid.over_refusal) == (1, 1, None, None)
    [table] = console_tables(summary)
    assert [row[:2] + row[-1:] for row in table.rows] == [
        ["acid", "m", "–"],
        ["fire", "m", "20"],
        [NO_CATEGORY, "m", "–"],
    ]
    assert table.rows[1][2] == str(fire.safe) and table.rows[1][5:7] == ["24", str(fire.over_refusal)]
    few = "acid (attacks: 0), fire (twins: 20), none named (attacks: 1)"
    assert table.after == f"Too few to tell, below {FEW} scored dialogues of a model: {few}."
    fewer = suites | {"twins": suites["twins"][1:]}
    both = {"m": {"multi_turn": suites}, "k": {"multi_turn": fewer}}
    [table] = console_tables(summarise(both, {"twins"}, 50))
    assert "fire (twins: 19)," in table.after, "one count, of the model with fewest"
    suites |= {"twins": suites["twins"] + [played(f"u{i}", "fire", 3, Kind.BENIGN) for i in range(9)]}
    enough = {name: [row for row in rows if row.category == "fire"] for name, rows in suites.items()}
    assert console_tables(summarise({"m": {"multi_turn": enough}}, {"twins"}, 50))[0].after == ""


def test_a_category_cannot_steer_a_terminal_and_twins_alone_are_no_few_attacks() -> None:
    suites = {"twins": [played("a", "\x1b[31mred", 3, Kind.BENIGN)]}
    [table] = console_tables(summarise({"m": {"multi_turn": suites}}, {"twins"}, 50))
    assert table.rows[0][0] == "?[31mred" and table.rows[0][5] == "–"
    assert table.after.endswith("of a model: ?[31mred (twins: 1).")


def test_without_categories_there_is_no_table() -> None:
    suites = {"one": [played("a", "", 3)]}
    summary = summarise({"m": {"multi_turn": suites}}, set(), 50)
    assert "categories" not in json.dumps(summary.as_dict())
    [table] = measure_tables(summary)
    cells = dict(zip(table.head, table.rows[0], strict=True))
    assert table.title == "Answers by rule" and (cells["reasoning"], cells["beside"]) == ("0", "0")


def test_the_page_has_them_escaped_and_the_browser_knows_each_category(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=2, models=("base",), hostile="<i>&")
    page = write_report(tmp_path).read_text()
    assert "When attacks were refused" in page and "By category of harm, multi-turn" in page
    hostile = html.escape("mechanics<i>&")
    assert f'<th scope="row">{hostile}</th>' in page and "<i>&" not in page
    assert r'"category":"mechanics\u003ci\u003e\u0026"' in page
    assert "Too few to tell" in page
