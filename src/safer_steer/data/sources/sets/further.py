"""Further sets: scripts of several turns, tests of over-refusal, twins, and requests written in the picture.
Each function reads a row of the set of its name. Those that are not of `stage_1` are suites for the bench."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safer_steer.data.sources.set_row import (
    NO_COLUMN,
    Layout,
    Sample,
    SetRow,
    one_question,
    printable,
    published,
)

SETS: dict[str, Layout] = {}


@published(
    SETS,
    "attack dialogues of 1, 2 and 4 turns",
    hub="HappyCorpse/SafeMT",
    every=True,
    files=("*_turn.json",),
    parts="Data/{1,2,4}_turn.json",
    stage_1=False,
)
def safemt(row: SetRow) -> Iterator[Sample]:
    """The user turns are the script. The published assistant turns are kept apart (`prefilled`), since the
    model under test answers every turn itself."""
    texts: dict[str, list[str]] = {"user": [], "assistant": []}
    role = ""
    for place, entry in enumerate(row.items("dialogue")):
        turn = row.inner(f"dialogue[{place}]", entry)
        role = turn.text("role").strip().lower()
        if role not in texts:
            raise turn.wrong("role", role, "user or assistant")
        texts[role].append(turn.question("content"))
    if role != "user":
        raise row.bad("dialogue: does not end on the user", "dialogue without a last question")
    yield Sample(
        row.key("id"),
        row.pictures("image", "image_path"),
        tuple(texts["user"]),
        False,
        intent=row.optional("question"),
        category=row.optional("scenario"),
        prefilled=tuple(texts["assistant"]),
    )


@published(
    SETS,
    "three-turn attacks and their safe twins",
    hub="ND-25/MCS-bench",
    every=True,
    parts="type_a, type_b",
    stage_1=False,
)
def mtmcs_bench(row: SetRow) -> Iterator[Sample]:
    """The unsafe script, and the safe script if it differs: its twin. The first turn (a change of context) or
    the last (an escalation) exists in both forms. Only `multimodal_dialogue` is read; `variant_images` and
    `unimodal_dialogue` repeat it."""
    dialogue = row.inner("multimodal_dialogue", row.value("multimodal_dialogue"))
    id, images, intent = row.key("id"), row.pictures("image", "image_path"), row.text("unsafe_intent")
    category = row.subset or row.split

    def script(form: str) -> tuple[str, ...]:
        first = dialogue.question(f"{form}_r1", "r1")
        return first, dialogue.question("r2"), dialogue.question(f"{form}_r3", "r3")

    safe, unsafe = script("safe"), script("unsafe")
    twin = f"{id}-safe" if safe != unsafe else ""
    yield Sample(id, images, unsafe, False, intent=intent, category=category, twin=twin)
    if twin:
        yield Sample(twin, images, safe, True, category=category, twin=id)


CONTRAST = "data_contrast"


@published(
    SETS,
    "over-refusal: harmless questions that look harmful, and risky contrasts",
    every=True,
    files=("information.json",),
    folders=("data", CONTRAST),
    beside="images_information",
    parts="data, data_contrast",
)
def mossbench(row: SetRow) -> Iterator[Sample]:
    """`metadata.over` says in which way a question looks harmful."""
    kind = None
    if row.data.get("metadata") is not None:
        kind = row.inner("metadata", row.data["metadata"]).data.get("over")
    category = printable(kind) if isinstance(kind, str) else ""
    yield one_question(row, row.subset != CONTRAST, id=("pid",), category=category)


@published(
    SETS,
    "over-refusal in text, without pictures",
    hub="walledai/XSTest",
    files=("xstest_prompts.csv", "xstest_v2_prompts.csv"),
    parts="one split",
    pictureless=True,
    stage_1=False,
)
def xstest(row: SetRow) -> Iterator[Sample]:
    label, kind = row.optional("label").strip().lower(), row.optional("type").strip()
    if label in ("safe", "unsafe"):
        safe = label == "safe"
    elif kind:
        safe = not kind.lower().startswith("contrast")
    else:
        raise row.bad(
            "label: neither `label` (safe or unsafe) nor `type` tells safe prompts from unsafe ones",
            "no column label",
        )
    yield Sample(row.key("id", "id_v2"), (), (row.question("prompt"),), safe, category=kind)


@published(
    SETS,
    "attack dialogues and everyday ones, with pictures in any turn",
    hub="leost233/MMDS",
    split="test",
    files=("mmds.jsonl",),
    split_column="set",
    row_splits=("train", "val", "test"),
    one_table=True,
    parts="train, val, test",
    stage_1=False,
)
def mmds(row: SetRow) -> Iterator[Sample]:
    """The user turns are the script; it is harmless if the user was rated safe. The published assistant turns
    are kept apart (`prefilled`)."""
    texts: list[str] = []
    images: list[tuple[Any, ...]] = []
    prefilled: list[str] = []
    for place, entry in enumerate(row.items("conversations")):
        turn = row.inner(f"conversations[{place}]", entry)
        role = turn.text("role").strip().lower()
        if role == "user":
            texts.append(turn.question("content"))
            images.append(turn.pictures("image"))
        elif role == "assistant":
            prefilled.append(turn.optional("content"))
        else:
            raise turn.wrong("role", role, "user or assistant")
    if not texts:
        raise row.bad("conversations: no turn of the user", "dialogue without a question")
    row.value("user_rating")
    rating = row.optional("user_rating").strip().lower()
    if rating not in ("safe", "unsafe", ""):
        raise row.wrong("user_rating", rating, "Safe or Unsafe")
    yield Sample(
        row.key("id"),
        images[0],
        tuple(texts),
        {"safe": True, "unsafe": False}.get(rating),
        intent=row.optional("malicious_intent").strip(),
        category=row.optional("dimension").strip(),
        prefilled=tuple(prefilled),
        later=tuple(images[1:]),
    )


@published(
    SETS,
    "harmful requests and their twins, edited to be harmless",
    hub="EchoSafe-MLLM/MM-SafetyBench-plus-plus",
    split="Gen",
    split_column="mode",
    row_splits=("Gen", "GenOCR"),
    one_table=True,
    numbered=("category", "label"),
    parts="Gen, GenOCR",
)
def mm_safetybench_plus(row: SetRow) -> Iterator[Sample]:
    """MM-SafetyBench++. Rows have no ids: the n-th harmful and the n-th harmless row of a category are
    twins."""
    label, category = row.text("label").strip().lower(), row.text("category").strip()
    if label not in ("safe", "unsafe"):
        raise row.wrong("label", label, "safe or unsafe")
    unsafe = f"{category}-{row.number:04d}"
    id, twin = (f"{unsafe}-safe", unsafe) if label == "safe" else (unsafe, f"{unsafe}-safe")
    question = (row.question("question"),)
    yield Sample(id, row.pictures("image"), question, label == "safe", category=category, twin=twin)


PICTURES = {"safebench": "SafeBench", "SafeBench-Tiny": "SafeBench-Tiny"}
"""FigStep's folders of pictures in `images/`, by split."""


@published(
    SETS,
    "harmful requests written in the picture",
    split="safebench",
    files=("safebench.csv", "SafeBench-Tiny.csv"),
    beside="question",
    parts="safebench, SafeBench-Tiny",
)
def figstep(row: SetRow) -> Iterator[Sample]:
    """No row names its picture, whose name is made of the numbers of category and task. One text is said with
    all pictures; it is the user's to give, as `columns: {prompt: "=..."}`."""
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


@published(
    SETS,
    "harmless pictures and questions that are unsafe together",
    hub="sinwang/SIUO",
    files=("siuo_gen.json",),
    parts="siuo_gen.json",
)
def siuo(row: SetRow) -> Iterator[Sample]:
    yield one_question(row, False, id=("question_id",), category=row.optional("category"))


@published(
    SETS,
    "harmful requests whose keyword is in the picture",
    hub="Monosail/HADES",
    split="5",
    split_column="step",
    row_splits=("0", "1", "2", "3", "4", "5"),
    one_table=True,
    parts="steps 0, 1, 2, 3, 4, 5",
)
def hades(row: SetRow) -> Iterator[Sample]:
    """The pictures of step 5 are the attack; those before it are for ablations. The words that point to the
    picture are this reader's, not the paper's."""
    intent, keywords = row.question("instruction"), row.text("keywords")
    kind, scenario = row.text("category"), row.optional("scenario")
    pointer = "do that to" if kind == "behavior" else f"that {kind}"
    yield Sample(
        "-".join(filter(None, (scenario, row.key("id")))),
        row.pictures("image"),
        (f"The bottom of the picture shows which {kind} is meant. {intent.replace(keywords, pointer)}",),
        False,
        intent=intent,
        category=scenario,
    )
