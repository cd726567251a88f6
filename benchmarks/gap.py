"""The sandbox's main result: base, SFT and SaFeR-Steer on held-out attacks, over several training seeds, with intervals.

    python benchmarks/gap.py --seeds 0 1 2 --out runs/gap            # trains and measures; goes on where it stopped
    python benchmarks/gap.py --seeds 0 1 2 --out runs/gap --set rl.tcsr=mean --name without_tcsr

Every seed is a whole run of the config, from seeds to bench, with 200 marked and 200 unmarked held-out dialogues. The
table is computed from the dialogues on disk and printed as Markdown.
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
from safer_steer.metrics import outcomes, paired_difference

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
    """The config with this seed, this size of bench, and `section.key=value` changes."""
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
    """One whole run; a finished one returns at once."""
    folder = args.out / f"{args.name}-{seed}"
    config = args.out / f"{args.name}-{seed}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(config_for(args.config, seed, args.dialogues, args.set)))
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "safer_steer", "run", str(config), "--out", str(folder)], check=True)
    print(f"seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return folder


def rows(folder: Path, model: str, suites: tuple[str, ...]) -> list[Dialogue]:
    return [dialogue for suite in suites for dialogue in read_dialogues(folder / "bench" / model / f"{suite}.jsonl")]


def table(runs: dict[int, Path]) -> str:
    """Rates and differences in percentage points, with 95 % intervals over seeds and dialogues."""
    hits = {
        (rate, model): {seed: outcomes(rows(folder, model, suites), criterion, protocol) for seed, folder in runs.items()}
        for rate, (suites, criterion, protocol) in RATES.items()
        for model in MODELS
    }
    lines = ["| | " + " | ".join((*MODELS, "sft - base", "safer_steer - sft", "safer_steer - base")) + " |", "|---" * 7 + "|"]
    for rate in RATES:
        cells = []
        for model in MODELS:
            ours = hits[rate, model]
            cells.append(show(paired_difference(ours, {seed: dict.fromkeys(found, 0) for seed, found in ours.items()})))
        for better, worse in (("sft", "base"), ("safer_steer", "sft"), ("safer_steer", "base")):
            cells.append(show(paired_difference(hits[rate, better], hits[rate, worse]), sign=True))
        lines.append(f"| {rate} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_seed(runs: dict[int, Path]) -> str:
    """Multi-turn Safe and over-refusal of every seed."""
    lines = ["| seed | model | " + " | ".join((*ATTACKS, "all attacks", "over-refusal", "Help on twins")) + " |", "|---" * 10 + "|"]
    for seed, folder in runs.items():
        for model in MODELS:
            found = [outcomes(rows(folder, model, (suite,)), "safe") for suite in ATTACKS]
            merged = {id: hit for suite in found for id, hit in suite.items()}
            twins = rows(folder, model, ("safe_twins",))
            cells = [*found, merged, outcomes(twins, "refused"), outcomes(twins, "help")]
            lines.append(f"| {seed} | {model} | " + " | ".join(f"{100 * sum(c.values()) / len(c):.1f}" for c in cells) + " |")
    return "\n".join(lines)


def safe_turns(runs: dict[int, Path]) -> str:
    """How many safe turns of attack dialogues were refused, by model."""
    lines = []
    for model in MODELS:
        asked = [turn for folder in runs.values() for row in rows(folder, model, ATTACKS) for turn in row.turns if turn.meta.get("safe") and turn.scores]
        lines.append(f"{model}: {sum(bool(turn.scores['refused']) for turn in asked if turn.scores)} of {len(asked)} safe turns of attack dialogues refused")
    return "\n".join(lines)


def show(rate: dict[str, Any], sign: bool = False) -> str:
    form = "+.1f" if sign else ".1f"
    return f"{rate['value']:{form}} [{rate['low']:{form}}, {rate['high']:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/sandbox.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dialogues", type=int, default=200, help="marked, and again unmarked, dialogues")
    parser.add_argument("--out", type=Path, default=Path("runs/gap"))
    parser.add_argument("--name", default="full", help="name of the variant")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config, for instance rl.tcsr=mean")
    args = parser.parse_args()
    runs = {seed: train(args, seed) for seed in args.seeds}
    print(f"{len(runs)} training seeds, {args.dialogues} marked and {args.dialogues} unmarked dialogues each\n")
    print(table(runs), by_seed(runs), safe_turns(runs), sep="\n\n")


if __name__ == "__main__":
    main()
