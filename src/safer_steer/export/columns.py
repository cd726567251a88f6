"""The columns of `data/`: the facts of a dialogue or script, and its text in the conversational format that
TRL reads; and the Parquet files that rows are streamed into."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Seed, Turn
from safer_steer.files.images import Picture
from safer_steer.prompts.base import split_markers

TEXT = pa.string()
NUMBER = pa.float64()
WHOLE = pa.int64()
PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""An embedded picture file. `datasets` shows a column of this type as images."""

_NAMES = {pa.string(): "string", pa.float64(): "float64", pa.int64(): "int64", pa.binary(): "binary"}
"""`datasets`' names for scalar types."""


def schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    """The Arrow schema of these columns, as `datasets.Features.arrow_schema` would return it. `datasets`
    reads its features from the metadata key `huggingface`, as JSON."""
    features = {name: _feature(column) for name, column in columns.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata=metadata)


def _feature(column: pa.DataType) -> dict[str, Any]:
    if column == PICTURE:
        return {"_type": "Image"}
    if pa.types.is_list(column):
        return {"feature": _feature(column.value_type), "_type": "List"}
    if pa.types.is_struct(column):
        return {field.name: _feature(field.type) for field in column.fields}
    return {"dtype": _NAMES[column], "_type": "Value"}


PLACEHOLDER = "<image>"
"""Marks a picture in the text that LLaMA-Factory and verl read."""


def plain(text: str) -> str:
    """Text of a turn as the student tokenizes it: trimmed, with markers split."""
    return split_markers(text).strip()


def messages(seed: Seed, system: str, placeholder: str = "") -> list[dict[str, str]]:
    """`{"role", "content"}` of the system message, if any, and of the turns of a dialogue; of a script the
    user turns alone. `placeholder` is inserted once per picture before the text of the user turn that shows
    it; "" if the reader places pictures itself."""
    chat = [{"role": "system", "content": system}] if system else []
    for turn, images in zip(seed.turns, seed.images_by_turn(), strict=True):
        chat.append({"role": "user", "content": placeholder * len(images) + plain(turn.user)})
        if turn.assistant is not None:
            chat.append({"role": "assistant", "content": plain(turn.assistant)})
    return chat


def prompt(seed: Seed, system: str, placeholder: str = "") -> list[dict[str, str]]:
    """The policy's first prompt: the system message, if any, and the script's first turn."""
    first = seed.model_copy(update={"turns": [seed.turns[0].model_copy(update={"assistant": None})]})
    return messages(first, system, placeholder=placeholder)


SCORES = ("safety", "helpfulness")
"""The evaluator's scores for every turn of Stage II, 1-10."""


def schema_of(part: str) -> pa.Schema:
    """Names and types of a part's columns: `messages` for sft, `prompt` for rl and bench; `images` has the
    `datasets` image type. Each of `turns` has in `pictures` how many of `images` it shows."""
    talk = pa.list_(pa.struct({"role": TEXT, "content": TEXT}))
    facts = dict.fromkeys(("id", "kind", "source", "category", "intent"), TEXT)
    if part == "sft":
        scores = dict.fromkeys(SCORES, NUMBER)
        turn = pa.struct({"user": TEXT, "pictures": WHOLE, "assistant": TEXT, **scores, "meta": TEXT})
        own = {"messages": talk, "turns": pa.list_(turn), "stop": TEXT}
    else:
        own = {"prompt": talk, "turns": pa.list_(pa.struct({"user": TEXT, "pictures": WHOLE, "meta": TEXT}))}
    return schema({**facts, "images": pa.list_(PICTURE), **own, "meta": TEXT})


def row(part: str, seed: Seed, pictures: Sequence[Picture], config: Config) -> dict[str, Any]:
    """A dialogue (sft) or script (rl, bench) as a row of those columns. `turns` has the unmodified text;
    `meta` has the facts recorded by the stages, as JSON."""
    cells: dict[str, Any] = {
        **{
            "id": seed.id,
            "kind": seed.kind.value,
            "source": seed.source,
            "category": seed.category,
            "intent": seed.intent,
        },
        "images": [embedded(picture) for picture in pictures],
        "meta": _json(seed.meta),
    }
    turns = [
        {"user": turn.user, "pictures": len(images), "meta": _json(turn.meta)}
        for turn, images in zip(seed.turns, seed.images_by_turn(), strict=True)
    ]
    if isinstance(seed, Dialogue):
        for columns, turn in zip(turns, seed.turns, strict=True):
            columns |= {"assistant": turn.assistant, **_scores(turn)}
        return cells | {
            "messages": messages(seed, config.student.system),
            "turns": turns,
            "stop": str(seed.stop or ""),
        }
    return cells | {"prompt": prompt(seed, config.student.system), "turns": turns}


def _scores(turn: Turn) -> dict[str, float | None]:
    return {name: (turn.scores or {}).get(name) for name in SCORES}


def _json(meta: Mapping[str, Any]) -> str:
    return json.dumps(meta, ensure_ascii=False, sort_keys=True)


def embedded(picture: Picture) -> dict[str, Any]:
    """A picture as `datasets` and verl store it in Parquet: the original file's bytes, with a name that
    reveals nothing about this machine."""
    return {"bytes": picture.data, "path": file_name(picture)}


def file_name(picture: Picture) -> str:
    """A file name derived from the content, so that equal pictures share one file."""
    return f"{picture.sha256[:32]}.{picture.mime.removeprefix('image/').replace('jpeg', 'jpg')}"


GROUP_BYTES = 16_000_000
"""Size of a row group, pictures and text: what is in memory, and what a reader decodes at once."""
SHARD_BYTES = 400_000_000
"""Size of one file; the hub's viewer handles this size well."""


class ParquetShards:
    """Writes `name-00000-of-00003.parquet` and so on into a folder. The same rows give the same bytes."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self.folder, self.name, self.schema = folder, name, schema
        self._parts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._group = self._shard = 0
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, row: dict[str, Any], size: int) -> None:
        """Add a row of about `size` bytes."""
        self._rows.append(row)
        self._group += size
        if self._group >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            self._parts.append(self.folder / f"{self.name}-{len(self._parts):05d}.parquet")
            self._writer = pq.ParquetWriter(self._parts[-1], self.schema)
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
        self._shard += self._group
        self._rows, self._group = [], 0
        if self._shard >= SHARD_BYTES:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer, self._shard = None, 0

    def close(self) -> list[Path]:
        """Write the remaining rows, rename the files to their final names, and return their paths. With no
        rows at all, one empty file is written."""
        if self._rows or not self._parts:
            self._flush()
        self._end_shard()
        return [
            part.rename(self.folder / f"{self.name}-{index:05d}-of-{len(self._parts):05d}.parquet")
            for index, part in enumerate(self._parts)
        ]
