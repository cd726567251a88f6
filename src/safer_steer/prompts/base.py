"""A job for a model is a value: typed input, typed output, and a Jinja template.

Every input field is rendered in its own delimited section. The end marker contains a hash of the content, so
no text inside can close the section. Text written by models is data: it appears only in sections, with its
chat markers split.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from safer_steer.dialogue import Dialogue, Format, visible_answer
from safer_steer.files.store import canonical

if TYPE_CHECKING:
    import jinja2

_MARKER = re.compile(
    r"<(?=(?:[|｜][^<>|｜\s]{1,40}[|｜]?|[^<>|｜\s]{1,40}[|｜])>"
    r"|(?i:/?(?:s|[be]os|[es]op|pad|unk|(?:start|begin|end)_of_\w{1,20}|row_\d{1,2}_col_\d{1,2}"
    r"|[\w-]{0,20}(?:image|img|video|audio)[\w-]{0,20})>))"
    r"|\[(?=(?:/?(?:INST|SYSTEM_PROMPT|(?:AVAILABLE_)?TOOL[S_][A-Z_]*)|IMG(?:_[A-Z]+)?|[gs]MASK)\])"
)
"""The opening of a special token: a name with a bar at either end (also the full-width bar of DeepSeek), or
one of the names without. Tags of reasoning stay, since answers hold them."""


def split_markers(text: str) -> str:
    """Turn `<|im_end|>` into `< |im_end|>`, and likewise for the markers of common model families, so that
    none becomes a special token."""
    return _MARKER.sub(r"\g<0> ", text)


Input = TypeVar("Input", bound=BaseModel)
Output = TypeVar("Output", bound=BaseModel)


class Exchange(BaseModel):
    """One turn as other seats see it: the user's words and the assistant's visible answer."""

    model_config = ConfigDict(extra="forbid")
    user: str
    assistant: str


def history(dialogue: Dialogue, format: Format, upto: int | None = None) -> list[Exchange]:
    """The first `upto` turns (all by default), with answers reduced to their visible part."""
    return [
        Exchange(user=turn.words, assistant=visible_answer(turn.assistant or "", format))
        for turn in dialogue.turns[:upto]
    ]


class Inputs(BaseModel):
    """What a job is given. Pictures travel beside it, not in it."""

    model_config = ConfigDict(extra="forbid")


class Verdicts(BaseModel):
    """What a job answers, as one JSON object. Additional keys are ignored, wrong types and ranges are
    unparsable."""

    model_config = ConfigDict(extra="ignore", json_schema_serialization_defaults_required=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(field.field_name)].annotation is int:
            raise ValueError("true and false are no whole numbers")
        return value


@dataclass(frozen=True)
class Prompt(Generic[Input, Output]):
    """A job: `name` is also the template's file name and what the cache, the cost table and the sandbox know
    it by."""

    name: str
    inputs: type[Input]
    output: type[Output]

    def render(self, inputs: Input) -> tuple[str, str]:
        """The system text and the user text. An input that is None has no section.

        The system text starts with `Job: <name>`; the user text ends with the JSON schema of the answer.
        """
        fields = {
            name: "" if value is None else section(name, split_markers(_plain(value)))
            for name, value in inputs
        }
        module = _templates().get_template(f"{self.name}.j2").make_module(fields)
        system = str(module.system).strip()  # type: ignore[attr-defined]
        body = str(module).strip()
        schema = json.dumps(self.schema(), separators=(",", ":"))
        return (
            f"Job: {self.name}\n{system}",
            f"{body}\n\nAnswer with one JSON object of this schema and nothing else:\n{schema}",
        )

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the answer. Callers must not modify it.

        It requires every field, even those that may be missing in a reply. Otherwise a model with guided
        decoding could omit the reason that should come before its scores.
        """
        return _schema(self.output)

    def schema_for(self, inputs: Input) -> dict[str, Any]:
        """The schema to send with a request. A list of the answer has the length that the input field of the
        same name states: a script has `turns` turns.

        The text of the prompt has the general schema. So its wording depends on nothing but the inputs'
        sections, and a reply of another length is judged by the rules of the job.
        """
        schema = self.schema()
        properties = dict(schema["properties"])
        for name, value in inputs:
            if isinstance(value, int) and properties.get(name, {}).get("type") == "array":
                properties[name] = properties[name] | {"minItems": value, "maxItems": value}
        return schema | {"properties": properties}


def section(name: str, text: str) -> str:
    """`text` between markers that it cannot forge, since both contain a hash of the text."""
    seal = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f'<section name="{name}" seal="{seal}">\n{text}\n</section seal="{seal}">'


_SECTION = re.compile(
    r'<section name="([a-z_]+)" seal="([0-9a-f]{12})">\n(.*?)\n</section seal="\2">', re.DOTALL
)


def sections(text: str) -> dict[str, str]:
    """The sections of a rendered user text, by name: the inverse of `section`. The sandbox's agents read
    prompts with it.

    A section inside a section is content, since a model may have written it.
    """
    texts = {}
    for match in _SECTION.finditer(text):
        if hashlib.sha256(match[3].encode()).hexdigest()[:12] == match[2]:
            texts[match[1]] = match[3]
    return texts


def _plain(value: object) -> str:
    """Text unchanged; everything else as JSON."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    items = [item.model_dump() if isinstance(item, BaseModel) else item for item in value]
    return json.dumps(items, ensure_ascii=False, indent=1)


@cache
def _schema(output: type[BaseModel]) -> dict[str, Any]:
    return output.model_json_schema(mode="serialization")


@cache
def _templates() -> jinja2.Environment:
    import jinja2  # here, because it loads slowly and the name of a job needs none of it

    return jinja2.Environment(
        loader=jinja2.PackageLoader("safer_steer.prompts", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        auto_reload=False,
    )


@cache
def installed() -> dict[str, Prompt[Any, Any]]:
    """Every prompt of the package, by name."""
    prompts: dict[str, Prompt[Any, Any]] = {}
    for file in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = importlib.import_module(f"safer_steer.prompts.{file.name}")
        for value in vars(module).values():
            if isinstance(value, Prompt):
                prompts[value.name] = value
    return prompts


def fingerprint(prompt: Prompt[Any, Any]) -> str:
    """SHA-256 in hex of the template's text, of all templates it references, and of the answer's JSON schema.
    With it a manifest records which wording made a run's data, and `verify` checks that it is installed."""
    from jinja2 import meta

    environment = _templates()
    assert environment.loader
    sources: dict[str, str] = {}
    waiting = [f"{prompt.name}.j2"]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = environment.loader.get_source(environment, name)[0]
            waiting += filter(None, meta.find_referenced_templates(environment.parse(sources[name])))
    return hashlib.sha256(canonical({"templates": sources, "schema": prompt.schema()}).encode()).hexdigest()


def fingerprints(names: Iterable[str]) -> dict[str, str]:
    """The hashes of these prompts as installed. Names without a prompt are omitted."""
    return {name: fingerprint(installed()[name]) for name in sorted(names) if name in installed()}


CHAT = "chat"
"""In the place of a job's name: a model that is asked as a plain chat, without a prompt."""
Score10 = Field(ge=1, le=10, description="whole number from 1 to 10")
