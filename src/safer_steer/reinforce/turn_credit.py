"""TRL's GRPO trainer with an advantage for every turn (`rl.credit: turn`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object

from safer_steer.reinforce.credit import turn_advantages
from safer_steer.reinforce.measured import MeasuredTrainer


class TurnCreditTrainer(MeasuredTrainer):
    """Gives the sampled tokens of a turn that turn's advantage, where TRL gives all of a trajectory's tokens
    one. The loss takes both: advantages [trajectories] or [trajectories, tokens]."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        # TRL adds what the rollouts return to `inputs`. A seed's trajectories may lie on several processes.
        known: list[list[float] | None] = gather_object([row["returns_to_go"] for row in inputs])
        groups = range(0, len(known), self.num_generations)
        advantages = [
            own for start in groups for own in turn_advantages(known[start : start + self.num_generations])
        ]
        first = self.accelerator.process_index * len(inputs)
        batch["advantages"] = by_token(
            advantages[first : first + len(inputs)],
            [row["answer_ends"] for row in inputs],
            batch["completion_mask"] * batch["tool_mask"],
        )
        return batch


def by_token(
    advantages: Sequence[Sequence[float] | None], ends: Sequence[Sequence[int]], mask: torch.Tensor
) -> torch.Tensor:
    """The advantage of every token, [trajectories, tokens]: its turn's on sampled tokens, else 0.

    Args:
        advantages: one for each turn of each trajectory; None, and so 0, for one that is unscored.
        ends: the place of each answer's last token (`Trajectory.ends`).
        mask: 1 on sampled tokens, [trajectories, tokens].
    """
    spread = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    for row, (own, last) in enumerate(zip(advantages, ends, strict=True)):
        start = 0
        for value, end in zip(own or [0.0] * len(last), last, strict=True):
            spread[row, start : end + 1] = value
            start = end + 1
    return spread * mask
