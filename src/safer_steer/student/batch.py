"""Model inputs of several dialogues put together, as a processor would: padded rows and picture tensors."""

from __future__ import annotations

import torch


def padded(rows: list[list[int]], filler: int, side: str) -> torch.Tensor:
    """Rows as one tensor [batch, tokens], filled up on `side`: `left` or `right`."""
    width = max(map(len, rows))
    whole = torch.full((len(rows), width), filler)
    for number, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        whole[number, span] = torch.tensor(row)
    return whole


def joined(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    """The tensors concatenated along `dim`. In other dimensions smaller ones are filled up with zeros."""
    largest = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    filled = []
    for part in parts:
        largest[dim] = part.shape[dim]
        whole = part.new_zeros(largest)
        whole[tuple(map(slice, part.shape))] = part
        filled.append(whole)
    return torch.cat(filled, dim)


def pictures_of(
    dialogues: list[list[dict[str, torch.Tensor]]], rowwise: frozenset[str]
) -> dict[str, torch.Tensor]:
    """The picture inputs of dialogues, each given as those of its turns; empty if there is no picture.

    Args:
        rowwise: inputs of shape [dialogues, pictures, ...]. There a dialogue without pictures has a row of
            zeros, which models of this kind ignore.
    """
    turns = [turn for dialogue in dialogues for turn in dialogue]
    batch = {}
    for name in turns[0] if turns else ():
        if name in rowwise:
            some = turns[0][name]
            none = some.new_zeros([1, 1, *some.shape[2:]])
            rows = [[turn[name] for turn in dialogue] or [none] for dialogue in dialogues]
            batch[name] = joined([joined(row, 1) for row in rows], 0)
        else:
            batch[name] = joined([turn[name] for turn in turns], 0)
    return batch
