"""The estimate: what every stage forecasts (`stages/forecast.py`), with the sizes of its calls. What a run
paid corrects it (`from_run.py`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from safer_steer.config import Config
from safer_steer.dialogue import Kind
from safer_steer.plan.assumptions import Assumptions, assumptions
from safer_steer.plan.counting import Count, Sizes, role_of
from safer_steer.plan.material import read_material
from safer_steer.stages import STAGES
from safer_steer.stages.forecast import (
    Asked,
    Known,
    Participant,
    drawn,
    scripts,
    suites,
    training,
    trajectories,
)
from safer_steer.training.draws import too_few_seeds

CallCounts = dict[tuple[Participant, str], Count]
"""Counts by (participant, job)."""


@dataclass
class Estimate:
    """The calls of a full run, by stage."""

    config: Config
    assumed: Assumptions
    stages: dict[str, CallCounts] = field(default_factory=dict)
    """In pipeline order; stages without calls are omitted."""
    pairs: int = 0
    """Pairs in the sources, or scripts of one's own."""
    dialogues: int = 0
    """Dialogues in the suites."""
    scripts: dict[Kind, float] = field(default_factory=dict)
    """Scripts made by Stage I."""
    trajectories: float = 0
    """Trajectories played by Stage III."""
    longest: int = 0
    """Turns of its longest trajectory."""
    notes: list[str] = field(default_factory=list)
    """What is not included in the estimate, or would fail."""

    def role(self, stage: str, who: str) -> Count:
        """A role's counts in a stage, over all its jobs."""
        total = Count()
        for (other, _), count in self.stages.get(stage, {}).items():
            total = total.plus(count, other == who)
        return total


def estimate(config: Config, assumed: Assumptions | None = None) -> Estimate:
    """Count the calls a run of this config would make. It makes no calls, needs no API key, and writes only
    to a temporary folder.

    Raises:
        UserError: a source or a suite is missing or unusable.
    """
    assumed = assumed or assumptions(config)
    known, material = read_material(config, assumed)
    sizes = Sizes(config, assumed, material)
    lengths = [1 if config.rl.single_turn else max(one.lengths) for one in training(config, known).values()]
    found = Estimate(
        config,
        assumed,
        pairs=round(sum(one.count for one in known.own.values())) or sum(pairs.all for pairs in known.pairs),
        dialogues=round(sum(suite.count for suite in suites(config, known))),
        scripts={
            kind: one.count for kind, one in scripts(config, known, "train", "bench").items() if one.count
        },
        trajectories=trajectories(config, known),
        longest=min(config.rl.max_turns, max(lengths, default=0)),
        notes=_notes(config, known),
    )
    described = False
    for name, stage in STAGES.items():
        counts: CallCounts = defaultdict(Count)
        asked, bench = list(stage.forecast(config, known)), name == "bench"
        captions = list(_captions(config, asked, found.dialogues if bench else found.pairs))
        if bench or not described:
            asked += captions
        described = described or bool(captions)
        for one in asked:
            counts[one.who, one.job] = counts[one.who, one.job].plus(sizes.count(one, bench))
        if counts:
            found.stages[name] = counts
    return found


def _captions(config: Config, asked: Sequence[Asked], pictures: int) -> Iterator[Asked]:
    """One description of each picture, if a role that is asked gets words in its place."""
    if config.captioner and any(role_of(config, one.who).pictures == "caption" for one in asked):
        yield Asked(config.captioner, "caption", pictures, pictures=pictures)


def _notes(config: Config, known: Known) -> list[str]:
    notes, adaptive = [], config.bench.adaptive
    if config.rl.tutor:
        notes.append(
            f"Stage III is not included: the calls of your own tutor ({config.rl.tutor}) are unknown."
        )
    elif line := too_few_seeds(config.rl, int(sum(drawn(config, known)[1].values()))):
        notes.append(f"Stage III would not start: {line}.")
    if adaptive and adaptive.own:
        notes.append(f"The dialogues of your own attackers ({', '.join(adaptive.own)}) are not included.")
    return notes
