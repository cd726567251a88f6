"""Several training processes on one machine, as `torchrun` starts them: one a GPU, the same command in each.

The process of rank 0, `first`, holds the run's lock, writes its files and shows progress. The others train
beside it and are quiet. What all must agree on goes through here. With one process, every function does its
work and nothing else.

A failure ends all processes, and one of them says why. A failure in `decided` or `agreed` is known to all at
once. Any other ends its own process. The others lose their connection to it, or `torchrun` stops them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from safer_steer.errors import EndedElsewhere, GateLeft, NoResult, SpendingLimit, UserError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Store  # type: ignore[attr-defined]

Result = TypeVar("Result")

LONGEST = timedelta(days=7)
"""Until then a process waits for the others: for their tutors in a step's rollouts, or for rank 0 to save a
model. A process that has ended is noticed at once."""
LAST_WORDS_S = 10
"""How long a process that is quiet about its end waits to be stopped."""


@dataclass(frozen=True)
class _Joined:
    store: Store
    """Shared by all processes, and alive while one of them fails."""
    group: ProcessGroup
    """Over gloo, on the CPU, whatever the training uses."""


_joined: _Joined | None = None
_quiet = False
"""Whether this process ends without a word."""


def count() -> int:
    """Number of processes of this launch; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def uneven(batch: int, micro: int, key: str, over: int | None = None) -> str:
    """Why a step's batch cannot be split over micro-batches and processes (by default those of this launch),
    in one line; "" if it can."""
    over = over or count()
    if batch % (micro * over) == 0:
        return ""
    return (
        f"{key}: a step of {batch} cannot be split into micro-batches of {micro} on {over} process(es);"
        " change one of them"
    )


def rank() -> int:
    """This process's place among them, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def first() -> bool:
    """Whether this process writes the run's files."""
    return rank() == 0


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Connect the processes of this launch, and give each its GPU. Raises `UserError` if they are spread over
    several machines, or more than there are GPUs.

    Args:
        device: `student.device`.
    """
    global _joined
    if count() == 1:
        yield
        return
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        raise UserError(
            "the processes must be on one machine, since they share the run folder; use torchrun on a single"
            " machine, or verl on several (docs/how-to/verl.md)"
        )
    import torch
    from torch import distributed

    on_gpus = device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        if torch.cuda.device_count() < count():
            raise UserError(
                f"{count()} processes, but {torch.cuda.device_count()} GPU(s) are visible; start one process"
                " a GPU"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store = next(iter(distributed.rendezvous("env://")))[0]  # type: ignore[attr-defined]
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=distributed.PrefixStore("training", store),  # type: ignore[attr-defined]
        rank=rank(),
        world_size=count(),
    )
    _joined = _Joined(store, distributed.new_group(backend="gloo", timeout=LONGEST))
    yield  # after an error the others are at work: leaving the group would wait for them
    gathered(None)
    _joined = None
    distributed.destroy_process_group()


def refuse_several(command: str) -> None:
    """Raises `UserError` if torchrun started a command that does not train."""
    if count() > 1:
        raise UserError(
            f"`{command}` runs in one process; start it without torchrun, and only `sft` and `rl` with it"
        )


def refuse_data_parallel(device: str) -> None:
    """Raises `UserError` if one process would train on several GPUs: the trainer would take DataParallel,
    which splits every micro-batch and does not fit rollouts. `device` is `student.device`."""
    if count() > 1 or device == "cpu":
        return
    import torch

    if (gpus := torch.cuda.device_count()) > 1:
        raise UserError(
            f"student.device: one process sees {gpus} GPUs; set CUDA_VISIBLE_DEVICES=0 to train on one, or"
            f" start sft and rl with `torchrun --nproc_per_node {gpus} -m safer_steer`"
            " (docs/how-to/processes.md)"
        )


def gathered(value: Result) -> list[Result]:
    """Every process's value, in the order of their ranks. All must call it; it waits for the last."""
    if _joined is None:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value, group=_joined.group)
    return values


def agreed(work: Callable[[], Result]) -> list[Result]:
    """Every process does the work. Returns the results of all, in the order of their ranks.

    Raises:
        Exception, SpendingLimit: the work's, in the first process in which it failed.
        EndedElsewhere: in all others, once they have done theirs, so that nothing they pay for is lost.
    """
    global _quiet
    if _joined is None:
        return [work()]
    outcome: Result | EndedElsewhere
    failure: BaseException | None = None
    try:
        outcome = work()
    except (UserError, NoResult, GateLeft, SpendingLimit) as error:
        outcome, failure = EndedElsewhere(error.code), error
    except Exception as error:
        outcome, failure = EndedElsewhere(1), error
    outcomes = gathered(outcome)
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, EndedElsewhere):
            if failure is not None and place == rank():
                raise failure
            _quiet = True
            raise outcome
    return cast(list[Result], outcomes)


def decided(work: Callable[[], Result]) -> Result:
    """Rank 0 does the work, and all return its result. Raises as `agreed` does."""
    if _joined is None or first():
        return agreed(work)[0]
    return cast(Result, agreed(lambda: None)[0])


def may_speak() -> bool:
    """Whether this process, which ends with an error, is the one to say why: the first that asks.

    Before they are connected that is rank 0 where they fail alike: it has spoken, and torchrun has stopped
    the others, before they would.
    """
    global _quiet
    if count() == 1:
        return True
    if _joined is None:
        time.sleep(0 if first() else LAST_WORDS_S)
    else:
        try:
            _quiet = int(_joined.store.add("failed", 1)) > 1
        except RuntimeError:  # it was in a process that has ended, and so has spoken
            _quiet = True
    return not _quiet


def is_lost_connection(error: BaseException) -> bool:
    """Whether another process has ended while this one waited for it."""
    return _joined is not None and isinstance(error, RuntimeError) and "gloo/transport" in str(error)


def leave(code: int, words: str = "") -> None:
    """End this process if others were started with it. An interpreter that ends as usual would wait for them
    where a collective of the GPUs is under way.

    One that is quiet lets the one that speaks end first: torchrun stops all others when one has ended.
    """
    if count() > 1:
        if _quiet:
            time.sleep(LAST_WORDS_S)
        print(words, end="", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(code)
