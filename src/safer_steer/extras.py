"""The package's extras: what the core does without, and the one line for a command that needs it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from safer_steer.errors import UserError

EXTRAS = {
    "student": ("torch", "torchvision", "transformers", "peft"),
    "train": ("trl", "accelerate", "datasets"),
    "judge": ("krippendorff",),
    "inspect": ("inspect_ai",),
}
"""The modules that each extra adds. `train` contains `student`."""

TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
"""For each value of `report_to`, the packages of which one must be installed."""


def require_trackers(names: Iterable[str]) -> None:
    """Check that the packages of `report_to` are installed, without importing them. Raises `UserError`."""
    for name in names:
        if not any(find_spec(package) for package in TRACKERS[name]):
            raise UserError(f"report_to: {name} needs its package: pip install {TRACKERS[name][0]}")


def require(extra: str, what: str) -> None:
    """Check that an extra is installed, without importing any of it.

    Args:
        extra: a key of `EXTRAS`.
        what: what needs it, for the message.

    Raises:
        UserError: one of its modules is missing; names the extra to install.
    """
    if modules := missing(extra):
        raise UserError(f"{what} needs {', '.join(modules)}: {install(extra)}")


def missing(extra: str) -> list[str]:
    """The modules of an extra (a key of `EXTRAS`) that are not installed."""
    wanted = EXTRAS[extra] + (EXTRAS["student"] if extra == "train" else ())
    return [module for module in wanted if find_spec(module) is None]


def what_is_missing(error: ModuleNotFoundError) -> str | None:
    """One line for an import that failed for want of an extra; None where that is not the cause."""
    module = (error.name or "").partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    return extra and f"this needs {error.name}: {install(extra)}"


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'safer-steer[{extra}]'"
