"""Let LLaMA-Factory's own loader read an export, and look at what it made of it. `make check-llamafactory`
runs it in an environment of its own.

usage: python llamafactory_check.py EXPORT/llamafactory

Checked, for every dialogue: nothing is dropped; the targets are the assistant's turns, each with the
template's end, and no other token; and the picture takes as many image tokens as its size asks for. Then it
trains two steps as `train_sft.yaml` says.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

import yaml
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
from llamafactory.train.tuner import run_exp
from PIL import Image

END = "<|im_end|>\n"
"""How the template qwen2_vl closes a turn; LLaMA-Factory trains on it."""


def main(folder: Path) -> None:
    os.chdir(folder)  # as train_sft.yaml says: its paths are relative
    arguments = yaml.safe_load(Path("train_sft.yaml").read_text(encoding="utf-8"))
    arguments |= {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": True,
        "overwrite_cache": True,
    }  # of this machine, not of the data
    model, data, training, _, _ = get_train_args(arguments)
    parts = load_tokenizer(model)
    tokenizer, processor = parts["tokenizer"], parts["processor"]
    template = get_template_and_fix_tokenizer(tokenizer, data)
    rows = get_dataset(template, model, data, training, stage="sft", **parts)["train_dataset"]
    given = json.loads(Path(f"{arguments['dataset']}.json").read_text(encoding="utf-8"))

    assert len(rows) == len(given), f"{len(given)} dialogues were given, {len(rows)} were read"
    image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    seen = {"dialogues": len(rows), "pictures": 0, "image tokens": 0, "turns": 0, "targets": 0, "tokens": 0}
    for row, dialogue in zip(rows, given, strict=True):
        said = [message["content"] for message in dialogue["messages"] if message["role"] == "assistant"]
        pairs = zip(row["labels"], row["input_ids"], strict=True)
        runs = [
            [token for _, token in run]
            for is_target, run in itertools.groupby(pairs, key=target)
            if is_target
        ]
        found = [tokenizer.decode(run) for run in runs]
        assert found == [text + END for text in said], f"targets {found}, wanted {said}"
        assert all(
            label == token
            for label, token in zip(row["labels"], row["input_ids"], strict=True)
            if label != -100
        )
        pictures = [Image.open(path).convert("RGB") for path in row["images"] or []]
        grid = (
            processor.image_processor(images=pictures, return_tensors="np")["image_grid_thw"]
            if pictures
            else []
        )
        wanted = sum(int(size.prod()) for size in grid) // processor.image_processor.merge_size**2
        assert row["input_ids"].count(image_token) == wanted, (
            f"{row['input_ids'].count(image_token)} image tokens, wanted {wanted}"
        )
        assert len(pictures) == len(dialogue["images"])
        for key, value in (
            ("pictures", len(pictures)),
            ("image tokens", wanted),
            ("turns", len(said)),
            ("targets", sum(map(len, runs))),
        ):
            seen[key] += value
        seen["tokens"] += len(row["input_ids"])
    run_exp(arguments | {"max_steps": 2})
    print("all dialogues:", ", ".join(f"{value} {key}" for key, value in seen.items()))
    loss = json.loads(Path(arguments["output_dir"], "train_results.json").read_text())["train_loss"]
    print(f"two training steps as train_sft.yaml says: mean loss {loss:.3f}")


def target(pair: tuple[int, int]) -> bool:
    """Is this (label, token) trained on?"""
    return pair[0] != -100


if __name__ == "__main__":
    main(Path(sys.argv[1]))
