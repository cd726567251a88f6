"""Errors, named after the boundary they crossed.

A bad rollout is data, not a crash: the dialogue loop catches `BoundaryError` and records it as a stop reason.
A `UserError` is a mistake somebody can mend: the command line prints its one line and exits with code 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from importlib.util import find_spec
from typing import Any, NamedTuple


class ExitCode(IntEnum):
    """How a command ends."""

    def __new__(cls, number: int, meaning: str) -> ExitCode:
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning = meaning
        return code

    meaning: str
    """In a few words, for `--help` and the docs."""

    DONE = 0, "done"
    DIFFERENCE = 1, "`verify` found a difference"
    TO_FIX = 2, "something to fix, which one line names, or the spending limit"
    NO_RESULT = 3, "too many dialogues of a bench are unscored for a result"
    OUT_OF_BAND = 4, "a gate stopped the run: a quantity left its band; `--override GATE` goes on"
    INTERRUPTED = 130, "interrupted; the same command goes on"


class UserError(Exception):
    """Something the user can mend. The message says what was wrong, where (file, line or key), and what to
    do."""

    code = ExitCode.TO_FIX


_UNWRITTEN = re.compile(r"\(os error (27|28|122)\)|iostream error")
"""A disk or a quota that is full, or a file too large."""


def could_not_write(error: BaseException | None) -> bool:
    """Whether weights or a checkpoint could not be written whole: safetensors and torch say so in words, of
    this error or of one before it, and not by an `OSError`."""
    while error and not _UNWRITTEN.search(str(error)):
        error = error.__cause__ or error.__context__
    return error is not None


def refuse(complaints: Iterable[str], before: str = "", after: str = "") -> None:
    """Raises `UserError` if there are any complaints: the first ten of them in one line, and how many more
    there are, so that all are mended before the next try."""
    if lines := [*dict.fromkeys(complaints)]:
        more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
        raise UserError(f"{before}{'; '.join([*lines[:10], *more])}{after}")


class Fault(NamedTuple):
    """A `BoundaryError` as a value: why a dialogue ended, a turn has no scores, a job made nothing. A row has
    it as one text, `<boundary>: <message>`."""

    boundary: str
    """`BoundaryError.boundary`; "" if the text names none."""
    message: str

    def __str__(self) -> str:
        return f"{self.boundary}: {self.message}" if self.boundary else self.message

    @classmethod
    def read(cls, text: str) -> Fault:
        """The fault that a row's text tells of."""
        boundary, colon, message = text.partition(": ")
        return cls(boundary, message) if colon else cls("", text)

    @property
    def unreached(self) -> bool:
        """Whether an endpoint gave no answer: the job may go well another time."""
        return self.boundary == EndpointError.boundary


class BoundaryError(Exception):
    """A call to a model failed for good, after every retry."""

    boundary = "model"
    facts: Mapping[str, Any] = {}
    """What else the row is to keep of it, by key of its `meta`."""

    @property
    def fault(self) -> Fault:
        """It as a value."""
        return Fault(self.boundary, str(self))


class EndpointError(BoundaryError):
    """The endpoint could not be reached, timed out, or kept answering with an error status."""

    boundary = "endpoint"


class RejectedError(BoundaryError):
    """The endpoint takes other requests, but not this one, however often it is sent: too long, or a picture
    it cannot read."""

    boundary = "rejected"


class RefusedError(BoundaryError):
    """An attacker, generator, tutor or judge declined to do its job."""

    boundary = "refused"


class UnparsableError(BoundaryError):
    """The reply was no valid answer of the job's output type, also after every re-ask."""

    boundary = "unparsable"


class EmptyError(BoundaryError):
    """The attacker wrote a valid answer with no words in it."""

    boundary = "empty"


class RepeatedError(BoundaryError):
    """The attacker said again what it, or its input, had said."""

    boundary = "repeated"


class FailedAttack(BoundaryError):
    """A red-team script was played and should not be kept. The message begins with the dialogue's stop
    reason; `scores` are the attack judge's (1-5)."""

    boundary = "failed_attack"

    def __init__(self, message: str, scores: Sequence[float] = ()) -> None:
        super().__init__(message)
        self.scores = list(scores)


class NoResult(Exception):
    """Too many dialogues of a bench were not scored for its numbers to be a result. The message says how
    many."""

    code = ExitCode.NO_RESULT


class GateLeft(Exception):
    """A quantity of the run left the band of its gate. The message says which, by how much, and what to
    do."""

    code = ExitCode.OUT_OF_BAND


class SpendingLimit(BaseException):
    """The run's money limit is reached. Not an `Exception`: no loop may take it for one failed call."""

    code = ExitCode.TO_FIX


class EndedElsewhere(BaseException):
    """Another process of this launch has failed, and it says why; this one is to end without a word. Not an
    `Exception`: no loop may go on."""

    def __init__(self, code: int) -> None:
        """`code` is the exit code of the process that failed."""
        super().__init__(code)
        self.code = code


def shortened(text: str, width: int = 200) -> str:
    """`text` on one line of at most `width` characters, for a message. It is cut between words, and ends
    with "..." if something was cut. What cannot be printed becomes "?", since it could steer a terminal."""
    line = " ".join(text[: 10 * width].split())
    if not line.isprintable():
        line = "".join(character if character.isprintable() else "?" for character in line)
    if len(line) <= width and len(text) <= 10 * width:
        return line
    cut = line[: width - 3]
    at_word = cut.rpartition(" ")[0] if line[width - 3 : width - 2] != " " else cut
    return f"{at_word if len(at_word) > width // 2 else cut}..."


EXTRAS = {
    "student": ("torch", "torchvision", "transformers", "peft"),
    "train": ("trl", "accelerate", "datasets"),
    "pretrained": ("timm", "gguf"),
    "judge": ("krippendorff",),
    "inspect": ("inspect_ai",),
}
"""The modules that each extra adds. `train` and `pretrained` contain `student`."""

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
    modules = EXTRAS[extra] + (EXTRAS["student"] if extra in ("train", "pretrained") else ())
    return [module for module in modules if find_spec(module) is None]


def what_is_missing(error: ModuleNotFoundError) -> str | None:
    """One line for an import that failed for want of an extra; None where that is not the cause."""
    module = (error.name or "").partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    return extra and f"this needs {error.name}: {install(extra)}"


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'safer-steer[{extra}]'"
