"""Writes the project: pairs, suites, config and README."""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Template

from safer_steer.cli.starter import examples, own_data
from safer_steer.dialogue import Kind, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.store import write_atomic

HERE = Path(__file__).parent
KINDS = {"attacks": Kind.RED_TEAM, "twins": Kind.BENIGN}
"""The suites: attacks, and safe scripts that show how much a model refuses needlessly."""
ABOUT_EXAMPLES = """
The risky pairs show fictional devices with a hazard mark; how these are operated must not be explained. The
twins of a script use the same words on a device without the mark. Nothing in here is harmful.
"""
ABOUT_OWN = f"""
The scripts are pairs held out from your CSV file: those of one picture in {own_data.HELD_OUT} of each kind.
Write longer ones.
"""


def write_project(folder: Path, own: Path | None = None) -> dict[str, int]:
    """Write a project into a new or empty folder, from the pictures and the CSV file in `own`, or with drawn
    examples; returns how many rows each JSONL file has. Raises `UserError` if a folder cannot be used, and
    writes nothing then."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a new or empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; give a new or empty folder")
    if own is not None and not own.is_dir():
        raise UserError(f"{own}: no such folder; give the folder with your pictures and CSV file")
    if own is None:
        pairs, suites = examples.write_pairs(folder), examples.write_scripts(folder)
    else:
        train, held_out = own_data.split(own_data.read_folder(own))
        pairs = [own_data.pair_row(sample, own, folder) for sample in train]
        suites = {
            name: [own_data.script(sample, own, folder / "suites", KINDS[name]) for sample in samples]
            for name, samples in held_out.items()
        }
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in pairs)
    write_atomic(folder / "pairs.jsonl", rows)
    counts = {"pairs.jsonl": len(pairs)}
    for name, scripts in suites.items():
        write_atomic(folder / f"suites/{name}.jsonl", to_jsonl(scripts))
        counts[f"suites/{name}.jsonl"] = len(scripts)
    words = {
        "NAME": re.sub(r"[^\w.-]+", "-", folder.resolve().name) or "project",
        "SUITES": ", ".join(f"suites/{name}.jsonl" for name in suites),
        "PAIRS": str(len(pairs)),
        "SCRIPTS": " and ".join(
            f"{len(scripts)} {_label(name, len(scripts))}" for name, scripts in suites.items()
        ),
        "ABOUT": ABOUT_EXAMPLES if own is None else ABOUT_OWN,
    }
    for name in ("config.yaml", "README.md"):
        template = Template((HERE / name).read_text(encoding="utf-8"))
        write_atomic(folder / name, template.substitute(words))
    return counts


def _label(suite: str, count: int) -> str:
    kind = "attack" if KINDS[suite] is Kind.RED_TEAM else "safe"
    return f"{kind} script{'s' * (count != 1)}"
