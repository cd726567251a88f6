"""The scored dialogues of a bench, by model, protocol and suite."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from safer_steer.bench.kept import kept_models
from safer_steer.bench.suites import Suite, read_suite
from safer_steer.dialogue import Dialogue, read_dialogues
from safer_steer.errors import UserError
from safer_steer.metrics import ProtocolName, state


class Place(NamedTuple):
    """Where a dialogue of a bench is. A script's id is the same for every model that played it."""

    model: str
    protocol: ProtocolName
    suite: str
    id: str

    @property
    def code(self) -> str:
        """Its name on a sheet for people, which says neither the model nor the suite. A spreadsheet takes it
        for no number."""
        return f"d-{hashlib.sha256(chr(0).join(self).encode()).hexdigest()[:12]}"


class ScoredBench(NamedTuple):
    """What a bench has played and scored."""

    dialogues: dict[Place, Dialogue]
    """In the order of models, suites and scripts."""
    suites: list[tuple[str, Suite]]
    """What each model played, whether any of it is scored or not."""


def played_in(run: Path) -> ScoredBench:
    """The scored dialogues in a run folder.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    models = kept_models(run)
    suites = [read_suite(path) for path in sorted((run / "suites").glob("*/*.jsonl"))]
    bench = ScoredBench({}, [])
    for model in models:
        for suite in suites:
            if (journal := suite.journal(run / "bench" / model)).is_file():
                bench.suites.append((model, suite))
                for dialogue in read_dialogues(journal):
                    if state(dialogue) == "scored":
                        bench.dialogues[Place(model, suite.protocol, suite.name, dialogue.id)] = dialogue
    if not bench.dialogues:
        raise UserError(f"{run}: no scored dialogue in it; score them: `bench --judge-only`")
    return bench
