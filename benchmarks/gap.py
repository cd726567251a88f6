"""The sandbox's main result: base, SFT and SaFeR-Steer on held-out attacks, over several training seeds, with
intervals.

    python benchmarks/gap.py --seeds 0 1 2 --out runs/gap            # trains and measures; resumes if rerun
    python benchmarks/gap.py --seeds 0 1 2 --out runs/gap --set rl.tcsr=mean --name without_tcsr

Every seed is a full run of the config, from seeds to bench, with 200 marked and 200 unmarked held-out
dialogues. The tables are computed from the dialogues on disk and printed as Markdown. Every cell has a 95 %
interval in brackets. For a row over several training seeds, the interval is from a bootstrap over seeds and
dialogues; the interval after `t` is over the seeds' means.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from safer_steer.dialogue import Dialogue, read_dialogues
from safer_steer.metrics import LOST, asks_safely, outcomes, paired_difference, rate_over_seeds, state

MODELS = ("base", "sft", "safer_steer")
ATTACKS = ("probing", "correction", "order", "twin", "detour")
RATES = {
    "single-turn Safe": (("single_turn_blunt",), "safe", "single_turn"),
    "multi-turn Safe": (ATTACKS, "safe", "multi_turn"),
    "multi-turn Help": (ATTACKS, "help", "multi_turn"),
    "over-refusal on twins": (("safe_twins",), "refused", "multi_turn"),
    "Help on twins": (("safe_twins",), "help", "multi_turn"),
}


def config_for(path: Path, seed: int, dialogues: int, changes: list[str]) -> dict[str, Any]:
    """The config with this seed, this bench size, and the `section.key=value` changes."""
    config = yaml.safe_load(path.read_text())
    config["seed"] = seed
    config["bench"] = {**config.get("bench", {}), "dialogues": dialogues}
    for change in changes:
        keys, _, value = change.partition("=")
        section = config
        for key in keys.split(".")[:-1]:
            section = section.setdefault(key, {})
        section[keys.split(".")[-1]] = yaml.safe_load(value)
    return config


def train(args: argparse.Namespace, seed: int) -> Path:
    """Do one full run. A finished run returns at once."""
    folder = args.out / f"{args.name}-{seed}"
    config = args.out / f"{args.name}-{seed}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(config_for(args.config, seed, args.dialogues, args.set)))
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "safer_steer", "run", str(config), "--out", str(folder)], check=True
    )
    print(f"seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return folder


def rows(folder: Path, model: str, suites: tuple[str, ...]) -> list[Dialogue]:
    return [
        dialogue
        for suite in suites
        for dialogue in read_dialogues(folder / "bench" / model / f"{suite}.jsonl")
    ]


def table(runs: dict[int, Path]) -> str:
    """Rates and differences in percentage points, over all training seeds."""
    hits = {
        (rate, model): {
            seed: outcomes(rows(folder, model, suites), criterion, protocol) for seed, folder in runs.items()
        }
        for rate, (suites, criterion, protocol) in RATES.items()
        for model in MODELS
    }
    head = (seeds_said(runs), *MODELS, "sft - base", "safer_steer - sft", "safer_steer - base")
    lines = [f"| {' | '.join(head)} |", "|---" * 7 + "|"]
    for rate in RATES:
        cells = []
        for model in MODELS:
            cells.append(show(rate_over_seeds(hits[rate, model])))
        for better, worse in (("sft", "base"), ("safer_steer", "sft"), ("safer_steer", "base")):
            cells.append(show(paired_difference(hits[rate, better], hits[rate, worse]), sign=True))
        lines.append(f"| {rate} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_seed(runs: dict[int, Path]) -> str:
    """Multi-turn Safe, over-refusal and Help on twins for every seed."""
    lines = [
        "| seed | model | " + " | ".join((*ATTACKS, "all attacks", "over-refusal", "Help on twins")) + " |",
        "|---" * 10 + "|",
    ]
    for seed, folder in runs.items():
        for model in MODELS:
            found = [outcomes(rows(folder, model, (suite,)), "safe") for suite in ATTACKS]
            merged = {id: hit for suite in found for id, hit in suite.items()}
            twins = rows(folder, model, ("safe_twins",))
            measured = (*found, merged, outcomes(twins, "refused"), outcomes(twins, "help"))
            cells = [show(rate_over_seeds({seed: hits})) for hits in measured]
            lines.append(f"| {seed} | {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def safe_turns(runs: dict[int, Path]) -> str:
    """Number of safe requests within attack dialogues that were refused, by model."""
    lines = []
    for model in MODELS:
        hits = {seed: refused_turns(rows(folder, model, ATTACKS)) for seed, folder in runs.items()}
        refused, asked = sum(sum(found.values()) for found in hits.values()), sum(map(len, hits.values()))
        share = f"; in %, {seeds_said(runs)}: {show(rate_over_seeds(hits))}" if asked else ""
        lines.append(f"{model}: {refused} of {asked} safe turns of attack dialogues refused{share}")
    return "\n".join(lines)


def refused_turns(dialogues: list[Dialogue]) -> dict[str, int]:
    """`"<dialogue> <turn>"` -> 1 if refused, else 0, for every safe request that was judged."""
    found = {}
    for row in dialogues:
        for index, turn in enumerate(row.turns):
            if turn.scores and asks_safely(turn):
                found[f"{row.id} {index}"] = int(turn.scores["refused"])
    return found


def lost(runs: dict[int, Path]) -> str:
    """Number of dialogues without a result over all suites, by model."""
    suites = ("single_turn_blunt", *ATTACKS, "safe_twins")
    lines = []
    for model in MODELS:
        states = [state(row) for folder in runs.values() for row in rows(folder, model, suites)]
        counts = ", ".join(f"{states.count(name)} {name}" for name in LOST)
        lines.append(f"{model}: {len(states)} dialogues, {counts}")
    return "\n".join(lines)


def seeds_said(runs: dict[int, Path]) -> str:
    return f"{len(runs)} training seed{'s' * (len(runs) > 1)}"


def show(rate: dict[str, Any], sign: bool = False) -> str:
    """Value and interval, plus the t interval if there is one; a dash if nothing was scored."""
    if rate["value"] is None:
        return "–"
    form = "+.1f" if sign else ".1f"
    said = f"{rate['value']:{form}} [{rate['low']:{form}}, {rate['high']:{form}}]"
    return said + (f", t [{rate['t']['low']:{form}}, {rate['t']['high']:{form}}]" if rate["t"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/sandbox.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dialogues", type=int, default=200, help="marked, and again unmarked, dialogues")
    parser.add_argument("--out", type=Path, default=Path("runs/gap"))
    parser.add_argument("--name", default="full", help="name of the variant")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="changes to the config, for instance rl.tcsr=mean",
    )
    args = parser.parse_args()
    runs = {seed: train(args, seed) for seed in args.seeds}
    print(f"{seeds_said(runs)}, {args.dialogues} marked and {args.dialogues} unmarked dialogues each\n")
    print(table(runs), by_seed(runs), safe_turns(runs), lost(runs), sep="\n\n")


if __name__ == "__main__":
    main()
