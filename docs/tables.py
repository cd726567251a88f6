"""Writes the tables of results.md and claims.md from the results of experiments in docs/results/.

python docs/tables.py                    # after copying runs/experiments/NAME.json to docs/results/

A page has `<!-- NAME -->` and `<!-- end -->` around each table, `<!-- claims -->` around that of all claims.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safer_steer.experiments.spec import load_experiment
from safer_steer.experiments.table import claims_table, markdown

DOCS = Path(__file__).parent
PAGES = ("results.md", "claims.md")
_TABLE = re.compile(r"(<!-- (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def results() -> dict[str, dict[str, Any]]:
    """What each experiment found, by the name of its file."""
    return {path.stem: json.loads(path.read_bytes()) for path in sorted((DOCS / "results").glob("*.json"))}


def page(text: str) -> str:
    """A page with its tables written anew.

    Raises:
        KeyError: it has a table of an experiment without results.
    """
    found = results()

    def written(match: re.Match[str]) -> str:
        name = match["name"]
        if name == "claims":
            claims = [(file, claim) for file, one in found.items() for claim in one["claims"]]
            body = claims_table(claims) if claims else ""
        else:
            body = markdown(found[name], load_experiment(DOCS.parent / "experiments" / f"{name}.yaml"))
        return f"{match[1]}{body.strip()}\n{match[3]}"

    return _TABLE.sub(written, text)


if __name__ == "__main__":
    for name in PAGES:
        path = DOCS / name
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
