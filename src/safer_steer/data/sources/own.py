"""A set of the user's own: any name that is not in `sets`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from safer_steer.data.sources.layout import Layout
from safer_steer.data.sources.sample import Sample, one_question
from safer_steer.data.sources.set_row import SetRow
from safer_steer.files.store import content_id

COLUMNS = ("id", "image", "images", "question", "intent", "safe", "answer", "source", "category")


def samples(row: SetRow) -> Iterator[Sample]:
    """image (or images), question, and optionally id, intent, safe (true, false or null), answer, source,
    category. Without a column `id`, the id is a hash of the row. Raises `BadRow` for any other column."""
    row.only(COLUMNS)
    if row.data.get("image") is not None and row.data.get("images") is not None:
        raise row.bad("image: give either `image` or `images`", "image given twice")
    if row.column("id") is None:
        row = replace(row, data={"id": content_id(row.data)} | row.data)
    if row.value("id") is None:
        raise row.wrong("id", None, "a text")
    yield one_question(
        row,
        row.flag("safe"),
        image=("image", "images"),
        intent=row.optional("intent"),
        category=row.optional("category"),
        source=row.optional("source"),
        answer=row.optional("answer") or None,
    )


OWN = Layout(samples, "columns image, question; optionally id, intent, safe, answer, source, category")
