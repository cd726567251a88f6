"""Training with little padding: the rows of a step are sorted by length, so those of a micro-batch are alike.

Which rows a step has stays as it is. So do loss and gradient, up to rounding. With several processes
accelerate fills the last step of an epoch with the epoch's first rows, which are the longest of its first
step then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict

from safer_steer.dialogue import Dialogue


def text_length(dialogue: Dialogue) -> int:
    """About how long a dialogue is, in characters, without rendering it."""
    return sum(len(turn.user) + len(turn.assistant or "") for turn in dialogue.turns)


class LongestFirst:
    """The order of a sampler, with the rows of each step sorted by length. The longest come first, so memory
    that does not suffice shows at once.

    A last step with fewer rows stays as it is: in DPO a pair weighs more in a smaller micro-batch.
    """

    def __init__(self, sampler: Any, lengths: Sequence[int], step: int) -> None:
        """
        Args:
            lengths: how long each row is, in any unit.
            step: rows of a step, in all processes.
        """
        self.sampler, self.lengths, self.step = sampler, lengths, step

    def __iter__(self) -> Iterator[int]:
        order = list(self.sampler)
        for begin in range(0, len(order), self.step):
            rows = order[begin : begin + self.step]
            if len(rows) == self.step:
                rows.sort(key=lambda row: -self.lengths[row])
            yield from rows

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)


class Sorted:
    """A trainer of TRL's that takes the rows of each step longest first. Comes before the trainer's class."""

    lengths: Sequence[int]
    """How long each row of the data set is, in any unit; to be set before it trains."""

    def get_train_dataloader(self) -> Any:
        loader: Any = super().get_train_dataloader()  # type: ignore[misc]
        args = self.args  # type: ignore[attr-defined]
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        loader.set_sampler(LongestFirst(loader.get_sampler(), self.lengths, step))
        return loader


def by_length(
    rows: dict[str, Any], lengths: torch.Tensor, count: int
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Sort rows as TRL's GRPO trainer has them, longest first, and split them.

    Args:
        rows: tensors and lists with an entry for each row, the inputs of all pictures, and numbers.
        lengths: of each row.
        count: of micro-batches, of one size.

    Returns:
        The rows' old places in their new order, and the micro-batches, with pictures still apart by row: to
        be joined one by one (`unsplit_pixel_values_by_grid`), since those of a step may be gigabytes.
    """
    order = lengths.argsort(dim=0, descending=True, stable=True)
    ordered = dict(split_pixel_values_by_grid(rows))
    for name, value in ordered.items():
        if name.startswith("pixel_") and not isinstance(value, list):
            value = value.split(1)  # a row for each dialogue
        if isinstance(value, list | tuple):
            ordered[name] = [value[row] for row in order.tolist()]
        elif value.ndim:
            ordered[name] = value[order]
    return order, split_tensor_dict(ordered, count)
