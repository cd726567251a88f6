"""Assumptions that config and data do not say, as numbers the user can change. They are listed below the cost
table; docs/how-to/cost.md gives their origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safer_steer.config import Config, Student
from safer_steer.prompts.base import CHAT


@dataclass(frozen=True)
class Assumptions:
    """Token counts assume four characters per token."""

    success: float = 0.5
    """Share of tried red-team scripts that succeed. A script that fails is planned and tried once more."""
    success_turn: int | None = None
    """The turn at which they succeed; None for any turn alike."""
    keeps: float = 0.8
    """Share of the scripts that satisfy an assembly rule."""
    turn_tokens: int = 30
    """Length of a user turn written by a model."""
    answer_tokens: int = 150
    """Length of an assistant's visible answer. If the format has thinking, it adds half of that."""
    reason_tokens: int = 35
    """Length of what a judge, an evaluator or a tutor says before its scores."""
    tokens_per_second: float = 40
    """Speed of one reply, regardless of the number of calls in flight."""
    overhead: float = 0
    """Share of calls repeated after errors or unusable replies."""

    def answer_of(self, student: Student) -> int:
        """Tokens of a visible answer. Together with its thinking it stays within the student's limit for a
        turn."""
        return max(1, min(self.answer_tokens, student.max_turn_tokens * 2 // 3))


SANDBOX: dict[str, Any] = {
    "success_turn": 2,
    "keeps": 0.95,
    "turn_tokens": 11,
    "answer_tokens": 13,
    "reason_tokens": 2,
}
"""What the sandbox's agents say, in runs of configs/sandbox.yaml; they give in at the second turn."""
SANDBOX_SUCCESS = {"student": 0.4, "sandbox": 1.0}
"""How often the base student there gives in to an attack, and its agent, by who is the target."""


def assumptions(config: Config, **options: Any) -> Assumptions:
    """What the user has given (None for what not), and the defaults: the sandbox's where its agents and its
    student do the work."""
    values = {name: value for name, value in options.items() if value is not None}
    target = config.role("target")
    if config.student.model == "sandbox" and config.role("generator").embedded:
        if target.embedded or target.is_student:
            values = {"success": SANDBOX_SUCCESS[target.model]} | values
        values = SANDBOX | values
    return Assumptions(**values)


WAIT_S = 0.5
"""Seconds before a reply begins."""

GIVEN = {"task": 40, "caption": 70, "rewrite": 100, "observation": 25}
"""Tokens of what a prompt is given, by the name of its input; any other is as long as a user turn."""


def reply_tokens(job: str, turns: float, assumed: Assumptions, assistant_tokens: int) -> float:
    """Tokens of a reply: the texts that the job asks for, derived from its prompt, and their JSON.

    Args:
        turns: of the script that it writes.
        assistant_tokens: tokens of an assistant's turn in the student's format.
    """
    user, reason = assumed.turn_tokens, assumed.reason_tokens
    return {
        "probe": 90,
        "benign": 5 + turns * (user + 1),
        "obfuscated": 5 + turns * (user + 9),
        "caption": 110,
        "rewrite": 105,
        "plan": 15 + turns * (user + 27),
        CHAT: assistant_tokens,
        "red": user + 3,
        "blue": assistant_tokens,
        "attacker": user + 85,
        "attacker_show_text": 2 * user + 85,
        "tutor": reason + user + 28,
        "tutor_memory": reason + user + 36,
        **{"attack_judge": reason + 6, "turn_check": reason + 8, "script_check": reason + 22},
        **{"evaluator": reason + 12, "judge": reason + 17, "judge_requests": reason + 22},
    }[job]
