"""The schemas of an export are those that `datasets` itself would write."""

import datasets
import pyarrow
import pytest

from safer_steer.export import columns, verl
from safer_steer.export.columns import schema

SCHEMAS = {part: columns.schema_of(part) for part in ("sft", "rl", "bench")} | {"verl": verl.schema_of()}


@pytest.mark.parametrize("name", SCHEMAS)
def test_datasets_writes_the_same_schema(name: str) -> None:
    ours = SCHEMAS[name]
    features = datasets.Features.from_arrow_schema(ours)
    assert isinstance(features["images"].feature, datasets.Image)
    assert ours.equals(features.arrow_schema, check_metadata=True)
    assert ours.serialize() == features.arrow_schema.serialize()


def test_a_type_that_datasets_was_not_told_of_is_refused() -> None:
    with pytest.raises(KeyError):
        schema({"at": pyarrow.timestamp("s")})
