"""The report without a browser: what stands in the table, what the page holds and escapes, and what happens
where pieces are missing."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import EpsImagePlugin, Image
from rich.console import Console
from typer.testing import CliRunner

from aliases import laughs
from made_up_run import write_jsonl, write_run
from safer_steer.bench.results import Summary
from safer_steer.bench.summary import summarise
from safer_steer.cli import app
from safer_steer.dialogue import Dialogue
from safer_steer.errors import UserError
from safer_steer.report.dialogues import browser_data
from safer_steer.report.main_table import by_suite, console_table, headline
from safer_steer.report.page import write_report
from safer_steer.report.played import outcome
from safer_steer.report.plots import over_refusal_plot, survival_plots, training_plots
from safer_steer.report.runs import read_run
from safer_steer.report.shorten import shorten
from safer_steer.report.svg import Line, draw

HOSTILE = (
    '</script><script>window.hit=1</script><img src=x onerror="window.hit=1"><!-- \' $\\frac{1}{0}$ \x01'
)


def data_of(run: Path, **limits: int) -> dict[str, Any]:
    """What the page's script is given for a run."""
    return browser_data([read_run(run)], run / "report.html", **limits)


def rate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


ROWS = {
    "models": {
        "safer_steer": {
            "multi_turn": {
                "attack": {
                    "n": 200,
                    "unscored": 1,
                    "failed": 2,
                    "incomplete": 3,
                    "safe": rate(81.25, 75, 86),
                    "help": rate(80, 74, 85),
                    "joint": rate(70, 63, 76),
                    "worst": {"safe": rate(79.5, 73, 85)},
                },
                "twins": {
                    "n": 100,
                    "unscored": 0,
                    "failed": 0,
                    "incomplete": 1,
                    "safe": rate(99),
                    "help": rate(90, 85, 95),
                    "joint": rate(88),
                    "over_refusal": rate(4),
                },
                "average": {
                    "n": 200,
                    "unscored": 1,
                    "failed": 2,
                    "incomplete": 3,
                    "safe": rate(81.25, 75, 86),
                    "help": rate(80, 70, 90),
                    "joint": rate(70, 60, 80),
                    "survival": {
                        "turn": [0, 1, 2],
                        "S": [1, 0.9, 0.8],
                        "low": [1, 0.8, 0.7],
                        "high": [1, 0.95, 0.9],
                        "at_risk": [197, 197, 177],
                        "median": None,
                        "n": 197,
                        "failures": 40,
                    },
                    "over_refusal": {
                        **rate(4, 1, 9),
                        **{"n": 100, "unscored": 1, "failed": 0, "incomplete": 0},
                        "by_turn": [
                            {"turn": 1, **rate(1, 0, 5), "n": 100},
                            {"turn": 2, **rate(None), "n": 0},
                        ],
                    },
                    "twin_help": {**rate(90, 85, 95), "n": 100},
                },
            },
        },
        "base": {
            "single_turn": {
                "average": {
                    "n": 50,
                    "unscored": 0,
                    "failed": 0,
                    "incomplete": 0,
                    "safe": rate(None),
                    "help": rate(12.0, 8.0, 16.0),
                }
            }
        },
    }
}


SUMMARY = Summary.model_validate(ROWS)
NOTHING = Summary(models={})


def test_the_table_shows_values_with_intervals_and_a_dash_where_there_is_none() -> None:
    rows = {row.label: row.cells for row in headline(SUMMARY)}  # columns: base, then safer_steer
    assert rows["Single-turn Help"] == ["12.0 [8, 16]", "–"]
    assert "Single-turn Safe" not in rows, "no model has it"
    assert rows["Multi-turn Safe"] == ["–", "81.2 [75, 86]"]
    assert rows["Multi-turn joint"] == ["–", "70.0 [60, 80]"]
    assert rows["Median survival, turns"] == ["–", "not reached within 2 turns"]
    assert rows["Over-refusal"] == ["–", "4.0 [1, 9]"]
    assert rows["Twin Help"] == ["–", "90.0 [85, 95]"]
    assert rows["Multi: n, unscored, failed, incomplete"] == ["–", "300, 1, 2, 4"], "twins are counted too"
    assert rows["Scored attacks, multi-turn"] == ["–", "194 of 200"]
    assert rows["Scored twins, multi-turn"] == ["–", "99 of 100"]
    assert rows["Single: n, unscored, failed, incomplete"] == ["50, 0, 0, 0", "–"]
    cells = ["81.2 [75, 86]", "80.0 [74, 85]", "70.0 [63, 76]", "79.5 [73, 85]", "200, 1, 2, 3"]
    assert ("multi_turn", "attack", "safer_steer", cells) in list(by_suite(SUMMARY))


def test_failures_that_were_then_lost_stand_beside_the_curve_and_the_worst_case_beside_safe() -> None:
    def judged(id: str, *marks: int, stop: str = "completed") -> Dialogue:
        turns = [
            {"user": "u", "assistant": "a", "scores": {"harmlessness": h, "helpfulness": 3}} for h in marks
        ]
        return Dialogue.model_validate({"id": id, "kind": "red_team", "stop": stop, "turns": turns})

    known = [judged("a", 3, 3), judged("b", 3, 0)]
    lost = [judged(id, -3, 3, stop="context_full") for id in "cd"]
    summary = summarise(
        {"base": {"multi_turn": {"mine": known}}, "sft": {"multi_turn": {"mine": [*known, *lost]}}},
        set(),
        50,
    )
    table = {row.label: (row.cells, row.count) for row in headline(summary)}
    worst, count = table["Multi-turn Safe, worst case"], table["Failed, then lost"]
    assert [cell.split()[0] for cell in worst[0]] == ["50.0", "25.0"] and count == (["0", "2"], True)
    said = "Failed: Base 1 of 2, SFT 1 of 2 (not in the curve: 2 more that failed, then got no result)."
    assert survival_plots(summary)[0].caption.endswith(said)
    none = summarise({"base": {"multi_turn": {"mine": known}}}, set(), 50)
    assert not {"Multi-turn Safe, worst case", "Failed, then lost"} & {row.label for row in headline(none)}
    assert "failed_then_lost" not in json.dumps(none.as_dict()), (
        "without lost dialogues the file is as before"
    )


def test_the_table_shows_capability_and_its_difference_to_the_base() -> None:
    kept = {
        "base": {"n": 40, "right": rate(80, 65, 90), "no_choice": 2, "failed": 1, "minus_base": None},
        "safer_steer": {
            **{"n": 40, "right": rate(70, 55, 82), "no_choice": 0, "failed": 0},
            "minus_base": rate(-10.26, -20, 1.5) | {"n": 39},
        },
    }
    summary = Summary.model_validate(ROWS | {"capability": {"facts": kept}})
    found = {row.label: (row.cells, row.count) for row in headline(summary)}
    assert found["Capability, facts"] == (["80.0 [65, 90]", "70.0 [55, 82]"], False)
    assert found["Capability, facts, minus base"] == (["–", "-10.3 [-20.0, +1.5]"], False)
    assert found["No choice found, facts"] == (["2 of 39", "0 of 40"], True)


def test_the_console_table_fits_a_terminal_and_takes_names_literally() -> None:
    summary = Summary(models={**SUMMARY.models, "[red]mine[/red]": {}})
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(console_table(summary))
    lines = console.export_text().splitlines()
    assert any("Multi-turn Safe" in line and "81.2 [75, 86]" in line for line in lines)
    assert any("[red]mine[/red]" in line for line in lines)
    console.print(console_table(NOTHING))


def test_plots_are_plain_svg_in_the_page_s_colours_and_the_same_each_time() -> None:
    steps = [
        {
            "step": step,
            "return": 1 + step / 10,
            "equal_groups": None if step == 3 else 1.0,
            "distinct_attacks": step / 10,
            "kl": 0.01,
            "safety_by_turn": [5, 6 + step / 10, None],
        }
        for step in range(1, 11)
    ]
    drawn = [*survival_plots(SUMMARY), over_refusal_plot(SUMMARY), *training_plots(steps)]
    assert [plot.title for plot in drawn if plot] == [
        "All attack suites",
        "Over-refusal by turn",
        "Return",
        "Groups of equal returns",
        "Distinct attacks",
        "KL to the SFT model",
        "Safety by turn",
    ]
    for plot in drawn:
        assert plot is not None
        assert plot.svg.startswith("<svg")
        assert "var(--series-" in plot.svg
        assert not re.search(r"style|<!|#0[0-9]0|script|metadata", plot.svg)
        assert len(plot.svg) < 30_000
    assert drawn[0] is not None
    assert "SaFeR-Steer" in drawn[0].svg
    assert re.findall(r'text-anchor="\w+" fill="var\(--series-\d\)">(\d+)<', drawn[0].svg) == [
        "197",
        "197",
        "177",
    ]
    assert ">at risk<" in drawn[0].svg and ">2<" in drawn[0].svg and ">4<" not in drawn[0].svg
    assert survival_plots(SUMMARY)[0].svg == drawn[0].svg
    for plot in drawn:
        assert plot is not None
        places = [float(value) for value in re.findall(r'(?:x|y|cx|cy)="(-?[\d.]+)"', plot.svg)]
        assert all(0 <= value <= 460 for value in places), "inside the drawing"
        assert ElementTree.fromstring(plot.svg).tag.endswith("svg")
    dpo = training_plots(
        [{"step": step, "loss": 0.6, "margin": step - 3, "accuracy": 0.7} for step in range(5)]
    )
    assert [plot.title for plot in dpo] == ["Margin", "Accuracy"] and ">−2<" in dpo[0].svg
    assert survival_plots(NOTHING) == training_plots([]) == training_plots([{"step": 1}]) == []
    assert over_refusal_plot(NOTHING) is None


def test_a_plot_shows_what_it_is_given() -> None:
    lines = [
        Line("upper & <lower>", [0, 1, 2], [100, 100, 50], 0, [100, 90, 40], [100, 100, 60]),
        Line("same end", [0, 1, 2], [100, 80, 50], 1),
    ]
    drawn = draw(lines, "turn", "safe, %", (0, 102), step=True, x_limit=2)
    root = ElementTree.fromstring(drawn)
    texts = {"".join(text.itertext()): float(text.get("y", "")) for text in root if text.tag.endswith("text")}
    assert {"0", "20", "100", "1", "2", "turn", "safe, %", "upper & <lower>", "same end"} <= set(texts)
    assert abs(texts["same end"] - texts["upper & <lower>"]) >= 11, "names do not overlap"
    assert texts["100"] < texts["20"] < texts["0"]
    dashed = [path for path in root if path.get("stroke-dasharray")]
    assert len({path.get("stroke-dasharray") for path in dashed}) == 2
    (data,) = [path.get("d", "") for path in dashed if path.get("stroke") == "var(--series-1)"]
    points = [tuple(map(float, point.split())) for point in data.removeprefix("M").split("L")]
    assert [y for _, y in points] == sorted(y for _, y in points), "it falls, which is down"
    assert points[1] == (points[2][0], points[0][1]), "a value holds until the next"
    assert "NaN" not in draw([Line("", [1, 2, 3], [5.0, float("nan"), 5.0], 0)], "step", "")
    assert draw([Line("", [7], [0.0], 0)], "step", "").count("<path") > 2, "a single point has axes, too"


def test_the_report_loads_nothing_heavy() -> None:
    heavy = ("matplotlib", "PIL", "torch", "scipy")
    code = f"import sys, safer_steer.report.page; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize(
    ("kind", "scores", "stop", "wanted"),
    [
        ("red_team", [(3, 3, 1), (2, 2, 0)], "completed", ("held", None)),
        ("red_team", [(3, 3, 1), (0, 2, 1)], "completed", ("gave_way", 2)),
        ("red_team", [(-3, 1, 0), None], "completed", ("unscored", None)),
        ("red_team", [(-3, 1, 0)], "context_full", ("incomplete", None)),
        ("benign", [(3, 3, 0)], "context_full", ("incomplete", None)),
        ("red_team", [(3, 3, 0)], "assistant_failed", ("failed", None)),
        ("benign", [(3, 3, 0), (3, 3, 1)], "completed", ("over_refused", 2)),
        ("benign", [(3, 3, 0)], "completed", ("answered", None)),
    ],
)
def test_the_outcome_of_a_dialogue(
    kind: str, scores: list[tuple[int, int, int] | None], stop: str, wanted: tuple[str, int | None]
) -> None:
    names = ("harmlessness", "helpfulness", "refused")
    turns = [
        {"user": "u", "assistant": "a", "scores": dict(zip(names, one, strict=True)) if one else None}
        for one in scores
    ]
    dialogue = Dialogue.model_validate({"id": "d", "kind": kind, "turns": turns, "stop": stop})
    assert outcome(dialogue) == (*wanted, "")


class Parts(HTMLParser):
    """The tags of a page with their attributes, and what stands in its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> dict:
        return json.loads(self.scripts[1])

    @property
    def pictures(self) -> list[str]:
        return json.loads(self.scripts[2])


def test_the_page_is_one_file_that_asks_for_nothing_and_runs_nothing_of_the_models(tmp_path: Path) -> None:
    write_run(tmp_path, hostile=HOSTILE, dialogues=3)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["models"][HOSTILE] = summary["models"]["base"]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    row = json.loads((tmp_path / "bench/base/marked_parts.jsonl").read_text().splitlines()[0]) | {
        "id": HOSTILE,
        "source": HOSTILE,
    }
    row["turns"][0] |= {"user": HOSTILE, "assistant": HOSTILE}
    write_jsonl(tmp_path / "bench/base/marked_parts.jsonl", [row])

    page = write_report(tmp_path).read_text(encoding="utf-8")
    parts = Parts(page)
    assert [attributes.get("type") for tag, attributes in parts.tags if tag == "script"] == [
        None,
        *["application/json"] * 3,
    ]
    assert not [tag for tag, _ in parts.tags if tag in ("iframe", "object", "base")]
    assert [attributes for tag, attributes in parts.tags if tag == "img"] == [{"id": "picture", "alt": ""}]
    assert all(
        re.match(r"#[\w%&=.:-]*$|data:,$", attributes.get(key) or "#")
        for _, attributes in parts.tags
        for key in ("href", "src", "xlink:href")
    )
    assert not [
        key for _, attributes in parts.tags for key in attributes if key.startswith("on") or key == "style"
    ]
    shown = next(one for suite in parts.data["suites"] for one in suite["scripts"] if one["id"] == HOSTILE)
    assert shown["asked"][0]["user"] == shown["answers"][0]["turns"][0]["answer"] == HOSTILE, "verbatim"
    policy = next(
        attributes["content"]
        for _, attributes in parts.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=2)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "missing", ["rl", "seeds", "bootstrap", "summary.json", "config.yaml", "bench", "bench/sft", "pictures"]
)
def test_a_run_that_is_not_finished_gets_a_page(tmp_path: Path, missing: str) -> None:
    write_run(tmp_path, dialogues=2)
    gone = tmp_path / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    said = {
        "rl": "No reinforcement learning yet",
        "bench": "No dialogues",
        "summary.json": "Nothing is measured yet",
    }.get(missing, "Dialogues")
    assert said in page


def test_a_run_before_sft_shows_the_base_alone(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=2, models=("base",))
    shutil.rmtree(tmp_path / "rl")
    assert Parts(write_report(tmp_path).read_text(encoding="utf-8")).data["models"] == [["base", "Base"]]


def test_the_page_of_a_served_model_names_its_endpoint_and_no_student(tmp_path: Path) -> None:
    at, model = "http://127.0.0.1:9/v1", ROWS["models"]["base"]
    (tmp_path / "config.yaml").write_text(
        f"student: {{model: sandbox}}\nroles: {{target: {{base_url: '{at}'}}, judge: {{model: the-judge}}}}\n"
    )
    (tmp_path / "summary.json").write_text(json.dumps({"models": {"served": model}}))
    head = write_report(tmp_path).read_text().partition("<main>")[0]
    assert at in head and "the-judge" in head and "<dt>student" not in head
    (tmp_path / "summary.json").write_text(json.dumps({"models": {"base": model}}))
    head = write_report(tmp_path).read_text().partition("<main>")[0]
    assert at not in head and "<dt>student" in head
    (tmp_path / "summary.json").unlink()  # as after --no-judge
    played = tmp_path / "bench" / "served" / "mine.jsonl"
    played.parent.mkdir(parents=True)
    played.write_text('{"id": "a", "kind": "red_team", "turns": [{"user": "x", "assistant": "y"}]}\n')
    page = write_report(tmp_path).read_text()
    head = page.partition("<main>")[0]
    assert at in head and "<dt>student" not in head
    assert "the answers are kept, none is scored" in page and "bench --judge-only" in page


def test_counts_come_from_the_files_and_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=2)
    for name in ("seeds/benign.jsonl", "bench/base/marked_parts.jsonl", "rl/metrics.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"id": "to')
    page = re.sub(r"<[^>]+>", " ", write_report(tmp_path).read_text(encoding="utf-8"))
    for line in (
        r"benign\s+40",
        r"kept\s+61",
        r"rejected: helpfulness 6\.5 below 8\s+2",
        r"completed\s+1,160",
        r"persist\s+400",
        r"RL steps\s+20",
    ):
        assert re.search(line, page), line


def test_a_large_suite_is_cut_alike_for_every_model(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=20)
    data = data_of(tmp_path, scripts=20)
    assert [(suite["total"], len(suite["scripts"])) for suite in data["suites"]] == [(20, 5)] * 4
    assert all(len(script["answers"]) == 3 for suite in data["suites"] for script in suite["scripts"])
    assert data_of(tmp_path, in_all=60) == data, "20 scripts by three models"


def test_a_small_suite_leaves_its_room_to_others(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=20)
    for path in tmp_path.glob("bench/*/unmarked.jsonl"):
        write_jsonl(path, [json.loads(line) for line in path.read_text().splitlines()][:2])
    sizes = [len(suite["scripts"]) for suite in data_of(tmp_path, scripts=32)["suites"]]
    assert sorted(sizes) == [2, 10, 10, 10]


def test_the_words_of_a_script_are_on_the_page_once(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=4)
    for suite in data_of(tmp_path)["suites"]:
        for script in suite["scripts"]:
            assert script["asked"] and not any(
                "asked" in turn for one in script["answers"] for turn in one["turns"]
            )


def test_pictures_come_once_as_thumbnails_and_larger_while_there_is_room(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=8)
    assert len(data_of(tmp_path)["pictures"]["urls"]) == 8, "small ones serve as their own thumbnails"
    for number, path in enumerate(sorted((tmp_path / "pictures").glob("*.png"))):
        Image.effect_mandelbrot((1000, 800), (-2, -1, 1, 1 + number / 9), 30).save(path)
    pictures = data_of(tmp_path)["pictures"]
    assert len(pictures["urls"]) == 16
    for _, small, large in pictures["table"]:
        sizes = [
            Image.open(io.BytesIO(base64.b64decode(pictures["urls"][place].partition(",")[2]))).size
            for place in (small, large)
        ]
        assert sizes == [(128, 103), (512, 410)], "the thumbnail is made of the larger one"
    thumbnails = sum(len(pictures["urls"][small]) for _, small, _ in pictures["table"])
    larger = len(pictures["urls"][pictures["table"][0][2]])
    for room, shown, enlarged in (
        (thumbnails + larger, 8, 1),
        (thumbnails, 8, 0),
        (thumbnails - 1, 7, 0),
        (0, 0, 0),
    ):
        few = data_of(tmp_path, picture_bytes=room)["pictures"]
        assert sum(len(url) for url in few["urls"]) <= room
        assert sum(small is not None for _, small, _ in few["table"]) == shown
        assert sum(large not in (None, small) for _, small, large in few["table"]) == enlarged
        assert len(few["table"]) == 8, "the others are named"


def test_a_photograph_of_two_pictures_is_embedded_as_a_browser_reads_it(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1)
    for path in (tmp_path / "pictures").glob("*.png"):
        shown = Image.new("RGB", (50, 40), "gold")
        shown.save(path, "MPO", save_all=True, append_images=[shown])
    assert all(url.startswith("data:image/jpeg;") for url in data_of(tmp_path)["pictures"]["urls"])


def test_a_picture_is_shown_at_its_turn(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1, models=("base", "sft"))
    for path in tmp_path.glob("bench/*/marked_parts.jsonl"):
        row = json.loads(path.read_text())
        row["turns"][1]["images"] = ["pictures/new.png", "../secret.png"]
        write_jsonl(path, [row])
    Image.new("RGB", (50, 40), "gold").save(tmp_path / "pictures" / "new.png")
    parts = Parts(write_report(tmp_path).read_text(encoding="utf-8"))
    [shown] = next(suite for suite in parts.data["suites"] if suite["name"] == "marked_parts")["scripts"]
    assert [number for number, turn in enumerate(shown["asked"]) if "images" in turn] == [1]
    new, secret = (parts.data["pictures"][place] for place in shown["asked"][1]["images"])
    assert secret == ["../secret.png", None, None]
    assert new[0] == "pictures/new.png" and new[1] == new[2]
    encoded = parts.pictures[new[1]].partition(",")[2]
    assert base64.b64decode(encoded) == (tmp_path / "pictures" / "new.png").read_bytes()


def test_long_texts_are_cut_and_the_page_is_bounded(tmp_path: Path) -> None:
    """A model that never stops, in characters that JSON writes as twelve bytes each."""
    write_run(tmp_path, dialogues=20, models=("base",))
    path = tmp_path / "bench/base/marked_parts.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for turn in row["turns"]:
            turn["assistant"] = turn["user"] = "\U0001f600" * 100_000
    write_jsonl(path, rows)
    page = write_report(tmp_path)
    assert page.stat().st_size < 10_000_000
    [script] = [
        script
        for suite in Parts(page.read_text(encoding="utf-8")).data["suites"]
        for script in suite["scripts"]
        if script["id"] == "marked_parts-03"
    ]
    asked, answer = script["asked"][0], script["answers"][0]
    for row, text in ((asked, asked["user"]), (answer["turns"][0], answer["turns"][0]["answer"])):
        assert text.endswith("\U0001f600 …") and len(text) < 2_000
        assert row["cut"] == 100_000 - len(text) + 2
    assert answer["file"] == "bench/base/marked_parts.jsonl"
    assert json.loads(path.read_text().splitlines()[answer["row"] - 1])["id"] == "marked_parts-03"


def test_the_longest_texts_are_cut_first() -> None:
    def suites(*texts: str) -> list[dict[str, Any]]:
        turns = [{"answer": text} for text in texts]
        return [{"scripts": [{"answers": [{"turns": turns}]}]}]

    def cut(*texts: str, longest: int = 1000, in_all: int) -> list[int]:
        shorten(data := suites(*texts), longest, in_all)
        return [turn.get("cut", 0) for turn in data[0]["scripts"][0]["answers"][0]["turns"]]

    assert cut("a" * 10, "b" * 50, "c" * 90, in_all=150) == [0, 0, 0]
    assert cut("a" * 10, "b" * 50, "c" * 90, in_all=100) == [0, 5, 45]
    assert cut("a" * 10, "b" * 50, "c" * 90, longest=40, in_all=150) == [0, 10, 50]


def test_pictures_outside_the_run_or_broken_are_named_not_shown(tmp_path: Path) -> None:
    run, secret = tmp_path / "run", tmp_path / "secret.png"
    write_run(run, dialogues=1, models=("base",))
    shutil.copy(next((run / "pictures").glob("*.png")), secret)
    (run / "pictures" / "broken.png").write_bytes(secret.read_bytes()[:60])
    row = json.loads((run / "bench/base/marked_parts.jsonl").read_text())
    write_jsonl(
        run / "bench/base/marked_parts.jsonl",
        [row | {"images": ["../secret.png", str(secret), "pictures/broken.png", "config.yaml"]}],
    )
    data = data_of(run)
    [script] = next(suite for suite in data["suites"] if suite["name"] == "marked_parts")["scripts"]
    assert [data["pictures"]["table"][place][1:] for place in script["images"]] == [[None, None]] * 4


@pytest.mark.parametrize("format", ["EPS", "TIFF", "TGA", "ICO", "PCX", "GIF", "BMP"])
def test_a_picture_of_another_format_is_named_and_no_decoder_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """Pillow hands an EPS to Ghostscript, whatever the file is called."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript"))
    write_run(tmp_path, dialogues=1, models=("base",))
    suite = tmp_path / "bench/base/marked_parts.jsonl"
    row = json.loads(suite.read_text())
    write_jsonl(suite, [row | {"images": [*row["images"], "pictures/a.png"]}])
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "pictures" / "a.png", format)
    data = data_of(tmp_path)
    [script] = next(suite for suite in data["suites"] if suite["name"] == "marked_parts")["scripts"]
    *good, bad = (data["pictures"]["table"][place][1:] for place in script["images"])
    assert bad == [None, None] and good and None not in good[0]


@pytest.mark.parametrize("stage", ["assemble", "sft"])
def test_a_misspelled_folder_is_an_error_and_is_not_made(tmp_path: Path, stage: str) -> None:
    (tmp_path / "config.yaml").write_text("name: sandbox")
    done = CliRunner().invoke(app, [stage, str(tmp_path / "config.yaml"), "--out", str(tmp_path / "typo")])
    assert done.exit_code == 2
    assert done.stderr == (
        f"error: {tmp_path}/typo: no run in it (no config.yaml); give a run's, or begin with `seeds`\n"
    )
    assert not (tmp_path / "typo").exists()


def test_what_is_no_run_or_is_damaged_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "nothing")
    write_run(tmp_path, dialogues=2)
    cell = {"student": 0, "attacker": 0, "breach": 0.5}
    (tmp_path / "rl" / "crossplay.json").write_text(json.dumps([cell]))
    (tmp_path / "rl" / "attacker").mkdir()
    (tmp_path / "rl" / "attacker" / "metrics.jsonl").write_text('{"attack_breach": 1}\n')
    for name, text, said in (
        ("summary.json", "{", r"summary\.json: Invalid JSON"),
        ("config.yaml", "a: [", r"config\.yaml: no valid YAML"),
        ("config.yaml", laughs(), r"config\.yaml: no valid YAML"),
        ("rl/metrics.jsonl", "oops\n{}\n", r"metrics\.jsonl:1: no JSON object"),
        ("rl/metrics.jsonl", "{}\n" + "[" * 100_000 + "\n", r"metrics\.jsonl:2: no JSON object"),
        ("rl/metrics.jsonl", f'{{"step": 1{"0" * 400}}}\n', r"metrics\.jsonl:1: .*a number of 401 digits"),
        ("bench/sft/unmarked.jsonl", '{"id": "a", "kind": "odd"}\n', r"unmarked\.jsonl: row 1: kind"),
        *(("rl/crossplay.json", text, r"crossplay\.json: damaged; remove") for text in ("[{", '[{"a": 1}]')),
    ):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=said) as error:
            write_report(tmp_path)
        assert "\n" not in str(error.value)
        (tmp_path / name).write_text(before)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "facts",
    [
        {"verdicts": 5},
        {"verdicts": {"j": 5}},
        {"verdicts": {"j": {"scores": {"a": "x"}}}},
        {"taken_back": 5},
        {"taken_back": [{"user": "u", "meta": {"verdicts": 5}}]},
    ],
    ids=lambda facts: json.dumps(facts)[:50],
)
@pytest.mark.parametrize("of_turn", [True, False])
def test_a_fact_of_a_wrong_type_gets_one_line(tmp_path: Path, facts: dict[str, Any], of_turn: bool) -> None:
    write_run(tmp_path, dialogues=2, models=("base",))
    path = tmp_path / "bench/base/unmarked.jsonl"
    first, second = map(json.loads, path.read_text().splitlines())
    (second["turns"][0] if of_turn else second)["meta"] = facts
    write_jsonl(path, [first, second])
    if not of_turn and "taken_back" not in facts:  # a fact of turns, which says nothing of a dialogue
        write_report(tmp_path)
        return
    with pytest.raises(UserError, match=r"unmarked\.jsonl: row 2: meta: .*; move the file away") as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)


def test_the_checks_of_training_are_a_table(tmp_path: Path) -> None:
    write_run(tmp_path)
    table = write_report(tmp_path).read_text().partition("<b>Checks.</b>")[2].partition("</table>")[0]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table)
    start = cells.index("SFT")
    assert cells[start - 12 : start] == [
        *("stage", "checks", "dialogues", "with pictures", "compared", "tokens with loss"),
        *("picture tokens", "with features", "rendered again", "blank pictures", "engine", "moved"),
    ]
    counted = ["SFT", "1", "4", "3", "16", "1,200", "600", "600", "4"]
    assert cells[start : start + 12] == [*counted, "0.21", "–", "1e-05"]
    start = cells.index("RL")
    counted = ["RL", "3", "12", "9", "48", "3,600", "1,800", "1,800", "12"]
    assert cells[start : start + 12] == [*counted, "0.21 → 0.4", "2e-05", "0.0002"]


def test_checks_without_pictures_say_so_and_no_checks_are_no_table(tmp_path: Path) -> None:
    write_run(tmp_path)
    text = {"dialogues": 2, "with_pictures": 0, "blank_shift": None, "picture_features": None}
    write_jsonl(tmp_path / "sft/checks.jsonl", [{"step": 1, **text}])
    write_jsonl(tmp_path / "rl/metrics.jsonl", [{"step": 1, "return": 1.0}])
    page = write_report(tmp_path).read_text()
    assert "none, so nothing to see" in page and ">RL</th>" not in page
    (tmp_path / "sft/checks.jsonl").unlink()
    assert "student.check_every" not in write_report(tmp_path).read_text()
