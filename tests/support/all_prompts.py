"""Every prompt, in the order of use."""

from __future__ import annotations

from typing import Any

from safer_steer.prompts.base import Prompt
from safer_steer.prompts.judge import EVALUATOR, JUDGE, JUDGE_REQUESTS
from safer_steer.prompts.red import BLUE, RED
from safer_steer.prompts.scripts import (
    ATTACK_JUDGE,
    BENIGN,
    CAPTION,
    OBFUSCATED,
    PLAN,
    PROBE,
    REWRITE,
    SCRIPT_CHECK,
    TURN_CHECK,
)
from safer_steer.prompts.tutor import TUTOR, TUTOR_MEMORY

PROMPTS: list[Prompt[Any, Any]] = [
    PROBE,
    BENIGN,
    OBFUSCATED,
    CAPTION,
    REWRITE,
    PLAN,
    ATTACK_JUDGE,
    SCRIPT_CHECK,
    TURN_CHECK,
    RED,
    BLUE,
    EVALUATOR,
    TUTOR,
    TUTOR_MEMORY,
    JUDGE,
    JUDGE_REQUESTS,
]
