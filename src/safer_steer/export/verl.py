"""The columns that verl's `RLHFDataset` and the agent loop read (verl 0.9; `reinforce/verl_loop.py`)."""

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
    about = dict.fromkeys(("split", "id", "kind", "source", "intent", "seed"), TEXT)
    pictures = pa.list_(pa.struct({"name": TEXT, "bytes": pa.binary()}))
    return schema(
        {
            **{"data_source": TEXT, "agent_name": TEXT, "ability": TEXT},
            "prompt": pa.list_(pa.struct({"role": TEXT, "content": TEXT})),
            "images": pa.list_(PICTURE),
            "reward_model": pa.struct({"style": TEXT, "ground_truth": TEXT}),
            "extra_info": pa.struct(
                {**about, "index": pa.int64(), "script": pa.list_(TEXT), "pictures": pictures}
            ),
        }
    )


def row(seed: Seed, pictures: Sequence[Picture], system: str, index: int, name: str) -> dict[str, Any]:
    """A script for RL as a row. `ground_truth` is the intent; the agent loop computes the reward itself.

    `RLHFDataset` turns `images` into the pictures of the prompt, which is the first turn, and drops the
    column. The agent loop therefore gets the script as `extra_info.seed`, a JSON object, with the picture
    files of all turns in `extra_info.pictures`, each under its path in the seed.
    """
    about = {
        "split": "train",
        "id": seed.id,
        "kind": seed.kind.value,
        "source": seed.source,
        "intent": seed.intent,
        "index": index,
        "script": [plain(user) for user in seed.script],
        "seed": seed.model_dump_json(),
        "pictures": [{"name": picture.name, "bytes": picture.data} for picture in pictures],
    }
    return {
        "data_source": name,
        "agent_name": AGENT,
        "ability": "multimodal_safety",
        "prompt": prompt(seed, system, PLACEHOLDER),
        "images": [embedded(picture) for picture in pictures[: len(seed.images_by_turn()[0])]],
        "reward_model": {"style": "model", "ground_truth": seed.intent},
        "extra_info": about,
    }
