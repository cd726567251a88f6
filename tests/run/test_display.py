"""The progress display: no finish time in the past, failures apart, and a first line within seconds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from safer_steer.run.display import CHECKS, Display, State


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_finish_follows_from_the_pace_of_this_process() -> None:
    clock = Clock()
    state = State(clock)
    assert state.seconds_left is None
    state.update(10, 40)  # an earlier process did ten
    clock.now += 8
    assert state.seconds_left is None
    state.update(14, 40)
    assert state.seconds_left == pytest.approx(8 / 4 * 26)
    state.update(14, 40, failed=4)
    assert state.seconds_left == pytest.approx(8 / 8 * 22), "failed jobs are over, too"
    state.update(36, 40, failed=4)
    assert state.seconds_left is None


def test_the_finish_moves_on_and_is_withdrawn_when_nothing_finishes() -> None:
    clock = Clock()
    state = State(clock)
    state.update(0, 4)
    clock.now += 200
    state.update(2, 4)
    assert state.seconds_left == pytest.approx(200)
    clock.now += 90
    assert state.seconds_left == pytest.approx(290), "a job takes 100 s, so all is well"
    assert state.finish.startswith("finishes ")
    clock.now += 20
    assert state.finish == "nothing finished for 110 s"
    clock.now += 190
    assert state.finish == "nothing finished for 5 min"
    state.update(3, 4)
    assert state.finish.startswith("finishes ")


def test_a_first_job_that_takes_long_is_a_word_worth() -> None:
    clock = Clock()
    state = State(clock)
    state.update(0, 4)
    clock.now += 59
    assert state.line == "0/4"
    clock.now += 6
    assert state.line == "0/4, nothing finished for 65 s"


def test_failed_jobs_are_shown_apart() -> None:
    clock = Clock()
    state = State(clock)
    state.update(0, 40)
    assert state.line == "0/40"
    clock.now += 1
    state.update(12, 40, failed=3)
    assert re.fullmatch(r"12/40, 3 failed, finishes \d\d:\d\d:\d\d", state.line)


def lines(capsys: pytest.CaptureFixture[str], until: Callable[[list[str]], bool]) -> list[str]:
    """What was said on standard error, read until it is enough."""
    said: list[str] = []
    for _ in range(200):
        said += capsys.readouterr().err.splitlines()
        if until(said):
            return said
        time.sleep(0.01)
    raise AssertionError(said)


def test_something_is_said_before_the_first_stage_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(silent=0.05):
        assert lines(capsys, lambda said: bool(said)) == [CHECKS]


def test_an_error_at_once_is_the_only_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Display():
        pass
    assert capsys.readouterr().err == ""


def test_a_stage_in_which_nothing_finishes_still_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """With a finish time of now, not the one of its last word, and more and more rarely."""
    with Display(every=0.04) as show:
        progress = show.stage("seeds")
        progress(0, 4)
        time.sleep(0.02)
        progress(1, 4, 1)
        said = lines(capsys, lambda said: len(said) >= 3)
        began = time.monotonic()
        said += lines(capsys, lambda said: len(said) >= 2)
        assert time.monotonic() - began > 3 * 0.04
        show.say("seeds: a word in between")
        lines(capsys, lambda said: any(line.startswith("seeds: 1/4") for line in said))
        show.over()
        capsys.readouterr()
        time.sleep(0.15)
        assert capsys.readouterr().err == "", "the stage is over"
    assert said[0] == "seeds: begins"
    assert all(re.fullmatch(r"seeds: 1/4, 1 failed, finishes [\d:]{8}", line) for line in said[1:])


def test_on_a_terminal_a_bar_shows_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "140")
    with Display() as show:
        assert show.bars
        show.bars.refresh()
        progress = show.stage("seeds")
        progress(0, 4)
        time.sleep(0.01)
        show.say("seeds: a word in between")
        progress(1, 4, 1)
        show.bars.refresh()
    said = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert CHECKS in said
    assert re.search(r"seeds .* 1/4 1 failed 0:00:0\d finishes \d\d:\d\d:\d\d", said), said
