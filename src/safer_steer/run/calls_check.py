"""One small call to every model that a run will ask, before anything is paid for: does it answer, does it
take pictures, does it take the JSON schema?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import BaseModel

from safer_steer.config import Config, Role, RoleName
from safer_steer.dialogue import Dialogue, Kind, Turn
from safer_steer.endpoints.blind import BlindTransport
from safer_steer.endpoints.chat import NO_EYES, ChatAssistant, ChatModel
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.gate import waiting_for
from safer_steer.endpoints.ledger import Account, Ledger
from safer_steer.endpoints.parse import split_thinking
from safer_steer.endpoints.transport import AnsweredError, ChatReply, ContextLengthError, Message, Transport
from safer_steer.episode import ContextFull
from safer_steer.errors import BoundaryError, EndpointError, RejectedError, UnparsableError, UserError
from safer_steer.files.images import Picture, picture_from
from safer_steer.prompts.attacker import ATTACKER, AttackerInput
from safer_steer.prompts.base import Prompt
from safer_steer.prompts.judge import EVALUATOR, JUDGE, JudgeInput
from safer_steer.prompts.red import BLUE, RED, BlueInput, RedInput
from safer_steer.prompts.scripts import ATTACK_JUDGE, PROBE, AttackJudgeInput, ProbeInput
from safer_steer.prompts.tutor import TUTOR, TutorInput
from safer_steer.sandbox.world import devices, draw_png
from safer_steer.stages import STAGES

QUESTION = "What colour is the device in the picture?"
ANSWER = "It is a small device on a light background. I cannot name its colour for certain."
TRIES_AGAIN = 1
"""Further tries after an endpoint error; none after a request that got no reply within the role's
`timeout_s`."""
RATE_LIMIT_S = 60
"""Seconds of HTTP 429 after which a check fails."""
AGAIN = "then run the same command"
ANYWAY = "or go on without this check (--no-check)"

JOBS: dict[RoleName, tuple[Prompt[Any, Any], BaseModel]] = {
    "generator": (PROBE, ProbeInput(question=QUESTION)),
    "attack_judge": (
        ATTACK_JUDGE,
        AttackJudgeInput(intent=QUESTION, history=[], question=QUESTION, answer=ANSWER),
    ),
    "red": (RED, RedInput(intent=QUESTION, history=[], template=QUESTION)),
    "blue": (BLUE, BlueInput(history=[], question=QUESTION)),
    "evaluator": (EVALUATOR, JudgeInput(history=[], question=QUESTION, answer=ANSWER)),
    "tutor": (TUTOR, TutorInput(history=[], question=QUESTION, answer=ANSWER, next_template=QUESTION)),
    "judge": (JUDGE, JudgeInput(history=[], question=QUESTION, answer=ANSWER)),
    "attacker": (
        ATTACKER,
        AttackerInput(
            intent=QUESTION,
            history=[],
            taken_back=[],
            techniques=[],
            turns_left=1,
            take_backs_left=0,
            pictures=0,
        ),
    ),
}
"""What each role is asked: a job of its own, about a harmless picture. The target is asked as a chat."""


@dataclass
class Checked:
    """What one model did. Roles that ask the same model at the same endpoint share a row."""

    roles: tuple[RoleName, ...]
    model: str
    seconds: float | None = None
    """Seconds until it answered; None if it did not."""
    pictures: str = "-"
    schema: str = "-"
    reasoning: str = "-"
    problem: str = ""
    """What is wrong and what to do, on one line; "" if it can do its jobs."""
    spent: dict[str, Account] = field(default_factory=dict)
    """What the check itself cost."""

    @property
    def row(self) -> tuple[str, ...]:
        """Cells under `HEAD`."""
        answered = "no" if self.seconds is None else f"in {self.seconds:.1f} s"
        return (", ".join(self.roles), self.model, answered, self.pictures, self.schema, self.reasoning)

    @property
    def line(self) -> str:
        """The row as one line of text."""
        roles, model, answered, *rest = self.row
        facts = ", ".join(f"{name}: {cell}" for name, cell in zip(HEAD[3:], rest, strict=True))
        return f"{roles}: {model} answered {answered}; {facts}"


HEAD = ("roles", "model", "answered", "takes pictures", "takes the schema", "reasoning tokens")


def roles_asked(config: Config, stages: Collection[str], besides: Sequence[RoleName] = ()) -> list[RoleName]:
    """The roles behind an endpoint that these stages ask; with any stage, `besides` too."""
    names = [*(besides if stages else ()), *(role for stage in stages for role in STAGES[stage].asks(config))]
    if any(config.role(name).pictures == "caption" for name in names) and config.captioner:
        names.append(config.captioner)
    return [
        name
        for name in dict.fromkeys(names)
        if any(settings.remote for settings in config.models_of(name).values())
    ]


def problems(checked: Iterable[Checked]) -> str:
    """What is wrong, on one line; "" if nothing is."""
    return "; also: ".join(one.problem for one in checked if one.problem)


async def check_roles(
    config: Config, roles: Sequence[RoleName], may_spend: Callable[[], None] = lambda: None
) -> list[Checked]:
    """Ask every model of these roles once, all at the same time. Raises `UserError` if an endpoint is not
    usable as configured: no address, no key."""
    groups: dict[tuple[Any, ...], dict[RoleName, Role]] = {}
    for name in roles:
        for role in config.models_of(name).values():
            if role.remote:
                key = (role.base_url, role.model, role.api_key_env, role.json_schema, role.pictures)
                groups.setdefault(key, {})[name] = role
    return await asyncio.gather(*(_check(config, group, may_spend) for group in groups.values()))


async def _check(config: Config, roles: Mapping[RoleName, Role], may_spend: Callable[[], None]) -> Checked:
    """One model and the roles that it does. Those with a job come before chats: a job needs the schema,
    too."""
    name = next((role for role in roles if _job(config, role)), next(iter(roles)))
    settings = roles[name]
    checked = Checked(tuple(roles), settings.model)
    where = f"roles.{name}" + (f" ({settings.model})" if len(config.models_of(name)) > 1 else "")
    try:
        retries, rate_limit_s = min(settings.retries, TRIES_AGAIN), min(settings.rate_limit_s, RATE_LIMIT_S)
        hurried = settings.model_copy(update={"retries": retries, "rate_limit_s": rate_limit_s})
        ledger = Ledger()
        endpoint = EndpointTransport(hurried, may_spend, partial(ledger.paid, name, settings))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    endpoint.waits_again = False
    probe = _Probe(endpoint, settings, ledger)
    try:
        await endpoint.check()
        checked.problem = await _try(config, name, probe, checked)
    except UserError as error:
        checked.problem = f"{where}: {error}, {AGAIN}"
    except UnparsableError as error:
        cut = probe.last is not None and probe.last.finish == "length"
        fix = f"raise roles.{name}.max_tokens" if cut else "choose a model that answers in JSON"
        checked.problem = f"{where}: {error}; {fix}, {AGAIN}, {ANYWAY}"
    except ContextLengthError as error:
        fix = f"lower roles.{name}.max_tokens, or raise the context length at the server"
        checked.problem = f"{where}: {error}; {fix}, {AGAIN}"
    except (EndpointError, RejectedError) as error:
        no_v1 = "HTTP 404" in str(error) and not (settings.base_url or "").rstrip("/").endswith("/v1")
        hint = " (most end in /v1)" if no_v1 else ""
        checked.problem = f"{where}: {error}; fix base_url{hint}, model or the server, {AGAIN}"
    except BoundaryError as error:
        checked.problem = f"{where}: {error}; choose another model, {AGAIN}, {ANYWAY}"
    finally:
        checked.spent = {config.account(name, settings.model): probe.ledger.accounts[name]}
        await endpoint.aclose()
    if probe.last:
        checked.reasoning = str(probe.last.reasoning_tokens)
        if split_thinking(probe.last.text)[0]:
            checked.reasoning += ", in the reply, taken out"
    if checked.seconds is not None and _job(config, name):
        words = {None: "no", "json_schema": "yes"}
        form = endpoint.schema_taken
        checked.schema = words.get(form, f"as {form}") if settings.json_schema else "not sent"
    return checked


async def _try(config: Config, name: RoleName, probe: _Probe, checked: Checked) -> str:
    """Ask with the picture, and without it if the server refuses that. Returns what is wrong, "" if
    nothing."""
    settings = probe.role
    if settings.pictures is not True:
        checked.pictures = "nothing is sent" if settings.pictures is False else "captions are sent"
        return await _ask(config, name, probe, BlindTransport(probe), checked)
    try:
        problem = await _ask(config, name, probe, probe, checked)
        checked.pictures = "yes"
        return problem
    except ContextLengthError:
        raise
    except (EndpointError, RejectedError) as refused:
        if not isinstance(probe.failed, AnsweredError | RejectedError):
            raise
        try:
            await _ask(config, name, probe, BlindTransport(probe), checked)
        except (EndpointError, RejectedError):
            raise
        except BoundaryError:
            pass  # it took the request without the picture
        checked.pictures = "no"
        why = str(refused).partition(NO_EYES)[0]
        return (
            f"roles.{name}: {settings.model} takes no pictures ({why}); set roles.{name}.pictures to caption"
            f" or false, or choose a model that sees, {AGAIN}"
        )


def _job(config: Config, role: RoleName) -> tuple[Prompt[Any, Any], BaseModel] | None:
    """None for a role that is asked as a plain chat."""
    if role == "blue" and config.bootstrap.blue == "chat":
        return None
    return JOBS.get(role)


async def _ask(config: Config, role: RoleName, probe: _Probe, transport: Transport, checked: Checked) -> str:
    """One call, its answer parsed; fills in how long it took. Returns what is wrong with the answer, "" if
    nothing."""
    model = ChatModel(role, probe.role, transport, None, probe.ledger)
    begun = time.monotonic()
    job, problem = _job(config, role), ""
    if job:
        await model.ask(*job, [_picture()])
    else:
        problem = await _chat(config, model, probe)
    checked.seconds = time.monotonic() - begun
    return problem


async def _chat(config: Config, model: ChatModel, probe: _Probe) -> str:
    """What is wrong with an answer that holds nothing; "" if it holds something. Raises what
    `ChatAssistant.answer` raises."""
    student = config.student
    assistant = ChatAssistant(model, lambda _: [_picture()], system=student.system, format=student.format)
    try:
        answer = await assistant.answer(Dialogue(id="check", kind=Kind.BENIGN), Turn(user=QUESTION))
    except ContextFull:
        assert probe.failed
        raise probe.failed from None
    if answer.text.strip():
        return ""
    role, finish = f"roles.{model.name}", answer.meta["finish"]
    how = "with reasoning alone" if answer.meta.get("thinking") else "with nothing"
    if finish == "length":
        why, fix = f"{how} up to max_tokens={model.role.max_tokens}", f"raise {role}.max_tokens"
    elif probe.last and probe.last.refusal:
        why, fix = f"{how}: its host declined ({finish})", "choose another model or host"
    else:
        why = f"{how} (finish_reason {finish}); it need not answer in JSON, but in words"
        fix = "see what the server returns for a chat with a picture, or choose another model"
    return f"{role}: {model.role.model} answered a harmless question {why}; {fix}, {AGAIN}, {ANYWAY}"


class _Probe:
    """An endpoint that is being checked: keeps what came last."""

    def __init__(self, inner: EndpointTransport, role: Role, ledger: Ledger) -> None:
        self.inner, self.role, self.ledger = inner, role, ledger
        self.last: ChatReply | None = None
        self.failed: BoundaryError | None = None

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        self.last = self.failed = None
        who = f"{self.role.model} at {self.role.base_url}"
        try:
            with waiting_for(who, self.role.timeout_s):
                self.last = await self.inner.complete(messages, schema, repeat)
        except BoundaryError as error:
            self.failed = error
            raise
        return self.last


def _picture() -> Picture:
    """A small picture of the sandbox, which the sandbox's agents know behind an endpoint, too."""
    return picture_from(draw_png(devices()[0], False, "check"), "check.png", 1_000_000)
