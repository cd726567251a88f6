"""Columns of a Parquet file that `datasets` reads with its own types, written without `datasets`."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

TEXT = pa.string()
NUMBER = pa.float64()
PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""A picture's file, embedded. `datasets` shows a column of this type as images."""

_NAMES = {pa.string(): "string", pa.float64(): "float64", pa.int64(): "int64"}
"""What `datasets` calls the types of single values."""


def schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    """The Arrow schema of these columns, as `datasets.Features.arrow_schema` would give it.

    `datasets` looks for its features in the metadata key `huggingface`, as JSON.

    Raises:
        KeyError: a type that is not in use here.
    """
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
