"""Draws the curves of docs/how-to/on-track.md from any run: python docs/curves.py runs/sandbox

Writes track-steps.svg and track-time.svg, here or into --out (that page has those in docs/pictures): the
same quantities by step, and by minutes of their stage. --name is another first word for them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from safer_steer.bench.twin_probe import FOLDER as PROBES
from safer_steer.dialogue import read_dialogues
from safer_steer.files.store import read_rows
from safer_steer.metrics import over_refusal
from safer_steer.report.svg import Line, draw

PANELS = (
    ("sft", "loss", "SFT: loss, nats a token", None),
    ("rl", "return", "RL: return", None),
    ("rl", "leak_rate", "RL: share that leaks", 0.0),
    ("rl", "equal_groups", "RL: groups of equal returns", 0.0),
    ("rl", "kl", "RL: KL to the SFT student, nats", 0.0),
    ("rl", "format_kept", "RL: layout kept", None),
    ("rl", "twin_refusals", "RL: safe twins refused, %", 0.0),
)
"""Stage, number of its steps, title, and where the axis begins."""
WIDTH, HEIGHT, ACROSS = 340, 240, 3
STYLE = Path(__file__).parents[1] / "src/safer_steer/report/templates/page.css"


def steps_of(run: Path, stage: str) -> list[dict[str, Any]]:
    """The rows of a stage's metrics.jsonl, with the minutes since it began and what the probes found."""
    rows = list(read_rows(run / stage / "metrics.jsonl"))
    for row, seconds in zip(rows, accumulate(row["step_time"] for row in rows), strict=True):
        row["minutes"] = seconds / 60
        probe = run / PROBES / f"{row['step']:05d}"
        if stage == "rl" and (probe / "done").is_file():
            dialogues = [one for path in sorted(probe.glob("*.jsonl")) for one in read_dialogues(path)]
            row["twin_refusals"] = over_refusal(dialogues)["value"]
    return rows


def picture(run: Path, across: str, label: str) -> str:
    """One SVG with all panels that the run has; `across` is the rows' key of the x axis."""
    stages = {stage: steps_of(run, stage) for stage, *_ in PANELS}
    parts: list[str] = []
    for stage, name, title, begin in PANELS:
        line = Line("", [], [], 2)
        for row in stages[stage]:
            if row.get(name) is not None:
                line.x.append(row[across])
                line.y.append(row[name])
        if line.x:
            parts.append(draw([line], label, title, (begin, None)))
    return sheet(parts)


def sheet(panels: Sequence[str]) -> str:
    """One SVG of several, `ACROSS` beside one another, in the colours of the page's light mode."""
    parts = []
    for place, panel in enumerate(panels):
        x, y = WIDTH * (place % ACROSS), HEIGHT * (place // ACROSS)
        sized = re.sub(
            r' width="([\d.]+)"', lambda own: f' width="{min(WIDTH, float(own[1])):g}"', panel, count=1
        )
        parts.append(sized.replace("<svg ", f'<svg x="{x}" y="{y}" height="{HEIGHT}" ', 1))
    high = HEIGHT * -(-len(parts) // ACROSS)
    colours = dict(
        re.findall(r"--([\w-]+): (#\w+);", STYLE.read_text(encoding="utf-8").partition("@media")[0])
    )
    body = re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], "\n".join(parts))
    box = f'viewBox="0 0 {WIDTH * ACROSS} {high}" font-family="sans-serif"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n'
        f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--name", default="track")
    given = parser.parse_args()
    if not any((given.run / stage / "metrics.jsonl").is_file() for stage, *_ in PANELS):
        parser.error(f"{given.run}: no metrics of SFT or RL in it; give the folder of a run that has trained")
    given.out.mkdir(parents=True, exist_ok=True)
    for name, across, label in (("steps", "step", "step"), ("time", "minutes", "minutes")):
        path = given.out / f"{given.name}-{name}.svg"
        path.write_text(picture(given.run, across, label), encoding="utf-8")
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
