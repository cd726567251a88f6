"""A model of Inspect as the transport of `ChatModel`: the model under test, and the judge."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import (
    CachePolicy,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    ResponseSchema,
    get_model,
)
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.solver import TaskState
from inspect_ai.util import JSONSchema
from pydantic import TypeAdapter

from safer_steer.bench.judging import critic_of
from safer_steer.bench.suites import SANDBOX
from safer_steer.bench.watch import Watch
from safer_steer.config import SANDBOX_AGENTS, JoinedBy, Role
from safer_steer.dialogue import Dialogue, Format
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.transport import ChatReply, ContextLengthError, Message, Transport
from safer_steer.episode import Critic
from safer_steer.files.images import PicturesOf

FINISH = {"max_tokens": "length", "content_filter": "content_filter"}
"""Inspect's stop reasons in the words of endpoints; all others end an answer."""

GRADER = "grader"
"""Inspect's name for the judge's role."""

DEFAULTS = GenerateConfig(temperature=Role().temperature, max_tokens=Role().max_tokens)
"""The bench's settings. They hold where the user of Inspect sets nothing."""


class InspectTransport:
    """Asks a model of Inspect. Its errors are Inspect's own: they end the sample, which Inspect can retry."""

    def __init__(self, model: Model, config: GenerateConfig | None = None) -> None:
        """`config` wins over all of Inspect's own settings, so it may only hold what they leave open."""
        self.model, self.config = model, config or GenerateConfig()

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        """One reply. Raises `ContextLengthError` if the messages are too long for the model."""
        config = self.config.merge(GenerateConfig(cache=self._cache_of(repeat)))
        if schema:
            answer = ResponseSchema(name="answer", json_schema=JSONSchema.model_validate(schema))
            config = config.merge(GenerateConfig(response_schema=answer))
        output = await self.model.generate([*map(as_inspect, messages)], config=config)
        if output.stop_reason == "model_length":
            raise ContextLengthError("the messages are too long for the model")
        usage = output.usage
        return ChatReply(
            text=output.completion,
            prompt_tokens=usage.input_tokens if usage else 0,
            completion_tokens=usage.output_tokens if usage else 0,
            finish=FINISH.get(output.stop_reason, "stop"),
            refusal=output.stop_reason == "content_filter",
        )

    def _cache_of(self, repeat: int) -> CachePolicy | None:
        """Inspect's reply cache for this sample, with the user's policy; None leaves it as it is. Without
        `repeat` in the cache's key, samples of one question would be one reply."""
        cache = settings_of(self.model).cache
        if not (cache and repeat):
            return None
        policy = cache if isinstance(cache, CachePolicy) else CachePolicy()
        return policy.model_copy(update={"scopes": {**policy.scopes, "repeat": str(repeat)}})


def settings_of(model: Model) -> GenerateConfig:
    """A model's own settings, with those of the evaluation, which win. A role's model takes only the
    operational ones of the latter, such as the cache."""
    return model.config.merge(active_generate_config())


def by_role(name: str) -> Transport:
    """The model of a role of Inspect, with the role's own settings, or an agent of the sandbox. A role must
    be named: a model under test neither judges nor attacks itself by default."""
    if name == SANDBOX or name in SANDBOX_AGENTS:
        from safer_steer.sandbox.agents import SandboxTransport

        return SandboxTransport(name)
    return InspectTransport(get_model(role=name, required=True, config=DEFAULTS))


def judging(
    roles: str, verdict: str, format: Format, pictures_of: PicturesOf, requests: bool = False
) -> Critic:
    """The judge of the bench, or several with a comma between their roles. An error of Inspect's ends the
    sample, whichever judge had it; a judge without a valid answer leaves the turn to the others."""
    names = [name.strip() for name in roles.split(",")]
    models = [ChatModel("judge", Role(model=name), by_role(name)) for name in names]
    joined_by = TypeAdapter(JoinedBy).validate_python(verdict)
    return critic_of(models, joined_by, format, pictures_of, Watch(), requests=requests)


def as_inspect(message: Message) -> ChatMessage:
    """A chat message in Inspect's form."""
    content = message["content"]
    items: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts: list[ContentText | ContentImage] = [
        ContentText(text=part["text"])
        if part["type"] == "text"
        else ContentImage(image=part["image_url"]["url"])
        for part in items
    ]
    match message["role"]:
        case "system":
            return ChatMessageSystem(content=parts)
        case "assistant":
            return ChatMessageAssistant(content=parts)
        case _:
            return ChatMessageUser(content=parts)


def under_test(format: Format, system: str, ask_layout: bool, pictures_of: PicturesOf) -> ChatAssistant:
    """The model under test, in the assistant's seat. A task's `config` would win over the settings that the
    model was given, so `DEFAULTS` come with the request."""
    model = get_model()
    settings = settings_of(model)
    left_open = {name: value for name, value in DEFAULTS if getattr(settings, name) is None}
    transport = InspectTransport(model, GenerateConfig(**left_open))
    target = ChatModel("target", Role(ask_layout=ask_layout), transport)
    return ChatAssistant(target, pictures_of, system=system, format=format)


def keep(state: TaskState, dialogue: Dialogue, assistant: ChatAssistant) -> None:
    """Keep a played dialogue in a sample's state: the row in its metadata, and the messages for the log."""
    state.metadata["dialogue"] = dialogue.model_dump(mode="json")
    if dialogue.turns:
        *before, last = dialogue.turns
        earlier = dialogue.model_copy(update={"turns": before})
        answer = {"role": "assistant", "content": last.assistant or ""}
        state.messages = [*map(as_inspect, [*assistant.messages(earlier, last), answer])]
