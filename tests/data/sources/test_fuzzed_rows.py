"""Any row of any set: an error that names set and row, or a skip; never anything else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from published import SOUND, config, pictures
from safer_steer.config import Source
from safer_steer.data.sources.load import read_samples
from safer_steer.data.sources.sets import SETS
from safer_steer.errors import UserError

COLUMNS = [
    "id", "image", "images", "question", "intent", "safe", "answer", "category", "source", "class1",
    "harmful_category", "subcategory", "instr-resp", "instruction_id", "instruction", "image_path",
    "sub_category", "jailbreak_query", "redteam_query", "policy", "from", "problem", "choices", "hint",
    "subject", "dialogue", "scenario", "multimodal_dialogue", "unsafe_intent", "pid", "metadata", "prompt",
    "label", "type", "safe_instruction", "unsafe_instruction", "role", "content", "r1", "r2", "r3",
    "safe_r1", "unsafe_r3", "bytes", "path", "over",
]  # fmt: skip
LIKELY = ["0.png", "gone.png", "../0.png", "/etc/hostname", "link.png", "broken.png", "", " ", "<image>"]
LIKELY += ["user", "assistant", "safe", "a\nb", "\ud800", "\x00"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(LIKELY),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(COLUMNS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=6,
)
whole = st.dictionaries(st.sampled_from(COLUMNS), values, max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures that rows name."""
    folder = tmp_path_factory.mktemp("sets")
    pictures(folder, "0.png", "images/SafeBench/query_ForbidQI_1_1_6.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 30)
    (folder / "link.png").symlink_to("/etc/hostname")
    (folder / "Text_only.json").write_text(json.dumps([{"id": 1, "question": "all of it"}]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine", *SETS])
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_row_is_more_than_a_user_error(folder: Path, name: str, data: st.DataObject) -> None:
    sound = SOUND[name]
    columns = st.sampled_from([*sound, *COLUMNS])
    one_wrong = st.builds(lambda column, value: sound | {column: value}, columns, values)
    rows = data.draw(st.lists(values | whole | one_wrong | one_wrong, min_size=1, max_size=4))
    source = a_set(folder, name, [*rows, sound])
    tolerant = source.model_copy(update={"bad_rows": "skip"})
    for pictureless in (True, False):
        samples = list(read_samples(tolerant, 0, skipped := {}, pictureless=pictureless))
        assert len({sample.id for sample in samples}) == len(samples)
        for sample in samples:
            assert all(turn.strip() for turn in sample.turns)
            texts = [sample.id, *sample.turns, sample.intent, sample.category, sample.source, sample.answer]
            json.dumps(texts, ensure_ascii=False).encode()
        try:
            assert list(read_samples(source, 0, pictureless=pictureless)) == samples
        except UserError as error:
            message = str(error)
            assert sum(skipped[name].values()) and message.startswith(f"{name}: {source.path}")
            assert any(f"row {number}: " in message for number in range(1, len(rows) + 2))
            message.encode()


def a_set(folder: Path, name: str, rows: list[Any]) -> Source:
    if name != "mm_safetybench":
        path = folder / "rows.json"
        path.write_text(json.dumps(rows))
    else:  # keeps its intents in a split of their own
        path = folder
        (folder / "SD_TYPO.json").write_text(json.dumps(rows))
    return config({"name": name, "path": str(path)}).seeds.sources[0]
