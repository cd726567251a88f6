"""How red-team scripts for the bench are selected, and the check that keeps biased ones from being used.

A script that was kept because it broke a model is biased against that model. So scripts for the bench are
planned and kept without being played. With `seeds.filter_bench` they are played, and then the target must
not be a model that is measured.
"""

from __future__ import annotations

from collections.abc import Iterable

from safer_steer.config import Config, same_model
from safer_steer.dialogue import Seed
from safer_steer.errors import UserError

AGAINST = "filtered_against"
"""The key in a bench script's meta that names the model the script broke."""


def target_name(config: Config) -> str:
    """The name of the target that scripts are played against."""
    target = config.role("target")
    return "the sandbox's agent" if target.who == "sandbox" else target.model


def bench_selection(config: Config) -> str:
    """How the red-team scripts of STEER-Bench were selected, for its card."""
    if not config.seeds.filter_bench:
        return "not filtered by success"
    return f"filtered by success against {target_name(config)} at success_at {config.seeds.success_at}"


def refuse_selected(scripts: Iterable[Seed], measured: str, suite: str) -> None:
    """Raises `UserError` if a script of the suite was selected by its success against the model being
    measured."""
    for seed in scripts:
        against = seed.meta.get(AGAINST)
        if isinstance(against, str) and same_model(against, measured):
            raise UserError(
                f"{suite}: {seed.id} was kept because it broke {against},"
                f" so {against} cannot be measured on it; use a suite that was not filtered"
            )
