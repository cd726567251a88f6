"""Draws docs/pictures/cotrain.svg from the runs of experiments/cotrain.yaml: python docs/cotrain.py OUT

Means over the training seeds that docs/results/cotrain.json has: what both sides do by step, and the
cross-play of `both learn`, in whose runs `safer-steer cross-play` was run, with and without --blank.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from curves import sheet

from safer_steer.experiments.spec import load_experiment
from safer_steer.experiments.work import Job, plan
from safer_steer.files.store import read_rows
from safer_steer.report.cotrain_plots import breaches
from safer_steer.report.svg import Line, draw
from safer_steer.training.cotrain.pool import crossplay_of

DOCS = Path(__file__).parent
FILE = DOCS.parent / "experiments" / "cotrain.yaml"
BOTH = "both learn"
Row = dict[str, Any]


def refused(row: Row) -> float | None:
    refusals, twins = row["twins_refused"]
    return 100 * refusals / twins if twins else None


def percent(key: str) -> Callable[[Row], float | None]:
    return lambda row: 100 * row[key] if key in row else None


STUDENTS = {"student learns alone": 2, "both learn, one adapter": 3, BOTH: 4}
ATTACKERS = {"SFT": 1, "both learn, one adapter": 3, BOTH: 4}
"""Arms with the colours of their lines."""
PANELS = (
    ("student", "Students: trajectories that leak, %", percent("leak_rate")),
    ("student", "Students: safe twins refused, %", refused),
    ("attacker", "Attackers: dialogues that breach, %", percent("attack_breach")),
    ("attacker", "Attackers: faithful turns, %", percent("attack_faithfulness")),
    ("attacker", "Attackers: distinct breaches a step", lambda row: float(row["distinct_breaches"])),
    ("attacker", "Attackers: like earlier turns, %", percent("attack_similarity")),
)


def training_of(jobs: list[Job], arm: str, side: str) -> Iterator[Path]:
    """The folders of the runs, one a seed, in which this side learnt. Against SFT, a fresh attacker's."""
    kind = "fresh attacker" if arm == "SFT" else "RL"
    for job in jobs:
        if job.name.startswith(f"{kind}: {arm}, seed"):
            yield job.folder / "rl" / ("attacker" if side == "attacker" else "")


def mean_line(
    jobs: list[Job], arm: str, side: str, value: Callable[[Row], float | None], series: int
) -> Line:
    by_step: dict[int, list[float]] = defaultdict(list)
    for folder in training_of(jobs, arm, side):
        for row in read_rows(folder / "metrics.jsonl"):
            if (of_row := value(row)) is not None:
                by_step[row["step"]].append(of_row)
    name = arm.replace("both learn, ", "").replace(" learns", "")
    return Line(name, [float(step) for step in by_step], [fmean(of) for of in by_step.values()], series)


def cross_play(jobs: list[Job], blank: bool) -> list[Row]:
    """The cells' means over the seeds."""
    by_cell: dict[tuple[Any, Any], list[float]] = defaultdict(list)
    for folder in training_of(jobs, BOTH, "student"):
        path = crossplay_of(folder.parent, blank).with_suffix(".json")
        for cell in json.loads(path.read_bytes()) if path.is_file() else ():
            by_cell[cell["student"], cell["attacker"]].append(cell["breach"])
    return [
        {"student": student, "attacker": attacker, "breach": fmean(of)}
        for (student, attacker), of in by_cell.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", metavar="OUT", type=Path, help="the experiment's --out")
    planned, _ = plan(load_experiment(FILE), FILE, parser.parse_args().out)
    seeds = json.loads((DOCS / "results" / "cotrain.json").read_bytes())["seeds"]
    jobs = [job for job in planned if job.config.seed in seeds]
    panels = []
    for side, title, value in PANELS:
        arms = STUDENTS if side == "student" else ATTACKERS
        lines = [mean_line(jobs, arm, side, value, series) for arm, series in arms.items()]
        panels.append(draw([line for line in lines if line.x], "step", title, (0, None)))
    for blank, attacker in ((False, "attacker"), (True, "blind attacker")):
        if cells := cross_play(jobs, blank):
            panels.append(breaches(cells, f"Breaches, %; columns: {attacker}"))
    path = DOCS / "pictures" / "cotrain.svg"
    path.write_text(sheet(panels), encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
