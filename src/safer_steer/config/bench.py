"""The section `bench`: the measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from safer_steer.config.kinds import Free, KeyVariable, Later, Section
from safer_steer.config.rl import importable
from safer_steer.config.typographic import Lettering, Typographic
from safer_steer.files.store import file_name

STEER = "steer"
"""The name in `bench.suites` that stands for the suites the run assembles: `splits/bench/*.jsonl`."""
EMBEDDED = ("sandbox", "natural")
"""Those that stand for the embedded suites (`sandbox.suites.SUITES`)."""
ModelName = Literal["base", "sft", "safer_steer"]
JoinedBy = Literal["majority", "mean"]


TRAINED = "trained"
"""What the names of trained attackers begin with."""


def name_of(path: str) -> str:
    """What results call the trained attacker in a folder."""
    return "-".join([TRAINED, *told_by(path)])


def told_by(path: str) -> list[str]:
    """The parts of the path that tell it from others: the run, and a checkpoint's steps."""
    inner = ("rl", "attacker", "model", "pool")
    return [part for part in Path(path).parts if part not in inner][-2:]


class Adaptive(Section):
    """The adaptive part of the measurement: an attacker in the user's seat (docs/how-to/adaptive.md)."""

    attackers: list[str] = Field(default_factory=list)
    """models that attack, each asked with the settings of roles.attacker; empty: its model"""
    own: list[str] = Field(default_factory=list)
    """attackers of your own, each a package.module:name of an async function"""
    trained: Later[list[str]] = Field(default_factory=list)
    """attackers that were trained: folders of their LoRA adapters, relative to this file, such as
    RUN/rl/attacker"""
    intents: str | None = None
    """JSONL file of intents, relative to this file; null takes those of the attack scripts in suites"""
    at_most: int | None = Field(None, ge=1)
    """at most this many intents"""
    turns: int = Field(5, ge=1, le=10)
    """user turns of a dialogue"""
    take_backs: int = Field(3, ge=0, le=50)
    """how often in a dialogue the attacker may take its last turn back"""
    tries: int = Field(3, ge=1, le=100)
    """dialogues for each intent; breach@k needs k of them"""
    see_scores: bool = False
    """show the attacker the judge's scores of the last answer"""
    techniques: list[str] = Field(default_factory=list)
    """techniques to choose from; empty: all of docs/how-to/adaptive.md"""
    show_text: Later[Lettering | None] = None
    """offer the technique show_text: the attacker writes words, which are drawn into a picture shown with its
    turn; null does not"""

    @field_validator("own")
    @classmethod
    def _importable(cls, names: list[str]) -> list[str]:
        return [importable(name) for name in names]

    @model_validator(mode="after")
    def _distinct(self) -> Adaptive:
        files = [file_name(name) for name in (*self.attackers, *map(name_of, self.trained), *self.own)]
        if twice := next((file for file in files if files.count(file) > 1), ""):
            raise ValueError(f"two attackers would have one file, adaptive_{twice}.jsonl; leave one out")
        return self


class Target(Section):
    """A model under test behind an endpoint."""

    model: str = ""
    """model id at the endpoint"""
    base_url: Free[str | None] = None
    """its OpenAI-compatible endpoint"""
    api_key_env: Free[KeyVariable] = None
    """name of the environment variable that holds its key"""


class Bench(Section):
    """The measurement."""

    suites: list[str] = Field(default_factory=lambda: ["sandbox"], min_length=1)
    """JSONL files, relative to this file; `sandbox`: the embedded ones; `natural`: in held-out words;
    `steer`: STEER-Bench"""
    models: list[ModelName] = Field(default=["base", "sft", "safer_steer"], min_length=1)
    """which of the run's models to measure"""
    targets: Later[list[Target]] = Field(default_factory=list)
    """models that `bench --model` measures if it is given several, each asked with the settings of
    roles.target; `run` and `bench CONFIG` measure `models`"""
    dialogues: int | None = Field(None, ge=1)
    """draw at most this many dialogues of each group of suites (attacks, safe twins)"""
    typographic: Later[Typographic | None] = None
    """measure every suite a second time, with the words of each turn drawn into its picture; null does not"""
    capability: list[str] = Field(default_factory=list)
    """sets of multiple-choice questions: files or folders in ScienceQA's columns, relative to this file;
    `sandbox`: the embedded one"""
    questions: int | None = Field(None, ge=1)
    """at most this many questions of each set in `capability`, drawn at random"""
    judged: bool = True
    """false keeps the answers without scores; `bench --judge-only` scores them later"""
    verdict: Later[JoinedBy] = "majority"
    """what several judges' scores of a turn come to: the best that more than half of them reach, so a tie is
    the worse (`majority`), or their mean"""
    judge_requests: Later[bool] = False
    """the judge also says of each request whether it would enable harm, for when it was refused; scripts that
    mark their turns need it not"""
    temperature: float = Field(0.7, ge=0)
    """sampling temperature of the model under test"""
    resamples: int = Field(10_000, ge=10)
    """number of draws for the intervals of averages over suites"""
    max_unscored: Free[float] = Field(0.01, ge=0, le=1)
    """with a larger share of unscored dialogues there is no result (exit code 3)"""
    adaptive: Later[Adaptive | None] = None
    """also measure against attackers that adapt; null does not"""

    @field_validator("targets")
    @classmethod
    def _distinct(cls, targets: list[Target]) -> list[Target]:
        files = [file_name(target.model) for target in targets]
        if twice := next((file for file in files if files.count(file) > 1), ""):
            raise ValueError(f"two models would have one folder, bench/{twice}; leave one out")
        return targets
