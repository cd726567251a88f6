"""The sets of single-turn pairs that the paper uses. Each function reads a row of the set of its name."""

from __future__ import annotations

from collections.abc import Iterator

from safer_steer.data.sources.choice_rows import FILES, ROW_SPLITS, SPLIT, options, pictures
from safer_steer.data.sources.set_row import Layout, Sample, SetRow, one_question, printable, published

SETS: dict[str, Layout] = {}


@published(
    SETS,
    "harmful questions in 20 categories",
    hub="PKU-Alignment/BeaverTails-V",
    split="train",
    every=True,
    parts="20 configurations, one a category: train, evaluation",
)
def beavertails_v(row: SetRow) -> Iterator[Sample]:
    """The configuration is the category of harm."""
    yield one_question(row, False, category=row.optional("category") or row.subset)


@published(
    SETS,
    "harmful requests carried by the picture",
    hub="PKU-Alignment/MM-SafetyBench",
    split="SD_TYPO",
    every=True,
    parts="13 configurations: SD, SD_TYPO, TYPO, Text_only",
    intents="Text_only",
)
def mm_safetybench(row: SetRow) -> Iterator[Sample]:
    """The whole request is the `Text_only` question with the same id."""
    row.value("id")
    id = row.key("id")
    intent = (row.intents or {}).get(id)
    if intent is None:
        raise row.bad(
            f"id: {id} has no question in the split Text_only, where the true intents are", "no true intent"
        )
    yield one_question(row, False, intent=intent, category=row.subset)


@published(
    SETS,
    "preference data on harmful questions, and a test of help",
    hub="sqrti/SPA-VL",
    subset="default",
    split="train",
    parts="default: train, validation; test: harm, help",
)
def spa_vl(row: SetRow) -> Iterator[Sample]:
    """For splits other than `help` and `harm` the set does not say whether a question is harmless."""
    safe = {"help": True, "harm": False}.get(row.split)
    yield one_question(row, safe, category=row.optional("class1"))


@published(
    SETS,
    "safe and unsafe instructions on safe and unsafe pictures",
    hub="ys-zong/VLGuard",
    split="train",
    files=("train.json", "test.json"),
    parts="train.json, test.json",
)
def vlguard(row: SetRow) -> Iterator[Sample]:
    """Each instruction of a picture's list is a sample."""
    category = row.optional("harmful_subcategory", "subcategory")
    category = category or row.optional("harmful_category", "category")
    id, images, entries = row.key("id"), row.pictures("image"), row.items("instr-resp")
    if not entries:
        raise row.wrong("instr-resp", entries, "at least one instruction")
    columns = ("safe_instruction", "unsafe_instruction", "instruction")
    for place, entry in enumerate(entries):
        inner = row.inner("instr-resp", entry)
        name = inner.column(*columns)
        question = inner.question(name) if name else inner.question(*columns)
        yield Sample(f"{id}-{place}", images, (question,), name == "safe_instruction", category=category)


@published(
    SETS,
    "harm that only the picture shows",
    hub="Foreshhh/vlsbench",
    split="train",
    files=("data.json",),
    parts="data.json, or train",
)
def vlsbench(row: SetRow) -> Iterator[Sample]:
    yield one_question(
        row,
        False,
        id=("instruction_id", "id"),
        image=("image", "image_path"),
        question="instruction",
        category=row.optional("sub_category", "category"),
    )


@published(
    SETS,
    "jailbreaks with text and picture",
    hub="JailbreakV-28K/JailBreakV-28k",
    subset="JailBreakV_28K",
    split="JailBreakV_28K",
    files=("JailBreakV_28K.csv", "mini_JailBreakV_28K.csv"),
    parts="JailBreakV_28K: JailBreakV_28K, mini_JailBreakV_28K",
)
def jailbreakv_28k(row: SetRow) -> Iterator[Sample]:
    yield one_question(
        row,
        False,
        image=("image", "image_path"),
        question="jailbreak_query",
        intent=row.question("redteam_query"),
        category=row.optional("policy"),
    )


@published(
    SETS, "geometry problems with answers", hub="hiyouga/geometry3k", split="train", parts="train, test"
)
def geometry3k(row: SetRow) -> Iterator[Sample]:
    answer = row.text("answer").strip()
    yield one_question(row, True, image=("images", "image"), question="problem", answer=answer)


@published(
    SETS,
    "everyday questions about pictures",
    hub="PKU-Alignment/align-anything",
    subset="text-image-to-text",
    split="train",
    parts="text-image-to-text: train, val",
)
def align_anything(row: SetRow) -> Iterator[Sample]:
    """Neither response of the set is a true answer."""
    yield one_question(row, True)


@published(
    SETS,
    "school science with answers; about half of the rows have no picture",
    hub="derek-thomas/ScienceQA",
    split="train",
    files=FILES,
    split_column=SPLIT,
    row_splits=ROW_SPLITS,
    parts="train, validation, test",
    pictureless=True,
)
def scienceqa(row: SetRow) -> Iterator[Sample]:
    """Asks hint, question and options. The answer is the text of the right option."""
    choices, right = options(row)
    parts = [row.optional("hint").strip(), row.question("question"), f"Options: {'; '.join(choices)}"]
    question = row.unmarked("\n".join(filter(None, parts)), "question")
    yield Sample(
        row.key("id", "pid"),
        pictures(row),
        (printable(question),),
        True,
        category=row.optional("subject"),
        answer=choices[right],
        choices=choices,
    )
