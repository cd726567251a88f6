"""Every prompt, in the order of use."""

from __future__ import annotations

from typing import Any

from safer_steer.prompts.attack_judge import ATTACK_JUDGE
from safer_steer.prompts.base import Prompt
from safer_steer.prompts.benign import BENIGN
from safer_steer.prompts.blue import BLUE
from safer_steer.prompts.caption import CAPTION
from safer_steer.prompts.evaluator import EVALUATOR
from safer_steer.prompts.judge import JUDGE
from safer_steer.prompts.obfuscated import OBFUSCATED
from safer_steer.prompts.plan import PLAN
from safer_steer.prompts.probe import PROBE
from safer_steer.prompts.red import RED
from safer_steer.prompts.rewrite import REWRITE
from safer_steer.prompts.script_check import SCRIPT_CHECK
from safer_steer.prompts.turn_check import TURN_CHECK
from safer_steer.prompts.tutor import TUTOR

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
    JUDGE,
]
