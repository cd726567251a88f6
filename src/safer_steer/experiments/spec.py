"""What an experiment is: its YAML file, read and checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from safer_steer.config import Config, ModelName
from safer_steer.config.file import in_words, load_config, read_yaml
from safer_steer.config.keys import absolute
from safer_steer.config.kinds import Section
from safer_steer.errors import UserError


class Arm(Section):
    """One row of the table: a model of a run, and how the run's config differs from the experiment's."""

    set: dict[str, Any] = Field(default_factory=dict)
    """config keys that differ, such as `rl.tcsr: mean`"""
    model: ModelName = "safer_steer"
    """which of the run's models is measured"""


class Paper(Section):
    """What the paper reports for the same comparison."""

    source: str
    """table and student in the paper"""
    values: dict[str, dict[str, float]]
    """for each measure, the value of each arm that the paper has, 0-100"""

    @field_validator("values", mode="before")
    @classmethod
    def _named_arms(cls, values: Any) -> Any:
        for arms in values.values() if isinstance(values, dict) else ():
            _refuse_unquoted(arms)
        return values


class Claim(Section):
    """A claim of the paper, and the number here that decides on it."""

    says: str = Field(min_length=1)
    """the claim, in a sentence"""
    where: str = Field(min_length=1)
    """where the paper makes it"""
    pair: tuple[str, str]
    """one of the pairs in `compare`"""
    measure: str
    """one of the measures"""
    more: bool = True
    """whether the first arm of the pair is claimed to have more of it"""


class Expected(Section):
    """What the runs are expected to be like, for the power that a registration states."""

    dialogues: int = Field(ge=1)
    """dialogues that a measure is over"""
    rate: float = Field(ge=0, le=100)
    """percent of them that pass"""
    between_dialogues: float = Field(30, ge=0, le=100)
    """half the range of their chances, in points"""
    between_seeds: float = Field(ge=0)
    """standard deviation of one arm's rate over training seeds, in points"""
    differences: list[Annotated[float, Field(ge=0, le=100)]] = Field(default=[0, 2, 5, 8])
    """true differences, in points; one of the other sign has the same power"""


def _refuse_unquoted(arms: Any) -> Any:
    """Raises `ValueError` if an arm's name is none to YAML, such as 0.25 or on."""
    for name in arms if isinstance(arms, dict) else ():
        if not isinstance(name, str):
            raise ValueError(f"an arm's name must be text, not {name!r}; put it in quotes")
    return arms


class Experiment(Section):
    """An experiment's file."""

    name: str = Field(min_length=1)
    """name of the experiment, and of its table"""
    question: str = ""
    """what it is to find out, in a sentence or two"""
    config: str
    """the config that all arms start from, relative to this file"""
    seeds: list[int] = Field(min_length=1)
    """training seeds; every arm is run with each"""
    set: dict[str, Any] = Field(default_factory=dict)
    """config keys that differ in all arms"""
    arms: dict[str, Arm] = Field(min_length=1)
    """the rows of the table"""
    fresh_attacker: bool = False
    """train an attacker against each arm's student alone, in `rl.steps` steps; it attacks it in the bench"""
    compare: list[tuple[str, str]] = Field(default_factory=list)
    """pairs of arms; the table has the first minus the second"""
    measures: list[str] | None = None
    """names from `measures.MEASURES`; null takes all"""
    survival: bool = False
    """also compare the arms turn by turn: survival, and over-refusal"""
    paper: Paper | None = None
    """what the paper reports"""
    expected: Expected | None = None
    """what is expected, for the power in a registration; it bears on no result"""
    claims: list[Claim] = Field(default_factory=list)
    """claims of the paper that it tests"""

    @field_validator("arms", mode="before")
    @classmethod
    def _named(cls, arms: Any) -> Any:
        return _refuse_unquoted(arms)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands twice in seeds")
        return seeds

    @model_validator(mode="after")
    def _set_once(self) -> Experiment:
        for key, place in (("seed", "seeds"), ("bench.models", "the arm's model")):
            if key in self.set or any(key in arm.set for arm in self.arms.values()):
                raise ValueError(f"set: {key} is set by {place}; leave it out of set")
        return self

    @model_validator(mode="after")
    def _known_arms(self) -> Experiment:
        named = [arm for pair in self.compare for arm in pair]
        if self.paper:
            named += [arm for values in self.paper.values.values() for arm in values]
        for arm in named:
            if arm not in self.arms:
                raise ValueError(f"{arm!r} is no arm; use {', '.join(self.arms)}")
        return self

    @model_validator(mode="after")
    def _can_be_attacked(self) -> Experiment:
        if self.fresh_attacker and any(arm.model == "base" for arm in self.arms.values()):
            raise ValueError("fresh_attacker learns against an adapter, and base is none; leave one out")
        return self

    @model_validator(mode="after")
    def _known_measures(self) -> Experiment:
        from safer_steer.experiments.measures import MEASURES

        for measure in [*(self.measures or ()), *(self.paper.values if self.paper else ())]:
            if measure not in MEASURES:
                raise ValueError(f"{measure!r} is no measure; use {', '.join(MEASURES)}")
        return self

    @model_validator(mode="after")
    def _testable_claims(self) -> Experiment:
        from safer_steer.experiments.measures import MEASURES

        for claim in self.claims:
            measured = self.measures or list(MEASURES)
            if claim.pair not in self.compare or claim.measure not in measured:
                raise ValueError(
                    f"the claim {claim.says!r} cannot be tested: {' - '.join(claim.pair)} must stand in"
                    f" compare, and {claim.measure!r} be one of {', '.join(measured)}"
                )
        return self


def load_experiment(path: Path) -> Experiment:
    """Read an experiment's file.

    Raises:
        UserError: it is missing or no YAML, has an unknown key or a wrong value; names file and key.
    """
    try:
        return Experiment.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: {in_words(error, Experiment)}") from None


def config_of(experiment: Experiment, path: Path, arm: Arm, seed: int) -> Config:
    """The config of the run that has this arm's model, with a training seed. It measures this model. Relative
    paths in `set` are relative to the experiment's file.

    Args:
        path: the experiment's file.

    Raises:
        UserError: a key is unknown or a value wrong; names the file.
    """
    folder = Path(os.path.abspath(path)).parent
    keys = experiment.set | arm.set | {"seed": seed, "bench.models": [arm.model]}
    return load_config(Path(absolute(experiment.config, folder)), keys=keys, folder=folder, where=path)
