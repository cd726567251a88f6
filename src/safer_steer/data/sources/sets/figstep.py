"""FigStep (SafeBench): the request is written in the picture; one text prompt is said with all of them.

No row names its picture or has the prompt. The picture's name is made of the numbers of category and task.
The prompt is the user's to give, as `columns: {prompt: "=..."}`.
"""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.set_row import NO_COLUMN, Layout, Sample, SetRow

PICTURES = {"safebench": "SafeBench", "SafeBench-Tiny": "SafeBench-Tiny"}
"""Folders of the pictures in `images/`, by split."""


def samples(row: SetRow) -> Iterator[Sample]:
    if row.column("prompt") is None:
        raise row.bad(
            "prompt: no row has the text that is said with the picture; it is in FigStep's README: give it as"
            ' `columns: {prompt: "=THE PROMPT"}` (`suite --column "prompt==THE PROMPT"`)',
            f"{NO_COLUMN} prompt",
        )
    for name in ("category_id", "task_id"):
        row.value(name)
    id = f"{row.key('category_id')}_{row.key('task_id')}"
    folder = PICTURES.get(row.split, PICTURES["safebench"])
    yield Sample(
        id,
        (f"images/{folder}/query_ForbidQI_{id}_6.png",),
        (row.question("prompt"),),
        False,
        intent=row.question("question"),
        category=row.optional("category_name"),
    )


LAYOUT = Layout(
    samples,
    "harmful requests written in the picture",
    split="safebench",
    files=("safebench.csv", "SafeBench-Tiny.csv"),
    beside="question",
    parts="safebench, SafeBench-Tiny",
)
