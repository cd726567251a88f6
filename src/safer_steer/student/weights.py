"""Whether a training step reaches the weights: their gradients, and whether the optimiser moves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any

import torch

from safer_steer.errors import UserError
from safer_steer.student.adapters import NAME
from safer_steer.student.findings import Weights
from safer_steer.student.modules import parts_of

WITNESSES = 16
"""Tensors of a kind that are watched, spread over the model."""
SHOWN = 100
"""An optimiser may move a weight by a small part of the learning rate. One whose hundredth the number type
cannot add to a weight says nothing about it: at the end of a schedule, or in bfloat16."""
FAINT = 1e-7
"""A gradient below this is small beside Adam's epsilon (1e-8), so it may move nothing."""


@dataclass
class _Kind:
    weights: list[torch.nn.Parameter]
    watched: list[tuple[torch.nn.Parameter, int, float]] = field(default_factory=list)
    """Tensors with a gradient: the place of the largest one, and the value there before the step."""


class Witnesses:
    """Watches weights of a model through one step of its optimiser."""

    def __init__(self, model: Any) -> None:
        self.kinds = {kind: _Kind(weights) for kind, weights in _kinds_of(model).items()}

    def gradients(self, due: bool) -> list[Weights]:
        """Before the optimiser's step. `due`: whether the step has something to learn."""
        return [self._gradient(name, kind, due) for name, kind in self.kinds.items()]

    def _gradient(self, name: str, kind: _Kind, due: bool) -> Weights:
        largest = 0.0
        for weight in kind.weights[:: max(1, len(kind.weights) // WITNESSES)]:
            gradient = _own(weight.grad)
            if gradient is None or not gradient.numel():
                continue
            place, size = _largest(gradient)
            largest = max(largest, size) if isfinite(size) else size
            if not isfinite(size):
                break
            if size > FAINT:
                value = _own(weight)
                assert value is not None
                kind.watched.append((weight, place, value[place].item()))
        if largest == 0:  # a part of the model may have none
            rest = (_own(weight.grad) for weight in kind.weights)
            largest = max((_largest(g)[1] for g in rest if g is not None and g.numel()), default=0.0)
        if name == "lora_A":  # its gradient is B's product, and B begins at 0
            others = (_own(weight) for weight in self.kinds["lora_B"].weights)
            due = due and any(bool(other.any()) for other in others if other is not None)
        frozen = not any(weight.requires_grad for weight in kind.weights)
        return Weights(name, largest, due, frozen)

    def moved(self, learning_rate: float) -> list[float | None]:
        """After the optimiser's step: how far it moved weights of each kind at most; None if that would not
        show."""
        return [_moved(kind, learning_rate) for kind in self.kinds.values()]


def merged(shares: Sequence[Sequence[Weights]]) -> list[Weights]:
    """The numbers of all processes, each of which may hold a part of the weights."""
    kinds = []
    for same in zip(*shares, strict=True):
        bad = [each.gradient for each in same if not isfinite(each.gradient)]
        kinds.append(
            replace(
                same[0],
                gradient=bad[0] if bad else max(each.gradient for each in same),
                due=any(each.due for each in same),
                frozen=all(each.frozen for each in same),
            )
        )
    return kinds


def with_moves(weights: Sequence[Weights], shares: Sequence[Sequence[float | None]]) -> list[Weights]:
    """The same with what all processes saw move."""
    moves = [[each for each in same if each is not None] for same in zip(*shares, strict=True)]
    return [replace(kind, moved=max(same, default=None)) for kind, same in zip(weights, moves, strict=True)]


def _moved(kind: _Kind, learning_rate: float) -> float | None:
    moves = []
    for weight, place, before in kind.watched:
        value = _own(weight)
        assert value is not None
        if learning_rate > SHOWN * torch.finfo(value.dtype).eps * abs(before):
            after = value[place].item()
            moves.append(abs(after - before) if isfinite(after) else inf)
    return max(moves, default=None)


def _kinds_of(model: Any) -> dict[str, list[torch.nn.Parameter]]:
    """The weights that are to be trained, frozen or not; of two adapters, not the reference policy's. Those
    of the vision tower have no gradient in a step without pictures, so they are left out."""
    adapters = {
        kind: [weight for name, weight in model.named_parameters() if f".{kind}.{NAME}." in name]
        for kind in ("lora_A", "lora_B")
    }
    if any(adapters.values()):
        return adapters
    try:
        parts = parts_of(model)
    except UserError:  # its parts cannot be told apart
        return {"the model": [weight for weight in model.parameters() if weight.requires_grad]}
    return {"the language model": list(parts.language.parameters())}


def _largest(values: torch.Tensor) -> tuple[int, float]:
    """Place and size of the entry furthest from 0, without a copy of them all."""
    places = int(values.argmin()), int(values.argmax())
    sizes = [abs(values[place].item()) for place in places]
    return places[sizes[1] >= sizes[0]], max(sizes)


def _own(tensor: Any) -> torch.Tensor | None:
    """This process's part of a tensor, as one row."""
    if tensor is None:
        return None
    own: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own.detach().reshape(-1)
