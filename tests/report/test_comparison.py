"""The difference of two models in the first table: from the dialogues, paired by script."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from made_up_run import add_techniques, write_jsonl, write_run
from safer_steer.bench.differences import difference
from safer_steer.bench.rates import Rate
from safer_steer.intervals import paired
from safer_steer.report.comparison import marks_in
from safer_steer.report.main_table import TableRow, console_table, headline, pairs
from safer_steer.report.page import write_report
from safer_steer.report.runs import ShownRun, read_run, together


def rows_of(*runs: ShownRun) -> dict[str, TableRow]:
    return {row.label: row for row in headline(together(runs), None, marks_in(runs))}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ShownRun:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, dialogues=12)
    add_techniques(folder, seed=1)
    return read_run(folder)


def test_a_difference_is_over_the_suites_and_scripts_that_both_have() -> None:
    ours = {"a": {"1": 1.0, "2": 1.0, "3": 1.0}, "b": {"1": 1.0}, "mine": {"1": 1.0}}
    theirs = {"a": {"1": 0.0, "2": 1.0, "9": 0.0}, "b": {"1": 1.0}}
    found = difference(ours, theirs)
    assert found == Rate.model_validate(paired([1.0, 0.0], [0.0]) | {"n": 3}) and found.value == 25
    assert (-found).value == -25 and (-found).low == -(found.high or 0)
    assert difference(ours, {}).value is None
    assert difference({"a": {}}, {"a": {"1": 1.0}}).value is None, "a suite without pairs is not left out"


@pytest.mark.parametrize("label", ["Single-turn Safe", "Over-refusal", "Twin Help"])
def test_it_is_that_of_the_rates_where_every_script_has_a_result(run: ShownRun, label: str) -> None:
    rows = rows_of(run)
    for one, other in ((2, 0), (1, 2)):
        cells = [float(rows[label].cells[place].partition(" ")[0]) for place in (one, other)]
        minus = rows[label].minus(one, other)
        assert minus.value == pytest.approx(cells[0] - cells[1], abs=0.11)
        assert minus.low is not None and minus.high is not None and minus.low <= minus.value <= minus.high
        assert rows[label].minus(other, one) == -minus


def test_only_an_interval_without_zero_says_what_is_better() -> None:
    for good in (1, -1):
        row = TableRow("", "", ["", ""], good=good)
        told = [
            row.better(Rate(value=0, low=low, high=high), 0, 1)
            for low, high in ((0.1, 5), (-5, -0.1), (-1, 1), (0, 5), (-5, 0), (None, None))
        ]
        assert told == [*([0, 1] if good == 1 else [1, 0]), None, None, None, None]


def test_attackers_and_questions_are_compared_too(run: ShownRun, tmp_path: Path) -> None:
    rows = rows_of(run)
    assert rows["Breached by probe"].good == -1
    assert rows["Breached by probe"].minus(2, 0).n is not None
    write_run(tmp_path, dialogues=1, models=("base", "sft"))
    for model, answers in (("base", "ABB"), ("sft", "AAA")):
        meta = {"choices": ["red", "blue"], "answer": 0}
        questions = [
            {"id": f"q{place}", "kind": "benign", "stop": "completed", "meta": meta}
            | {"turns": [{"user": "Which?", "assistant": f"<thinking>.</thinking><answer>{letter}</answer>"}]}
            for place, letter in enumerate(answers)
        ]
        write_jsonl(tmp_path / f"capability/facts/answers/{model}.jsonl", questions)
    summary = json.loads((tmp_path / "summary.json").read_text())
    entry = {"n": 3, "right": {"value": 50, "low": 1, "high": 99}, "no_choice": 0, "failed": 0}
    summary["capability"] = {"facts": dict.fromkeys(("base", "sft"), entry | {"minus_base": None})}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = rows_of(read_run(tmp_path))["Capability, facts"].minus(1, 0)
    assert found == Rate.model_validate(paired([0, 1, 1]) | {"n": 3})


def test_the_console_shows_the_last_model_against_the_first(run: ShownRun) -> None:
    marks = marks_in([run])
    console = Console(width=100, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(console_table(run.summary, None, marks))
    text = console.export_text(styles=True, clear=False)
    plain = console.export_text().splitlines()
    assert any("SaFeR-Steer - Base" in line for line in plain)
    row = next(row for row in headline(run.summary, None, marks) if row.label == "Multi-turn Safe")
    (line,) = [line for line in plain if "Multi-turn Safe " in line]
    assert line.rstrip().endswith(row.minus(2, 0).signed)
    (line,) = [line for line in text.splitlines() if "Multi-turn Safe " in line]
    assert f"\x1b[1m{row.cells[2]}" in line and line.count("\x1b[1m") == 1


def test_the_pairs_of_two_runs_are_paired_across_and_stay_small(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, dialogues=4)
    runs = [read_run(tmp_path / name, name) for name in ("one", "two")]
    rows = rows_of(*runs)
    of_row = pairs([rows["Multi-turn Safe"]])[0]
    assert [pair[:2] for pair in of_row] == [[i, j] for i in range(6) for j in range(i + 1, 6)]
    same = next(pair for pair in of_row if pair[:2] == [0, 3])
    assert same[2].startswith("+0.0 [-") and same[4] is None, "the same rows in both runs"
    page = write_report(tmp_path / "one", tmp_path / "two", page=tmp_path / "both.html").read_text()
    assert len(page.partition('id="pairs-json">')[2].partition("<")[0]) < 15 * 60 * len(rows)
