"""The cache: one call for one question, over errors, cancellation and kill -9."""

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from safer_steer.endpoints.cache import Cache
from safer_steer.endpoints.transport import ChatReply
from safer_steer.errors import EndpointError, SpendingLimit, UserError

REPLY = ChatReply("text \N{SNOWMAN}", prompt_tokens=3, completion_tokens=2, finish="length", refusal=True)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with closing(Cache(tmp_path / "c")) as cache:
        yield cache


class Counter:
    """A call that takes a moment and counts itself."""

    def __init__(self, outcome: ChatReply | BaseException = REPLY) -> None:
        self.outcome = outcome
        self.calls = 0

    async def __call__(self) -> tuple[ChatReply, float]:
        self.calls += 1
        await asyncio.sleep(0.02)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome, 0.25


async def test_a_reply_is_kept_whole_over_reopening(tmp_path: Path) -> None:
    call = Counter()
    for free in (False, True):
        cache = Cache(tmp_path / "deep" / "cache.sqlite")
        assert await cache.get_or_call("k", "judge", call) == (REPLY, free)
        cache.close()
    assert call.calls == 1


async def test_equal_keys_in_flight_share_one_call(cache: Cache) -> None:
    call, other = Counter(), Counter()
    answers = await asyncio.gather(
        *(cache.get_or_call("k", "judge", call) for _ in range(20)),
        cache.get_or_call("other", "judge", other),
    )
    assert (call.calls, other.calls) == (1, 1)
    assert sum(not free for _, free in answers) == 2


def both(path: Path) -> tuple[Cache, Cache]:
    """The connections of two processes of one launch."""
    return Cache(path, shared=True), Cache(path, shared=True)


async def test_two_processes_that_ask_the_same_pay_once(tmp_path: Path) -> None:
    first, second = both(tmp_path / "c")
    call = Counter()
    answers = await asyncio.gather(*(cache.get_or_call("k", "judge", call) for cache in (first, second)))
    assert answers == [(REPLY, False), (REPLY, True)]
    assert call.calls == 1
    assert first.money() == second.money() == 0.25


async def test_where_one_process_got_no_reply_the_other_asks(tmp_path: Path) -> None:
    first, second = both(tmp_path / "c")
    broken, call = Counter(EndpointError("down")), Counter()
    failed, answer = await asyncio.gather(
        first.get_or_call("k", "judge", broken),
        second.get_or_call("k", "judge", call),
        return_exceptions=True,
    )
    assert isinstance(failed, EndpointError)
    assert answer == (REPLY, False)
    assert (broken.calls, call.calls) == (1, 1)


async def test_a_request_of_a_killed_process_is_sent_again(tmp_path: Path) -> None:
    killed, goes_on = both(tmp_path / "c")
    assert await killed._theirs("k", 0) is None
    goes_on.forget_asking()
    assert await goes_on.get_or_call("k", "judge", Counter()) == (REPLY, False)


@pytest.mark.parametrize("error", [EndpointError("down"), SpendingLimit("spent")])
async def test_an_error_reaches_all_who_wait_and_is_not_kept(cache: Cache, error: BaseException) -> None:
    call = Counter(error)
    answers = await asyncio.gather(
        *(cache.get_or_call("k", "judge", call) for _ in range(3)), return_exceptions=True
    )
    assert answers == [error] * 3
    assert call.calls == 1
    assert await cache.get_or_call("k", "judge", Counter()) == (REPLY, False)


async def test_a_cancelled_caller_does_not_lose_the_paid_reply(cache: Cache) -> None:
    call = Counter()
    first = asyncio.create_task(cache.get_or_call("k", "judge", call))
    await asyncio.sleep(0.005)
    second = asyncio.create_task(cache.get_or_call("k", "judge", call))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == (REPLY, True)
    assert call.calls == 1
    assert cache.get("k") == REPLY


def test_the_key_tells_apart_all_that_determines_a_reply() -> None:
    def key(
        model: str = "m",
        temperature: float = 0.7,
        text: str = "t",
        url: str = "data:1",
        schema: dict | None = None,
        repeat: int = 0,
    ) -> str:
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        return Cache.key(model, {"temperature": temperature}, messages, schema, repeat)

    others = (key(model="n"), key(temperature=0.8), key(text="u"), key(url="data:2"), key(schema={}))
    assert len({key(), *others, key(repeat=1)}) == 7 and key() == key()


KILLED = """
import asyncio, sys
from pathlib import Path
from safer_steer.endpoints.cache import Cache
from safer_steer.endpoints.transport import ChatReply

async def main():
    cache = Cache(Path(sys.argv[1]))
    for number in range(10**6):
        async def call(): return ChatReply(f"reply {number}", 2, 1), 0.5
        await cache.get_or_call(f"k{number}", "judge", call)
        print(number, flush=True)

asyncio.run(main())
"""


def test_what_was_answered_survives_kill_9(tmp_path: Path, cache: Cache) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        seen = [int(process.stdout.readline()) for _ in range(50)]
        os.kill(process.pid, signal.SIGKILL)
        seen += [int(line) for line in process.stdout if line.endswith("\n")]
    assert [cache.get(f"k{number}") for number in seen] == [
        ChatReply(f"reply {number}", 2, 1) for number in seen
    ]
    committed = sum(cache.get(f"k{number}") is not None for number in range(len(seen) + 2))
    assert cache.spent() == [("judge", committed, 2 * committed, committed, 0.5 * committed)]


async def test_what_was_paid_is_kept_by_role(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c")
    for key, role in (("a", "judge"), ("b", "red"), ("c", "judge"), ("a", "judge")):
        await cache.get_or_call(key, role, Counter())
    with pytest.raises(EndpointError):
        await cache.get_or_call("d", "judge", Counter(EndpointError("down")))
    cache.close()
    cache = Cache(tmp_path / "c")
    assert sorted(cache.spent()) == [("judge", 2, 6, 4, 0.5), ("red", 1, 3, 2, 0.25)]
    cache.close()


async def test_replies_given_up_are_kept_until_they_are_forgotten_and_their_price_for_good(
    tmp_path: Path,
) -> None:
    cache = Cache(tmp_path / "c")
    for key in "abc":
        await cache.get_or_call(key, "judge", Counter())
    cache.give_up((key, 0) for key in ("a", "b", "never asked"))
    cache.close()
    cache = Cache(tmp_path / "c")
    assert all(cache.get(key) for key in "abc")
    cache.forget_unparsable()
    assert [cache.get(key) for key in "abc"] == [None, None, REPLY]
    await cache.get_or_call("a", "judge", Counter())
    cache.forget_unparsable()
    assert cache.get("a") == REPLY
    assert cache.spent() == [("judge", 4, 12, 8, 1.0)]
    cache.close()


async def test_settling_waits_for_calls_whose_callers_are_gone(cache: Cache) -> None:
    asked = [
        asyncio.create_task(cache.get_or_call(key, "judge", call))
        for key, call in (("a", Counter()), ("b", Counter(SpendingLimit("spent"))))
    ]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await cache.settle(5)
    assert (cache.get("a"), cache.get("b")) == (REPLY, None)
    await cache.settle(5)


async def test_a_file_without_prices_goes_on_from_nothing_spent(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c")
    await cache.get_or_call("k", "judge", Counter())
    cache.close()
    with closing(sqlite3.connect(tmp_path / "c")) as old:
        old.executescript("DROP TABLE spent; DROP TABLE unparsable")
    cache = Cache(tmp_path / "c")
    assert (cache.get("k"), cache.spent()) == (REPLY, [])
    cache.close()


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("something else " * 100)
    with pytest.raises(UserError, match="c: no usable cache"):
        Cache(tmp_path / "c")


@pytest.mark.parametrize("name", ["cache.sqlite", "cache.sqlite-wal"])
def test_a_file_that_is_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    """A run from somebody else would have what it leads to written to."""
    other, run = tmp_path / "other.sqlite", tmp_path / "run"
    run.mkdir()
    for target in (other, tmp_path / "nothing"):
        (run / name).symlink_to(target)
        with closing(sqlite3.connect(other)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS mine (a)")
        before = other.read_bytes()
        with pytest.raises(UserError, match=rf"run/{name}: is no plain file of "):
            Cache(run / "cache.sqlite")
        assert other.read_bytes() == before and not (tmp_path / "nothing").exists()
        (run / name).unlink()
    (tmp_path / "latest").symlink_to("run")
    Cache(tmp_path / "latest" / "cache.sqlite").close()


def test_a_full_disk_is_no_reason_to_move_away_what_was_paid_for(tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    work = "from pathlib import Path; from safer_steer.endpoints.cache import Cache; Cache(Path('c'))"
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (3000, 3000))
    done = subprocess.run(
        [sys.executable, "-c", work], cwd=tmp_path, capture_output=True, text=True, preexec_fn=limited
    )
    line = done.stderr.splitlines()[-1]
    assert "UserError: c: " in line and line.endswith(
        "mend that and keep the file: it holds what was paid for"
    )


async def test_a_disk_that_fills_up_while_replies_arrive_is_one_line_and_what_came_before_is_kept(
    tmp_path: Path,
) -> None:
    """A limit on the number of pages stands for it: SQLite then rolls back by itself."""
    cache, reply = Cache(tmp_path / "c"), ChatReply("long " * 2000, 1, 1)
    assert await cache.get_or_call("first", "judge", Counter()) == (REPLY, False)
    pages = cache._db.execute("PRAGMA page_count").fetchone()[0]
    cache._db.execute(f"PRAGMA max_page_count = {pages + 3}")
    asking = [cache.get_or_call(f"k{n}", "judge", Counter(reply)) for n in range(8)]
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    errors = {str(one) for one in outcomes if isinstance(one, UserError)}
    assert errors == {
        f"{tmp_path}/c: database or disk is full; mend that and keep the file: it holds what was paid for"
    }
    stored = [n for n, one in enumerate(outcomes) if one == (reply, False)]
    lost = [n for n, one in enumerate(outcomes) if isinstance(one, UserError)]
    assert lost and len(stored) + len(lost) == 8
    await cache.settle(1)
    assert not cache.in_flight
    cache.close()
    with closing(Cache(tmp_path / "c")) as mended:
        assert mended.get("first") == REPLY
        assert mended.money() == 0.25 * (1 + len(stored))
        assert await mended.get_or_call(f"k{lost[0]}", "judge", Counter(reply)) == (reply, False)


ENDED = ChatReply("all of it", prompt_tokens=3, completion_tokens=15)
CUT = ChatReply("all o", prompt_tokens=3, completion_tokens=10, finish="length")


async def test_a_reply_that_ended_by_itself_is_the_reply_at_every_limit_that_it_fits(cache: Cache) -> None:
    assert await cache.get_or_call("k", "judge", Counter(ENDED), 20) == (ENDED, False)
    for limit in (15, 20, 400):
        assert await cache.get_or_call("k", "judge", Counter(), limit) == (ENDED, True)
    assert await cache.get_or_call("k", "judge", Counter(CUT), 10) == (CUT, False), "it is longer than that"
    for limit, reply in ((10, CUT), (20, ENDED), (10, CUT)):
        assert await cache.get_or_call("k", "judge", Counter(), limit) == (reply, True)
    short = ChatReply("brief", prompt_tokens=3, completion_tokens=5)
    assert await cache.get_or_call("k", "judge", Counter(short), 11) == (short, False)
    for limit in (11, 20):
        assert await cache.get_or_call("k", "judge", Counter(), limit) == (short, True)


async def test_a_reply_that_counts_more_than_its_limit_fits_it_if_it_ended_by_itself(tmp_path: Path) -> None:
    """Servers count hidden reasoning, or the end token."""
    thought = ChatReply("brief", prompt_tokens=3, completion_tokens=3000)
    cache = Cache(tmp_path / "c")
    assert await cache.get_or_call("k", "judge", Counter(thought), 20) == (thought, False)
    cache.close()
    cache, other = Cache(tmp_path / "c"), Cache(tmp_path / "other")
    other.read_also(tmp_path / "c")
    for limit in (20, 21, 400, 3000, 0):
        assert cache.get("k", limit) == other.get("k", limit) == thought
    assert (cache.get("k", 19), cache.get("k 2", 20), cache.get("", 20)) == (None, None, None)
    assert await cache.get_or_call("k", "judge", Counter(CUT), 10) == (CUT, False)
    assert (cache.get("k", 10), cache.get("k", 15), cache.get("k", 20)) == (CUT, None, thought)
    cache.give_up([("k", 400)])
    assert (cache.get("k", 20), other.get("k", 20)) == (thought, None), "no other run takes it"
    cache.forget_unparsable()
    assert (cache.get("k", 20), cache.get("k", 10)) == (None, CUT)
    cache.close()
    other.close()


async def test_requests_in_flight_with_different_limits_are_different_requests(tmp_path: Path) -> None:
    first, second = both(tmp_path / "c")
    answers = await asyncio.gather(
        first.get_or_call("k", "judge", Counter(CUT), 10),
        first.get_or_call("k", "judge", Counter(ENDED), 20),
        second.get_or_call("k", "judge", Counter(CUT), 10),
    )
    assert answers == [(CUT, False), (ENDED, False), (CUT, True)]
