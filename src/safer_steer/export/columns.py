"""The columns of `data/`: the facts of a dialogue or script, and its text in the conversational format that
TRL reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Seed, Turn
from safer_steer.export.messages import messages, prompt
from safer_steer.export.schema import NUMBER, PICTURE, TEXT, WHOLE, schema
from safer_steer.export.shards import embedded
from safer_steer.files.images import Picture

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
    found: dict[str, Any] = {
        **{
            "id": seed.id,
            "kind": seed.kind.value,
            "source": seed.source,
            "category": str(seed.meta.get("category") or ""),
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
        return found | {
            "messages": messages(seed, config.student.system),
            "turns": turns,
            "stop": str(seed.stop or ""),
        }
    return found | {"prompt": prompt(seed, config.student.system), "turns": turns}


def _scores(turn: Turn) -> dict[str, float | None]:
    return {name: (turn.scores or {}).get(name) for name in SCORES}


def _json(meta: dict[str, Any]) -> str:
    return json.dumps(meta, ensure_ascii=False, sort_keys=True)
