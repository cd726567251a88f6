"""The data set card: `README.md` as the hub reads it. Numbers are computed; models and settings come from the
run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from safer_steer.config import Config
from safer_steer.data.assembly.balance import literal
from safer_steer.data.seeds.identity import bench_selection
from safer_steer.dialogue import Kind, Seed
from safer_steer.files.images import Picture
from safer_steer.stages import STAGES

DATA_STAGES = ("seeds", "assemble", "bootstrap")
"""Stages whose models contribute text or scores to the data."""

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass
class SplitCounts:
    """Counts of one split of one part."""

    part: str
    split: str
    dialogues: int = 0
    pictures: set[str] = field(default_factory=set)
    """SHA-256 hashes: a picture used in several dialogues counts once."""
    kinds: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    """Dialogues by number of turns."""

    def add(self, seed: Seed, pictures: Sequence[Picture]) -> None:
        """Count one dialogue or script."""
        self.dialogues += 1
        self.pictures.update(picture.sha256 for picture in pictures)
        self.kinds[seed.kind.value] += 1
        self.sources[seed.source or "not named"] += 1
        self.lengths[len(seed.turns)] += 1


def card(
    name: str,
    config: Config,
    tallies: Sequence[SplitCounts],
    stages: Mapping[str, dict[str, Any]],
    protocol: str | None = None,
) -> str:
    """Return the whole file. `tallies` are counts of what was written, one per split; `stages` are the run's
    manifest entries; `protocol` is the hash of `protocol.yaml`, if the run's bench is finished."""
    parts = [*dict.fromkeys(tally.part for tally in tallies)]
    sections = [
        f"---\n{yaml.safe_dump(_front(name, tallies), sort_keys=False, allow_unicode=True)}---",
        f"# {name}",
        "Multi-turn dialogues about pictures. They train a vision-language model to stay safe and helpful"
        " over a whole dialogue. Made with the SaFeR-Steer method (arXiv 2604.16358)"
        " by the software `safer-steer`.",
        "> **This set contains attacks.** Scripts and user turns are written to make a model give way step by"
        " step. Use them to harden and measure your own models. Treat them like exploits: do not share them"
        " openly, and gate the set if you share it.",
        "## What is in it",
        *(
            _QUESTIONS if part == "sft" and config.bootstrap.sft.single_turn else _PARTS[part]
            for part in parts
        ),
        table(by_kind(tallies)),
        "By number of turns:",
        table(by_length(tallies)),
        _LOADING.replace("SPLITS", " or ".join(f'"{part}"' for part in parts)),
        "## How it was made",
        made(config, stages),
        "Who wrote and judged:",
        table(roles(config, stages)),
        *_prompts(stages),
        "## Intended use",
        _USE,
        *([f"`protocol.yaml` (`{protocol}`) is how the run measured its models."] if protocol else []),
        "## Risks and limits",
        _RISKS,
        "## Sources and licences",
        "Each source keeps its own licence and terms; see its card before you use or share data made from it."
        " Text that models wrote is also subject to the terms of those models.",
        table(by_source(tallies)),
        *published(config),
    ]
    return "\n\n".join(sections) + "\n"


_PARTS = {
    "sft": "**sft**: dialogues between a red agent and a blue expert, every turn scored. A dialogue is kept"
    " only if its worst turn is safe and its turns are helpful on average. `messages` is the conversation"
    " with the student's system message, `turns` the same text as it was said, with its scores.",
    "rl": "**rl**: scripts of user turns for reinforcement learning. `prompt` is the first turn, `turns` the"
    " whole script.",
    "bench": "**bench**: held-out scripts, one split for each suite. Suites of kind `benign` are safe"
    " requests, which measure over-refusal.",
}

_QUESTIONS = """**sft**: the original questions, each a dialogue of one turn, answered by a blue expert and
scored; kept only if the answer is safe and helpful. `messages` is the conversation with the student's system
message, `turns` the same text as it was said."""

_LOADING = """```python
from datasets import load_dataset

load_dataset("path/to/this/folder", name)  # SPLITS
```

Pictures are embedded. `turns` says how many of them each turn shows, in order; they belong before its text,
and most dialogues show theirs with the first turn. Every chat marker that a model wrote is split
(`< |im_end|>`), so that no turn can end itself or add a picture. TRL reads `data/` as it is, and shows all
pictures of a dialogue with its first turn. `llamafactory/` and `verl/`, if they exist, have the same rows in
the forms those trainers read."""

_USE = """Supervised fine-tuning (`sft`), reinforcement learning against a tutor (`rl`) and measurement
(`bench`) of the safety of vision-language models in dialogue. Compare numbers on `bench` only for the
same judge, temperature and answer format, and always with the rate of needless refusals on its safe
suites."""


_RISKS = """- The attacks work on some models. Publishing them openly helps attackers more than defenders.
- Scores come from models, which make mistakes. What the evaluator does not see is in the dialogues it kept.
- Scripts and answers are synthetic. They have the style and the biases of the models named above.
- A model trained on refusals alone learns to refuse everything. Mix in the benign dialogues, and measure
  over-refusal."""


def _front(name: str, tallies: Sequence[SplitCounts]) -> dict[str, Any]:
    total = sum(tally.dialogues for tally in tallies)
    configs: dict[str, list[dict[str, str]]] = {}
    for tally in tallies:
        configs.setdefault(tally.part, []).append(
            {"split": tally.split, "path": f"data/{shard_name(tally.part, tally.split)}-*.parquet"}
        )
    return {
        "license": "other",
        "license_name": "each-source-keeps-its-own",
        "license_link": "README.md",
        "pretty_name": name,
        "task_categories": ["image-text-to-text"],
        "tags": ["safety", "multi-turn", "red-teaming", "vision-language", "safer-steer"],
        "size_categories": [next((text for least, text in SIZES if total < least), "n>1M")],
        "configs": [{"config_name": part, "data_files": files} for part, files in configs.items()],
    }


def shard_name(part: str, split: str) -> str:
    """File name prefix of a split."""
    return part if split == "train" else f"{part}-{split}"


def made(config: Config, stages: Mapping[str, dict[str, Any]]) -> str:
    """How the data was made: a numbered list, one line a stage."""
    seeds, bootstrap, student = config.seeds, config.bootstrap, config.student
    steps = [
        f"Stage I: single-turn pairs became scripts of {seeds.min_turns}-{seeds.max_turns} turns"
        f" ({', '.join(seeds.kinds)}), each turn with its planned risk of 1-5. A red-team script for training"
        f" was kept if the attack reached {seeds.success_at} of 5 on a fixed target;"
        f" {seeds.perturb_share:.0%} of the pictures were perturbed."
    ]
    if seeds.scripts:
        steps = ["Stage I: none; the scripts were read from a file."]
    if config.assembly and "assemble" in stages:
        rules = "asked of the evaluator" if config.assembly.rules else "not asked"
        steps.append(
            f"Assembly: rules of coherence and history-dependence {rules}; scripts with a similarity of at"
            f" least {config.assembly.near_duplicate} count as the same; no picture or question is in both"
            " training and bench."
        )
        if any(source.use == "bench" for source in seeds.sources):
            steps[-1] += f" Red-team scripts of the suites of STEER-Bench: {bench_selection(config)}."
    if "bootstrap" in stages:
        questions = "the original questions were put as they are"
        if not bootstrap.sft.single_turn:
            questions = "a red agent fitted every script to what was really said"
        steps.append(
            f"Stage II: {questions}, a blue expert answered in the format `{student.format.value}`; kept if"
            f" min safety >= {bootstrap.tau_safe} and mean helpfulness >= {bootstrap.tau_help:g} (1-10)."
        )
    steps.append(
        f"Everything random follows from the seed {config.seed}. `manifest.json` has the versions,"
        " and the hashes of files, config and prompts."
    )
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def roles(config: Config, stages: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    """Table (head, then rows): which model did each job of the finished stages that make data."""
    rows = [["role", "model", "temperature"]]
    for name in dict.fromkeys(chain.from_iterable(STAGES[stage].roles for stage in _made_by(stages))):
        role = config.role(name)
        more = f" ({config.student.model})" * role.is_student + " (made-up answers)" * role.made_up
        rows.append([name, role.title() + more, f"{role.temperature:g}"])
    return rows


def _prompts(stages: Mapping[str, dict[str, Any]]) -> list[str]:
    rows = []
    for stage in _made_by(stages):
        for name, digest in stages[stage].get("prompts", {}).items():
            rows.append([stage, name, f"`{digest}`"])
    if not rows:
        return []
    return [
        "Prompts, by SHA-256 of their templates and answer schemas:",
        table([["stage", "prompt", "SHA-256"], *rows]),
    ]


def published(config: Config) -> list[str]:
    """Two paragraphs: the sources, with the place each was read from."""
    lines = [f"- scripts in `{Path(config.seeds.scripts).name}`"] if config.seeds.scripts else []
    for source in config.seeds.sources:
        where = [
            f"{key} `{value}`"
            for key, value in (("hub", source.hub), ("subset", source.subset), ("split", source.split))
            if value
        ]
        lines.append(f"- {', '.join([source.name, *where])}")
    return ["Read from:", "\n".join(lines)]


def by_kind(tallies: Sequence[SplitCounts]) -> list[list[str]]:
    """Table (head, then rows): dialogues of each split by kind, mean number of turns, pictures."""
    head = ["", "dialogues", *(kind.value for kind in Kind), "mean turns", "pictures"]
    rows = []
    for tally in tallies:
        mean = sum(turns * count for turns, count in tally.lengths.items()) / max(1, tally.dialogues)
        kinds = [str(tally.kinds[kind.value]) for kind in Kind]
        rows.append([label(tally), str(tally.dialogues), *kinds, f"{mean:.2f}", str(len(tally.pictures))])
    return [head, *rows]


def by_source(tallies: Sequence[SplitCounts]) -> list[list[str]]:
    """Table (head, then rows): dialogues of each split by source."""
    rows = [["source", *map(label, tallies)]]
    for name in sorted(set(chain.from_iterable(tally.sources for tally in tallies))):
        rows.append([name, *(str(tally.sources[name]) for tally in tallies)])
    return rows


def by_length(tallies: Sequence[SplitCounts]) -> list[list[str]]:
    """Table (head, then rows): dialogues of each split by number of turns."""
    rows = [["turns", *map(label, tallies)]]
    for turns in sorted(set().union(*(tally.lengths for tally in tallies))):
        rows.append([str(turns), *(str(tally.lengths[turns]) for tally in tallies)])
    return rows


def label(tally: SplitCounts) -> str:
    """`sft`, `rl`, `bench/<suite>`."""
    return tally.part if tally.split == "train" else f"{tally.part}/{tally.split}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = [f"| {' | '.join(map(literal, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _made_by(stages: Mapping[str, dict[str, Any]]) -> list[str]:
    """The finished stages whose models contribute to the data."""
    return [stage for stage in DATA_STAGES if stage in stages]
