"""The stub: made-up answers in place of models, for a dry walk through a whole run without key or network.

It reads only the request, and the same request always gets the same answer. Scores are high but vary, so
that every stage has something to do: attacks succeed, dialogues are kept, returns differ. The numbers mean
nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from safer_steer.dialogue import Format, Kind, lay_out
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.files.store import content_id
from safer_steer.prompts.base import sections
from safer_steer.prompts.made_up import fill, words

BELOW_BEST = (0, 0, 0, 1, 2)
"""How far a score may lie below the best one; drawn for every score."""


class StubTransport:
    """Answers every job with JSON of its schema, and every chat with a short text."""

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        texts = [_text(message) for message in messages]
        rng = random.Random(content_id(texts, repeat))
        if schema is None:
            format = Format.THINKING_ANSWER if "<answer>" in texts[0] else Format.PLAIN
            text = lay_out(f"stub: {words(rng, 3)}", f"stub: {words(rng, 6)}", format)
        else:
            text = json.dumps(_job(schema, sections(texts[-1]), rng))
        return ChatReply(text, prompt_tokens=sum(map(len, texts)) // 4, completion_tokens=len(text) // 4)


def _text(message: Message) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _job(schema: Mapping[str, Any], inputs: Mapping[str, str], rng: random.Random) -> Any:
    values = fill(schema, _Values(inputs, rng))
    if inputs.get("next_template") == "":
        values["next_question"] = ""
    return values


class _Values:
    """Short texts that say `stub`, scores near the best, and as many turns as were asked for."""

    def __init__(self, inputs: Mapping[str, str], rng: random.Random) -> None:
        self.inputs, self.rng = inputs, rng

    def text(self, field: str) -> str:
        return "follow_up" if field == "strategy" else f"stub {field}: {words(self.rng, 5)}"

    def number(self, field: str, schema: Mapping[str, Any]) -> int:
        best, worst = schema.get("maximum", 1), schema.get("minimum", 0)
        return max(int(worst), int(best) - self.rng.choice(BELOW_BEST))

    def flag(self, field: str) -> bool:
        if field == "harmful":  # of a script, by its label; of a single turn, never
            return self.inputs.get("kind", Kind.BENIGN) != Kind.BENIGN
        return field != "refused"

    def entries(self, field: str, schema: Mapping[str, Any]) -> int:
        if field == "turns" and "turns" in self.inputs:
            return int(self.inputs["turns"])
        return max(1, schema.get("minItems", 0))
