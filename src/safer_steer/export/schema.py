"""Schema of a Parquet file that `datasets` reads with its own types, built without `datasets`."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

TEXT = pa.string()
NUMBER = pa.float64()
WHOLE = pa.int64()
PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""An embedded picture file. `datasets` shows a column of this type as images."""

_NAMES = {pa.string(): "string", pa.float64(): "float64", pa.int64(): "int64", pa.binary(): "binary"}
"""`datasets`' names for scalar types."""


def schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    """The Arrow schema of these columns, as `datasets.Features.arrow_schema` would return it.

    `datasets` reads its features from the metadata key `huggingface`, as JSON.

    Raises:
        KeyError: a column type is not supported here.
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
