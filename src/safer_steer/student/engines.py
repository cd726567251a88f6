"""The engines that sample a student's answers, by their name in `rl.rollouts.engine`. Loads none of them."""

from __future__ import annotations

from safer_steer.errors import UserError

ENGINES = {
    "transformers": "safer_steer.student.transformers_policy:in_process",
    "vllm": "safer_steer.student.vllm_policy:on_servers",
}
"""For each engine, the function that makes its policy (`policy.PolicyOf`), as `package.module:name`."""


def maker_of(engine: str) -> str:
    """`package.module:name` of the function that makes the policy of `engine`: a key of `ENGINES`, or a
    function of your own, which is returned as it is. Raises `UserError` if it is neither."""
    if engine not in ENGINES and ":" not in engine:
        known = ", ".join(ENGINES)
        raise UserError(f"rl.rollouts.engine: {engine} is unknown; use {known}, or package.module:name")
    return ENGINES.get(engine, engine)
