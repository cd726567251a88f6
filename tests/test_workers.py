"""Many jobs at once: order, bound, patience with endpoints, errors and progress."""

import asyncio
from collections.abc import Iterator

import pytest

from safer_steer.errors import EndpointError, RefusedError, SpendingLimit, UserError
from safer_steer.workers import PATIENCE, Bound, Breaker, Patience, run_jobs, side_by_side

SILENT = EndpointError("status 500")


class Work:
    """Does numbered jobs in a few turns of the event loop; `errors` says which of them raise what."""

    def __init__(self, errors: dict[int, BaseException] | None = None) -> None:
        self.errors = errors or {}
        self.begun: list[int] = []
        self.done: list[int] = []
        self.now = self.most = 0

    async def __call__(self, job: int) -> None:
        self.begun.append(job)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(1 + job % 3):
                await asyncio.sleep(0)
            if job in self.errors:
                raise self.errors[job]
            self.done.append(job)
        finally:
            self.now -= 1


def patience(share: float | None = None, of: int = 40) -> Patience:
    return Patience(
        "bootstrap", "dialogue", None if share is None else Bound("bootstrap.max_unanswered", share, of)
    )


async def run(
    work: Work, jobs: int, concurrency: int = 4, counted: Patience | None = None, finished: int = 0
) -> None:
    await run_jobs(
        range(finished, jobs),
        work,
        concurrency=concurrency,
        patience=counted or patience(),
        total=jobs,
        finished=finished,
        id_of=lambda job: f"d{job}",
    )


async def test_jobs_start_in_order_and_no_more_than_the_bound_run_at_once() -> None:
    work = Work()
    await run(work, 30)
    assert work.begun == list(range(30)) and sorted(work.done) == work.begun
    assert work.done != work.begun, "they end in another order"
    assert work.most == 4
    with pytest.raises(ValueError, match="at least one"):
        await run(work, 1, concurrency=0)


async def test_jobs_are_read_when_a_worker_is_free() -> None:
    work, read = Work(), []

    def jobs() -> Iterator[int]:
        for job in range(30):
            read.append(job)
            assert len(read) - len(work.done) <= 4
            yield job

    await run_jobs(jobs(), work, concurrency=4, patience=patience(), total=30)
    assert len(work.done) == 30


async def test_progress_counts_what_is_finished_and_what_was_before() -> None:
    told: list[tuple[int, ...]] = []
    work = Work({7: SILENT})
    with pytest.raises(UserError):
        await run_jobs(
            range(5, 10),
            work,
            concurrency=2,
            patience=patience(),
            total=10,
            finished=5,
            progress=lambda *counts: told.append(counts),
        )
    assert {done for done, _, _ in told} == {5, 6, 7, 8, 9}, "the failed one is not finished"
    assert (told[0], told[-1]) == ((5, 10, 0), (9, 10, 1))


async def test_a_job_that_an_endpoint_failed_ends_in_an_error_after_the_others() -> None:
    work = Work({2: SILENT, 5: EndpointError("status 503")})
    with pytest.raises(UserError) as error:
        await run(work, 40)
    assert len(work.done) == 38
    said = str(error.value)
    assert said.startswith("bootstrap: 2 dialogues (d2, d5) got no answer from an endpoint: status 503;")
    assert said.endswith("503; run the same command to go on"), "it answers, so nothing is to be fixed"


async def test_a_few_jobs_without_any_answer() -> None:
    with pytest.raises(UserError) as error:
        await run(Work({0: SILENT}), 1)
    said = str(error.value)
    assert said.startswith("bootstrap: 1 dialogue (d0) got no answer from an endpoint: status 500;")
    assert said.endswith("; fix base_url, model or the server, then run the same command to go on")


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_patience_is_shared_by_all_workers(concurrency: int) -> None:
    work = Work(dict.fromkeys(range(10, 200), SILENT))
    with pytest.raises(UserError, match="fix base_url, model or the server"):
        await run(work, 200, concurrency)
    assert sorted(work.done) == list(range(10))
    assert 10 + PATIENCE <= len(work.begun) <= 10 + PATIENCE + concurrency
    assert work.now == 0


async def test_an_answer_renews_the_patience() -> None:
    work = Work({job: SILENT for job in range(200) if job % PATIENCE})
    with pytest.raises(UserError, match=rf" {200 - 200 // PATIENCE} dialogues \(d1, d2, d3, \.\.\.\) got no"):
        await run(work, 200, concurrency=1)
    assert work.done == list(range(0, 200, PATIENCE))


async def test_so_many_jobs_may_be_left_out_for_want_of_an_answer() -> None:
    """At the bound, the call ends well and a line says so; above it, the error says what to raise."""
    work, counted = Work({2: SILENT, 5: EndpointError("status 403")}), patience(0.05)
    await run(work, 40, counted=counted)
    assert len(work.done) == 38 and set(counted.unanswered) == {"d2", "d5"}
    assert counted.left_out == (
        "2 dialogues (d2, d5) of 40 got no answer from an endpoint and are left out"
        " (bootstrap.max_unanswered is 0.05): status 403"
    )
    with pytest.raises(UserError) as error:
        await run(work, 40, counted=patience(0.04))
    assert str(error.value).endswith(
        ": status 403; run the same command to go on;"
        " if they never get one, raise bootstrap.max_unanswered to 0.05 to leave them out"
    )
    assert patience(0).left_out == patience(1).left_out == ""


async def test_more_in_a_row_than_patience_has_may_be_left_out_where_others_were_answered() -> None:
    """The next run has only those left that failed in this one."""
    lost = range(60 - PATIENCE - 5, 60)
    work = Work(dict.fromkeys(lost, SILENT))
    counted = patience(0.5, of=60)
    await run(work, 60, finished=lost[0], counted=counted)
    assert counted.failures == PATIENCE + 5
    with pytest.raises(UserError, match=r"raise bootstrap\.max_unanswered to 0\.334 to"):
        await run(work, 60, finished=lost[0], counted=patience(0.1, of=60))


@pytest.mark.parametrize("jobs", [3, 200])
async def test_an_endpoint_that_never_answers_is_an_error_whatever_the_bound(jobs: int) -> None:
    work = Work(dict.fromkeys(range(jobs), SILENT))
    with pytest.raises(UserError, match=r"fix base_url, model or the server.* to go on$"):
        await run(work, jobs, concurrency=1, counted=patience(1, of=jobs))
    assert len(work.begun) == min(jobs, PATIENCE)
    counted = Patience("seeds", "pair", Bound("seeds.max_unanswered", 1, 9))
    counted.answered("benign")
    counted.failed("timed out", "red_team", "p1")
    counted.failed("timed out", "obfuscated", "p1")
    counted.answered("obfuscated")
    with pytest.raises(UserError, match=r"seeds: 1 pair \(p1\) got no answer .*: red_team: timed out; fix"):
        counted.end()
    counted.answered("red_team")
    counted.end()


def test_kinds_of_jobs_are_counted_apart() -> None:
    """A dead target is noticed though the generator answers."""
    counted = Patience("seeds", "script")
    for _ in range(PATIENCE - 1):
        counted.failed("timed out", "red_team")
        counted.answered("benign")
    with pytest.raises(UserError, match=rf"seeds: {PATIENCE} scripts .*: red_team: timed out; fix"):
        counted.failed("timed out", "red_team")
    patience().end()


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), RefusedError("no"), SpendingLimit("spent")])
async def test_any_other_error_cancels_the_others_and_waits_for_them(error: BaseException) -> None:
    over: list[str] = []

    async def do(job: int) -> None:
        if job == 3:
            await asyncio.sleep(0)
            raise error
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)  # what a job does at its end, it does before the error passes on
            over.append(f"job {job}")

    with pytest.raises(type(error)):
        await run_jobs(range(40), do, concurrency=5, patience=patience(), total=40)
    assert sorted(over) == ["job 0", "job 1", "job 2", "job 4"], "and no other was begun"
    assert len(asyncio.all_tasks()) == 1


async def test_a_call_that_is_cancelled_leaves_nothing_running() -> None:
    work = Work()
    task = asyncio.create_task(run(work, 10_000))
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.now == 0 and len(work.begun) < 10_000
    assert len(asyncio.all_tasks()) == 1


async def test_side_by_side_runs_all_at_once() -> None:
    met = asyncio.Barrier(8)

    async def one() -> None:
        await met.wait()

    await asyncio.wait_for(side_by_side(one() for _ in range(8)), timeout=5)


def test_a_breaker_without_a_share_stops_at_the_last_of_so_many_failures_in_a_row():
    breaker = Breaker(last=3)
    assert [breaker.note(failed) for failed in (1, 1, 0, 1, 1, 1, 1, 0)] == [*[False] * 5, True, True, False]
    assert not breaker.failing
    assert [breaker.note(1, kind=kind) for kind in "abaab"] == [False, False, False, True, False]
    assert breaker.failing


def test_a_breaker_with_a_share_looks_at_the_last_batches():
    breaker = Breaker(last=2, most=0.25)
    assert not breaker.note(1, 4) and breaker.share() == 0.25
    assert breaker.note(2, 4) and breaker.share() == 3 / 8
    assert not breaker.note(0, 4) and (breaker.share(), breaker.entries()) == (0.25, 2)
    assert not Breaker(last=1, most=0).note(0, 0)
