"""Writes the tables of README.md, results.md and claims.md from the results of experiments in docs/results/.

python docs/tables.py                    # after copying runs/experiments/NAME.json to docs/results/

A page has `<!-- NAME -->` and `<!-- end -->` around the tables of an experiment, `<!-- claims -->` around
that of all claims, `<!-- not_shown -->` around that of the claims that do not agree, and `<!-- headline -->`
around the short one of `stages`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safer_steer.bench.rates import Rate
from safer_steer.experiments.shown import claims_table, in_markdown, markdown
from safer_steer.experiments.spec import load_experiment
from safer_steer.report.health import Table

DOCS = Path(__file__).parent
PAGES = ("../README.md", "results/results.md", "results/claims.md")
HEADLINE = (
    "single-turn Safe",
    "multi-turn Safe",
    "multi-turn Help",
    "over-refusal on twins",
    "Help on twins",
)
MODELS = ("base", "SFT", "SaFeR-Steer")
_TABLE = re.compile(r"(<!-- (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def results() -> dict[str, dict[str, Any]]:
    """What each experiment found, by the name of its file."""
    return {path.stem: json.loads(path.read_bytes()) for path in sorted((DOCS / "results").glob("*.json"))}


def headline(found: dict[str, Any]) -> str:
    """The main measures of `stages` as rows, each model of a run and what RL adds as columns."""
    pair = ["SaFeR-Steer", "SFT"]
    gains = {entry["measure"]: entry for entry in found["differences"] if entry["pair"] == pair}
    rows = []
    for measure in HEADLINE:
        cells = [str(Rate.model_validate(found["arms"][model][measure])) for model in MODELS]
        rows.append([measure, *cells, Rate.model_validate(gains[measure]).signed])
    head = ["%, with 95 % intervals", *MODELS, " - ".join(pair)]
    return in_markdown(Table("", "", head, rows))


def page(text: str) -> str:
    """A page with its tables written anew.

    Raises:
        KeyError: it has a table of an experiment without results.
    """
    found = results()

    def written(match: re.Match[str]) -> str:
        name = match["name"]
        if name in ("claims", "not_shown"):
            claims = [
                (file, claim)
                for file, one in found.items()
                for claim in one["claims"]
                if name == "claims" or claim["verdict"] != "agrees"
            ]
            body = in_markdown(claims_table(claims)) if claims else ""
        elif name == "headline":
            body = headline(found["stages"])
        else:
            body = markdown(found[name], load_experiment(DOCS.parent / "experiments" / f"{name}.yaml"))
        return f"{match[1]}{body.strip()}\n{match[3]}"

    return _TABLE.sub(written, text)


if __name__ == "__main__":
    for name in PAGES:
        path = DOCS / name
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
