"""The LLaMA-Factory export: ShareGPT messages, pictures as files, `dataset_info.json`, and a training YAML
with the settings of this run's config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from safer_steer.config import Config, Student
from safer_steer.dialogue import Dialogue
from safer_steer.export.columns import PLACEHOLDER, file_name, messages
from safer_steer.files.images import Picture

TEMPLATES: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"template": "qwen2_vl"},
    "qwen2_5_vl": {"template": "qwen2_vl"},
    "qwen3_vl": {"template": "qwen3_vl_nothink"},
    "qwen3_vl_moe": {"template": "qwen3_vl_nothink"},
    "qwen3_5": {"template": "qwen3_5", "enable_thinking": False},
    "qwen3_5_moe": {"template": "qwen3_5", "enable_thinking": False},
    "gemma3": {"template": "gemma3"},
    "internvl": {"template": "intern_vl"},
}
"""For each `model_type`, the arguments with which LLaMA-Factory 0.9.5 writes the tokens that the student
reads here (Qwen3.5 with configs/qwen3.5-chat.jinja). It has no template for SmolVLM and Idefics3; that of
LFM2-VL leaves out the first token."""


def family_of(run: Path, student: Student) -> str | None:
    """The student's `model_type`, from the `config.json` of a model that the run has trained, of its base's
    folder, or of the hub's cache; None if there is none here. Downloads nothing."""
    places = [run / "rl" / "model", run / "sft" / "model", Path(student.base)]
    files = [place / "config.json" for place in places]
    try:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(student.base, "config.json")
        files += [Path(path)] if isinstance(path, str) else []
    except (ImportError, ValueError):  # the core alone, or a folder, which is no id of the hub
        pass
    for file in files:
        if file.is_file():
            family: str | None = json.loads(file.read_text(encoding="utf-8")).get("model_type")
            return family
    return None


def without_template(family: str | None, student: Student) -> str | None:
    """The line for a student without a known template; None if it has one."""
    if family in TEMPLATES:
        return None
    why = f"LLaMA-Factory has no template for {family}"
    if family is None:
        why = f"the family of {student.model} is not known here"
    return f"llamafactory: {why}; set `template` in train_sft.yaml"


class LlamaFactory:
    """Writes `<name>_sft.json` dialogue by dialogue and each picture once into `images/`; `close` writes the
    two files that refer to them."""

    def __init__(self, folder: Path, name: str, config: Config, family: str | None) -> None:
        """`family` is the student's `model_type`."""
        self.folder, self.name, self.config, self.family = folder, f"{name}_sft", config, family
        (folder / "images").mkdir(parents=True)
        self._file = (folder / f"{self.name}.json").open("w", encoding="utf-8")
        self._before = "[\n"

    def write(self, dialogue: Dialogue, pictures: Sequence[Picture]) -> None:
        """Add a dialogue, with one `<image>` per picture before the user turn that shows it."""
        paths = [f"images/{file_name(picture)}" for picture in pictures]
        for path, picture in zip(paths, pictures, strict=True):
            if not (self.folder / path).exists():
                (self.folder / path).write_bytes(picture.data)
        chat = messages(dialogue, self.config.student.system, PLACEHOLDER)
        self._file.write(self._before + json.dumps({"messages": chat, "images": paths}, ensure_ascii=False))
        self._before = ",\n"

    def close(self) -> None:
        """End the JSON and write `dataset_info.json` and `train_sft.yaml`."""
        self._file.write("\n]\n")
        self._file.close()
        tags = {"role_tag": "role", "content_tag": "content"}
        tags |= {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
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
        if line := without_template(self.family, self.config.student):
            head += f"# {line}\n"
        arguments = training(self.config, self.name, self.family)
        text = yaml.safe_dump(arguments, sort_keys=False, allow_unicode=True)
        (self.folder / "train_sft.yaml").write_text(head + text, encoding="utf-8")


def training(config: Config, dataset: str, family: str | None) -> dict[str, Any]:
    """LLaMA-Factory's arguments from the run's settings, for one process. The training targets are all
    assistant turns and nothing else. A family without a template gets none."""
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
        **TEMPLATES.get(family or "", {}),
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
