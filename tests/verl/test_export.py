"""verl's own RLHFDataset reads an export's RL part."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import OmegaConf
from verl.utils import hf_processor, hf_tokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

from safer_steer.config import SHIPPED


def test_nothing_is_filtered_away_and_every_picture_has_its_tokens(run: Path) -> None:
    """And an agent loop gets the whole script."""
    tokenizer, processor = hf_tokenizer(str(SHIPPED)), hf_processor(str(SHIPPED))
    files = sorted(map(str, (run / "export" / "verl").glob("rl-*.parquet")))
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
        about = row["extra_info"]
        assert (row["index"], row["agent_name"], about) == (index, "safer_steer", wanted["extra_info"])
        images, _ = asyncio.run(
            RLHFDataset.process_vision_info(row["raw_prompt"], processor.image_processor.patch_size, config)
        )
        assert len(images or []) == len(wanted["images"]) == len(about["pictures"])
        text = processor.apply_chat_template(row["raw_prompt"], tokenize=False, add_generation_prompt=True)
        ids = processor(text=[text], images=images)["input_ids"][0]
        assert text.rstrip().endswith("<|im_start|>assistant") and text.count("<|vision_start|>") == len(
            wanted["images"]
        )
        tokens = list(ids).count(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        assert bool(tokens) == bool(images)
        seen["pictures"] += len(images or [])
        seen["image tokens"] += tokens
        seen["turns"] += len(about["script"])
    print("\ncolumns of a batch:", ", ".join(sorted(collate_fn([rows[0], rows[1]]))))
    print("all scripts:", ", ".join(f"{value} {key}" for key, value in seen.items()))
