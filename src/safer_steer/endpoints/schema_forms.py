"""The forms in which servers take the JSON schema of an answer."""

from __future__ import annotations

from typing import Any, Literal

SchemaForm = Literal["json_schema", "json_object with schema", "json_object"]
SCHEMA_FORMS: tuple[SchemaForm, ...] = ("json_schema", "json_object with schema", "json_object")
"""In the order in which they are tried: OpenAI's, llama.cpp's, and the request for any JSON object.
llama.cpp's comes before the last since its servers take the last, too, and then forget the schema."""


def response_format(form: SchemaForm, schema: dict[str, Any]) -> dict[str, Any]:
    """The request's `response_format`."""
    if form == "json_object":
        return {"type": "json_object"}
    if form == "json_object with schema":
        return {"type": "json_object", "schema": schema}
    named = {"name": schema.get("title", "answer"), "schema": schema}
    return {"type": "json_schema", "json_schema": named}
