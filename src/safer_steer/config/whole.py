"""The whole configuration: its sections together, and what is checked between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from safer_steer.config.bench import Bench
from safer_steer.config.data import Assembly, Bootstrap, Seeds
from safer_steer.config.gates import Gates
from safer_steer.config.kinds import Free, Later, Section
from safer_steer.config.rl import Reinforce
from safer_steer.config.roles import CAPTIONERS, Role, RoleName, Roles, check_agent, same_model
from safer_steer.config.student import Student
from safer_steer.files.store import file_name

Tracker = Literal["tensorboard", "wandb", "trackio"]


class Config(Section):
    """A whole run."""

    name: Free[str] = "run"
    """title of the report"""
    seed: int = Field(0, ge=0, lt=2**32)
    """seed of everything random"""
    limit: int | None = Field(None, ge=1)
    """for a first try: at most this many pairs of each source, scripts, dialogues and steps; smaller batches
    where needed, and no gates"""
    report_to: Free[list[Tracker]] = Field(default_factory=list)
    """where SFT and RL also log their metrics; each needs its package"""
    spending_limit: Free[float | None] = Field(None, ge=0)
    """stop cleanly once the calls have cost this much by the roles' prices; raise it to continue"""
    student: Student = Field(default_factory=Student)
    """the model that is aligned"""
    roles: dict[RoleName, Roles] = Field(default_factory=dict)
    """which model does which job; the sandbox's agent does those left out"""
    seeds: Seeds = Field(default_factory=Seeds)
    """Stage I"""
    assembly: Assembly | None = None
    """disjoint data sets for SFT, RL and bench; null lets SFT and RL draw from the same scripts"""
    bootstrap: Bootstrap = Field(default_factory=Bootstrap)
    """Stage II"""
    rl: Reinforce = Field(default_factory=Reinforce)
    """Stage III"""
    bench: Bench = Field(default_factory=Bench)
    """the measurement"""
    gates: Free[Later[Gates]] = Field(default_factory=dict)
    """bands that quantities of the run must keep, or it stops; checked when a stage ends, in RL at every
    checkpoint"""

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_tracker(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names

    @field_validator("roles")
    @classmethod
    def _several_judges(cls, roles: dict[RoleName, Roles]) -> dict[RoleName, Roles]:
        for name, entry in list(roles.items()):
            if not isinstance(entry, list):
                continue
            if name != "judge":
                raise ValueError(f"{name} cannot be a list; only the judge can")
            files = [file_name(role.model) for role in entry]
            if twice := next((file for file in files if files.count(file) > 1), ""):
                raise ValueError(f"judge: two models would have one name, {twice}; leave one out")
            if len(entry) == 1:
                roles[name] = entry[0]
        return roles

    @field_validator("roles")
    @classmethod
    def _student_is_target_only(cls, roles: dict[RoleName, Roles]) -> dict[RoleName, Roles]:
        for name, role in _each(roles):
            if role.is_student and name != "target":
                raise ValueError(f"{name} cannot be `student`; only the target of Stage I can")
            check_agent(name, role)
        return roles

    @model_validator(mode="after")
    def _attackers(self) -> Config:
        for role in self.attacker_roles().values():
            check_agent("attacker", role)
            if role.is_student:
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
        for name, role in self.each_role():
            if role.pictures is not True and not role.remote:
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
        measured = target.is_student or (target.remote and same_model(target.model, self.student.model))
        if self.seeds.filter_bench and measured:
            what = target.title()
            raise ValueError(
                f"seeds.filter_bench: roles.target is {what}, which the bench measures, so its scripts would"
                " be selected against it; name another model as target, or leave filter_bench false"
            )
        return self

    @model_validator(mode="after")
    def _two_adapters(self) -> Config:
        if self.rl.algorithm == "cotrain" and not self.student.lora_rank:
            raise ValueError(
                "rl.algorithm: cotrain trains two LoRA adapters on one base; set student.lora_rank, for"
                " instance to 16"
            )
        return self

    @model_validator(mode="after")
    def _first_try(self) -> Config:
        if self.limit is not None:
            self._lower_to(self.limit)
        return self

    def _lower_to(self, limit: int) -> None:
        """Lower every number of pairs, scripts, dialogues and steps to `limit`, and the batches with them."""
        self.gates = {}  # so few of anything say nothing
        for name in ("seeds", "assembly", "bootstrap", "rl", "bench"):
            if section := getattr(self, name):
                setattr(self, name, section.model_copy(deep=True))  # it may be the caller's
        for source in self.seeds.sources:
            source.limit = _lower(source.limit, limit)
        if self.assembly:
            self.assembly.bench_dialogues = _lower(self.assembly.bench_dialogues, limit)
        sft, rl, bench = self.bootstrap.sft, self.rl, self.bench
        self.bootstrap.dialogues = _lower(self.bootstrap.dialogues, limit)
        sft.batch_size = min(sft.batch_size, limit)
        sft.micro_batch_size = divisor(sft.batch_size, sft.micro_batch_size)
        sft.max_steps = _lower(sft.max_steps, limit)
        rl.seeds = _lower(rl.seeds, limit)
        rl.steps = _lower(rl.steps, limit)
        rl.prompts_per_step = min(rl.prompts_per_step, rl.seeds)
        rl.micro_batch_size = divisor(rl.prompts_per_step * rl.group_size, rl.micro_batch_size)
        bench.dialogues = _lower(bench.dialogues, limit)
        bench.questions = _lower(bench.questions, limit)
        if bench.adaptive:
            bench.adaptive.at_most = _lower(bench.adaptive.at_most, limit)

    def role(self, name: RoleName, model: str | None = None) -> Role:
        """The role's settings, the sandbox's agent by default. With `model`, those of that one of its models
        (`models_of`). Of several attackers or judges, the first one's."""
        if model is not None:
            return self.models_of(name)[model]
        entry = self.roles.get(name, Role())
        role = entry[0] if isinstance(entry, list) else entry
        attackers = self.bench.adaptive.attackers if self.bench.adaptive else []
        if name == "attacker" and attackers and not role.made_up:
            return role.model_copy(update={"model": attackers[0]})
        return role

    @property
    def probes_twins(self) -> bool:
        """Whether the student in training answers safe twins at every checkpoint of RL, and the judge scores
        them: the gate `twin_refusals` needs it."""
        return "twin_refusals" in self.gates

    def attacker_roles(self) -> dict[str, Role]:
        """The settings of each model that attacks in the adaptive bench, by the model's name."""
        if self.bench.adaptive is None:
            return {}
        role, adaptive = self.role("attacker"), self.bench.adaptive
        names = adaptive.attackers or ([] if adaptive.own or adaptive.trained else [role.model])
        if role.made_up:
            names = [role.model]
        return {name: role.model_copy(update={"model": name}) for name in names}

    def models_of(self, name: RoleName) -> dict[str, Role]:
        """The settings of each model that does a role, by the model's name. Several may be under test behind
        endpoints, several may attack, and several may judge."""
        role, entry, targets = self.role(name), self.roles.get(name), self.bench.targets
        if isinstance(entry, list):
            return {one.model: one for one in entry}
        if name == "target" and targets:
            return {target.model: role.model_copy(update=target.model_dump()) for target in targets}
        attackers = self.attacker_roles() if name == "attacker" else {}
        return attackers or {role.model: role}

    def each_role(self) -> Iterator[tuple[RoleName, Role]]:
        """Every entry of `roles`; a list has several of one name."""
        return _each(self.roles)

    def account(self, name: RoleName, model: str) -> str:
        """What ledger, manifest and `cost` call a role's model: the role, or `judge[<model>]` where several
        judge."""
        return f"{name}[{model}]" if isinstance(self.roles.get(name), list) else name

    @property
    def rl_seed(self) -> int:
        """The seed of Stage III."""
        return self.seed if self.rl.seed is None else self.rl.seed

    @property
    def student_is_target(self) -> bool:
        """Whether the base student is the target that Stage I's scripts are played against."""
        return self.role("target").is_student

    def model_id(self, role: Role) -> str:
        """The id of the model that does a role."""
        return self.student.model if role.is_student else role.model

    @property
    def has_stubs(self) -> bool:
        """Whether any role gives made-up answers."""
        return any(role.made_up for _, role in self.each_role())

    @property
    def judge_is_tutor(self) -> bool:
        """Whether one model behind one endpoint both taught the student and measures it, alone or among
        others."""
        tutor, judge = self.role("tutor"), self.models_of("judge").get(self.role("tutor").model)
        if judge is None or judge.base_url is None or tutor.base_url is None or self.rl.tutor is not None:
            return False
        return judge.base_url.rstrip("/") == tutor.base_url.rstrip("/")

    @property
    def captioner(self) -> RoleName | None:
        """The role that describes pictures for roles with `pictures: caption`: the first that sees, in the
        order of `CAPTIONERS`, endpoints before the sandbox's agents. None if no role sees."""
        seeing = [name for name in CAPTIONERS if self.role(name).sees]
        return min(seeing, key=lambda name: not self.role(name).remote, default=None)


def _each(roles: dict[RoleName, Roles]) -> Iterator[tuple[RoleName, Role]]:
    for name, entry in roles.items():
        yield from ((name, role) for role in (entry if isinstance(entry, list) else [entry]))


def _lower(number: int | None, limit: int) -> int:
    """The number, or `limit` where that is lower or the number says "all" (None, or -1)."""
    return limit if number is None or number < 0 else min(number, limit)


def divisor(whole: int, most: int) -> int:
    """The largest divisor of `whole` that is at most `most`."""
    return next(number for number in range(min(whole, most), 0, -1) if whole % number == 0)
