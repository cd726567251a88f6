"""What the page says beyond one run's table: several runs, rates by turn, attacks, cost, experiments."""

import html
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from typer.testing import CliRunner

from made_up_run import add_techniques, write_jsonl, write_run
from safer_steer.bench.protocol import FILE, protocol_of, write
from safer_steer.bench.rates import Rate
from safer_steer.bench.results import Answered, Summary, in_order, joined, model_label
from safer_steer.cli import app
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue
from safer_steer.errors import UserError
from safer_steer.experiments.shown import tables
from safer_steer.files.store import locked
from safer_steer.intervals import rate as share_of
from safer_steer.metrics import first_failures
from safer_steer.report.attacks import (
    Cell,
    Heat,
    adaptive_maps,
    adaptive_plots,
    adaptive_tables,
    by_script,
    cell_of,
    link,
)
from safer_steer.report.counts import by_turn, cost_table
from safer_steer.report.dialogues import browser_data
from safer_steer.report.main_table import headline
from safer_steer.report.page import write_report
from safer_steer.report.played import outcome
from safer_steer.report.runs import read_given, read_run, together


def rate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 5, "high": value + 5}


def cells(heat: Heat, row: str) -> list[Cell]:
    return dict(heat.rows)[row]


# Several runs -------------------------------------------------------------------


def test_models_of_several_runs_stand_by_run_and_as_in_the_method() -> None:
    names = [joined(run, model) for run in ("b", "a") for model in ("safer_steer", "zeta", "base")]
    wanted = ["b · Base", "b · SaFeR-Steer", "b · zeta", "a · Base", "a · SaFeR-Steer", "a · zeta"]
    assert [*map(model_label, in_order(names))] == wanted
    assert in_order(["other", "sft", "base"]) == ["base", "sft", "other"] and joined("", "sft") == "sft"


def test_the_table_of_several_runs_has_the_numbers_of_each(tmp_path: Path) -> None:
    for name, dialogues in (("a", 8), ("b", 12)):
        write_run(tmp_path / name, dialogues=dialogues)
    runs, _ = read_given([tmp_path / "a", tmp_path / "b"])
    both = together(runs)
    assert [model_label(name) for name in both.names][:2] == ["a · Base", "a · SFT"]
    rows = {row.label: row.cells for row in headline(both)}
    for place, name in enumerate("ab"):
        alone = {row.label: row.cells for row in headline(read_run(tmp_path / name).summary)}
        assert {label: row[3 * place : 3 * place + 3] for label, row in rows.items()} == alone
    right = Rate.model_validate(rate(50))
    answered = Answered(n=4, right=right, no_choice=0, failed=0, minus_base=None)
    sets = {"capability": {"quiz": {"base": answered}}}
    merged = together([replace(run, summary=run.summary.model_copy(update=sets)) for run in runs]).capability[
        "quiz"
    ]
    assert [*merged] == [joined(name, "base") for name in "ab"], "this part is by set, then by model"


def test_runs_that_were_measured_by_different_protocols_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, temperature in zip(folders, (0.7, 0.7, 0.0), strict=True):
        folder.mkdir()
        write_run(folder)
        config = Config.model_validate({"bench": {"temperature": temperature}})
        protocol = protocol_of(config, folder / "nothing", "students")
        summary = Summary.read(folder / "summary.json").model_copy(update={"protocol": protocol.sha256})
        (folder / "summary.json").write_text(summary.model_dump_json())
        write(protocol, Summary(models={}), {}, config, folder / FILE)
    adaptive = protocol.adaptive | {"at_most": None, "trained": []}  # as earlier versions wrote it
    earlier = protocol.model_copy(update={"adaptive": adaptive})
    older = tmp_path / "older"
    shutil.copytree(folders[2], older)
    write(earlier, Summary(models={}), {}, config, older / FILE)
    other = Summary.read(older / "summary.json").model_copy(update={"protocol": earlier.sha256})
    (older / "summary.json").write_text(other.model_dump_json())
    alike = write_report(folders[2], older, page=tmp_path / "alike.html").read_text()
    assert earlier.sha256 != protocol.sha256 and "was not measured as" not in alike
    page = write_report(*folders, page=tmp_path / "page.html").read_text()
    line = (
        "c was not measured as a was: answers.temperature (0.7 there, 0.0 here); do not compare their rates."
    )
    assert page.count("was not measured as") == 1 and line in page
    (folders[2] / FILE).unlink()
    assert (
        "c was not measured as a was: one of them has no protocol.yaml" in write_report(*folders).read_text()
    )


def test_dialogues_of_several_runs_are_matched_by_suite_and_id(tmp_path: Path) -> None:
    write_run(tmp_path / "a", dialogues=6)
    write_run(tmp_path / "b", dialogues=3, models=("base",))
    changed = tmp_path / "b/bench/base/unmarked.jsonl"
    rows = [json.loads(line) for line in changed.read_text().splitlines()]
    rows[0]["turns"][0]["user"] = "Another question?"
    write_jsonl(changed, rows)
    runs, _ = read_given([tmp_path / "a", tmp_path / "b"])
    data = browser_data(runs, tmp_path / "deep" / "page.html")
    assert [label for _, label in data["models"]] == ["a · Base", "a · SFT", "a · SaFeR-Steer", "b · Base"]
    suites = {suite["name"]: suite["scripts"] for suite in data["suites"]}
    parts = suites["marked_parts"]
    assert [[one["model"] for one in script["answers"]] for script in parts] == [[0, 1, 2, 3]] * 3 + [
        [0, 1, 2]
    ] * 3
    assert parts[0]["answers"][3]["file"] == "../b/bench/base/marked_parts.jsonl"
    assert not any("images" in answer for answer in parts[0]["answers"]), "equal pictures are one"
    assert len(data["pictures"]["table"]) == len(data["pictures"]["urls"])
    told = [answer["turns"][0].get("asked") for answer in suites["unmarked"][0]["answers"]]
    assert told == [None, None, None, {"user": "Another question?"}]


@pytest.mark.parametrize("given", [["x/run", "y/run"], ["x/run", "x/run", "y/run"]])
def test_folders_of_one_name_are_told_apart(tmp_path: Path, given: list[str]) -> None:
    for name in given:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "config.yaml").write_text("seed: 1")
    runs, _ = read_given([tmp_path / name for name in given])
    assert [run.name for run in runs] == ["x/run", "y/run"]


def test_the_command_writes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        write_run(run, dialogues=1)
    monkeypatch.chdir(tmp_path)

    def report(*given: Any) -> str:
        done = CliRunner().invoke(app, ["report", *map(str, given)])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert report(runs[0]) == f"report: {runs[0]}/report.html\n" and (runs[0] / "report.html").is_file()
    assert report(*runs) == "report: report.html\n" and (tmp_path / "report.html").is_file()
    assert report(runs[1], "--out", "deep/page.html") == "report: deep/page.html\n"
    assert (tmp_path / "deep/page.html").is_file() and not (runs[1] / "report.html").exists()


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    write_run(tmp_path / "run", dialogues=1)
    (tmp_path / "folder").mkdir()
    assert (
        CliRunner()
        .invoke(app, ["report", str(tmp_path / "run"), "--out", str(tmp_path / "folder")])
        .exit_code
    )
    assert {path.name for path in tmp_path.iterdir()} == {"run", "folder"}
    assert not [*(tmp_path / "folder").iterdir()]


def test_the_page_of_a_run_is_one_of_its_files(tmp_path: Path) -> None:
    """Also of a run by an earlier version, whose config lacks keys that a config has now."""
    run = tmp_path / "run"
    write_run(run, dialogues=1)
    (run / "config.yaml").write_text("name: earlier\nno_longer_known: 1\n")
    (run / ".lock").touch()
    for _ in range(2):
        done = CliRunner().invoke(app, ["report", str(run)])
        assert done.exit_code == 0 and done.stdout == f"report: {run}/report.html\n", done.output
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    assert [*stages["report"]["files"]] == ["report.html"]
    assert (run / "config.yaml").read_text().startswith("name: earlier\nno_longer")


def test_a_run_at_work_is_looked_at_with_a_page_elsewhere(tmp_path: Path) -> None:
    write_run(tmp_path / "run", dialogues=1)
    with locked(tmp_path / "run"):
        done = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
        assert done.exit_code == 2 and "another process is at work there" in done.stderr
        elsewhere = ["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]
        assert CliRunner().invoke(app, elsewhere).exit_code == 0
    assert (tmp_path / "page.html").is_file() and not (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize("name", ["typo", "config.yaml", "notes", "odd.json"])
def test_what_is_neither_run_nor_experiment_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text("name: sandbox")
    (tmp_path / "notes").mkdir()
    (tmp_path / "odd.json").write_text('{"arms": 1}')
    done = CliRunner().invoke(app, ["report", str(tmp_path / name), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert f"{name}: no run folder" in done.stderr and "and no experiment" in done.stderr
    assert not (tmp_path / "page.html").exists()


# Rates by turn, and attacks -----------------------------------------------------


def scored(id: str, *marks: tuple[int, int], kind: str = "red_team", **more: Any) -> dict[str, Any]:
    turns = [
        {"user": "u", "assistant": "a", "scores": {"harmlessness": safe, "helpfulness": helps, "refused": 0}}
        for safe, helps in marks
    ]
    return {"id": id, "kind": kind, "turns": turns, "stop": "completed"} | more


def test_rates_by_turn_are_of_the_dialogues_that_reach_the_turn(tmp_path: Path) -> None:
    rows = [scored("a", (3, 3), (3, 0)), scored("b", (3, 2)), scored("c", (2, 3), (-3, 3), (3, 3))]
    lost = scored("d", (-3, 0)) | {"stop": "context_full"}
    write_jsonl(tmp_path / "bench/sft/mine.jsonl", [*rows, lost])
    write_jsonl(tmp_path / "bench/sft/single_turn_mine.jsonl", [scored("a", (-3, 0))])
    write_jsonl(tmp_path / "bench/sft/adaptive_b.jsonl", [scored("a~0", (-3, 0))])
    write_jsonl(tmp_path / "bench/base/twins.jsonl", [scored("t", (3, 3), (3, 1), kind="benign")])
    safe, helps, twins = by_turn([read_run(tmp_path)])
    assert [one.title for one in (safe, helps, twins)] == [
        "Safe, attacks",
        "Help, attacks",
        "Help, safe twins",
    ]
    assert safe.head == ["turn 1", "turn 2", "turn 3"] and [name for name, _ in safe.rows] == ["SFT"]
    assert [(cell.value, cell.n) for cell in cells(safe, "SFT")] == [
        ("67", "n 3"),
        ("50", "n 2"),
        ("100", "n 1"),
    ]
    assert [cell.value for cell in cells(helps, "SFT")] == ["67", "50", "100"]
    assert [cell.value for cell in cells(twins, "Base")] == ["100", "0"]
    where = "#dialogues&protocol=multi_turn&left=sft&first=2&outcome=left%3Agave_way"
    assert [(cell.link, cell.listed) for cell in cells(safe, "SFT")] == [("", 0), (where, 1), ("", 0)]


def test_a_cell_is_coloured_from_bad_to_good() -> None:
    one = Rate(value=20, low=15, high=25)
    assert cell_of(one, 7) == Cell("20", "[15, 25]", "n 7", "h2", "")
    assert cell_of(one, 7, bad=True).shade == "h8"
    assert cell_of(one, 7, "#dialogues", 0).link == "", "a link leads to something"
    assert cell_of(one, 7, "#dialogues", 3)[-2:] == ("#dialogues", 3)
    assert cell_of(Rate(value=None, low=None, high=None), 3) == cell_of(one, 0) == Cell()
    assert link(left="a b\x1fc&d") == "#dialogues&left=a%20b%1Fc%26d"


def test_success_is_by_suite_and_by_technique_where_scripts_name_one(tmp_path: Path) -> None:
    named = {"meta": {"strategy": "false_premise", "escalation": "sunk_cost"}}
    rows = [scored("a", (-3, 0), **named), scored("b", (3, 3), **named), scored("c", (-1, 0))]
    rows[2]["turns"][0]["meta"] = {"technique": "role play"}
    write_jsonl(tmp_path / "bench/base/mine.jsonl", [*rows, scored("t", (3, 3), kind="benign")])
    write_jsonl(tmp_path / "bench/base/adaptive_b.jsonl", [scored("a~0", (-3, 0))])
    suites, techniques, modalities = by_script([read_run(tmp_path)])
    assert [(name, row[0].value, row[0].n) for name, row in modalities.rows] == [("text", "67", "n 3")]
    assert [(name, row[0].value, row[0].n) for name, row in suites.rows] == [("mine", "67", "n 3")]
    found = {name: (row[0].value, row[0].n) for name, row in techniques.rows}
    assert found == {
        "false premise": ("50", "n 2"),
        "sunk cost": ("50", "n 2"),
        "role play": ("100", "n 1"),
    }
    assert cells(techniques, "role play")[0].link.startswith("#dialogues&technique=role%20play&left=base")


def test_a_model_that_refuses_everything_is_not_breached(tmp_path: Path) -> None:
    refuses = [scored(id, (0, 1), (0, 1)) for id in "ab"]
    write_jsonl(
        tmp_path / "bench/base/mine.jsonl", [*refuses, scored("c", (3, 3), (-1, 0)), scored("d", (1, 0))]
    )
    suites, modalities = by_script([read_run(tmp_path)])
    (cell,) = cells(suites, "mine")
    assert (cell.value, cell.n, cell.listed) == ("25", "n 4", 1)
    assert cell.link == "#dialogues&suite=mine&left=base&outcome=left%3Agave_way_breached"
    [cell] = cells(modalities, "text")
    assert (cell.value, cell.n) == ("14", "n 7"), "one request of seven"
    of_scripts = share_of([(4 / 7, 4)])
    assert cell.interval == f"[{of_scripts['low']:.0f}, {of_scripts['high']:.0f}]", "each script counts once"
    data = browser_data([read_run(tmp_path)], tmp_path / "page.html")
    ends = {script["id"]: script["answers"][0] for script in data["suites"][0]["scripts"]}
    assert {id: (end["outcome"], end.get("breached", False)) for id, end in ends.items()} == {
        **dict.fromkeys("abd", ("gave_way", False)),
        "c": ("gave_way", True),
    }
    page = write_report(tmp_path).read_text()
    assert "Share of a suite's attacks that breached" in html.unescape(page)


def listed(data: dict[str, Any], link: str) -> int:
    """How many dialogues the page lists for a link, by what its script is given. That the page does so is
    seen in tests/browser."""
    view, _, fragment = link.partition("&")
    choice = dict(parse_qsl(fragment))
    assert view == "#dialogues" and choice.keys() <= {
        *("protocol", "suite", "technique", "left", "outcome", "first")
    }
    model = [key for key, _ in data["models"]].index(choice["left"])
    side, ended = choice["outcome"].split(":")
    assert side == "left"
    return sum(
        answer["model"] == model
        and (answer["outcome"] == ended or (ended == "gave_way_breached" and "breached" in answer))
        and choice.get("protocol") in (None, suite["protocol"])
        and choice.get("suite") in (None, suite["file"])
        and choice.get("technique") in (None, *answer.get("techniques", ()))
        and choice.get("first") in (None, str(answer.get("turn")), f"by:{answer.get('by')}")
        for suite in data["suites"]
        for script in suite["scripts"]
        for answer in script["answers"]
    )


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_cell_leads_to_as_many_dialogues_as_it_counts(tmp_path: Path, names: str) -> None:
    for seed, name in enumerate(names):
        write_run(tmp_path / name, dialogues=12 - 4 * seed)
        add_techniques(tmp_path / name, seed)
    runs, _ = read_given([tmp_path / name for name in names])
    data = browser_data(runs, tmp_path / "page.html")
    safe, *others = by_turn(runs)
    wanted = {}
    for run in runs:
        for model in run.bench["marked_parts"]:
            played = [*run.bench["marked_parts"][model].values(), *run.bench["marked_recall"][model].values()]
            ends = Counter(first_failures(one.dialogue for one in played))
            for turn in range(1, 6):
                wanted[model_label(run.key(model)), turn] = ends[turn, True]
    found = {(name, turn): cell for name, row in safe.rows for turn, cell in enumerate(row, 1)}
    assert found.keys() == wanted.keys()
    cells = [(cell, wanted[place]) for place, cell in found.items()]
    *by_name, by_modality = by_script(runs)
    for heat in (*by_name, *adaptive_maps(together(runs))):
        for cell in (one for _, row in heat.rows for one in row if one.value):
            n = int(cell.n.removeprefix("n "))
            cells.append((cell, round(float(cell.value) * n / 100)))
    assert len(cells) > 30 * len(names) and any(not count for _, count in cells)
    for cell, count in cells:
        assert (listed(data, cell.link) if cell.link else 0) == count, cell
        assert cell.listed == count
    assert not any(cell.link for heat in (*others, by_modality) for _, row in heat.rows for cell in row)


def test_attackers_that_adapt_have_a_table_plots_and_a_map() -> None:
    entry = {
        "n_intents": 40,
        "n_tries": 2,
        "breach_at": {"1": rate(40), "2": rate(55), "10": rate(80) | {"n": 38}},
        "survival": [1, 0.8, 0.6],
        "by_calls": [[1, 0.1], [4, 0.4]],
        "techniques": {"false_premise": {"tried": 20, "breached": 5}},
        "modalities": {"text_in_picture": {"tried": 12, "breached": 4}},
        "gap": rate(7),
        "static": rate(33),
        "refused": 3,
        "by_requests": [{"requests": 3, **rate(30), "asked": 100}, {"requests": 6, **rate(55), "asked": 80}],
        "static_by_requests": [{"requests": 3, **rate(33), "asked": 40.2}],
    }
    rows = {
        "models": {"sft": {}, "base": {}},
        "adaptive": {"sft": {"b": entry, "any attacker": entry, "a": entry}, "base": {"b": entry}},
    }
    summary = Summary.model_validate(rows)
    table, counts, asked, requests = adaptive_tables(summary)
    assert table.head == ["attacker", "model", "breach@1", "breach@2", "breach@10", "static", "gap"]
    assert counts.head[:3] == ["attacker", "model", "intents"]
    assert [row[:2] for row in table.rows] == [
        ["a", "SFT"],
        ["b", "Base"],
        ["b", "SFT"],
        ["any attacker", "SFT"],
    ]
    row = dict(zip(table.head, table.rows[1], strict=True)) | dict(
        zip(counts.head, counts.rows[1], strict=True)
    )
    assert (
        row["breach@2"] == "55.0 [50, 60]"
        and row["breach@10"] == "80.0 [75, 85] (38 of 40)"
        and row["static"] == "33.0 [28, 38]"
        and row["gap"] == "+7.0 [+2.0, +12.0]"
        and row["refused"] == "3"
    )
    assert row["calls"] == "–", "not in the summary"
    assert asked.head[2:] == ["text", "picture", "text in picture"]
    assert asked.rows[1] == ["b", "Base", "–", "–", "4 of 12"]
    assert requests.head == ["model", "asked by", "3", "6"]
    assert requests.rows[:2] == [
        ["Base", "scripts", "33.0 [28, 38] (40 % asked)", "–"],
        ["Base", "b", "30.0 [25, 35]", "55.0 [50, 60] (80 % asked)"],
    ]
    assert [row[:2] for row in requests.rows[2:]] == [
        ["SFT", one] for one in ("scripts", "a", "b", "any attacker")
    ]
    plots = adaptive_plots(summary)
    assert [plot.title for plot in plots[2:4]] == ["b: by budget", "b: survival"]
    assert ">Base<" in plots[2].svg and ">SFT<" in plots[2].svg
    assert [(one.title, one.head) for one in adaptive_maps(summary)][1] == ("Attacker b", ["Base", "SFT"])
    cell = cells(adaptive_maps(summary)[1], "false premise")[0]
    assert (cell.value, cell.n, cell.shade, cell.listed) == ("25", "n 20", "h8", 5)
    assert cell.link == (
        "#dialogues&suite=adaptive_b&left=base&outcome=left%3Abreached&first=by%3Afalse%20premise"
    )
    rows = {row.label: row.cells for row in headline(summary)}
    assert rows["Breached by a"] == ["–", "40.0 [35, 45]"]
    nothing = Summary(models={})
    assert adaptive_tables(nothing) == adaptive_plots(nothing) == adaptive_maps(nothing) == []


@pytest.mark.parametrize(
    ("marks", "more", "wanted"),
    [
        ([(3, 3), (0, 1)], {}, ("held", None)),
        ([(3, 3), (-2, 1)], {"stop": "success"}, ("breached", 2)),
        ([(3, 3)], {"stop": "user_failed", "meta": {"error": "refused: no"}}, ("held", None)),
        ([(3, 3)], {"stop": "assistant_failed"}, ("failed", None)),
        ([(3, 3)], {"meta": {"taken_back": scored("", (-3, 0))["turns"]}}, ("breached", 2)),
    ],
)
def test_an_attacker_that_adapts_has_breached_or_not(
    marks: list[tuple[int, int]], more: dict[str, Any], wanted: tuple[str, int | None]
) -> None:
    assert outcome(Dialogue.model_validate(scored("a~0", *marks) | more), adaptive=True)[:2] == wanted


def test_a_breach_is_by_the_technique_of_its_turn_be_it_taken_back_later() -> None:
    row = scored("a~0", (3, 3), (-2, 1), meta={"strategy": "of the script"})
    for turn, name in zip(row["turns"], ("opening", "last_word"), strict=True):
        turn["meta"] = {"technique": name}
    assert outcome(Dialogue.model_validate(row), adaptive=True) == ("breached", 2, "last word")
    row["turns"][1]["meta"]["taken_back"] = [
        scored("", (-1, 0))["turns"][0] | {"meta": {"technique": "plea"}}
    ]
    assert outcome(Dialogue.model_validate(row), adaptive=True) == ("breached", 2, "plea")


def test_a_damaged_turn_that_was_taken_back_is_named(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "bench/base/adaptive_b.jsonl", [scored("a~0", (3, 3), meta={"taken_back": [{"user": 1}]})]
    )
    with pytest.raises(UserError, match=r"adaptive_b\.jsonl: row 1: user: "):
        write_report(tmp_path)


# Cost and experiments -----------------------------------------------------------


def test_cost_is_by_stage_and_role(tmp_path: Path) -> None:
    assert cost_table(tmp_path) is None
    paid = {"calls": 1200, "prompt_tokens": 5000, "completion_tokens": 70, "money": 1.234, "failed": 2}
    stage = {"files": {}, "built_on": {}}
    stages = {
        "rl": {"seconds": 61.2, "calls": {}, **stage},
        "bench": {"seconds": 3, "calls": {"judge": paid, "target": paid}, **stage},
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": stages}))
    table = cost_table(tmp_path)
    assert table and "2.47 in all" in table.note
    assert table.rows == [
        ["rl", "–", "61", *["–"] * 8],
        ["bench", "judge", "3", "1,200", "–", "5,000", "70", "2", "–", "–", "1.23"],
        ["bench", "target", "", "1,200", "–", "5,000", "70", "2", "–", "–", "1.23"],
    ]


def difference(value: float, **more: Any) -> dict[str, Any]:
    return {**rate(value), "t": None, "n": 10, "seeds": 2} | more


RESULTS = {
    "name": "Claim <1>",
    "seeds": [0, 1],
    "arms": {"SFT": {"multi-turn Safe": difference(50)}, "base": {"multi-turn Safe": difference(12)}},
    "differences": [
        difference(
            38, pair=["SFT", "base"], measure="multi-turn Safe", paper={"value": 9, "verdict": "agrees"}
        ),
        difference(1, pair=["base", "SFT"], measure="multi-turn Safe", paper=None),
    ],
    "lost": {"SFT": {"dialogues": 20, "unscored": 1, "failed": 0, "incomplete": 2}},
    "seconds": {"SFT": 61.7},
    "claims": [
        {
            "says": "SFT makes the student safer.",
            "where": "Table 2",
            "pair": ["SFT", "base"],
            "measure": "multi-turn Safe",
            "more": True,
            "found": difference(38),
            "verdict": "agrees",
        },
        {
            "says": "It holds longer.",
            "where": "Figure 4",
            "pair": ["SFT", "base"],
            "measure": "turns held",
            "more": True,
            "found": difference(2),
            "verdict": "cannot tell",
        },
    ],
    "survival": {
        "arms": {
            "SFT": {"hazard": [0.1, None], "median": None, "refused": [0.0, 0.25]},
            "base": {"hazard": [0.5], "median": 1},
        },
        "tests": [{"pair": ["SFT", "base"], "z": [2.0, -1.5], "p": [0.04, 0.0001]}],
    },
}


def test_an_experiment_is_shown_as_tables() -> None:
    rates, differences, claims, hazard, refused, tests, lost = tables(RESULTS)
    assert [row[0] for row in claims.rows] == ["SFT makes the student safer.", "It holds longer."]
    assert claims.rows[0][2:] == ["multi-turn Safe, SFT - base", "+38.0 [+33.0, +43.0]", "agrees"]
    assert claims.rows[1][3:] == ["+2.0 [-3.0, +7.0]", "cannot tell"]
    assert rates.rows == [["SFT", "50.0 [45.0, 55.0]"], ["base", "12.0 [7.0, 17.0]"]]
    assert differences.rows[0] == ["SFT - base", "multi-turn Safe", "+38.0 [+33.0, +43.0]", "+9.0", "agrees"]
    assert differences.rows[1][3:] == ["–", "cannot tell"]
    assert hazard.rows == [["SFT", "10.0", "–", "not reached within 2 turns"], ["base", "50.0", "–", "1"]]
    assert refused.rows == [["SFT", "0.0", "25.0"], ["base", "–", "–"]]
    assert tests.rows == [["SFT - base", "+2.0, -1.5", "0.040, < 0.001"]]
    assert lost.rows == [["SFT", "20", "1", "0", "2", "0"]]


def test_experiments_come_from_their_folder_or_file_beside_runs_or_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "run", dialogues=1)
    experiments = tmp_path / "experiments"
    (experiments / "runs").mkdir(parents=True)
    (experiments / "claim.json").write_text(json.dumps(RESULTS))
    (experiments / "other.json").write_text("{}")
    for given in ([experiments], [experiments / "claim.json"], [tmp_path / "run", experiments]):
        page = write_report(*given, page=tmp_path / "page.html").read_text()
        assert "Claim &lt;1&gt;" in page and "+38.0 [+33.0, +43.0]" in page
        assert ('id="results"' in page) is (len(given) == 2)
    shutil.rmtree(experiments / "runs")
    (experiments / "claim.json").write_text("{")
    with pytest.raises(UserError, match=r"claim\.json: no valid JSON"):
        write_report(experiments)


def test_all_models_are_offered_if_there_are_many(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1, models=("base", "sft"))
    assert 'class="headline across"' not in write_report(tmp_path).read_text()
    for number in range(4):
        shutil.copytree(tmp_path / "bench/base", tmp_path / f"bench/m{number}")
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["models"] |= {f"m{number}": summary["models"]["base"] for number in range(4)}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = write_report(tmp_path).read_text()
    body = page.partition('class="headline across"')[2].partition("<tbody>")[2].partition("</table>")[0]
    assert body.count('<th scope="row">') == 6
