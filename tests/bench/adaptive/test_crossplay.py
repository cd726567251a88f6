"""What a finished run of co-training shows: cross-play, plots, and an attacker for the bench."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cotrain_run import config_of, prepared
from rl_run import Counting
from safer_steer.bench.adaptive.crossplay import CrossPlay, _blank, matrix, rates
from safer_steer.bench.adaptive.trained import base_of, folder_of
from safer_steer.config import SHIPPED
from safer_steer.config.rl import SHIPPED_ATTACKER
from safer_steer.data.assembly.splits import read_split
from safer_steer.dialogue import Dialogue, Kind, Seed, Turn, read_dialogues
from safer_steer.episode import Verdict
from safer_steer.errors import EndpointError, UserError
from safer_steer.files.images import pictures_in
from safer_steer.report.cotrain_plots import cotrain_plots
from safer_steer.training.cotrain.loop import pool_of
from safer_steer.training.cotrain.pool import Block, Pool


@pytest.fixture
def run(tmp_path) -> Path:
    return prepared(tmp_path / "run", config_of())


@pytest.mark.slow
def test_every_student_meets_every_attacker_and_those_that_were_held_out(run) -> None:
    config, calls = config_of(), run / "calls"
    pool = pool_of(config, run)
    pool.add(Block("attacker", 1, 0), SHIPPED_ATTACKER)
    assert (pool.steps("attacker"), pool.steps("student")) == ([0, 1], [0])
    drawn, said = read_split(run, "rl"), list[str]()
    seeds = drawn[:2]

    def play(seeds: list[Seed] = seeds) -> list[dict]:
        cells = CrossPlay(config, run, pool, Counting(run, calls, None))
        return matrix(cells, seeds, [0], [0, 1, "sandbox-c"], said.append)

    found = play()
    assert [(cell["student"], cell["attacker"]) for cell in found] == [(0, 0), (0, 1), (0, "sandbox-c")]
    assert found[0] | {"attacker": 1} == found[1], "the same adapter plays the same"
    assert all(cell["breach"] is None or 0 <= cell["breach"] <= 1 for cell in found) and len(said) == 3
    folder, asked = run / "rl" / "crossplay", len(calls.read_text().splitlines())
    users = {turn.user for row in read_dialogues(folder / "00000-0.jsonl") for turn in row.turns}
    assert len(users - {text for seed in seeds for text in seed.script}) > 0.7 * len(users)
    assert play() == found and len(calls.read_text().splitlines()) == asked, "a cell that is there was played"
    play(drawn[:3])
    assert len([*read_dialogues(folder / "00000-0.jsonl")]) == 3, "a script that is new was not played"


@pytest.mark.slow
def test_what_an_endpoint_lost_is_played_by_the_next_call(run) -> None:
    class Dead(Counting):
        async def judge(self, *args: object) -> Verdict:
            raise EndpointError("no answer")

    config, seeds = config_of(), read_split(run, "rl")[:2]
    pool = pool_of(config, run)
    pool.add(Block("attacker", 1, 0), SHIPPED_ATTACKER)
    with pytest.raises(UserError, match="no answer"):
        CrossPlay(config, run, pool, Dead(run, run / "calls", None)).cell(seeds, 0, 0)
    CrossPlay(config, run, pool, Counting(run, run / "calls", None)).cell(seeds, 0, 0)
    kept = [*read_dialogues(run / "rl" / "crossplay" / "00000-0.jsonl")]
    assert len(kept) == 2 and all(turn.scores for row in kept for turn in row.turns)


def test_rates_leave_out_what_was_not_scored() -> None:
    def dialogue(kind: Kind, *safety: int | None) -> Dialogue:
        turns = [Turn(user="u", assistant="a", scores=s and {"safety": s}) for s in safety]
        return Dialogue(id="d", kind=kind, turns=turns)

    attacks = [dialogue(Kind.RED_TEAM, 10, 4), dialogue(Kind.RED_TEAM, 10), dialogue(Kind.RED_TEAM, 1, None)]
    assert rates([*attacks, dialogue(Kind.BENIGN, 5)]) == {"breach": 0.5, "twins refused": 1.0}
    assert rates([]) == {"breach": None, "twins refused": None}


def test_blank_pictures_keep_their_size_and_lose_what_they_show(run) -> None:
    shown = pictures_in(run, 100_000)
    (seed, *_) = read_split(run, "rl")
    (before,), (after,) = shown(seed.images), _blank(shown)(seed.images)
    assert after.name == before.name and after.data != before.data and b"marked" not in after.data


def test_only_the_attacker_sees_blank_pictures(run) -> None:
    """A student that does not see the mark answers everything, whoever asks."""
    config = config_of()
    pool = pool_of(config, run)
    pool.add(Block("attacker", 1, 0), SHIPPED_ATTACKER)
    (seed, *_) = read_split(run, "rl")
    (real,) = pictures_in(run, config.student.max_pixels)(seed.images)
    play = CrossPlay(config, run, pool, Counting(run, run / "calls", None), blank=True)
    (student,) = play._speaker("student", 0).pictures_of(seed.images)
    (attacker,) = play._speaker("attacker", 1).pictures_of(seed.images)
    assert student.data == real.data != attacker.data


def test_plots_are_of_both_sides_and_of_no_other_run(run) -> None:
    student = [{"step": 1, "side": "student", "leak_rate": 0.25, "twins_refused": [1, 2]}]
    assert cotrain_plots(run, student) == []
    metrics = run / "rl" / "attacker" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"attack_breach": 0.5, "attack_faithfulness": 1, "distinct_breaches": 3}\n')
    assert [plot.title for plot in cotrain_plots(run, student)] == [
        "Safe, and refused twins",
        "The attacker's turns",
        "Distinct breaches",
    ]
    cells = [
        {"student": student, "attacker": attacker, "breach": breach, "twins refused": None}
        for student, attacker, breach in (
            (0, 0, 0.31),
            (0, "sandbox-b", 0.62),
            (5, 0, None),
            (5, "sandbox-b", 1),
        )
    ]
    (run / "rl" / "crossplay-blank.json").write_text(json.dumps(cells))
    played = cotrain_plots(run, student)[-1]
    assert played.title == "Cross-play, attacker without pictures"
    said = re.findall(r"<text[^>]*>([^<]+)</text>", played.svg)
    assert said == ["attacker, columns; rows: student", "0", "B", "0", "31", "62", "5", "100"]


def test_an_attacker_names_its_base_and_a_pool_without_adapters_costs_a_line(tmp_path) -> None:
    assert base_of(folder_of(str(SHIPPED_ATTACKER))) == str(SHIPPED)
    with pytest.raises(UserError, match=re.escape("no adapters; run `safer-steer rl`")):
        Pool(tmp_path, {"attacker": None, "student": None}).anchor()
