"""The section `rl` of the configuration: Stage III, and how answers of a loaded student are sampled."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from safer_steer.config.kinds import Free, KeyVariable, Later, Section, Steps
from safer_steer.rewards import TCSRForm

LossType = Literal["dr_grpo", "grpo", "dapo"]
AlgorithmName = Literal["grpo", "dpo", "cotrain"]

SHIPPED_ATTACKER = Path(__file__).parent.parent / "sandbox" / "attacker"
"""The adapter of the sandbox's attacker, which comes with this package."""


@dataclass(frozen=True)
class Algorithm:
    """What sets an algorithm of Stage III apart; `pipeline.ALGORITHMS` has what each does."""

    in_words: str
    """What a dry run says before the number of steps."""
    online: bool = True
    """Answers are sampled from the weights in training, and the tutor may write the next attack."""
    one_process: bool = True
    useless: tuple[str, ...] = ()
    """Settings that it has no use for, as `Reinforce.special` names them."""
    why: str = ""
    """Why they are of no use."""


ALGORITHMS: dict[AlgorithmName, Algorithm] = {
    "grpo": Algorithm("", one_process=False),
    "dpo": Algorithm(
        "DPO, one pass over the preference pairs of as many seeds as GRPO's steps, in at most as many: ",
        online=False,
        useless=("reward", "credit: turn", "beta: 0", "audit", "rollouts.importance_cap", "loss", "tcsr"),
        why="compares single answers",
    ),
    "cotrain": Algorithm(
        "co-training, GRPO with so many steps of each side that learns: ",
        useless=("reward", "credit: turn", "audit"),
        why="has returns of its own for both sides",
    ),
}


def importable(name: str) -> str:
    """The name of something to import. Raises `ValueError` if it is not of the form `package.module:Name`."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} is not of the form package.module:Name")
    return name


class Rollouts(Section):
    """How answers of a loaded student are sampled, in Stage I, RL and the bench."""

    engine: Free[str] = "transformers"
    """transformers (in this process), vllm (servers at base_url), or package.module:name of an engine of your
    own"""
    base_url: Free[list[str]] = Field(default_factory=list)
    """vllm: address of the server, for instance http://localhost:8000, or a list of several"""
    api_key_env: Free[KeyVariable] = None
    """vllm: name of the environment variable that holds the servers' key"""
    timeout_s: Free[float] = Field(600, gt=0)
    """vllm: seconds before an answer is given up, and its dialogue with it"""
    retries: Free[int] = Field(5, ge=0)
    """vllm: further tries where a server does not answer, before the run ends"""
    importance_cap: float | None = Field(None, ge=1)
    """weight each sampled token's loss by its probability in the trainer over that in the engine, at most
    this (2 is usual); null does not"""

    @field_validator("base_url", mode="before")
    @classmethod
    def _one_server(cls, urls: Any) -> Any:
        return [urls] if isinstance(urls, str) else urls

    @model_validator(mode="after")
    def _served(self) -> Rollouts:
        if self.engine == "vllm" and not self.base_url:
            raise ValueError("engine vllm needs base_url, the address of a server that you have started")
        if self.engine == "transformers" and self.base_url:
            raise ValueError("base_url is given, but engine is transformers; set engine: vllm")
        return self


class Cotrain(Section):
    """`rl.algorithm: cotrain`: attacker and student as two LoRA adapters of one base."""

    attacker: str | None = None
    """folder of the adapter that the attacker begins with; null takes the shipped one for the sandbox's
    student, and a new adapter for any other"""
    student: str | None = None
    """folder of the adapter that the student begins with; null takes what rl.start_from says"""
    every: int = Field(5, ge=1)
    """steps of one side before the other's turn; rl.steps counts the steps of each"""
    learns: Literal["both", "attacker", "student"] = "both"
    """the side that does not learn stays as it begins"""
    shared_weights: bool = False
    """one adapter plays both sides: each block begins with the weights that the other side's ended with"""
    rules: bool = True
    """the tutor, which adapts by rule or by its prompt, is among the student's opponents"""
    latest: float = Field(0.5, ge=0, le=1)
    """share of steps against the other side as it is now; the others draw from its earlier checkpoints"""
    w_similarity: float = Field(0.5, ge=0)
    """penalty for an attacker's turns that are like those of its earlier steps"""
    max_equal_groups: Free[float] = Field(0.95, ge=0, le=1)
    """stop the run if the returns of a larger share of one side's groups are equal over its last 5 steps"""
    max_twin_refusals: Free[float] = Field(0.6, ge=0, le=1)
    """stop the run if the student refuses a safe request in a larger share of the benign dialogues of the
    last 5 steps"""

    @model_validator(mode="after")
    def _shared(self) -> Cotrain:
        if self.shared_weights and (self.learns != "both" or self.attacker):
            raise ValueError(
                "shared_weights trains one adapter from both sides, which begins as the student does; leave"
                " learns and attacker out"
            )
        return self


class Audit(Section):
    """A second judge of Stage III, whose scores are no part of the reward."""

    role: Free[Literal["judge", "evaluator", "attack_judge"]] = "judge"
    """whose model scores again what the tutor scored, with the tutor's prompt; of several judges the first"""
    share: Free[float] = Field(0.05, gt=0, le=1)
    """share of the scored turns, drawn by the seed"""


class Reinforce(Section):
    """Stage III."""

    algorithm: AlgorithmName = "grpo"
    """grpo, the method's; dpo, a baseline: one round of preference pairs, the best against the worst of
    group_size answers to each turn of a script; cotrain: GRPO for an attacker and the student in turns"""
    cotrain: Later[Cotrain] = Field(default_factory=Cotrain)
    """settings of algorithm: cotrain"""
    seed: Later[int | None] = Field(None, ge=0, lt=2**32)
    """seed of Stage III alone, so that several of its runs can start from one SFT student; null takes the
    run's seed"""
    learning_rate: float = Field(1e-5, gt=0)
    """peak learning rate"""
    group_size: int = Field(5, ge=2)
    """trajectories per seed (K)"""
    prompts_per_step: int = Field(64, ge=1)
    """seeds per step"""
    micro_batch_size: Free[int] = Field(2, ge=1)
    """trajectories in memory at once"""
    steps: Steps = -1
    """optimiser steps; -1 for one epoch over the seeds"""
    seeds: int | None = Field(None, ge=1)
    """draw this many scripts for RL; null takes all"""
    benign_share: float = Field(0.25, ge=0, le=1)
    """share of benign scripts among the seeds; if risky ones run short, it is larger without `assembly`, and
    there are fewer seeds with it"""
    beta: float = Field(0.1, ge=0)
    """weight of the KL to the SFT model; in dpo, its beta"""
    loss: LossType = "dr_grpo"
    """dr_grpo (eq. 21), grpo (mean over a trajectory) or dapo (mean over the batch)"""
    temperature: float = Field(1.0, gt=0)
    """sampling temperature of the student"""
    max_turns: int = Field(10, ge=1, le=10)
    """turns of a trajectory at most"""
    max_completion_tokens: int = Field(10_240, ge=1)
    """tokens after the first prompt, user turns included"""
    weights: tuple[float, float, float] = (0.4, 0.4, 0.2)
    """weights of safety, usefulness, faithfulness"""
    w_format: float = Field(1.0, ge=0)
    """bonus for the right format; none in the plain format"""
    w_repetition: float = Field(0.2, ge=0)
    """penalty for repeated 3-grams"""
    tcsr: TCSRForm = "min_mean"
    """return of a trajectory; `mean` is the ablation without TCSR"""
    alpha: float = Field(0.3, ge=0, le=1)
    """weight of the worst turn in the return"""
    credit: Literal["trajectory", "turn"] = "trajectory"
    """what a token's advantage is: that of its whole trajectory, or that of its turn"""
    feedback_dynamics: bool = True
    """the tutor writes the next attack; false follows the script, and so does dpo"""
    tutor_memory: Later[bool] = False
    """the tutor's prompt says which approaches breached the student in the last steps, and draws one; off in
    the paper"""
    single_turn: bool = False
    """ablation: train on the original questions, as scripts of one turn"""
    start_from: Literal["sft", "base"] = "sft"
    """`base` is the ablation without bootstrapping"""
    rollouts: Rollouts = Field(default_factory=Rollouts)
    """how the student's answers are sampled"""
    tutor: str | None = None
    """package.module:Name of a critic of your own"""
    reward: str | None = None
    """package.module:name of a function (dialogue) -> float | None of your own"""
    audit: Free[Later[Audit | None]] = None
    """a second judge scores a share of the turns again, so that `health` notices a tutor whose scores drift
    away"""
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    """learning-rate schedule"""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW weight decay"""
    save_steps: int = Field(10, ge=1)
    """steps between checkpoints"""
    patience_s: Free[float | None] = Field(None, gt=0)
    """seconds that a step waits for a verdict when nothing else of it is left to do; null is 1.5 times the
    tutor's timeout_s"""
    max_unscored: Free[float] = Field(0.2, ge=0, le=1)
    """stop the run if a larger share of the trajectories of the last 5 steps is unscored"""

    @field_validator("weights")
    @classmethod
    def _shares(cls, weights: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"{list(weights)} are no shares; give three numbers of at least 0 that sum to 1")
        return weights

    @property
    def traits(self) -> Algorithm:
        """What sets the algorithm apart."""
        return ALGORITHMS[self.algorithm]

    @property
    def special(self) -> list[str]:
        """The settings, as the user would write them, that not every algorithm or reward can use."""
        settings = {
            "reward": self.reward is not None,
            "credit: turn": self.credit == "turn",
            "beta: 0": not self.beta,
            "audit": self.audit is not None,
            "rollouts.importance_cap": self.rollouts.importance_cap is not None,
            "loss": self.loss != "dr_grpo",
            "tcsr": self.tcsr != "min_mean",
        }
        return [key for key, is_given in settings.items() if is_given]

    @property
    def adapts(self) -> bool:
        """Whether the tutor writes the next attack."""
        return self.feedback_dynamics and self.traits.online

    @property
    def remembers(self) -> bool:
        """Whether the tutor has a memory: one that writes no attacks has no use for it."""
        return self.tutor_memory and self.adapts

    @model_validator(mode="after")
    def _own_tutors_remember_themselves(self) -> Reinforce:
        if self.tutor_memory and self.tutor is not None:
            raise ValueError(
                f"tutor_memory is no setting of your own tutor ({self.tutor}); leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _algorithm_uses_all(self) -> Reinforce:
        for key in self.special:
            if key in self.traits.useless:
                raise ValueError(
                    f"algorithm: {self.algorithm} {self.traits.why} and has no use for {key}; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _turns_have_rewards(self) -> Reinforce:
        for key in ("audit", "credit: turn"):
            if self.reward is not None and key in self.special:
                raise ValueError(
                    f"{key} needs a reward for every turn, and {self.reward} gives one return for a whole"
                    f" trajectory; leave reward or {key} out"
                )
        return self

    @field_validator("tutor", "reward")
    @classmethod
    def _importable(cls, name: str | None) -> str | None:
        return name if name is None else importable(name)
