"""The trainer's log-probabilities beside those of the model's own forward pass.

TRL computes the head on its own, to spare the memory of all logits, and knows a model's scaling of logits
from its config. Where it reads the config otherwise than the model does, the loss falls all the same.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

PLACES = 64
"""Tokens of each row that are compared at most, since all logits of all tokens may not fit in memory."""
TRAINER_ONLY = ("labels", "shift_labels", "fused_lm_head", "num_items_in_batch")
"""Arguments that are for TRL's head, and not for the model."""


def gaps_of(ours: torch.Tensor, theirs: torch.Tensor) -> list[float | None]:
    """Mean difference of each row's log-probabilities [rows, tokens], where not both are 0; None where
    all are."""
    ours, theirs = ours.float().cpu(), theirs.float().cpu()
    gaps: list[float | None] = []
    for one, other in zip(ours, theirs, strict=True):
        places = (one != 0) | (other != 0)
        gaps.append(float((one - other).abs()[places].mean()) if places.any() else None)
    return gaps


def head_gaps(
    model: Any, inputs: dict[str, Any], logprobs: torch.Tensor, temperature: float
) -> list[float | None]:
    """Mean difference between the trainer's log-probabilities of each row and the model's own.

    Args:
        inputs: the trainer's, with `labels` [rows, tokens].
        logprobs: the trainer's, of the labels after the first [rows, tokens - 1].
    """
    labels = inputs["labels"][:, 1:]
    columns = (labels != -100).any(0).nonzero()[:, 0]
    if not len(columns):
        return [None] * len(labels)
    columns = columns[:: -(-len(columns) // PLACES)]
    logits = _logits(model, inputs, columns).float() / temperature
    targets = labels[:, columns]
    own = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    taught = targets != -100
    return gaps_of(own.masked_fill(~taught, 0), logprobs[:, columns].masked_fill(~taught, 0))


def _logits(model: Any, inputs: dict[str, Any], columns: torch.Tensor) -> torch.Tensor:
    """The model's own logits at these places [rows, places, vocabulary]."""
    own = {name: value for name, value in inputs.items() if name not in TRAINER_ONLY}
    inside = model.get_base_model() if hasattr(model, "peft_config") else model
    if "logits_to_keep" in inspect.signature(type(inside).forward).parameters:
        kept: torch.Tensor = model(**own, logits_to_keep=columns).logits
        return kept
    every: torch.Tensor = model(**own).logits[:, columns]
    return every
