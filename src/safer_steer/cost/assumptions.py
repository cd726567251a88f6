"""What no sample can know, as numbers one may change. The table's foot names them; docs/cost.md says where
they come from."""

from __future__ import annotations

from dataclasses import dataclass

from safer_steer.config import Student


@dataclass(frozen=True)
class Assumptions:
    """Tokens here are of four characters each."""

    sample: int = 40
    """Pairs drawn over all sources, and dialogues over all suites."""
    success: float = 0.5
    """Share of the red-team scripts tried that succeed; a script that fails is planned and tried once
    more."""
    keeps: float = 0.8
    """Share of the scripts that keep a rule of assembly."""
    turn_tokens: int = 30
    """Of a user turn that a model writes."""
    answer_tokens: int = 150
    """Of an assistant's visible answer; its thinking, where the format has any, comes on top at half of
    that."""
    tokens_per_second: float = 40
    """Speed of one reply, whatever the number of calls in flight."""
    overhead: float = 0
    """Share of calls that are made again, after errors or unusable replies."""

    def answer_of(self, student: Student) -> int:
        """Tokens of a visible answer: with its thinking it stays within what the student may say in a
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
}
"""Tokens of the texts models write, by job and field, from what the prompts ask for; of a list, of one item.
Any other text has `OTHER`."""
OTHER = 30
USER_TURNS = {"benign.turns", "obfuscated.user", "plan.user", "red.user", "tutor.next_question"}
ITEMS = 2
"""Items of a list whose length the prompt leaves open."""
