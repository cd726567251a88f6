"""What both trainings share: checkpoints that are whole or not there, progress, and the trained model's
folder."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from safer_steer.config import Config, Student
from safer_steer.errors import UserError
from safer_steer.student.renderer import Modules

WHOLE = "checkpoint.whole"
"""Written last into a checkpoint: one without it was cut off by a kill and does not count."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`; those that are not whole are deleted."""
    newest, steps = None, -1
    for path in folder.glob("checkpoint-*"):
        if not (path / WHOLE).exists():
            shutil.rmtree(path)
        elif int(path.name.rpartition("-")[2]) > steps:
            newest, steps = path, int(path.name.rpartition("-")[2])
    return newest


class Milestones(TrainerCallback):
    """Marks checkpoints as whole and reports progress."""

    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self.progress = progress

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        (Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.progress:
            self.progress(state.global_step, state.max_steps)


def train(trainer: Trainer, checkpoint: Path | None) -> None:
    """Train from the beginning, or go on from a whole checkpoint.

    The trainer restores optimiser, schedule and position; the weights are loaded here. It would read the
    checkpoint's tensors by the names they have in memory, but `save_pretrained` writes Qwen2.5-VL under its
    published names, so it would find none and keep the first weights.
    """
    trainer.remove_callback(PrinterCallback)  # progress and metrics have places of their own
    if checkpoint is None:
        trainer.train()
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not hasattr(model, "peft_config"):  # adapters are stored under the names they are read by
        kept = type(model).from_pretrained(
            checkpoint, dtype=next(model.parameters()).dtype, use_safetensors=True
        )
        model.load_state_dict(kept.state_dict())
    logger = logging.getLogger(
        "transformers.trainer"
    )  # it would list every tensor's two names as missing and unexpected
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    finally:
        logger.setLevel(level)


def common_arguments(config: Config, folder: Path, save_steps: int) -> dict[str, Any]:
    """Trainer arguments that both trainings have in common."""
    half = config.student.dtype == "bfloat16"
    return {
        "output_dir": str(folder),
        "bf16": half,
        "gradient_checkpointing": half,
        "use_cpu": config.student.device == "cpu" or not torch.cuda.is_available(),
        "save_strategy": "steps",
        "save_steps": save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "seed": config.seed,
        "data_seed": config.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }


def batching(batch: int, micro: int, key: str, processes: int | None = None) -> dict[str, int]:
    """Split a step's batch over processes (those of this launch where none are named) and micro-batches.

    Raises:
        UserError: it cannot be split evenly.
    """
    processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
    if batch % (micro * processes):
        raise UserError(
            f"{key}: {batch} a step are not a whole number of micro-batches of {micro} on {processes} process(es); change one of them"
        )
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": batch // (micro * processes)}


def seed_everything(seed: int) -> None:
    """Python's and torch's global generators, for what trainers draw from them."""
    random.seed(seed)
    torch.manual_seed(seed)


def lora(student: Student, modules: Modules) -> Any:
    """LoRA adapters on the language model's linear layers, or None if all weights are trained."""
    if not student.lora_rank:
        return None
    from peft import LoraConfig

    layers = rf"(.*\.)?{re.escape(modules.language)}\.(.*\.)?({'|'.join(modules.adapted)})"
    rank = student.lora_rank
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, task_type="CAUSAL_LM")


def training_dtype(student: Student) -> str:
    """Weights that are trained whole are kept in float32, also where the arithmetic is bfloat16: a step of
    1e-5 is lost in bfloat16's eight bits."""
    return student.dtype if student.lora_rank else "float32"


def freeze_vision(model: Any, modules: Modules) -> None:
    """Keep the vision tower and its projector as they are."""
    for name, parameter in model.named_parameters():
        if any(f".{part}." in f".{name}" for part in (modules.vision, modules.projector)):
            parameter.requires_grad_(False)


def skip_absent_pictures(model: torch.nn.Module, picture_inputs: tuple[str, ...]) -> None:
    """Let `model` take micro-batches in which no dialogue has a picture.

    Where dialogues with and without pictures are mixed, TRL hands such a micro-batch picture tensors of no
    rows, which the vision tower cannot join ("expected a non-empty list of Tensors"). They are left out here.
    """

    def without_empty_pictures(
        _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        pictures = [kwargs[name] for name in picture_inputs if kwargs.get(name) is not None]
        if any(tensor.numel() for tensor in pictures):
            return args, kwargs
        return args, {name: value for name, value in kwargs.items() if name not in picture_inputs}

    model.register_forward_pre_hook(without_empty_pictures, with_kwargs=True)


def save_model(model: PreTrainedModel, processor: Any, folder: Path, student: Student) -> None:
    """Write the trained model, adapters merged in, as safetensors in the student's number type; the folder
    appears whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    whole = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    whole.to(getattr(torch, student.dtype)).save_pretrained(part)
    processor.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
