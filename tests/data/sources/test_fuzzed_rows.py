"""Any row of any set: an error that names set and row, or a skip; never anything else."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from published import SOUND, config, pictures
from safer_steer.config import Source
from safer_steer.data.sources import Skipped
from safer_steer.data.sources.load import read_samples
from safer_steer.data.sources.sets import SETS
from safer_steer.errors import UserError

COLUMNS = [
    *(
        "id",
        "image",
        "images",
        "question",
        "intent",
        "safe",
        "answer",
        "category",
        "source",
        "class1",
        "harmful_category",
        "subcategory",
        "instr-resp",
    ),
    *(
        "instruction_id",
        "instruction",
        "image_path",
        "sub_category",
        "jailbreak_query",
        "redteam_query",
        "policy",
        "from",
        "problem",
        "choices",
        "hint",
    ),
    *(
        "subject",
        "dialogue",
        "scenario",
        "multimodal_dialogue",
        "unsafe_intent",
        "pid",
        "metadata",
        "prompt",
        "label",
        "type",
        "safe_instruction",
    ),
    *(
        "unsafe_instruction",
        "role",
        "content",
        "r1",
        "r2",
        "r3",
        "safe_r1",
        "unsafe_r3",
        "bytes",
        "path",
        "over",
    ),
]
LIKELY = [
    "0.png",
    "gone.png",
    "../0.png",
    "/etc/hostname",
    "link.png",
    "broken.png",
    "",
    " ",
    "<image>",
    "user",
    "assistant",
    "safe",
    "a\nb",
    "\ud800",
    "\x00",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(LIKELY),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(COLUMNS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=12,
)
whole = st.fixed_dictionaries({}, optional=dict.fromkeys(COLUMNS, values))


@pytest.mark.parametrize("name", ["mine", *SETS])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_row_is_more_than_a_user_error(name: str, data: st.DataObject) -> None:
    sound = SOUND[name]
    one_wrong = st.builds(
        lambda column, value: sound | {column: value}, st.sampled_from([*sound, *COLUMNS]), values
    )
    rows = data.draw(st.lists(values | whole | one_wrong | one_wrong, min_size=1, max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        source = a_set(Path(folder), name, [*rows, sound])
        for pictureless in (True, False):
            try:
                kept = len(list(read_samples(source, 0, pictureless=pictureless)))
            except UserError as error:
                said = str(error)
                assert said.startswith(f"{name}: {source.path}")
                assert any(f"row {number}: " in said for number in range(1, len(rows) + 2))
                said.encode()
                kept = None
            skipped: Skipped = {}
            source = source.model_copy(update={"bad_rows": "skip"})
            found = list(read_samples(source, 0, skipped, pictureless=pictureless))
            assert kept is None or kept == len(found)
            assert [sample.id for sample in read_samples(source, 0, pictureless=pictureless)] == [
                sample.id for sample in found
            ]
            assert len({sample.id for sample in found}) == len(found)
            for sample in found:
                assert all(turn.strip() for turn in sample.turns)
                json.dumps(
                    [sample.id, sample.turns, sample.intent, sample.category, sample.source, sample.answer],
                    ensure_ascii=False,
                ).encode()
            source = source.model_copy(update={"bad_rows": "error"})


def a_set(folder: Path, name: str, rows: list[Any]) -> Source:
    pictures(folder, "0.png", "images/SafeBench/query_ForbidQI_1_1_6.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 30)
    (folder / "link.png").symlink_to("/etc/hostname")
    if name != "mm_safetybench":
        path = folder / "rows.json"
        path.write_text(json.dumps(rows))
    else:  # keeps its intents in a split of their own
        path = folder
        (folder / "SD_TYPO.json").write_text(json.dumps(rows))
        (folder / "Text_only.json").write_text(json.dumps([{"id": 1, "question": "all of it"}]))
    return config({"name": name, "path": str(path)}).seeds.sources[0]
