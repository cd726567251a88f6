"""The columns that verl's `RLHFDataset` reads (verl 0.9). The agent loop is a dialogue with a tutor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from safer_steer.dialogue import Seed
from safer_steer.export.messages import PLACEHOLDER, plain, prompt
from safer_steer.export.schema import PICTURE, TEXT, schema
from safer_steer.export.shards import embedded
from safer_steer.images import Picture

AGENT = "safer_steer"
"""The name under which the agent loop is registered."""


def schema_of() -> pa.Schema:
    """Names and types of the columns."""
    about = dict.fromkeys(("split", "id", "kind", "source", "intent"), TEXT)
    return schema(
        {
            **{"data_source": TEXT, "agent_name": TEXT, "ability": TEXT},
            "prompt": pa.list_(pa.struct({"role": TEXT, "content": TEXT})),
            "images": pa.list_(PICTURE),
            "reward_model": pa.struct({"style": TEXT, "ground_truth": TEXT}),
            "extra_info": pa.struct({**about, "index": pa.int64(), "script": pa.list_(TEXT)}),
        }
    )


def row(seed: Seed, pictures: Sequence[Picture], system: str, index: int, name: str) -> dict[str, Any]:
    """A script for RL as a row. The agent loop reads the user turns from `extra_info.script` and computes the
    reward itself; `ground_truth` is the intent."""
    about = {
        "split": "train",
        "id": seed.id,
        "kind": seed.kind.value,
        "source": seed.source,
        "intent": seed.intent,
        "index": index,
    }
    return {
        "data_source": name,
        "agent_name": AGENT,
        "ability": "multimodal_safety",
        "prompt": prompt(seed, system, PLACEHOLDER),
        "images": [embedded(picture) for picture in pictures[: len(seed.images_by_turn()[0])]],
        "reward_model": {"style": "model", "ground_truth": seed.intent},
        "extra_info": {**about, "script": [plain(user) for user in seed.script]},
    }
