"""The scripts on the page: what can be read of each, what was dropped and why, and how much there is."""

import re
from html import escape
from pathlib import Path

from made_up_run import SCRIPT, write_jsonl, write_run
from safer_steer.report.page import write_report
from safer_steer.report.scripts import DROPPED, LONGEST, PER_KIND, dropped_from, scripts_of

HOSTILE = "<img src=x onerror=alert(1)>"


def section(run: Path) -> str:
    page = write_report(run).read_text(encoding="utf-8")
    return page.partition('<section id="scripts"')[2].partition("</section>")[0]


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_kind_technique_and_risk_by_turn_can_be_read(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=2)
    said = text(section(tmp_path))
    assert "benign: 40 25 of them are here" in said
    assert "red-team: 22 red_team-0 1 1 2 4 5 roleplay, sunk cost; succeeded at turn 4" in said
    assert f"risk 4 {SCRIPT[3]} Goal: the next step" in said


def test_why_a_script_was_dropped_can_be_read(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=2)
    said = text(section(tmp_path))
    assert "dropped: 3 Script Kind Why Detail Attempts" in said
    assert "dropped-0 red-team attack failed completed: scores 1, 2; 4 is needed" in said
    assert "fiction, refused; attack failed" in said


def test_every_text_is_escaped(tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=2, hostile=HOSTILE)
    html = section(tmp_path)
    assert html.count(escape(HOSTILE)) > 22 * len(SCRIPT)
    assert "<img" not in html


def test_a_large_pool_and_long_texts_are_cut_and_the_page_says_so(tmp_path: Path) -> None:
    turns = [{"user": "word " * 10_000, "meta": {"risk": 2}}] * 3
    seeds = [{"id": f"s{index}", "kind": "benign", "turns": turns} for index in range(400)]
    write_jsonl(tmp_path / "seeds" / "benign.jsonl", seeds)
    reasons = [{"id": f"d{index}", "reason": "unparsable", "detail": "x" * 10_000} for index in range(400)]
    write_jsonl(tmp_path / "seeds" / "dropped.jsonl", reasons)
    (benign,) = scripts_of(tmp_path)
    dropped = dropped_from(tmp_path)
    assert (benign.total, len(benign.shown), dropped.total, len(dropped.shown)) == (
        400,
        PER_KIND,
        400,
        DROPPED,
    )
    assert len(benign.shown[0]["turns"][0][2]) <= LONGEST + len(" ...")
    assert len(dropped.shown[0]["detail"]) <= LONGEST + len(" ...")
    (tmp_path / "config.yaml").write_text("seed: 0")
    assert f"{PER_KIND} of them are here" in section(tmp_path)


def test_a_run_without_seeds_says_so_and_odd_rows_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0")
    assert "No scripts in this folder" in section(tmp_path)
    odd = [{"id": 1}, {"id": "a", "turns": [None, {"meta": 3}], "meta": []}]
    write_jsonl(tmp_path / "seeds" / "benign.jsonl", odd)
    write_jsonl(tmp_path / "seeds" / "dropped.jsonl", [{"attempts": [3]}])
    assert "benign: 2" in text(section(tmp_path))
