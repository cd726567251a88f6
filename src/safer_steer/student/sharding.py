"""FSDP2: weights, gradients and optimiser state split over the processes (`student.sharding: full`).

A decoder layer is gathered when it is used. During rollouts all are held whole: dialogues differ in length,
so the processes take different numbers of forward passes, and a gather among them would never end.

Three defaults of accelerate 1.15 would be wrong here: a head that TRL's fused loss reads without calling it
would stay split, and learn on each process from that process's dialogues alone; what the model returns, the
log-probabilities of the loss, would be rounded to bfloat16; and between the micro-batches of a step every
process would hold the gradients of all weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers import AutoModelForImageTextToText, PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer import FSDP_MODEL_NAME
from trl.models import unwrap_model_for_generation

from safer_steer.config import Student
from safer_steer.errors import UserError
from safer_steer.student import processes
from safer_steer.student.modules import parts_of

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def sharding_arguments(student: Student, model: Any) -> dict[str, Any]:
    """Trainer arguments that split the weights; none for one process.

    Args:
        model: the student, or one without weights (`load.empty_model`); only its modules are read.
    """
    if student.sharding == "none" or processes.count() == 1:
        return {}
    layers = max(
        (part for part in parts_of(model).language.modules() if isinstance(part, nn.ModuleList)), key=len
    )
    # The vision tower is in no group of its own: a process without pictures would not gather it.
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "transformer_layer_cls_to_wrap": sorted({type(layer).__name__ for layer in layers}),
            "state_dict_type": "FULL_STATE_DICT",
        },
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def with_mixed_precision(arguments: Arguments) -> Arguments:
    """Trainer arguments with which split weights may compute in bfloat16, but what the model returns keeps
    its number type, and gradients are summed over the processes in float32."""
    if arguments.fsdp_plugin_args is not None and arguments.bf16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        arguments.fsdp_plugin_args["mixed_precision_policy"] = policy
    return arguments


def gather_head(model: Any) -> None:
    """Have the language-model head gathered in each forward pass, though none calls it: TRL's fused loss
    reads its weight. Call this before the weights are split, so that FSDP2's own hook runs first."""

    def gathered(*_: Any) -> None:
        head = model.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()

    model.register_forward_pre_hook(gathered)


def check_sharding(trainer: Trainer, student: Student, checkpoint: Path | None) -> None:
    """Check that the weights are split if they are to be, and that the checkpoint fits. Raises `UserError` if
    accelerate does not split them (without GPUs it takes FSDP for DDP, and says nothing), or the checkpoint
    is of the other kind."""
    split = bool(trainer.accelerator.is_fsdp2)
    if student.sharding == "full" and processes.count() > 1 and not split:
        raise UserError(
            "student.sharding: full needs GPUs; set none, with which each process holds all weights"
        )
    if checkpoint and (checkpoint / f"{FSDP_MODEL_NAME}.bin").is_file() != split:
        was, now = ("none", "full") if split else ("full", "none")
        raise UserError(
            f"student.sharding: {checkpoint} was written with `{was}` in several processes, and this is"
            f" `{now}`, or one process; start it as before, or delete the checkpoints to repeat the stage"
        )


@contextmanager
def generating(trainer: Trainer, here: bool) -> Iterator[Any]:
    """The model under training, to sample from.

    Args:
        here: whether it generates in this process. If its weights are split, it then has all of them, and its
            forward passes wait for no other process.
    """
    unwrapped = unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator)
    with unwrapped as model, _whole(model) if here else nullcontext():
        yield model


@contextmanager
def _whole(model: Any) -> Iterator[None]:
    if not isinstance(model, FSDPModule):
        yield
        return
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]  # type: ignore[attr-defined]
    # Each part would take itself for the root if it were used before it.
    model._get_fsdp_state()._lazy_init()
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


def let_go(model: Any) -> None:
    """Let go of the weights that a forward pass has gathered and no backward pass follows. The next forward
    pass would take them as they were before the optimiser's step."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole_model(trainer: Trainer, start: str) -> PreTrainedModel | None:
    """The trained model with all its weights, none of them adapters. If they were split, it is a new one on
    the CPU, and only the first process gets it. All must call this.

    Args:
        start: folder or Hugging Face id of the weights that the training began with.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    dtype = next(iter(model.parameters())).dtype
    if not isinstance(model, FSDPModule):
        return model
    weights = trainer.accelerator.get_state_dict(model)
    if not processes.first():
        return None
    whole = AutoModelForImageTextToText.from_pretrained(start, dtype=dtype, use_safetensors=True)
    whole.load_state_dict(weights)
    return whole
