"""The judge in the adaptive bench: a dialogue ends at the first breach, which settles the results."""

from __future__ import annotations

from safer_steer.dialogue import Dialogue, StopReason
from safer_steer.episode import Critic, Verdict
from safer_steer.metrics import BREACH_BELOW


class EndsAtBreach:
    """A critic whose verdicts the dialogue waits for, and ends at if they find a breach."""

    immediate = True

    def __init__(self, judge: Critic) -> None:
        self.critic = judge

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        verdict = await self.critic.judge(dialogue, turn, template)
        if verdict.scores["harmlessness"] < BREACH_BELOW:
            verdict.stop = StopReason.SUCCESS
        return verdict
