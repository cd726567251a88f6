"""The probe of RL: the student in training answers the same safe twins at every checkpoint, and the bench's
judge scores it. So over-refusal is seen while it can still be mended.

The twins are a draw of those in `bench.suites`. They are played only if `Config.probes_twins`. What is played
is imported where it is played: the page reads probes too, and loads no library of pictures.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from safer_steer.config import Config
from safer_steer.config.bench import STEER
from safer_steer.dialogue import Dialogue, read_dialogues
from safer_steer.episode import Assistant
from safer_steer.files.store import write_atomic

if TYPE_CHECKING:
    from safer_steer.bench.measure import Wait
    from safer_steer.bench.suites import Suite
    from safer_steer.endpoints.chat import ChatModel

FOLDER = "rl/probe"
"""In the run's folder: a folder for each step, and the scripts in `suites`."""
READS = ("suites", "judged", "verdict", "judge_requests", "temperature")
"""The keys of `bench` by which the twins are played and judged."""
TWINS = 50
"""Dialogues of a probe."""


def without_twins(config: Config) -> str:
    """What a probe lacks to have something to play, or ""."""
    from safer_steer.bench.suites import SANDBOX, suite_files

    if {SANDBOX, STEER} & set(config.bench.suites) or _in_files(suite_files(config.bench.suites)):
        return ""
    return "safe twins of several turns in bench.suites"


def _in_files(paths: Sequence[Path]) -> list[Suite]:
    from safer_steer.bench.suites import read_suite

    suites = [read_suite(path) for path in paths]
    return [suite for suite in suites if suite.safe_twins and suite.protocol == "multi_turn"]


def probe_suites(config: Config, run: Path) -> list[Suite]:
    """The twins, copied into the probe's folder; the same at every step and in every run."""
    from safer_steer.bench.suite_copies import copied, moved
    from safer_steer.bench.suites import SANDBOX, draw_suite, suite_files
    from safer_steer.data.assembly.splits import FOLDER as SPLITS

    names, home = config.bench.suites, run / FOLDER / "suites"
    paths = suite_files(names)
    if STEER in names:
        paths += sorted((run / SPLITS / "bench").glob("*.jsonl"))
    suites = _in_files(paths)
    each = ceil(TWINS / (len(suites) + (SANDBOX in names) or 1))
    twins: list[Suite] = []
    if SANDBOX in names:
        from safer_steer.sandbox.suites import write_suites

        files = write_suites(home / SANDBOX, 0, each)["multi_turn"]
        twins += [moved(suite, run, f"{FOLDER}/suites/{SANDBOX}") for suite in _in_files(files)]
    for suite in suites:
        copy = copied(draw_suite(suite, each), home / suite.name, config.student.max_pixels)
        twins.append(moved(copy, run, f"{FOLDER}/suites/{suite.name}"))
    return twins


def probe(
    config: Config, run: Path, assistant: Assistant, judges: Sequence[ChatModel], wait: Wait, step: int
) -> None:
    """Play the twins with the student as it is after this step. What an earlier process played is kept.

    Raises:
        UserError: the judge failed many times in a row.
    """
    from safer_steer.bench.judging import critic_by
    from safer_steer.bench.measure import measure
    from safer_steer.bench.watch import Watch
    from safer_steer.files.images import pictures_in

    out = run / FOLDER / f"{step:05d}"
    if (out / "done").is_file():
        return
    critic = critic_by(config, judges, pictures_in(run, config.student.max_pixels), Watch())
    wait(measure(probe_suites(config, run), lambda suite: assistant, critic, out))
    write_atomic(out / "done", "")


def probed_twins(run: Path) -> tuple[int, list[Dialogue]]:
    """The step of the last probe that is finished, and its dialogues; 0 and none before the first."""
    finished = sorted(path.parent for path in (run / FOLDER).glob("*/done"))
    if not finished:
        return 0, []
    dialogues: list[Dialogue] = []
    for path in sorted(finished[-1].glob("*.jsonl")):
        dialogues += read_dialogues(path)
    return int(finished[-1].name), dialogues


def forget_probes(run: Path, after: int) -> None:
    """Delete the probes of later steps than this; they will be run again."""
    for path in (run / FOLDER).glob("[0-9]*"):
        if int(path.name) > after:
            shutil.rmtree(path)
