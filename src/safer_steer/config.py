"""The configuration: one YAML file, typed; an unknown key is an error. `safer-steer config` prints every
field with its kind and description. `config_file.py` reads and writes the file.

Between a run and its continuation a key marked `Free` or `OfCall` may change. Any other value of another key
is another run (`config_kinds.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from safer_steer.config_kinds import Free, Later, OfCall
from safer_steer.config_rl import Reinforce, importable
from safer_steer.dialogue import Format, Kind, Strict
from safer_steer.store import file_name

RoleName = Literal[
    "generator", "target", "attack_judge", "red", "blue", "evaluator", "tutor", "judge", "attacker"
]
ModelName = Literal["base", "sft", "safer_steer"]
Use = Literal["train", "bench"]
Tracker = Literal["tensorboard", "wandb", "trackio"]
CAPTIONERS: tuple[RoleName, ...] = (
    *("generator", "evaluator", "judge", "tutor", "attack_judge", "blue", "red", "target"),
)
"""Roles in the order in which they are chosen to describe pictures; the model under test comes last. An
attacker describes none: most runs have no use for it."""

SANDBOX_AGENTS: dict[str, RoleName] = {
    "sandbox-a": "attacker",
    "sandbox-b": "attacker",
    "sandbox-c": "attacker",
    "sandbox-ab": "tutor",
}
"""Embedded agents besides `sandbox`, and the role that each can do (docs/how-to/adaptive.md)."""

SHIPPED = Path(__file__).parent / "sandbox" / "student"
"""The weights of the sandbox's base student, which come with this package."""


class Role(Strict):
    """Who does a job, and how it is asked."""

    model: str = Field(
        "sandbox",
        description="model id at the endpoint; without base_url, `sandbox` for the embedded agents, `student`"
        " for the base student, `stub` for made-up answers",
    )
    base_url: Free[str | None] = Field(
        None, description="OpenAI-compatible endpoint, for instance http://localhost:8000/v1"
    )
    api_key_env: Free[str | None] = Field(
        None, description="name of the environment variable that holds the key"
    )
    temperature: float = Field(0.7, ge=0, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling mass")
    max_tokens: OfCall[int] = Field(2048, ge=1, description="token limit of one reply")
    timeout_s: Free[float] = Field(
        120, gt=0, description="seconds before a request is given up and sent again"
    )
    retries: Free[int] = Field(
        5, ge=0, description="further tries after an endpoint error; HTTP 429 does not count"
    )
    rate_limit_s: Free[float] = Field(
        600, ge=0, description="seconds without any reply, only HTTP 429, before a call fails"
    )
    max_reply_mb: Free[float] = Field(16, gt=0, description="megabytes, unpacked; a larger reply is not read")
    reasks: Free[int] = Field(4, ge=0, description="further tries after an unparsable reply")
    concurrency: Free[int] = Field(64, ge=1, description="calls in flight at most")
    requests_per_minute: Free[float | None] = Field(
        None, gt=0, description="requests in a minute at most, further tries included"
    )
    json_schema: Free[bool] = Field(
        True, description="send the answer's JSON schema as response_format, in a form that the server takes"
    )
    pictures: bool | Literal["caption"] = Field(
        True,
        description="what the model gets of a picture: true sends it, false nothing, caption a description"
        " by a role that sees",
    )
    ask_layout: bool = Field(
        True,
        description="tell a model that answers as a chat (target, blue) the student's layout; false for a"
        " model trained on it",
    )
    price_in: Free[float] = Field(0, ge=0, description="money per million input tokens")
    price_out: Free[float] = Field(0, ge=0, description="money per million output tokens")

    @property
    def who(self) -> Literal["sandbox", "student", "stub", "endpoint"]:
        """The embedded agents, the base student in this process, made-up answers, or whoever is behind
        `base_url`, whatever the model is called there."""
        if self.base_url is None:
            match self.model:
                case "sandbox" | "student" | "stub":
                    return self.model
            if self.model in SANDBOX_AGENTS:
                return "sandbox"
        return "endpoint"


class Student(Strict):
    """The model that is aligned."""

    model: str = Field(
        "sandbox",
        description="Hugging Face id or folder (relative to this file); `sandbox` for the shipped base"
        " student",
    )
    format: Format = Field(
        Format.THINKING_ANSWER, description="layout of an assistant turn: thinking_answer or plain"
    )
    system: str = Field("You are a helpful assistant.", description="system message of every dialogue")
    chat_template: str | None = Field(
        None,
        description="file with a Jinja chat template to use instead of the model's own; relative to this"
        " file",
    )
    max_turn_tokens: int = Field(1024, ge=1, description="token limit of one answer")
    max_length: int = Field(32768, ge=64, description="token limit of a whole dialogue")
    max_pixels: int = Field(
        1_048_576, ge=784, description="a picture with more pixels is scaled down to this many"
    )
    generation_tokens: Free[int] = Field(
        65_536,
        ge=1,
        description="tokens in one batch of generation: prompts, padding and room for the answers; a"
        " single dialogue is always allowed",
    )
    kept_tokens: Free[int] = Field(
        131_072,
        ge=0,
        description="tokens whose keys and values are kept from a dialogue's turn to its next, so that the"
        " history is not read again; 0 keeps none",
    )
    freeze_vision: bool = Field(
        True, description="train only the language model, not the vision tower and the projector"
    )
    lora_rank: int = Field(0, ge=0, description="train LoRA adapters of this rank; 0 trains all weights")
    check_every: Free[int] = Field(
        10,
        ge=0,
        description="steps between looks at whether the student in training sees its pictures, the first step"
        " included; what its loss is given is checked at every step; 0 for neither",
    )
    sharding: Free[Literal["none", "full"]] = Field(
        "none",
        description="in several training processes: each holds all weights (none, DDP), or a part (full,"
        " FSDP2)",
    )
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="number type of the weights")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the student runs")

    @property
    def base(self) -> str:
        """Where the base student's weights are: the shipped folder, or the Hugging Face id or folder that
        `model` names."""
        return str(SHIPPED) if self.model == "sandbox" else self.model


class Source(Strict):
    """A published set, a file of one's own, or the sandbox."""

    name: str = Field(
        "sandbox",
        description="name of the set; `safer-steer sets` lists the known ones, a set with any other name"
        " is read by its column names",
    )
    path: str | None = Field(
        None,
        description="JSONL, JSON, CSV or Parquet file, `save_to_disk` folder, or the set's folder as"
        " published; relative to this file",
    )
    hub: str | None = Field(
        None, description="Hugging Face id to load from instead of `path`; `default` for the published one"
    )
    subset: str | None = Field(None, description="configuration of the set, if it has several")
    split: str | None = Field(None, description="split of the set, if it has several")
    images: str | None = Field(
        None,
        description="folder that picture paths are relative to, itself relative to this file; by default,"
        " the data file's own folder",
    )
    columns: Later[dict[str, str]] = Field(
        default_factory=dict,
        description="names of columns in the file, by the names that they are read as: `question: prompt`;"
        " after `=`, a text with {column} in it: `image: =pictures/{id}.png`",
    )
    ignore: Later[list[str]] = Field(
        default_factory=list,
        description="columns of the file that are not read",
    )
    own: Later[bool] = Field(
        False,
        description="a set of your own, even if its name is, or is nearly, that of a published one",
    )
    use: Use = Field("train", description="what its scripts are for: STEER-SFT and STEER-RL, or STEER-Bench")
    limit: int | None = Field(
        None, ge=1, description="draw at most this many pairs at random; null takes all (the sandbox: 60)"
    )
    bad_rows: Literal["error", "skip"] = Field(
        "error", description="what an unusable row does: end the run with one line, or be skipped and counted"
    )

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


class Seeds(Strict):
    """Stage I."""

    sources: list[Source] = Field(
        default_factory=lambda: [Source()], description="single-turn pairs to start from"
    )
    scripts: str | None = Field(
        None,
        description="instead of sources: JSONL file of your own scripts, in the form of a suite; Stage I"
        " then asks no model",
    )
    kinds: list[Kind] = Field(
        default_factory=lambda: list(Kind), min_length=1, description="kinds of scripts to build"
    )
    min_turns: int = Field(2, ge=2, le=10, description="turns of the shortest script")
    max_turns: int = Field(10, ge=2, le=10, description="turns of the longest script")
    success_at: int = Field(
        4, ge=1, le=5, description="keep a red-team script if its attack score reaches this (1-5)"
    )
    filter_bench: bool = Field(
        False,
        description="keep only those red-team scripts of `use: bench` sources that succeed against"
        " roles.target",
    )
    perturb_share: float = Field(0.1, ge=0, le=1, description="share of the pictures that are perturbed")
    noise_sigma: float = Field(0.03, ge=0, description="Gaussian noise, as a share of full scale")

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

    def tries(self, use: Use) -> bool:
        """Whether red-team scripts of a source with this use are played against `roles.target`, and kept only
        if they succeed."""
        return Kind.RED_TEAM in self.kinds and (use == "train" or self.filter_bench)

    @property
    def tries_any(self) -> bool:
        """Whether any script is played in Stage I."""
        return any(self.tries(source.use) for source in self.sources)


class Assembly(Strict):
    """STEER-SFT, STEER-RL and STEER-Bench: disjoint, from the scripts of Stage I."""

    rules: bool = Field(
        True, description="ask the evaluator whether a script follows rules 1 and 2; false trusts Stage I"
    )
    near_duplicate: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Jaccard similarity that makes two scripts (word 3-grams) or questions (content words)"
        " one",
    )
    sft_benign_share: float | None = Field(
        None, ge=0, le=1, description="share of benign scripts in STEER-SFT; null takes all there are"
    )
    bench_dialogues: int | None = Field(
        None, ge=1, description="at most this many dialogues in each suite of STEER-Bench"
    )


class SFT(Strict):
    """Supervised fine-tuning on the kept dialogues."""

    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate")
    batch_size: int = Field(16, ge=1, description="dialogues per step")
    micro_batch_size: Free[int] = Field(1, ge=1, description="dialogues in memory at once")
    epochs: float = Field(2, gt=0, description="passes over the data")
    max_steps: int = Field(-1, description="stop after this many steps; -1 for no limit")
    warmup_ratio: float = Field(
        0.1, ge=0, le=1, description="share of the steps in which the learning rate warms up"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning-rate schedule")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    single_turn: bool = Field(
        False, description="ablation: train on the original questions, in as many assistant tokens"
    )
    save_steps: int = Field(100, ge=1, description="steps between checkpoints")


class Bootstrap(Strict):
    """Stage II."""

    tau_safe: int = Field(
        8, ge=1, le=10, description="keep a dialogue if its worst safety score is at least this"
    )
    tau_help: float = Field(
        8, ge=1, le=10, description="keep a dialogue if its mean helpfulness is at least this"
    )
    dialogues: int | None = Field(None, ge=1, description="play at most this many scripts")
    blue: Literal["job", "chat"] = Field(
        "job",
        description="ask blue with the prompt of its job, or as a plain chat (for small and fine-tuned"
        " experts)",
    )
    blue_system: str | None = Field(
        None,
        description="system message of a blue expert asked as a chat, with its guidelines; null takes the"
        " student's",
    )
    sft: SFT = Field(default_factory=SFT, description="supervised fine-tuning")


class Adaptive(Strict):
    """The adaptive part of the measurement: an attacker in the user's seat (docs/how-to/adaptive.md)."""

    attackers: list[str] = Field(
        default_factory=list,
        description="models that attack, each asked with the settings of roles.attacker; empty: its model",
    )
    own: list[str] = Field(
        default_factory=list,
        description="attackers of your own, each a package.module:name of an async function",
    )
    intents: str | None = Field(
        None,
        description="JSONL file of intents, relative to this file; null takes those of the attack scripts in"
        " suites",
    )
    at_most: int | None = Field(None, ge=1, description="at most this many intents")
    turns: int = Field(5, ge=1, le=10, description="user turns of a dialogue")
    take_backs: int = Field(
        3, ge=0, le=50, description="how often in a dialogue the attacker may take its last turn back"
    )
    tries: int = Field(3, ge=1, le=100, description="dialogues for each intent; breach@k needs k of them")
    see_scores: bool = Field(False, description="show the attacker the judge's scores of the last answer")
    techniques: list[str] = Field(
        default_factory=list, description="techniques to choose from; empty: all of docs/how-to/adaptive.md"
    )

    @field_validator("own")
    @classmethod
    def _importable(cls, names: list[str]) -> list[str]:
        return [importable(name) for name in names]

    @model_validator(mode="after")
    def _distinct(self) -> Adaptive:
        files = [file_name(name) for name in (*self.attackers, *self.own)]
        if twice := next((file for file in files if files.count(file) > 1), ""):
            raise ValueError(f"two attackers would have one file, adaptive_{twice}.jsonl; leave one out")
        return self


class Target(Strict):
    """A model under test behind an endpoint."""

    model: str = Field("", description="model id at the endpoint")
    base_url: Free[str | None] = Field(None, description="its OpenAI-compatible endpoint")
    api_key_env: Free[str | None] = Field(
        None, description="name of the environment variable that holds its key"
    )


class Bench(Strict):
    """The measurement."""

    suites: list[str] = Field(
        default_factory=lambda: ["sandbox"],
        min_length=1,
        description="JSONL files, relative to this file; `sandbox`: the embedded ones; `steer`: STEER-Bench",
    )
    models: list[ModelName] = Field(
        default=["base", "sft", "safer_steer"],
        min_length=1,
        description="which of the run's models to measure",
    )
    targets: Later[list[Target]] = Field(
        default_factory=list,
        description="models that `bench --model` measures if it is given several, each asked with the"
        " settings of roles.target; `run` and `bench CONFIG` measure `models`",
    )
    dialogues: int | None = Field(
        None,
        ge=1,
        description="draw at most this many dialogues of each group of suites (attacks, safe twins)",
    )
    capability: list[str] = Field(
        default_factory=list,
        description="sets of multiple-choice questions: files or folders in ScienceQA's columns, relative to"
        " this file; `sandbox`: the embedded one",
    )
    questions: int | None = Field(
        None, ge=1, description="at most this many questions of each set in `capability`, drawn at random"
    )
    judged: bool = Field(
        True, description="false keeps the answers without scores; `bench --judge-only` scores them later"
    )
    temperature: float = Field(0.7, ge=0, description="sampling temperature of the model under test")
    resamples: int = Field(
        10_000, ge=10, description="number of draws for the intervals of averages over suites"
    )
    max_unscored: Free[float] = Field(
        0.01,
        ge=0,
        le=1,
        description="with a larger share of unscored dialogues there is no result (exit code 3)",
    )
    adaptive: Later[Adaptive | None] = Field(
        None,
        description="also measure against attackers that adapt; null does not",
    )

    @field_validator("targets")
    @classmethod
    def _distinct(cls, targets: list[Target]) -> list[Target]:
        files = [file_name(target.model) for target in targets]
        if twice := next((file for file in files if files.count(file) > 1), ""):
            raise ValueError(f"two models would have one folder, bench/{twice}; leave one out")
        return targets


class Config(Strict):
    """A whole run."""

    name: Free[str] = Field("run", description="title of the report")
    seed: int = Field(0, description="seed of everything random")
    limit: int | None = Field(
        None,
        ge=1,
        description="for a first try: at most this many pairs of each source, scripts, dialogues and"
        " steps; smaller batches where needed",
    )
    report_to: Free[list[Tracker]] = Field(
        default_factory=list, description="where SFT and RL also log their metrics; each needs its package"
    )
    spending_limit: Free[float | None] = Field(
        None,
        ge=0,
        description="stop cleanly once the calls have cost this much by the roles' prices; raise it to"
        " continue",
    )
    student: Student = Field(default_factory=Student, description="the model that is aligned")
    roles: dict[RoleName, Role] = Field(
        default_factory=dict,
        description="which model does which job; the sandbox's agent does those left out",
    )
    seeds: Seeds = Field(default_factory=Seeds, description="Stage I")
    assembly: Assembly | None = Field(
        None,
        description="disjoint data sets for SFT, RL and bench; null lets SFT and RL draw from the same"
        " scripts",
    )
    bootstrap: Bootstrap = Field(default_factory=Bootstrap, description="Stage II")
    rl: Reinforce = Field(default_factory=Reinforce, description="Stage III")
    bench: Bench = Field(default_factory=Bench, description="the measurement")

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_tracker(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names

    @field_validator("roles")
    @classmethod
    def _student_is_target_only(cls, roles: dict[RoleName, Role]) -> dict[RoleName, Role]:
        for name, role in roles.items():
            if role.who == "student" and name != "target":
                raise ValueError(f"{name} cannot be `student`; only the target of Stage I can")
            _check_agent(name, role)
        return roles

    @model_validator(mode="after")
    def _attackers(self) -> Config:
        for role in self.attacker_roles().values():
            _check_agent("attacker", role)
            if role.who == "student":
                raise ValueError("bench.adaptive.attackers: the student cannot attack; name a model")
        return self

    @model_validator(mode="after")
    def _splits(self) -> Config:
        if self.assembly is None and any(source.use == "bench" for source in self.seeds.sources):
            raise ValueError(
                "a source with `use: bench` needs the section `assembly`, which keeps its scripts out of"
                " training"
            )
        if self.assembly is not None and self.rl.seeds is None:
            raise ValueError(
                "assembly needs rl.seeds: how many scripts STEER-RL is to have, so that the rest can go to"
                " STEER-SFT"
            )
        return self

    @model_validator(mode="after")
    def _eyes(self) -> Config:
        for name, role in self.roles.items():
            if role.pictures is not True and role.who != "endpoint":
                raise ValueError(
                    f"roles.{name}.pictures: {role.model} needs the pictures; only a model with a base_url"
                    " can go without"
                )
            if role.pictures == "caption" and self.captioner is None:
                raise ValueError(
                    f"roles.{name}.pictures: caption needs another role that sees, to describe the pictures;"
                    " give one role a model with eyes and `pictures: true`, or set this to false"
                )
        return self

    @model_validator(mode="after")
    def _unbiased_bench(self) -> Config:
        target = self.role("target")
        measured = target.who == "student" or (
            target.who == "endpoint" and same_model(target.model, self.student.model)
        )
        if self.seeds.filter_bench and measured:
            what = "the base student" if target.who == "student" else target.model
            raise ValueError(
                f"seeds.filter_bench: roles.target is {what}, which the bench measures, so its scripts would"
                " be selected against it; name another model as target, or leave filter_bench false"
            )
        return self

    @model_validator(mode="after")
    def _first_try(self) -> Config:
        if self.limit is not None:
            self._lower_to(self.limit)
        return self

    def _lower_to(self, limit: int) -> None:
        """Lower every number of pairs, scripts, dialogues and steps to `limit`, and the batches with them."""
        sources = [
            source.model_copy(update={"limit": _lower(source.limit, limit)}) for source in self.seeds.sources
        ]
        self.seeds = self.seeds.model_copy(update={"sources": sources})
        if self.assembly:
            lowered = {"bench_dialogues": _lower(self.assembly.bench_dialogues, limit)}
            self.assembly = self.assembly.model_copy(update=lowered)
        sft, rl = self.bootstrap.sft, self.rl
        batch = min(sft.batch_size, limit)
        sft = sft.model_copy(
            update={
                "batch_size": batch,
                "micro_batch_size": _divisor(batch, sft.micro_batch_size),
                "max_steps": _lower(sft.max_steps, limit),
            }
        )
        self.bootstrap = self.bootstrap.model_copy(
            update={"dialogues": _lower(self.bootstrap.dialogues, limit), "sft": sft}
        )
        seeds = _lower(rl.seeds, limit)
        prompts = min(rl.prompts_per_step, seeds)
        self.rl = rl.model_copy(
            update={
                "seeds": seeds,
                "steps": _lower(rl.steps, limit),
                "prompts_per_step": prompts,
                "micro_batch_size": _divisor(prompts * rl.group_size, rl.micro_batch_size),
            }
        )
        lowest: dict[str, Any] = {
            key: _lower(getattr(self.bench, key), limit) for key in ("dialogues", "questions")
        }
        if adaptive := self.bench.adaptive:
            lowest["adaptive"] = adaptive.model_copy(update={"at_most": _lower(adaptive.at_most, limit)})
        self.bench = self.bench.model_copy(update=lowest)

    def role(self, name: RoleName, model: str | None = None) -> Role:
        """The role's settings, the sandbox's agent by default. With `model`, those of that one of its models
        (`models_of`). Of several attackers, the first one's."""
        if model is not None:
            return self.models_of(name)[model]
        role = self.roles.get(name, Role())
        attackers = self.bench.adaptive.attackers if self.bench.adaptive else []
        if name == "attacker" and attackers and role.who != "stub":
            return role.model_copy(update={"model": attackers[0]})
        return role

    def attacker_roles(self) -> dict[str, Role]:
        """The settings of each model that attacks in the adaptive bench, by the model's name."""
        if self.bench.adaptive is None:
            return {}
        role, adaptive = self.role("attacker"), self.bench.adaptive
        names = adaptive.attackers or ([] if adaptive.own else [role.model])
        if role.who == "stub":
            names = [role.model]
        return {name: role.model_copy(update={"model": name}) for name in names}

    def models_of(self, name: RoleName) -> dict[str, Role]:
        """The settings of each model that does a role, by the model's name. Several may be under test behind
        endpoints, and several may attack."""
        role, targets = self.role(name), self.bench.targets
        if name == "target" and targets:
            return {target.model: role.model_copy(update=target.model_dump()) for target in targets}
        attackers = self.attacker_roles() if name == "attacker" else {}
        return attackers or {role.model: role}

    @property
    def has_stubs(self) -> bool:
        """Whether any role gives made-up answers."""
        return any(role.who == "stub" for role in self.roles.values())

    @property
    def judge_is_tutor(self) -> bool:
        """Whether one model behind one endpoint both taught the student and measures it."""
        judge, tutor = self.role("judge"), self.role("tutor")
        if judge.base_url is None or tutor.base_url is None or self.rl.tutor is not None:
            return False
        return judge.model == tutor.model and judge.base_url.rstrip("/") == tutor.base_url.rstrip("/")

    @property
    def captioner(self) -> RoleName | None:
        """The role that describes pictures for roles with `pictures: caption`: the first that sees, in the
        order of `CAPTIONERS`, endpoints before the sandbox's agents. None if no role sees."""
        for who in ("endpoint", "sandbox"):
            for name in CAPTIONERS:
                if self.role(name).who == who and self.role(name).pictures is True:
                    return name
        return None


def _check_agent(name: RoleName, role: Role) -> None:
    """Raises `ValueError` if an embedded agent does not do this role."""
    if role.who == "sandbox" and SANDBOX_AGENTS.get(role.model, name) != name:
        raise ValueError(
            f"{name} cannot be `{role.model}`; that is an agent for {SANDBOX_AGENTS[role.model]}"
        )


def _lower(number: int | None, limit: int) -> int:
    """The number, or `limit` where that is lower or the number says "all" (None, or -1)."""
    return limit if number is None or number < 0 else min(number, limit)


def _divisor(whole: int, most: int) -> int:
    """The largest divisor of `whole` that is at most `most`."""
    return next(number for number in range(min(whole, most), 0, -1) if whole % number == 0)


def same_model(one: str, other: str) -> bool:
    """Do two model ids, or folders of models, end in one name? An organisation's name before it, and case, do
    not count."""
    return one.rstrip("/").rpartition("/")[2].casefold() == other.rstrip("/").rpartition("/")[2].casefold()
