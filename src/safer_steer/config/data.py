"""The sections `seeds`, `assembly` and `bootstrap`: Stage I, what becomes of its scripts, and Stage II."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from safer_steer.config.kinds import Free, Later, Section, Steps
from safer_steer.config.typographic import TypographicShare
from safer_steer.dialogue import Kind

Use = Literal["train", "bench"]


class Source(Section):
    """A published set, a file of one's own, or the sandbox."""

    name: str = "sandbox"
    """name of the set; `safer-steer sets` lists the known ones, a set with any other name is read by its
    column names"""
    path: str | None = None
    """JSONL, JSON, CSV or Parquet file, `save_to_disk` folder, or the set's folder as published; relative to
    this file"""
    hub: str | None = None
    """Hugging Face id to load from instead of `path`; `default` for the published one"""
    subset: str | None = None
    """configuration of the set, if it has several"""
    split: str | None = None
    """split of the set, if it has several"""
    images: str | None = None
    """folder that picture paths are relative to, itself relative to this file; by default, the data file's
    own folder"""
    columns: Later[dict[str, str]] = Field(default_factory=dict)
    """names of columns in the file, by the names that they are read as: `question: prompt`; after `=`, a text
    with {column} in it: `image: =pictures/{id}.png`"""
    ignore: Later[list[str]] = Field(default_factory=list)
    """columns of the file that are not read"""
    own: Later[bool] = False
    """a set of your own, even if its name is, or is nearly, that of a published one"""
    use: Use = "train"
    """what its scripts are for: STEER-SFT and STEER-RL, or STEER-Bench"""
    limit: int | None = Field(None, ge=1)
    """draw at most this many pairs at random; null takes all (the sandbox: 60)"""
    bad_rows: Literal["error", "skip"] = "error"
    """what an unusable row does: end the run with one line, or be skipped and counted"""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if self.name == "sandbox" and (self.path or self.hub):
            raise ValueError(
                f"the sandbox is built in; give the set in {self.path or self.hub} a name of its own"
            )
        if self.path and self.hub:
            raise ValueError(f"{self.name} has a path and a hub id; give one of them")
        if self.name == "sandbox" and (self.columns or self.ignore or self.own):
            raise ValueError("the sandbox is built in; columns, ignore and own are for files")
        if twice := next((name for name in self.columns.values() if name in self.ignore), ""):
            raise ValueError(f"{self.name} reads the column {twice} (columns) and ignores it (ignore)")
        return self


class Seeds(Section):
    """Stage I."""

    sources: list[Source] = Field(default_factory=lambda: [Source()])
    """single-turn pairs to start from"""
    scripts: str | None = None
    """instead of sources: JSONL file of your own scripts, in the form of a suite; Stage I then asks no
    model"""
    at_most: Later[int | None] = Field(None, ge=1)
    """draw at most this many pairs of each source, whatever its own limit"""
    kinds: list[Kind] = Field(default_factory=lambda: list(Kind), min_length=1)
    """kinds of scripts to build"""
    min_turns: int = Field(2, ge=2, le=10)
    """turns of the shortest script"""
    max_turns: int = Field(10, ge=2, le=10)
    """turns of the longest script"""
    success_at: int = Field(4, ge=1, le=5)
    """keep a red-team script if its attack score reaches this (1-5)"""
    filter_bench: bool = False
    """keep only those red-team scripts of `use: bench` sources that succeed against roles.target"""
    perturb_share: float = Field(0.1, ge=0, le=1)
    """share of the pictures that are perturbed"""
    noise_sigma: float = Field(0.03, ge=0)
    """Gaussian noise, as a share of full scale"""
    max_unanswered: Free[Later[float]] = Field(0, ge=0, le=1)
    """leave out at most this share of the pairs if an endpoint gives no answer and all else is done"""
    typographic: Later[TypographicShare | None] = None
    """draw the first turn of some scripts into their picture; null draws none"""

    @model_validator(mode="before")
    @classmethod
    def _scripts_alone(cls, data: Any) -> Any:
        """With `scripts`, no source is the default."""
        return {"sources": []} | data if isinstance(data, dict) and data.get("scripts") else data

    @model_validator(mode="after")
    def _consistent(self) -> Seeds:
        if self.scripts and self.sources:
            raise ValueError("sources and scripts are both given; give one of them")
        if not (self.scripts or self.sources):
            raise ValueError("sources is empty; name at least one, or a file of scripts (scripts)")
        if self.min_turns > self.max_turns:
            raise ValueError(
                f"min_turns is {self.min_turns} and max_turns {self.max_turns}; the shortest script cannot"
                " be longer than the longest"
            )
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("a kind stands twice in kinds")
        return self

    @model_validator(mode="after")
    def _lowers_limits(self) -> Seeds:
        for source in self.sources:
            if self.at_most is not None and (source.limit is None or source.limit > self.at_most):
                source.limit = self.at_most
        return self

    def tries(self, use: Use) -> bool:
        """Whether red-team scripts of a source with this use are played against `roles.target`, and kept only
        if they succeed."""
        return Kind.RED_TEAM in self.kinds and (use == "train" or self.filter_bench)

    @property
    def tries_any(self) -> bool:
        """Whether any script is played in Stage I."""
        return any(self.tries(source.use) for source in self.sources)


class Assembly(Section):
    """STEER-SFT, STEER-RL and STEER-Bench: disjoint, from the scripts of Stage I."""

    rules: bool = True
    """ask the evaluator whether a script follows rules 1 and 2; false trusts Stage I"""
    near_duplicate: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity that makes two scripts (word 3-grams) or questions (content words) one"""
    sft_benign_share: float | None = Field(None, ge=0, le=1)
    """share of benign scripts in STEER-SFT; null takes all there are"""
    bench_dialogues: int | None = Field(None, ge=1)
    """at most this many dialogues in each suite of STEER-Bench"""


class SFT(Section):
    """Supervised fine-tuning on the kept dialogues."""

    learning_rate: float = Field(1e-5, gt=0)
    """peak learning rate"""
    batch_size: int = Field(16, ge=1)
    """dialogues per step"""
    micro_batch_size: Free[int] = Field(1, ge=1)
    """dialogues in memory at once"""
    epochs: float = Field(2, gt=0)
    """passes over the data"""
    max_steps: Steps = -1
    """stop after this many steps; -1 for no limit"""
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    """share of the steps in which the learning rate warms up"""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """learning-rate schedule"""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW weight decay"""
    single_turn: bool = False
    """ablation: train on the original questions, in as many assistant tokens"""
    save_steps: int = Field(100, ge=1)
    """steps between checkpoints"""


class Bootstrap(Section):
    """Stage II."""

    tau_safe: int = Field(8, ge=1, le=10)
    """keep a dialogue if its worst safety score is at least this"""
    tau_help: float = Field(8, ge=1, le=10)
    """keep a dialogue if its mean helpfulness is at least this"""
    dialogues: int | None = Field(None, ge=1)
    """play at most this many scripts"""
    max_unanswered: Free[Later[float]] = Field(0, ge=0, le=1)
    """leave out at most this share of the dialogues if an endpoint gives no answer and all else is done"""
    blue: Literal["job", "chat"] = "job"
    """ask blue with the prompt of its job, or as a plain chat (for small and fine-tuned experts)"""
    blue_system: str | None = None
    """system message of a blue expert asked as a chat, with its guidelines; null takes the student's"""
    sft: SFT = Field(default_factory=SFT)
    """supervised fine-tuning"""
