"""Holds what training mode would change in a student beside its weights: batch statistics, and dropout.

A trainer puts the whole model in training mode. A batch normalisation, as in convolutional vision towers,
then takes the statistics of its micro-batch instead of those it was trained with, and changes the latter,
even if its weights are frozen. Rollouts and the bench would run another model than the one in training.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from transformers.modeling_layers import GradientCheckpointingLayer

from safer_steer.errors import UserError
from safer_steer.student.modules import parts_of


def hold_modes(model: Any) -> None:
    """Keep in evaluation mode, whatever a trainer sets: every batch normalisation and dropout, and all that
    is frozen outside the language model. To be called when it is settled what is frozen."""
    frozen = _frozen(model)
    for part in model.modules():
        if isinstance(part, _BatchNorm | _DropoutNd) or id(part) in frozen:
            part.training = False
            part.train = partial(_stays, part)


def _stays(part: nn.Module, mode: bool = True) -> nn.Module:
    """In place of `part.train`. What it consists of may be in training mode."""
    part.training = False
    for inner in part.children():
        inner.train(mode)
    return part


def _frozen(model: Any) -> set[int]:
    """Modules outside the language model without a weight that is trained.

    Layers that can be computed twice to save memory are left out: they do so in training mode only. What they
    consist of is held.
    """
    try:
        language = parts_of(model).language
    except UserError:  # its parts cannot be told apart
        return set()
    spoken = {id(part) for part in language.modules()}
    return {
        id(part)
        for part in model.modules()
        if id(part) not in spoken
        and not any(weight.requires_grad for weight in part.parameters())
        and not isinstance(part, GradientCheckpointingLayer)
    }
