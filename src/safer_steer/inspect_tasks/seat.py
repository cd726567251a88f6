"""The model under test in the assistant's seat, and what a sample keeps of its dialogue."""

from __future__ import annotations

from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.solver import TaskState

from safer_steer.config import Role
from safer_steer.dialogue import Dialogue, Format
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.files.images import PicturesOf
from safer_steer.inspect_tasks.transport import DEFAULTS, InspectTransport, as_inspect, settings_of


def under_test(format: Format, system: str, ask_layout: bool, pictures_of: PicturesOf) -> ChatAssistant:
    """The model under test, in the assistant's seat. A task's `config` would win over the settings that the
    model was given, so `DEFAULTS` come with the request."""
    model = get_model()
    settings = settings_of(model)
    left_open = {name: value for name, value in DEFAULTS if getattr(settings, name) is None}
    transport = InspectTransport(model, GenerateConfig(**left_open))
    target = ChatModel("target", Role(ask_layout=ask_layout), transport)
    return ChatAssistant(target, pictures_of, system=system, format=format)


def keep(state: TaskState, played: Dialogue, assistant: ChatAssistant) -> None:
    """Keep a played dialogue in a sample's state: the row in its metadata, and the messages for the log."""
    state.metadata["dialogue"] = played.model_dump(mode="json")
    if played.turns:
        *before, last = played.turns
        earlier = played.model_copy(update={"turns": before})
        answer = {"role": "assistant", "content": last.assistant or ""}
        state.messages = [*map(as_inspect, [*assistant.messages(earlier, last), answer])]
