"""MMDS (LLaVAShield): dialogues with pictures in any turn, attacks and everyday ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safer_steer.data.sources.set_row import Layout, Sample, SetRow


def samples(row: SetRow) -> Iterator[Sample]:
    """The user turns are the script; it is harmless if the user was rated safe. The published assistant turns
    are kept apart (`prefilled`)."""
    users: list[tuple[str, tuple[Any, ...]]] = []
    prefilled: list[str] = []
    for place, entry in enumerate(row.items("conversations")):
        turn = row.inner(f"conversations[{place}]", entry)
        role = turn.text("role").strip().lower()
        if role == "user":
            users.append((turn.question("content"), turn.pictures("image")))
        elif role == "assistant":
            prefilled.append(turn.optional("content"))
        else:
            raise turn.wrong("role", role, "user or assistant")
    if not users:
        raise row.bad("conversations: no turn of the user", "dialogue without a question")
    row.value("user_rating")
    rating = row.optional("user_rating").strip().lower()
    if rating not in ("safe", "unsafe", ""):
        raise row.wrong("user_rating", rating, "Safe or Unsafe")
    texts, images = zip(*users, strict=True)
    yield Sample(
        row.key("id"),
        images[0],
        texts,
        {"safe": True, "unsafe": False}.get(rating),
        intent=row.optional("malicious_intent").strip(),
        category=row.optional("dimension").strip(),
        prefilled=tuple(prefilled),
        later=images[1:],
    )


LAYOUT = Layout(
    samples,
    "attack dialogues and everyday ones, with pictures in any turn",
    "leost233/MMDS",
    split="test",
    files=("mmds.jsonl",),
    split_column="set",
    row_splits=("train", "val", "test"),
    one_table=True,
    parts="train, val, test",
    stage_1=False,
)
