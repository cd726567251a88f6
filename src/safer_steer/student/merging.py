"""Merging a LoRA adapter into weights of fewer bits, for those who need one set of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from safer_steer.student.adapters import NAME


@dataclass(frozen=True)
class Remainder:
    """What rounding leaves of an update when it is merged into the weights."""

    share: float
    """Of the update, the part along it that the rounded weights have: 1 if nothing is lost."""
    noise: float
    """What rounding adds to it, as a norm relative to the update's; it has no direction."""

    def __str__(self) -> str:
        return f"{self.share:.3f} of the update is left, with rounding noise of {self.noise:.3f} of its norm"


@torch.no_grad()
def merged(model: Any, seed: int) -> tuple[Any, Remainder]:
    """Merge the trained adapter into its base, in place. Returns the model without adapters, in the number
    type of the base, and what is left of the update.

    Each sum is computed in float32 and rounded once, up or down at random: the nearer, the likelier. Rounding
    to the nearest would undo every update smaller than half a step of the number type, and so bias the model
    towards its base; this way the updates of many weights are kept on average.

    Args:
        seed: of the rounding; the same one gives the same weights.
    """
    from peft.tuners.lora import Linear, LoraLayer

    generator = torch.Generator().manual_seed(seed)
    along = squared = error = 0.0
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not isinstance(layer, Linear):  # `unload` would drop its update without a word
            raise ValueError(f"{type(layer).__name__}: no adapted layer of this kind can be merged")
        weight = layer.get_base_layer().weight
        base = weight.float()
        exact = base + layer.get_delta_weight(NAME).float()
        weight.copy_(_rounded(exact, weight.dtype, generator))
        update, new = (exact - base).double(), (weight.float() - base).double()
        along += float((update * new).sum())
        squared += float(update.square().sum())
        error += float((new - update).square().sum())
    share, noise = (along / squared, (error / squared) ** 0.5) if squared else (1.0, 0.0)
    return model.unload(), Remainder(share, noise)


def _rounded(exact: torch.Tensor, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Round float32 numbers on the CPU at random to one of the two neighbours, with the exact number as the
    mean. A bfloat16 is the upper half of a float32."""
    if dtype == torch.float32:
        return exact
    if dtype != torch.bfloat16:
        raise ValueError(f"{dtype}: not a number type of the student")
    bits = exact.contiguous().view(torch.int32)
    below = torch.randint(0, 2**16, bits.shape, generator=generator, dtype=torch.int32)
    return ((bits + below) & ~0xFFFF).view(torch.float32).to(dtype)
