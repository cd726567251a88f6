"""Calling a model: `ask` for a typed job, `reply` for a model under test. Both use the cache and the ledger
around the transport."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from safer_steer.config import Role
from safer_steer.dialogue import Dialogue, Format, Turn
from safer_steer.endpoints.cache import Cache
from safer_steer.endpoints.ledger import Ledger
from safer_steer.endpoints.parse import begins_like_refusal, check_own_words, parse_json, split_thinking
from safer_steer.endpoints.transport import ChatReply, ContextLengthError, Message, NoEyesError, Transport
from safer_steer.episode import ContextFull, Reply
from safer_steer.errors import EndpointError, RefusedError, RejectedError, UnparsableError, shortened
from safer_steer.files.images import Picture, PicturesOf
from safer_steer.files.meta import TurnMeta
from safer_steer.prompts.base import Prompt, split_markers
from safer_steer.workers import Breaker

Input = TypeVar("Input", bound=BaseModel)
Output = TypeVar("Output", bound=BaseModel)

log = logging.getLogger(__name__)

REASK = 1_000_000
"""For cache and transport, re-ask n of sample `repeat` is repeat `n * REASK + repeat`, so that a re-ask never
returns the cached bad reply."""

REJECTIONS = 20
"""Consecutive rejected requests that are blamed on the requests. After more, the endpoint or the settings
are considered at fault."""

NO_EYES = "; if the model takes no pictures,"
LAYOUT_RULE = (
    "Lay out every reply as exactly one <thinking>...</thinking> block, in which you say what the picture"
    " shows and what the dialogue is heading for, followed by exactly one <answer>...</answer> block with"
    " what the user is to read. Write nothing outside the two blocks."
)


class ChatModel:
    """A role's model: `name` is the role's name in the ledger and in errors, `role` holds its settings, and
    `transport` gets the replies."""

    def __init__(
        self,
        name: str,
        role: Role,
        transport: Transport,
        cache: Cache | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.name, self.role, self.transport, self.cache = name, role, transport, cache
        self.ledger = ledger if ledger is not None else Ledger()
        self._rejections = Breaker(last=REJECTIONS + 1)
        self._sampling: dict[str, Any] = {"temperature": role.temperature, "top_p": role.top_p}
        if role.pictures is not True:  # replies made without eyes are others
            self._sampling["pictures"] = role.pictures

    async def ask(
        self,
        prompt: Prompt[Input, Output],
        inputs: Input,
        pictures: Sequence[Picture | str] = (),
        *,
        repeat: int = 0,
    ) -> Output:
        """Do one job: render, call, parse, validate. `repeat` distinguishes samples of the same question;
        `pictures` may have lines between them that say what they are.

        If the reply is not a valid answer, the model is asked again, up to `role.reasks` times, with a line
        that says what was wrong. A refusal is final: the endpoint marks it, or the reply is worded as one
        instead of JSON. Raises an EndpointError, RejectedError, RefusedError or UnparsableError that names
        the job or the endpoint."""
        system, user = prompt.render(inputs)
        schema = prompt.schema_for(inputs)
        fault, excerpt = "", ""
        bad: list[tuple[str, int]] = []
        for attempt in range(self.role.reasks + 1):
            messages, sample = layout(system, user + _complaint(fault), pictures), attempt * REASK + repeat
            try:
                reply = await self.reply(messages, schema=schema, repeat=sample)
            except asyncio.CancelledError:  # the bad replies so far must not be the answer of the next run
                self._give_up(bad)
                raise
            excerpt = ascii(shortened(reply.text, 80))
            bad.append((self._key(messages, schema, sample), self.role.max_tokens))
            if reply.refusal:
                raise self._declined(f"{prompt.name}: declined ({reply.finish}): {excerpt}", bad)
            try:
                value = parse_json(reply.text, user)
                check_own_words(value, schema)
                return prompt.output.model_validate(value)
            except ValueError as error:
                # A reply with a "{" in it may only be apologising for the last reply.
                if begins_like_refusal(reply.text) and "{" not in reply.text:
                    raise self._declined(f"{prompt.name}: declined: {excerpt}", bad) from None
                cut = f"cut off at max_tokens={self.role.max_tokens}"
                fault = cut if reply.finish == "length" else _fault(error)
                self.ledger.accounts[self.name].unparsable += 1
                log.debug("%s: attempt %d: %s: %s", prompt.name, attempt + 1, fault, excerpt)
        self._give_up(bad)
        raise UnparsableError(
            f"{prompt.name}: no valid answer in {self.role.reasks + 1} tries; the last: {fault}: {excerpt}"
        )

    def _declined(self, message: str, replies: list[tuple[str, int]]) -> RefusedError:
        self.ledger.accounts[self.name].refused += 1
        self._give_up(replies)
        return RefusedError(message)

    def _give_up(self, replies: list[tuple[str, int]]) -> None:
        if self.cache:
            self.cache.give_up(replies)

    async def reply(
        self, messages: list[Message], *, schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        """One reply with its metadata, from the cache if it is there.

        Raises a RejectedError if the endpoint rejects this request; an EndpointError if the transport gave
        up, or it rejects every request: it has never answered this role in any process, or has rejected more
        than `REJECTIONS` in a row. `SpendingLimit`, if the reply is not cached and the limit is reached."""

        async def call() -> tuple[ChatReply, float]:
            self.ledger.may_spend()
            try:
                reply = await self.transport.complete(messages, schema, repeat)
            except EndpointError:
                self.ledger.accounts[self.name].failed += 1
                raise
            except RejectedError as error:
                account = self.ledger.accounts[self.name]
                account.failed += 1
                too_many = self._rejections.note(1)
                if isinstance(error, ContextLengthError):
                    raise
                blind = isinstance(error, NoEyesError)
                hint = f"{NO_EYES} set roles.{self.name}.pictures to caption or false" if blind else ""
                message = f"{error}{hint}"
                if account.calls and not too_many:
                    raise RejectedError(message) from None
                raise EndpointError(message) from None
            self._rejections.note(0)
            return reply, self.ledger.paid(self.name, self.role, reply)

        if self.cache is None:
            return (await call())[0]
        key = self._key(messages, schema, repeat)
        reply, free = await self.cache.get_or_call(key, self.name, call, self.role.max_tokens)
        self.ledger.accounts[self.name].cached += free
        return reply

    def forget_unparsable(self) -> None:
        """Remove the replies of jobs that ended in a RefusedError or an UnparsableError from the cache."""
        if self.cache:
            self.cache.forget_unparsable()

    def _key(self, messages: list[Message], schema: dict[str, Any] | None, repeat: int) -> str:
        return Cache.key(self.role.model, self._sampling, messages, schema, repeat)


class ChatAssistant:
    """A chat model as the assistant of `episode.play`: any model under test.

    `format` is the layout to ask for. THINKING_ANSWER appends `LAYOUT_RULE` to `system`, unless that contains
    it or the role's `ask_layout` is off (for models trained on the layout)."""

    def __init__(
        self,
        model: ChatModel,
        pictures_of: PicturesOf,
        *,
        system: str = "You are a helpful assistant.",
        format: Format = Format.PLAIN,
    ) -> None:
        self.model = model
        self.pictures_of = pictures_of
        with_layout = format is Format.THINKING_ANSWER and model.role.ask_layout and LAYOUT_RULE not in system
        self.system = f"{system}\n{LAYOUT_RULE}".strip() if with_layout else system

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        """The reply to the turn `asked`. Reasoning in the reply's text is no part of the answer; the meta
        keeps it as `thinking`. Raises `ContextFull` if the messages do not fit, an EndpointError if the
        transport gave up."""
        try:
            reply = await self.model.reply(self.messages(dialogue, asked), repeat=dialogue.sample(asked))
        except ContextLengthError:
            raise ContextFull from None
        thinking, answer = split_thinking(reply.text)
        meta: TurnMeta = {
            "finish": reply.finish,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        if thinking:
            meta["thinking"] = thinking
        return Reply(answer, meta)

    def messages(self, dialogue: Dialogue, asked: Turn) -> list[Message]:
        """The system text, then the turns in order, each user turn with its pictures. Markers in user turns
        are split, since models write them."""
        views = [self.pictures_of(images) for images in dialogue.images_by_turn(asked)]
        texts = [split_markers(turn.user) for turn in (*dialogue.turns, asked)]
        messages = layout(self.system, texts[0], views[0])
        for turn, text, pictures in zip(dialogue.turns, texts[1:], views[1:], strict=True):
            messages.append({"role": "assistant", "content": turn.assistant or ""})
            messages += layout("", text, pictures) if pictures else [{"role": "user", "content": text}]
        return messages


def layout(system: str, user: str, pictures: Sequence[Picture | str]) -> list[Message]:
    """The system message (omitted if empty), then the user message: pictures first, then the text."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": [*map(_part, pictures), _part(user)]}]


def _part(item: Picture | str) -> dict[str, object]:
    return item.content if isinstance(item, Picture) else {"type": "text", "text": item}


def _complaint(fault: str) -> str:
    if not fault:
        return ""
    return f"\n\nYour last reply was no valid answer ({fault}). Reply with the JSON object alone."


def _fault(error: ValueError) -> str:
    """What was wrong, in terms of the schema. It never quotes the reply, since it is sent back to the
    model."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'object'}: {first['msg']}"
    return str(error)
