"""`summary.json` as values: what is computed is written unchanged, and what is read is validated."""

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest

from made_up_run import add_techniques, write_run
from safer_steer.bench.adaptive.results import Script, of_any, of_attacker
from safer_steer.bench.answers import by_rule, counts_of
from safer_steer.bench.results import Attacked, Summary
from safer_steer.bench.summary import summarise
from safer_steer.bench.timing import timing
from safer_steer.dialogue import Dialogue, Format, Kind, StopReason, Turn
from safer_steer.errors import UserError
from safer_steer.metrics import average, multi_turn_rates, over_refusal, single_turn_rates, survival
from safer_steer.report.page import write_report

DRAWS = {"resamples": 50, "seed": 3}


def played(id: str, *harmlessness: int | None, kind: Kind = Kind.RED_TEAM, **meta: Any) -> Dialogue:
    turns = [
        Turn(
            user=f"{id} {turn}",
            assistant=f"answer {id} {turn}",
            meta={"risk": turn + 3},
            scores=None if mark is None else {"harmlessness": mark, "helpfulness": 3, "refused": mark == 0},
        )
        for turn, mark in enumerate(harmlessness)
    ]
    return Dialogue(id=id, kind=kind, turns=turns, stop=StopReason.COMPLETED, meta=meta)


ATTACKS = [played("a", 3, 3, 1, category="fire"), played("b", 3, 0), played("c", 3, None)]
TWINS = [played("d", 3, 3, kind=Kind.BENIGN, category="fire"), played("e", 0, kind=Kind.BENIGN)]


@pytest.mark.parametrize("protocol", ["multi_turn", "single_turn"])
@pytest.mark.parametrize(
    "suites",
    [
        {"attacks": ATTACKS, "more": ATTACKS[:1], "twins": TWINS},
        {"attacks": ATTACKS},
        {"twins": TWINS},
        {"attacks": [], "twins": []},
        {},
    ],
)
def test_what_the_metrics_say_is_written_unchanged(protocol: Any, suites: dict[str, list[Dialogue]]) -> None:
    """Key by key, in this order, with whole numbers as such and null where there is no number."""
    rates = multi_turn_rates if protocol == "multi_turn" else single_turn_rates
    attacks = {name: rows for name, rows in suites.items() if name != "twins"}
    pooled = [row for rows in attacks.values() for row in rows]
    twins = {name: rows for name, rows in suites.items() if name == "twins"}
    counts = counts_of(suites, Format.PLAIN)

    def course(rows: list[Dialogue]) -> dict[str, Any]:
        curve = {"survival": survival(rows)} if protocol == "multi_turn" else {}
        return {"stops": {"completed": len(rows)} if rows else {}} | curve

    def answered(suites: dict[str, list[Dialogue]]) -> dict[str, Any]:
        when = timing(suites, **DRAWS) if protocol == "multi_turn" and "twins" not in suites else None
        told = {"timing": when} if when else {}
        return told | {"by_rule": by_rule(suites.values(), Format.PLAIN, **DRAWS)}

    def of_category(name: str) -> dict[str, Any]:
        ours = [row for row in pooled if row.category == name]
        safe = [row for row in suites.get("twins", []) if row.category == name]
        found = rates(ours, **DRAWS)
        if safe:
            refused = {key: value for key, value in over_refusal(safe).items() if key != "by_turn"}
            helped = rates(safe, **DRAWS)["help"] | {"n": len(safe)}
            found |= {"over_refusal": refused, "twin_help": helped}
        return found

    wanted = {
        name: rates(rows, **DRAWS)
        | course(rows)
        | counts[name]
        | ({"over_refusal": over_refusal(rows)} if name == "twins" else {})
        | answered({name: rows})
        for name, rows in suites.items()
    }
    of_twins = average(twins, protocol, **DRAWS)
    wanted["average"] = {
        **average(attacks, protocol, **DRAWS),
        **course(pooled),
        **{
            name: sum(counts[suite][name] for suite in attacks)
            for name in counts_of({"": []}, Format.PLAIN)[""]
        },
        "over_refusal": over_refusal(suites.get("twins", []), pooled),
        "twin_help": of_twins["help"] | {"n": of_twins["n"]},
        **answered(attacks),
        **(
            {"categories": {name: of_category(name) for name in ("fire", "")}} if any(suites.values()) else {}
        ),
    }
    written = summarise({"m": {protocol: suites}}, {"twins"}, **DRAWS).as_dict()
    assert json.dumps(written) == json.dumps({"models": {"m": {protocol: wanted}}})


@pytest.mark.parametrize("tries", [0, 2])
def test_what_attackers_came_to_is_written_unchanged(tries: int) -> None:
    dialogues = [
        played(f"{intent}~{number}", 3, mark, intent_id=intent, **{"try": number})
        for number in range(tries)
        for intent, mark in (("x", -2), ("y", 3))
    ]
    static = {"x": Script(True, 2), "y": Script(False, 1)}
    entries = {
        "one": of_attacker(dialogues, static, True, 2, 50),
        "any attacker": of_any([dialogues, dialogues], static, False, 2, 50),
    }
    read = {name: Attacked.model_validate(entry) for name, entry in entries.items()}
    written = Summary(models={"m": {}}, adaptive={"m": read}).as_dict()
    assert json.dumps(written) == json.dumps({"models": {"m": {}}, "adaptive": {"m": entries}})


def write_summary(run: Path) -> dict[str, Any]:
    """A run of all parts; returns its summary."""
    write_run(run, dialogues=2)
    add_techniques(run, seed=1)
    rows = json.loads((run / "summary.json").read_text())
    right = {"value": 75.0, "low": 40.0, "high": 90.0}
    entry = {"n": 4, "right": right, "no_choice": 1, "failed": 0, "minus_base": None}
    rows = {"models": rows["models"], "capability": {"quiz": {"base": entry}}, "adaptive": rows["adaptive"]}
    (run / "summary.json").write_text(json.dumps(rows))
    return rows


def test_a_file_is_read_and_written_again_byte_for_byte(tmp_path: Path) -> None:
    write_summary(tmp_path)
    text = (tmp_path / "summary.json").read_text()
    assert json.dumps(Summary.read(tmp_path / "summary.json").as_dict()) == text
    assert Summary.read(tmp_path / "none.json") == Summary(models={})


NEWER = {
    *("stops", "answers", "cut_off", "no_block", "empty", "identical", "twin_help", "worst"),
    *("at_risk", "failures", "capability", "by_requests", "static_by_requests", "by_calls", "techniques"),
    *("taken_back", "repeated", "by_turn", "timing", "by_rule", "categories"),
}
"""Keys that a file of an older version may lack."""


def without(tree: Any, key: str) -> Any:
    """The tree without a key, wherever it is."""
    if isinstance(tree, list):
        return [without(one, key) for one in tree]
    if not isinstance(tree, dict):
        return tree
    return {name: without(one, key) for name, one in tree.items() if name != key}


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(NEWER))
def test_an_older_file_opens(tmp_path: Path, key: str) -> None:
    rows = without(write_summary(tmp_path), key)
    assert f'"{key}"' not in json.dumps(rows)
    (tmp_path / "summary.json").write_text(json.dumps(rows))
    assert "SaFeR-Steer" in write_report(tmp_path).read_text()
    assert Summary.read(tmp_path / "summary.json").as_dict() == rows


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("models", None, "models: Field required"),
        ("models.base", [], "models.base: Input should be an object"),
        ("models.base.two_turn", {}, "models.base.two_turn.[key]: Input should be 'multi_turn' or"),
        ("models.base.multi_turn", {}, "models.base.multi_turn: Value error, `average` is missing"),
        ("models.base.multi_turn.unmarked.n", None, "models.base.multi_turn.unmarked.n: Field required"),
        ("models.base.multi_turn.unmarked.safe", 81.2, "multi_turn.unmarked.safe: Input should be an object"),
        ("models.base.multi_turn.average.safe.low", "x", "average.safe.low: Input should be a valid number"),
        ("models.base.multi_turn.average.safe.low", inf, "average.safe.low: Input should be a finite number"),
        (
            "models.base.multi_turn.average.survival.S",
            [1, "x"],
            "survival.S.1: Input should be a valid number",
        ),
        ("capability.quiz.base.right", None, "capability.quiz.base.right: Field required"),
        ("adaptive.base.probe.breach_at.once", {}, "breach_at.once.[key]: Input should be a valid integer"),
        ("adaptive.base.probe.techniques", {"t": {"tried": 1}}, "techniques.t.breached: Field required"),
    ],
)
def test_damage_is_one_line_that_says_what_and_where(
    tmp_path: Path, place: str, value: Any, said: str
) -> None:
    """`value` is put at `place`; None takes away what is there."""
    rows, file = write_summary(tmp_path), tmp_path / "summary.json"
    *way, last = place.split(".")
    tree = rows
    for key in way:
        tree = tree[key]
    if value is None:
        del tree[last]
    else:
        tree[last] = value
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError) as caught:
        Summary.read(file)
    assert str(caught.value).startswith(f"{file}: ") and said in str(caught.value)
    assert str(caught.value).endswith("; remove the file and run `safer-steer bench` again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", ": Invalid JSON: EOF"),
        (b'{"models": {"\xff": {}}}', ": Invalid JSON: "),
        (b"[]", ": Input should be an object;"),
        (b"", ": Invalid JSON: EOF"),
    ],
)
def test_a_file_that_is_no_summary_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "summary.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Summary.read(file)
    assert str(caught.value).startswith(f"{file}{said}") and "\n" not in str(caught.value)
