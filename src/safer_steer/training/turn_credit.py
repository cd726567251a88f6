"""TRL's GRPO trainer with an advantage for every turn (`rl.credit: turn`)."""

from __future__ import annotations

from typing import Any

from accelerate.utils import gather_object

from safer_steer.training.credit import turn_advantages
from safer_steer.training.measured import MeasuredTrainer
from safer_steer.training.trajectory import by_token


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
