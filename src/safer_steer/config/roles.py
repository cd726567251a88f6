"""The section `roles`: which model does which job, and how it is asked."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from safer_steer.config.kinds import Free, KeyVariable, OfCall, Section

RoleName = Literal[
    "generator", "target", "attack_judge", "red", "blue", "evaluator", "tutor", "judge", "attacker"
]

CAPTIONERS: tuple[RoleName, ...] = (
    *("generator", "evaluator", "judge", "tutor", "attack_judge", "blue", "red", "target"),
)

"""Roles in the order in which they are chosen to describe pictures; the model under test comes last. An
attacker describes none: most runs have no use for it."""


class Agent(StrEnum):
    """The embedded agents besides `sandbox`, by the name of the model (docs/explanation/sandbox.md)."""

    A = "sandbox-a"
    B = "sandbox-b"
    C = "sandbox-c"
    A_AND_B = "sandbox-ab"
    EVEN = "sandbox-even"
    FIRM = "sandbox-firm"
    NOISY = "sandbox-noisy"
    SUFFIX = "sandbox-suffix"
    LENGTH = "sandbox-length"
    BLIND = "sandbox-blind"
    SILENT = "sandbox-silent"


_SCORES: tuple[RoleName, ...] = ("judge", "tutor")
SANDBOX_AGENTS: dict[str, tuple[RoleName, ...]] = {
    **dict.fromkeys((Agent.A, Agent.B, Agent.C), ("attacker",)),
    **dict.fromkeys((Agent.A_AND_B, Agent.EVEN), ("tutor",)),
    Agent.FIRM: ("target",),
    **dict.fromkeys((Agent.NOISY, Agent.SUFFIX, Agent.LENGTH, Agent.BLIND, Agent.SILENT), _SCORES),
}
"""The roles that each of them can do."""


class Role(Section):
    """Who does a job, and how it is asked."""

    model: str = "sandbox"
    """model id at the endpoint; without base_url, `sandbox` for the embedded agents, `student` for the base
    student, `stub` for made-up answers"""
    base_url: Free[str | None] = None
    """OpenAI-compatible endpoint, for instance http://localhost:8000/v1"""
    api_key_env: Free[KeyVariable] = None
    """name of the environment variable that holds the key"""
    temperature: float = Field(0.7, ge=0)
    """sampling temperature"""
    top_p: float = Field(1.0, gt=0, le=1)
    """nucleus sampling mass"""
    max_tokens: OfCall[int] = Field(2048, ge=1)
    """token limit of one reply"""
    timeout_s: Free[float] = Field(120, gt=0)
    """seconds before a request is given up and sent again"""
    retries: Free[int] = Field(5, ge=0)
    """further tries after an endpoint error; HTTP 429 does not count"""
    rate_limit_s: Free[float] = Field(600, ge=0)
    """seconds without any reply, only HTTP 429, before a call fails"""
    max_reply_mb: Free[float] = Field(16, gt=0)
    """megabytes, unpacked; a larger reply is not read"""
    reasks: Free[int] = Field(4, ge=0)
    """further tries after an unparsable reply"""
    concurrency: Free[int] = Field(64, ge=1)
    """calls in flight at most"""
    requests_per_minute: Free[float | None] = Field(None, gt=0)
    """requests in a minute at most, further tries included"""
    json_schema: Free[bool] = True
    """send the answer's JSON schema as response_format, in a form that the server takes"""
    pictures: bool | Literal["caption"] = True
    """what the model gets of a picture: true sends it, false nothing, caption a description by a role that
    sees"""
    ask_layout: bool = True
    """tell a model that answers as a chat (target, blue) the student's layout; false for a model trained on
    it"""
    price_in: Free[float] = Field(0, ge=0)
    """money per million input tokens"""
    price_out: Free[float] = Field(0, ge=0)
    """money per million output tokens"""

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

    # What follows from who it is. `run/roles.py` has the checks of each, and what answers in this process.

    @property
    def remote(self) -> bool:
        """Whether it is asked over HTTP, at its price."""
        return self.who == "endpoint"

    @property
    def embedded(self) -> bool:
        """Whether an agent of the sandbox does it."""
        return self.who == "sandbox"

    @property
    def is_student(self) -> bool:
        """Whether the base student does it, in this process."""
        return self.who == "student"

    @property
    def made_up(self) -> bool:
        """Whether the answers come from no model."""
        return self.who == "stub"

    @property
    def sees(self) -> bool:
        """Whether it can describe pictures for roles that do not get them."""
        return self.pictures is True and self.who in ("endpoint", "sandbox")

    def shared_by(self, count: int) -> Role:
        """Its part of the limits, for each of so many processes that ask it side by side."""
        a_minute = self.requests_per_minute
        limits = {
            "concurrency": max(1, self.concurrency // count),
            "requests_per_minute": a_minute and a_minute / count,
        }
        return self.model_copy(update=limits)

    def title(self, job: str = "agent") -> str:
        """Who it is, for a reader; `job` is what the sandbox calls its own."""
        titles = {"sandbox": f"the sandbox's {job}", "student": "the base student", "stub": "a stub"}
        return titles.get(self.who, self.model)


ONE, SEVERAL = "[one]", "[several]"
"""The forms of an entry of `roles`; pydantic names them in the place of an error."""


def _form(entry: Any) -> str:
    return SEVERAL if isinstance(entry, list) else ONE


Roles = Annotated[
    Annotated[Role, Tag(ONE)] | Annotated[list[Role], Field(min_length=1), Tag(SEVERAL)],
    Discriminator(_form),
]
"""An entry of `roles`: who does a job. Several may judge."""


def check_agent(name: RoleName, role: Role) -> None:
    """Raises `ValueError` if an embedded agent does not do this role."""
    roles = SANDBOX_AGENTS.get(role.model, (name,))
    if role.who == "sandbox" and name not in roles:
        raise ValueError(f"{name} cannot be `{role.model}`; that is an agent for {' and '.join(roles)}")


def same_model(one: str, other: str) -> bool:
    """Do two model ids, or folders of models, end in one name? An organisation's name before it, and case, do
    not count."""
    return one.rstrip("/").rpartition("/")[2].casefold() == other.rstrip("/").rpartition("/")[2].casefold()
