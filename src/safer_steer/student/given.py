"""What a trainer's loss is given, row by row, beside what was rendered, sampled and scored.

The rows are read where TRL hands the loss its inputs, so whatever lies between our transcripts and the loss
is compared: collators, the trainer's padding, shuffling and slicing, the way of returns to advantages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from safer_steer.dialogue import Dialogue
from safer_steer.student.findings import Finding


@dataclass(frozen=True)
class Trained:
    """What is known of a row of ids that is to be trained. Lists have one entry for each id."""

    dialogue: Dialogue
    """With the turns that the ids have, and no others."""
    mask: list[int]
    """1 on the answers' tokens."""
    logprobs: list[float] | None = None
    """The engine's, of each id, at the sampling temperature; None if none sampled them in this process."""
    targets: list[int] | None = None
    """1 on the tokens that the loss is taken over, if they are not all of the mask."""
    credit: float | list[float] | None = None
    """What the loss has to weigh the targets with: an advantage, or one for each id; in DPO 1 on a chosen
    answer and -1 on a rejected one. None if all count alike."""
    scale: float = 1.0
    """The size of what the credit was computed from."""
    rival: list[int] | None = None
    """DPO: the ids that it is compared with."""

    @property
    def learnt(self) -> list[int]:
        """1 on the tokens that the loss is taken over."""
        return self.mask if self.targets is None else self.targets


KnownOf = Callable[[list[int]], list[Trained]]
"""What is known of a row of ids. Several dialogues may have the same ids."""


class Collated:
    """What is known of the rows that a collator made last."""

    def __init__(self, size: int) -> None:
        self._rows: deque[tuple[int, Trained]] = deque(maxlen=size)

    def note(self, ids: list[int], trained: Trained) -> None:
        self._rows.append((hash(tuple(ids)), trained))

    def known(self, ids: list[int]) -> list[Trained]:
        """The dialogues that were collated to these ids."""
        key = hash(tuple(ids))
        return [trained for own, trained in self._rows if own == key]


@dataclass(frozen=True)
class Given:
    """A row that the loss is given, without padding."""

    ids: list[int]
    mask: torch.Tensor
    """[tokens], true on what the loss is taken over."""
    labels: int = 0
    """Labels that are not the ids at their places."""
    credit: torch.Tensor | None = None
    """[] or [tokens], what it weighs them with."""
    logprobs: torch.Tensor | None = None
    """[tokens], those that came with the rollout."""
    rival: list[int] | None = None

    def teaches(self) -> torch.Tensor:
        """[tokens], what each token counts for in the loss."""
        return self.mask.double() * (1.0 if self.credit is None else self.credit.double())


Reader = Callable[[dict[str, Any]], list[Given]]
"""Reads the rows that a trainer's loss is given off its inputs."""


def given_to_sft(inputs: dict[str, Any]) -> list[Given]:
    rows = []
    for ids, attention, labels in _rows(inputs, "input_ids", "attention_mask", "labels"):
        places = attention.bool()
        own, taught = ids[places], labels[places]
        mask = taught != -100
        wrong = int((taught != own)[mask].sum()) + int((labels[~places] != -100).sum())
        rows.append(Given(own.tolist(), mask, wrong))
    return rows


def given_to_dpo(inputs: dict[str, Any]) -> list[Given]:
    """The chosen answers come first, then the rejected ones of the same pairs."""
    rows = []
    for ids, attention, completion in _rows(inputs, "input_ids", "attention_mask", "completion_mask"):
        places = attention.bool()
        rows.append((ids[places].tolist(), completion[places].bool()))
    half = len(rows) // 2
    return [
        Given(ids, mask, credit=torch.tensor(1.0 if row < half else -1.0), rival=rows[row - half][0])
        for row, (ids, mask) in enumerate(rows)
    ]


def given_to_grpo(inputs: dict[str, Any]) -> list[Given]:
    loss_mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
    sampled = inputs.get("sampling_per_token_logps")
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
    rows = []
    for row, (prompt_ids, before, answer_ids, after, credit) in enumerate(_rows(inputs, *names)):
        places, prompt = after.bool(), prompt_ids[before.bool()]

        def spread(values: torch.Tensor, prompt: Any = prompt, places: Any = places) -> torch.Tensor:
            """A completion's values on all ids; 0 on the prompt's."""
            return torch.cat([values.new_zeros(len(prompt)), values[places]])

        rows.append(
            Given(
                torch.cat([prompt, answer_ids[places]]).tolist(),
                spread(loss_mask[row].cpu()).bool(),
                credit=spread(credit) if credit.ndim else credit,
                logprobs=None if sampled is None else spread(sampled[row].cpu()),
            )
        )
    return rows


def _rows(inputs: dict[str, Any], *names: str) -> Any:
    return zip(*(inputs[name].detach().cpu() for name in names), strict=True)


def compared(row: Given, logprobs: torch.Tensor, candidates: list[Trained]) -> Finding:
    """The row beside what is known of its ids. Of dialogues with the same ids, the one that fits best.

    Args:
        logprobs: the trainer's, of each id after the first [tokens - 1].
    """
    findings = [_beside(row, logprobs, each) for each in candidates]
    return min(findings, key=_distance, default=Finding(""))


def _distance(finding: Finding) -> tuple[float, ...]:
    return (
        finding.outside + finding.left_out,
        finding.credit_off,
        not finding.paired,
        finding.gap or 0.0,
    )


def _beside(row: Given, logprobs: torch.Tensor, trained: Trained) -> Finding:
    learnt, sampled = torch.tensor(trained.learnt).bool(), torch.tensor(trained.mask).bool()
    credit = due = None
    if trained.credit is not None and row.credit is not None and learnt.any():
        target = torch.as_tensor(trained.credit, dtype=torch.float64).expand(len(learnt))[learnt]
        actual = row.credit.double().expand(len(learnt))[learnt]
        place = int((actual - target).abs().argmax())
        credit, due = actual[place].item(), target[place].item()
    gaps: list[float] = []
    if trained.logprobs is not None:
        theirs = torch.tensor(trained.logprobs) if row.logprobs is None else row.logprobs
        gaps = (logprobs - theirs[1:]).abs()[sampled[1:]].tolist()
    return Finding(
        trained.dialogue.id,
        tokens=int(row.mask.sum()),
        labels=row.labels,
        outside=int((row.mask & ~learnt).sum()),
        left_out=int((learnt & ~row.mask).sum()),
        credit=credit,
        due=due,
        scale=trained.scale,
        paired=row.rival == trained.rival,
        sampled=len(gaps),
        gap=sum(gaps) / len(gaps) if gaps else None,
        gap_max=max(gaps, default=None),
    )
