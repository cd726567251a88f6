"""Let verl's own RLHFDataset read an export's RL part. `make check-verl` runs it in an environment of its
own.

usage: python verl_check.py EXPORT STUDENT

Checked, for every row: nothing is filtered away; the prompt's tokens hold each picture's image tokens; the
columns that an agent loop gets are there, the whole script among them.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import OmegaConf
from verl.utils import hf_processor, hf_tokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn


def main(export: Path, student: str) -> None:
    tokenizer, processor = hf_tokenizer(student), hf_processor(student)
    files = sorted(map(str, (export / "verl").glob("rl-*.parquet")))
    config = OmegaConf.create(
        {"max_prompt_length": 512, "return_raw_chat": True, "filter_overlong_prompts_workers": 1}
    )
    rows = RLHFDataset(files, tokenizer, config, processor)
    given = [
        row for file in files for row in pq.read_table(file, columns=["extra_info", "images"]).to_pylist()
    ]
    assert len(rows) == len(given), f"{len(given)} scripts were given, {len(rows)} were read"
    seen = {"scripts": len(rows), "pictures": 0, "image tokens": 0, "turns": 0}
    for index, wanted in enumerate(given):
        row = rows[index]
        assert (
            row["index"] == index
            and row["agent_name"] == "safer_steer"
            and row["extra_info"]["script"] == wanted["extra_info"]["script"]
        )
        images, _ = asyncio.run(
            RLHFDataset.process_vision_info(row["raw_prompt"], processor.image_processor.patch_size, config)
        )
        assert len(images or []) == len(wanted["images"])
        text = processor.apply_chat_template(row["raw_prompt"], tokenize=False, add_generation_prompt=True)
        ids = processor(text=[text], images=images)["input_ids"][0]
        assert text.rstrip().endswith("<|im_start|>assistant") and text.count("<|vision_start|>") == len(
            wanted["images"]
        )
        tokens = list(ids).count(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        assert bool(tokens) == bool(images)
        for key, value in (
            ("pictures", len(images or [])),
            ("image tokens", tokens),
            ("turns", len(row["extra_info"]["script"])),
        ):
            seen[key] += value
    batch = collate_fn([rows[0], rows[1]])
    print("columns of a batch:", ", ".join(sorted(batch)))
    print("first prompt:", repr(text_of(rows[0]["raw_prompt"])))
    print("all scripts:", ", ".join(f"{value} {key}" for key, value in seen.items()))


def text_of(messages: list[dict]) -> list[tuple[str, list[str]]]:
    """Roles, and what stands in each message."""
    return [
        (
            m["role"],
            [part.get("text", part["type"]) for part in m["content"]]
            if isinstance(m["content"], list)
            else [m["content"]],
        )
        for m in messages
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
