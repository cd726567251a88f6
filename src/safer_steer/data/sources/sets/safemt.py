"""SafeMT: attack dialogues that end with a user turn. A suite for the bench, not a source of Stage I."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import Layout, Sample, SetRow


def samples(row: SetRow) -> Iterator[Sample]:
    """The user turns are the script. The published assistant turns are kept apart (`prefilled`), since the
    model under test answers every turn itself."""
    said: dict[str, list[str]] = {"user": [], "assistant": []}
    turns = row.items("dialogue")
    for place, entry in enumerate(turns):
        turn = row.inner(f"dialogue[{place}]", entry)
        role = turn.text("role").strip().lower()
        if role not in said:
            raise turn.wrong("role", role, "user or assistant")
        said[role].append(turn.question("content"))
        last = role
    if not turns or last != "user":
        raise row.bad("dialogue: does not end on the user", "dialogue without a last question")
    yield Sample(
        row.key("id"),
        row.pictures("image", "image_path"),
        tuple(said["user"]),
        False,
        intent=row.optional("question"),
        category=row.optional("scenario"),
        prefilled=tuple(said["assistant"]),
    )


LAYOUT = Layout(
    samples,
    "attack dialogues of 1, 2 and 4 turns",
    "HappyCorpse/SafeMT",
    every=True,
    files=("*_turn.json",),
    parts="Data/{1,2,4}_turn.json",
    stage_1=False,
)
