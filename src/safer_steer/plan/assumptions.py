"""Assumptions that a sample cannot provide, as numbers the user can change. They are listed below the cost
table; docs/how-to/cost.md gives their origin."""

from __future__ import annotations

from dataclasses import dataclass

from safer_steer.config import Student


@dataclass(frozen=True)
class Assumptions:
    """Token counts assume four characters per token."""

    sample: int = 40
    """Number of pairs drawn over all sources, and of dialogues over all suites."""
    success: float = 0.5
    """Share of tried red-team scripts that succeed. A script that fails is planned and tried once more."""
    keeps: float = 0.8
    """Share of the scripts that satisfy an assembly rule."""
    turn_tokens: int = 30
    """Length of a user turn written by a model."""
    answer_tokens: int = 150
    """Length of an assistant's visible answer. If the format has thinking, it adds half of that."""
    tokens_per_second: float = 40
    """Speed of one reply, regardless of the number of calls in flight."""
    overhead: float = 0
    """Share of calls repeated after errors or unusable replies."""

    def answer_of(self, student: Student) -> int:
        """Tokens of a visible answer. Together with its thinking it stays within the student's limit for a
        turn."""
        return max(1, min(self.answer_tokens, student.max_turn_tokens * 2 // 3))


WAIT_S = 0.5
"""Seconds before a reply begins."""

LENGTHS = {
    "probe.benign": 40,
    "probe.obfuscated": 40,
    "caption.caption": 70,
    "caption.dual_use": 4,
    "caption.readable_text": 8,
    "caption.missing_safety": 6,
    "rewrite.rewrite": 100,
    "plan.goal": 15,
    "attack_judge.reason": 35,
    "evaluator.reason": 35,
    "judge.reason": 35,
    "tutor.diagnosis": 35,
    "tutor.strategy": 3,
    "attacker.observation": 25,
    "attacker.thought": 25,
    "attacker.technique": 3,
}
"""Tokens of the texts models write, by job and field, derived from the prompts; for a list, of one item. Any
other text has `OTHER` tokens."""
OTHER = 30
USER_TURNS = {
    *("benign.turns", "obfuscated.user", "plan.user", "red.user", "tutor.next_question", "attacker.user"),
}
ITEMS = 2
"""Items of a list if the prompt does not set its length."""
