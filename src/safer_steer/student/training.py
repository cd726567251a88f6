"""Code shared by SFT and RL: complete checkpoints, progress, trainer arguments, saving the model."""

from __future__ import annotations

import logging
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
    TrainerState,
)

from safer_steer.config import Config, Student
from safer_steer.errors import UserError, shortened
from safer_steer.student import processes
from safer_steer.student.adapters import adapter_weights, is_adapter, write_adapter
from safer_steer.student.load import load_model_config, load_student
from safer_steer.student.modules import adapted_layers
from safer_steer.student.sharding import check_sharding, gather_head, whole_model

WHOLE = "checkpoint.whole"
"""Marker file, written last into a checkpoint. A checkpoint without it is incomplete and is not used."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`. Incomplete ones are deleted."""
    newest, steps = None, -1
    for path in folder.glob("checkpoint-*"):
        if not (path / WHOLE).exists():
            shutil.rmtree(path)
        elif steps_in(path) > steps:
            newest, steps = path, steps_in(path)
    return newest


def steps_in(checkpoint: Path | None) -> int:
    """The steps of training that a checkpoint holds; 0 for None."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


class Milestones(TrainerCallback):
    """Marks checkpoints as complete and reports progress."""

    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self.progress = progress

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        processes.gathered(None)  # each process has its part in the checkpoint
        if processes.first():
            (Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.progress:
            self.progress(state.global_step, state.max_steps)


def train(trainer: Trainer, checkpoint: Path | None, student: Student) -> None:
    """Train from the start, or resume from a complete checkpoint. Raises `UserError` if the model finds other
    pictures than the ids have picture tokens for.

    The trainer restores optimiser, schedule and position. The weights are loaded here: the trainer looks up
    tensors by their in-memory names, but `save_pretrained` writes Qwen2.5-VL under its published names, so
    the trainer would find none and keep the initial weights."""
    check_sharding(trainer, student, checkpoint)
    gather_head(trainer.model)
    trainer.remove_callback(PrinterCallback)  # progress and metrics are reported elsewhere
    try:
        _train(trainer, checkpoint)
    except ValueError as error:  # only its text tells what a model objects to
        if re.search("image.*token|token.*image", str(error), re.IGNORECASE | re.DOTALL):
            raise UserError(_other_pictures(trainer, error)) from None
        raise


def _other_pictures(trainer: Trainer, error: ValueError) -> str:
    stage, step = Path(trainer.args.output_dir).name, trainer.state.global_step + 1
    return (
        f"{stage}: step {step}: picture tokens: those in the ids do not fit the pictures given to the model"
        f" ({shortened(str(error))}); give a template that writes each picture in student.chat_template, or"
        " install the tested versions (constraints.txt)"
    )


def _train(trainer: Trainer, checkpoint: Path | None) -> None:
    if checkpoint is None:
        trainer.train()
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not hasattr(model, "peft_config"):  # adapters are saved under the names they are loaded by
        at_checkpoint = type(model).from_pretrained(
            checkpoint, dtype=next(model.parameters()).dtype, use_safetensors=True
        )
        model.load_state_dict(at_checkpoint.state_dict())
    # The trainer would warn that every tensor is missing under one name and unexpected under the other.
    logger = logging.getLogger("transformers.trainer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    finally:
        logger.setLevel(level)


def common_arguments(config: Config, folder: Path, save_steps: int, seed: int) -> dict[str, Any]:
    """Trainer arguments common to SFT and RL."""
    return {
        "output_dir": str(folder),
        "bf16": config.student.dtype == "bfloat16",
        "activation_checkpointing": on_gpu(config.student),
        "use_cpu": not on_gpu(config.student),
        "save_strategy": "steps",
        "save_steps": save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "seed": seed,
        "data_seed": seed,
        "report_to": config.report_to or "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        # A dialogue without a picture gives a vision tower no gradients, while other processes may have some.
        "ddp_find_unused_parameters": not (config.student.freeze_vision or config.student.lora_rank),
        # Of a mixture of experts, TRL would add a loss that teaches the router to use all alike.
        "router_aux_loss_coef": 0.0,
    }


def on_gpu(student: Student) -> bool:
    """Whether the student is trained on a GPU, and so with gradient checkpointing: memory is short there, and
    time on the CPU."""
    return student.device != "cpu" and torch.cuda.is_available()


def batching(batch: int, micro: int, key: str, count: int | None = None) -> dict[str, int]:
    """Split a step's batch over micro-batches and `count` processes, by default those of this launch. Raises
    `UserError` if the batch cannot be split evenly."""
    count = count or processes.count()
    if line := processes.uneven(batch, micro, key, count):
        raise UserError(line)
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": batch // (micro * count)}


def start_of(config: Config, folder: Path) -> str:
    """Folder or Hugging Face id of the weights that RL begins with: the SFT student's, or the base's."""
    return str(folder / "sft" / "model") if config.rl.start_from == "sft" else config.student.base


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python and torch, which the trainers use."""
    random.seed(seed)
    torch.manual_seed(seed)


def lora(student: Student, model: Any) -> Any:
    """LoRA config for the language model's linear layers, or None if all weights are trained. Raises
    `UserError` if its language model and vision tower cannot be told apart.

    Args:
        model: the student, or one without weights (`load.empty_model`); only its modules are read.
    """
    if not student.lora_rank:
        return None
    from peft import LoraConfig

    rank = student.lora_rank
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=adapted_layers(model), task_type="CAUSAL_LM"
    )


def training_dtype(student: Student) -> str:
    """The number type of the weights in training.

    Without LoRA, weights are kept in float32 even if the arithmetic is bfloat16: a step of 1e-5 is lost in
    bfloat16's eight bits.
    """
    return student.dtype if student.lora_rank else "float32"


def beginning(student: Student, start: str, empty: Any) -> dict[str, Any]:
    """The arguments of TRL's trainers for training that begins with what is saved at `start`. Raises
    `UserError` if an adapter is to be trained on merged weights, of which its folder would not tell.

    An adapter that is there is trained further, and TRL keeps a frozen copy of it as the reference policy.
    Otherwise TRL loads the weights itself (`loading`), and adds a new adapter if there is to be one; its
    reference policy is then the model without it.

    Args:
        empty: the model without weights (`load.empty_model`).
    """
    if is_adapter(start):
        return {"model": load_student(student, Path(start), trainable=True).model}
    if student.lora_rank and start != student.base:
        raise UserError(
            f"student.lora_rank: {start} has all weights, and no adapter that could be trained further;"
            f" delete {Path(start).parent} and run `safer-steer {Path(start).parent.name}` again"
        )
    return {"model": start, "peft_config": lora(student, empty)}


def loading(student: Student, start: str) -> dict[str, Any]:
    """Of the arguments of TRL's trainers, how they load the weights at `start`, if they do, and the
    reference's."""
    if is_adapter(start):
        return {}
    # None, or TRL asks for what the whole has, which a vision tower may lack
    return {"model_init_kwargs": {"dtype": training_dtype(student), "attn_implementation": None}}


def save_trained(trainer: Trainer, processor: Any, folder: Path, student: Student, start: str) -> None:
    """Save what was trained, with its processor: all weights as safetensors in the student's number type
    (`save_model`), or the LoRA adapter alone, in float32. The first process writes; the others wait for it.

    Args:
        start: see `whole_model`.
    """
    if student.lora_rank:
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        weights = adapter_weights(model)

        def write() -> None:
            _replace(folder, processor, lambda part: write_adapter(model, part, weights))
    else:
        whole = whole_model(trainer, start)
        if whole:
            _as_published(whole, start)

        def write() -> None:
            assert whole, "the first process has it"
            save_model(whole, processor, folder, student)

    processes.decided(write)


def _as_published(model: PreTrainedModel, start: str) -> None:
    """Undo what TRL's trainers set in the config for the router's loss."""
    text, was = model.config.get_text_config(), load_model_config(start).get_text_config()
    for name in ("output_router_logits", "router_aux_loss_coef"):
        if hasattr(was, name):
            setattr(text, name, getattr(was, name))


def save_model(model: PreTrainedModel, processor: Any, folder: Path, student: Student) -> None:
    """Save a model with all its weights, as safetensors in the student's number type."""
    _replace(folder, processor, model.to(getattr(torch, student.dtype)).save_pretrained)


def _replace(folder: Path, processor: Any, save: Callable[[Path], None]) -> None:
    """Save a model and its processor into `folder`.

    It is written under a temporary name and then renamed, so it is either complete or absent. One that is
    there already is deleted only after that.
    """
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    for rest in (part, old):
        shutil.rmtree(rest, ignore_errors=True)
    save(part)
    processor.save_pretrained(part)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
