"""Many jobs, a bounded number at once; the work stops when an endpoint stays silent.

Stage I, the assembly's rules and every set of dialogues run this way. A job that an endpoint failed is not
finished: nothing is written for it, the other jobs go on, and the call ends in an error. Running the same
command again does the jobs that are left. Some requests get no answer however often they are sent; a stage
may have a bound for the share of its jobs that are left out for that (`Bound`).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol, TypeVar

from safer_steer.dialogue import Dialogue
from safer_steer.errors import EndpointError, UserError, shortened

_NUMBER = re.compile(r"(?<!HTTP )\b[0-9a-f]*\d[0-9a-f-]*\b")


class Reasons:
    """Counts reasons. Two that differ only in numbers (tries, times, ids of requests; not the HTTP status)
    are one reason."""

    def __init__(self, reasons: Iterable[str] = ()) -> None:
        self._counts: Counter[str] = Counter()
        self._last: dict[str, str] = {}
        for reason in reasons:
            self.add(reason)

    def add(self, reason: str) -> None:
        """Count one reason."""
        kind = _NUMBER.sub("#", reason)
        self._counts[kind] += 1
        self._last[kind] = reason

    @property
    def total(self) -> int:
        """Reasons counted."""
        return self._counts.total()

    @property
    def commonest(self) -> str:
        """The last of the commonest reasons, with its count if there are others; "" if there is none."""
        for kind, count in self._counts.most_common(1):
            share = f" ({count} of {self.total})" if count < self.total else ""
            return f"{self._last[kind]}{share}"
        return ""


def reasons_in(dialogues: Iterable[Dialogue]) -> Reasons:
    """The errors that ended dialogues, and those that left turns without scores."""
    return Reasons(str(fault) for dialogue in dialogues for fault in dialogue.faults)


Job = TypeVar("Job")
Result = TypeVar("Result")

PATIENCE = 20
"""Jobs in a row that an endpoint failed, after which it counts as dead and the run stops."""


class Breaker:
    """Says when so much of the latest work failed that more of it would only cost: all of the last entries,
    or more than a share of them.

    An entry is one call, or a batch of which some jobs failed. Entries of different kinds are counted apart:
    they may ask different endpoints.
    """

    def __init__(self, last: int = PATIENCE, most: float | None = None) -> None:
        """`last` is the number of entries looked at, `most` the share (0-1) of them that may fail. Without
        it, each of them may fail but one."""
        self.most = most
        self._entries: defaultdict[str, deque[tuple[int, int]]] = defaultdict(lambda: deque(maxlen=last))

    def note(self, failed: int, of: int = 1, kind: str = "") -> bool:
        """Count an entry, in which `failed` of so many jobs failed. Returns whether the work should stop."""
        entries = self._entries[kind]
        entries.append((failed, of))
        if self.most is not None:
            return self.share(kind) > self.most
        return len(entries) == entries.maxlen and all(failed for failed, _ in entries)

    def share(self, kind: str = "") -> float:
        """The share (0-1) of the jobs in the last entries that failed."""
        entries = self._entries[kind]
        return sum(failed for failed, _ in entries) / max(1, sum(of for _, of in entries))

    def entries(self, kind: str = "") -> int:
        """How many entries are looked at so far."""
        return len(self._entries[kind])

    @property
    def failing(self) -> bool:
        """Whether the latest entry of some kind failed."""
        return any(entries[-1][0] for entries in self._entries.values() if entries)


class Progress(Protocol):
    """Called with how many jobs are done, how many there are in all (0 if that is not known), and how many
    failed; failed jobs are not among the done ones."""

    def __call__(self, done: int, total: int, failed: int = 0, /) -> None: ...


def in_parts(progress: Progress | None, total: int) -> Callable[[], Progress]:
    """Makes the progress of each of several works, which `progress` sees as one of `total` jobs."""
    parts: list[tuple[int, int]] = []

    def part() -> Progress:
        place = len(parts)
        parts.append((0, 0))

        def report(done: int, _: int, failed: int = 0) -> None:
            parts[place] = done, failed
            if progress:
                progress(sum(done for done, _ in parts), total, sum(failed for _, failed in parts))

        return report

    return part


@dataclass(frozen=True)
class Bound:
    """How many of a stage's jobs may be left out because an endpoint gave no answer."""

    key: str
    """The config key of the share."""
    share: float
    """Of the jobs, 0-1."""
    of: int
    """All jobs of the stage."""

    @property
    def most(self) -> int:
        """So many jobs."""
        return int(self.share * self.of + 1e-9)

    def that_allows(self, jobs: int) -> float:
        """A share that allows so many, rounded up."""
        return ceil(1000 * jobs / self.of - 1e-9) / 1000


UNANSWERED = "unanswered"
"""The reason of what is left out."""
NAMED = 3
"""Jobs that a message names."""


class Patience:
    """Counts the jobs that an endpoint failed, over all workers."""

    def __init__(self, stage: str, job: str, bound: Bound | None = None) -> None:
        """`stage` and `job` (a singular noun) are for the messages. Without a bound, no job may fail."""
        self.stage, self.job, self.bound = stage, job, bound
        self.failures = 0
        self.unanswered: dict[str, dict[str, str]] = {}
        """By the id of a job that got no answer: why, by kind."""
        self._reached: dict[str, bool] = {}
        """Whether a kind of job got an answer at all."""
        self._breaker = Breaker()
        self._reasons = Reasons()

    def answered(self, kind: str = "") -> None:
        """A job of this kind got its answers. Kinds are counted apart: they may ask different endpoints."""
        self._reached[kind] = True
        self._breaker.note(0, kind=kind)

    def failed(self, why: str, kind: str = "", id: str = "") -> None:
        """A job of this kind got no answer. A job with an id counts once, whatever kinds of it fail.

        Raises:
            UserError: it is the last of `PATIENCE` in a row, and they may not all be left out.
        """
        self._reached.setdefault(kind, False)
        if id not in self.unanswered:
            self.failures += 1
            self._reasons.add(f"{kind}: {why}" if kind else why)
        if id:
            self.unanswered.setdefault(id, {})[kind] = why
        if self._breaker.note(1, kind=kind) and not self._within_bound:
            raise self._error()

    def end(self) -> None:
        """All jobs are over. Raises `UserError` if some got no answer and may not be left out."""
        if self.failures and not self._within_bound:
            raise self._error()

    @property
    def left_out(self) -> str:
        """Which jobs are left out, and why, on one line; "" for none."""
        if not (self.failures and self.bound):
            return ""
        return (
            f"{self._failed_jobs} of {self.bound.of:,} got no answer from an endpoint and are left out"
            f" ({self.bound.key} is {self.bound.share:g}): {self._reasons.commonest}"
        )

    @property
    def _within_bound(self) -> bool:
        """Whether those that failed may be left out. If no job of a kind was answered, its endpoint is
        down."""
        few = self.bound is not None and self.failures <= self.bound.most
        return few and all(self._reached.values())

    @property
    def _failed_jobs(self) -> str:
        jobs = self.job if self.failures == 1 else f"{self.job}s"
        names = [shortened(id, 60) for id in list(self.unanswered)[:NAMED]]
        if names and self.failures > NAMED:
            names.append("...")
        return f"{self.failures} {jobs}" + (f" ({', '.join(names)})" if names else "")

    def _error(self) -> UserError:
        what = f"{self._failed_jobs} got no answer from an endpoint: {self._reasons.commonest}"
        # An endpoint that has answered since needs no fixing.
        fix = "fix base_url, model or the server, then " if self._breaker.failing else ""
        leave = ""
        if self.bound and all(self._reached.values()):
            share = self.bound.that_allows(self.failures)
            leave = f"; if they never get one, raise {self.bound.key} to {share:g} to leave them out"
        return UserError(f"{self.stage}: {what}; {fix}run the same command to go on{leave}")


async def run_jobs(
    jobs: Iterable[Job],
    do: Callable[[Job], Awaitable[None]],
    *,
    concurrency: int,
    patience: Patience,
    total: int,
    finished: int = 0,
    progress: Progress | None = None,
    id_of: Callable[[Job], str] = lambda _: "",
) -> None:
    """Do all jobs, at most `concurrency` at once, started in order.

    Args:
        do: does one job and writes its result down. If it raises `EndpointError`, or tells `patience` of the
            job's id, the job counts as failed.
        total: the number of jobs, with those that were `finished` before and are not among `jobs`.
        progress: called with (finished, total, failed) at the start and after every job.
        id_of: the id of a job, for messages; "" for none.

    Raises:
        UserError: more jobs than `patience` may leave out got no answer from an endpoint; at once if
            `PATIENCE` in a row did not.
        BaseException: whatever else `do` raises. The other jobs are cancelled and over by then.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; at least one job must run at once")
    upcoming = iter(jobs)

    def report() -> None:
        if progress:
            progress(finished, total, patience.failures)

    async def worker() -> None:
        nonlocal finished
        for job in upcoming:  # shared by all workers: jobs start in order, and only those begun are in memory
            try:
                await do(job)
            except EndpointError as error:
                patience.failed(str(error), id=id_of(job))
                report()
                continue
            if id_of(job) not in patience.unanswered:
                patience.answered()
                finished += 1
            report()

    if finished:
        patience.answered()
    report()
    await side_by_side(worker() for _ in range(min(concurrency, total - finished)))
    patience.end()


async def side_by_side(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run all at once; returns what each does, in order. If one raises, the others are cancelled and have
    ended before the error passes on, so that none writes to a journal that the caller closes next.
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
