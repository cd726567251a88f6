"""The LLaMA-Factory export: ShareGPT messages, pictures as files, `dataset_info.json`, and a training YAML
with the settings of this run's config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue
from safer_steer.export.messages import PLACEHOLDER, messages
from safer_steer.export.shards import file_name
from safer_steer.images import Picture


class LlamaFactory:
    """Writes `<name>_sft.json` dialogue by dialogue and each picture once into `images/`; `close` writes the
    two files that refer to them."""

    def __init__(self, folder: Path, name: str, config: Config) -> None:
        self.folder, self.name, self.config = folder, f"{name}_sft", config
        (folder / "images").mkdir(parents=True)
        self._file = (folder / f"{self.name}.json").open("w", encoding="utf-8")
        self._before = "[\n"

    def write(self, dialogue: Dialogue, pictures: Sequence[Picture]) -> None:
        """Add a dialogue, with one `<image>` per picture before its first user turn."""
        paths = [f"images/{file_name(picture)}" for picture in pictures]
        for path, picture in zip(paths, pictures, strict=True):
            if not (self.folder / path).exists():
                (self.folder / path).write_bytes(picture.data)
        said = messages(dialogue, self.config.student.system, PLACEHOLDER)
        self._file.write(self._before + json.dumps({"messages": said, "images": paths}, ensure_ascii=False))
        self._before = ",\n"

    def close(self) -> None:
        """End the JSON and write `dataset_info.json` and `train_sft.yaml`."""
        self._file.write("\n]\n")
        self._file.close()
        tags = {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        }
        info = {
            "file_name": f"{self.name}.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": tags,
        }
        (self.folder / "dataset_info.json").write_text(
            json.dumps({self.name: info}, indent=2) + "\n", encoding="utf-8"
        )
        head = "# LLaMA-Factory reads this in its own folder: llamafactory-cli train train_sft.yaml\n"
        text = yaml.safe_dump(training(self.config, self.name), sort_keys=False, allow_unicode=True)
        (self.folder / "train_sft.yaml").write_text(head + text, encoding="utf-8")


def training(config: Config, dataset: str) -> dict[str, Any]:
    """LLaMA-Factory's arguments from the run's settings, for one process. The training targets are all
    assistant turns and nothing else."""
    student, sft = config.student, config.bootstrap.sft
    tuning: dict[str, Any] = {"finetuning_type": "full"}
    if student.lora_rank:
        tuning = {
            "finetuning_type": "lora",
            "lora_rank": student.lora_rank,
            "lora_alpha": 2 * student.lora_rank,
        }
    return {
        "model_name_or_path": student.base,
        "stage": "sft",
        "do_train": True,
        **tuning,
        "freeze_vision_tower": student.freeze_vision,
        "freeze_multi_modal_projector": student.freeze_vision,
        "dataset_dir": ".",
        "dataset": dataset,
        "template": "qwen2_vl",
        "default_system": student.system,
        "image_max_pixels": student.max_pixels,
        "cutoff_len": student.max_length,
        "mask_history": False,
        "train_on_prompt": False,
        "output_dir": "model",
        "per_device_train_batch_size": sft.micro_batch_size,
        "gradient_accumulation_steps": max(1, sft.batch_size // sft.micro_batch_size),
        "learning_rate": sft.learning_rate,
        "num_train_epochs": sft.epochs,
        "max_steps": sft.max_steps,
        "lr_scheduler_type": sft.schedule,
        "warmup_ratio": sft.warmup_ratio,
        "weight_decay": sft.weight_decay,
        "bf16": student.dtype == "bfloat16",
        "seed": config.seed,
        "logging_steps": 1,
        "save_steps": sft.save_steps,
        "save_total_limit": 2,
        "report_to": "none",
    }
