"""Replies on disk, so that no answered request is sent or paid for twice. API keys and headers are never
stored."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safer_steer.endpoints.ledger import Account
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.errors import UserError
from safer_steer.files.store import refuse_no_plain_file

FILE = "cache.sqlite"
"""In a run's folder."""
LOOK_AGAIN_S = 0.05
"""Seconds between two looks for a reply that another process waits for."""


_FIND = (
    "SELECT text, prompt_tokens, completion_tokens, finish, refusal, key FROM replies"
    " WHERE (key = :key || ' ' || :limit"
    " OR (key = :key AND (completion_tokens <= :limit OR :limit = 0))"
    " OR (key > :key || ' ' AND key < :key || '!' AND finish != 'length'"
    " AND (CAST(substr(key, length(:key) + 2) AS INTEGER) <= :limit OR :limit = 0)))"
    " ORDER BY finish = 'length' DESC, key"
)
"""The reply to a request, by `_place`."""
_FIND_VALID = _FIND.replace(" ORDER", " AND key NOT IN (SELECT key FROM unparsable) ORDER")


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Raises `UserError` for an error of SQLite; says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:  # a full disk, a folder that cannot be written to
        raise UserError(f"{path}: {error}; mend that and keep the file: it holds what was paid for") from None
    except sqlite3.Error as error:
        raise UserError(f"{path}: no usable cache ({error}); move the file away") from None


class Cache:
    """One SQLite file with replies, keyed by a hash of everything that determines them, and each role's
    spending.

    A reply and its price are committed in one transaction before `get_or_call` returns it. In WAL mode a
    commit survives a kill of the process; a power failure may lose the last few. Several processes of one
    launch may use the file at once (`shared`). Every method raises `UserError` if the disk is full, or fails
    otherwise."""

    def __init__(self, path: Path, shared: bool = False) -> None:
        """Raises `UserError` if the file cannot be opened, or is no plain file or no SQLite file."""
        for name in ("", "-wal", "-shm", "-journal"):  # what SQLite writes
            refuse_no_plain_file(path.with_name(path.name + name), path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with _in_one_line(path):
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL,"
                " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, finish TEXT NOT NULL,"
                " refusal INTEGER NOT NULL)"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS spent (role TEXT PRIMARY KEY, calls INTEGER NOT NULL,"
                " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, money REAL NOT NULL)"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS unparsable (key TEXT PRIMARY KEY)")
            self._db.execute("CREATE TABLE IF NOT EXISTS asking (key TEXT PRIMARY KEY)")
        self.shared = shared
        self._others: list[sqlite3.Connection] = []
        self._in_flight: dict[str, asyncio.Task[tuple[ChatReply, bool]]] = {}

    @staticmethod
    def key(
        model: str,
        sampling: dict[str, Any],
        messages: list[Message],
        schema: dict[str, Any] | None,
        repeat: int,
    ) -> str:
        """SHA-256 of the canonical JSON of everything that determines a reply, a picture by the hash of its
        data URL. Not of the endpoint's address, so that a model moved to another host keeps its replies; nor
        of the token limit, which decides only where a reply is cut off (see `_place`)."""
        what = [model, sampling, [_hashed(message) for message in messages], schema, repeat]
        return hashlib.sha256(
            json.dumps(what, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
        ).hexdigest()

    def get(self, key: str, limit: int = 0) -> ChatReply | None:
        """The committed reply, if there is one: cut off at this token limit, or ended by itself within it. 0
        is no limit."""
        values = {"key": key, "limit": limit}
        row = self._run(_FIND, values).fetchone()
        for other in self._others if row is None else ():
            row = row or other.execute(_FIND_VALID, values).fetchone()
        return ChatReply(row[0], row[1], row[2], row[3], bool(row[4])) if row else None

    def read_also(self, path: Path) -> None:
        """Take replies from another run's file, too, where this one has none; what was no valid answer there
        is asked for again. Nothing is written to it. A file that cannot be read has none."""
        with suppress(sqlite3.Error):
            other = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
            other.execute(_FIND_VALID, {"key": "", "limit": 0})
            self._others.append(other)

    async def get_or_call(
        self,
        key: str,
        role: str,
        call: Callable[[], Awaitable[tuple[ChatReply, float]]],
        limit: int = 0,
    ) -> tuple[ChatReply, bool]:
        """The reply, and whether it was free. `call` returns a reply and its cost, which the account of
        `role` is charged; `limit` is the request's token limit (see `_place`).

        Equal requests in flight share one call, and its error, which is not stored; another process then
        makes a call of its own. Cancelling a caller does not cancel the call: it is paid for, so its reply is
        committed."""
        reply = self.get(key, limit)
        if reply is not None:
            return reply, True
        request = f"{key} {limit}"
        task = self._in_flight.get(request)
        if task is not None:
            return (await asyncio.shield(task))[0], True
        task = asyncio.ensure_future(self._call(key, role, call, limit))
        self._in_flight[request] = task
        task.add_done_callback(lambda done: self._landed(request, done))
        return await asyncio.shield(task)

    async def _call(
        self, key: str, role: str, call: Callable[[], Awaitable[tuple[ChatReply, float]]], limit: int
    ) -> tuple[ChatReply, bool]:
        if self.shared and (theirs := await self._theirs(key, limit)) is not None:
            return theirs, True
        request = f"{key} {limit}"
        try:
            reply, money = await call()
        except BaseException:
            self._run("DELETE FROM asking WHERE key = ?", (request,))
            raise
        row = (
            _place(key, limit, reply),
            reply.text,
            reply.prompt_tokens,
            reply.completion_tokens,
            reply.finish,
            int(reply.refusal),
        )
        with self._transaction():
            # A reply in its place is too long for this limit.
            self._run("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)", row)
            self.charge(role, Account(1, 0, reply.prompt_tokens, reply.completion_tokens, money))
            self._run("DELETE FROM asking WHERE key = ?", (request,))
        return reply, False

    async def _theirs(self, key: str, limit: int) -> ChatReply | None:
        """The reply to a request that another process has under way; None, once no other has, if this one is
        to send it."""
        while True:
            with self._transaction():
                reply = self.get(key, limit)
                if reply is not None:
                    return reply
                if self._run("INSERT OR IGNORE INTO asking VALUES (?)", (f"{key} {limit}",)).rowcount:
                    return None
            await asyncio.sleep(LOOK_AGAIN_S)

    def forget_asking(self) -> None:
        """No other process has a request under way: those that did were killed."""
        self._run("DELETE FROM asking")

    def charge(self, role: str, account: Account) -> None:
        """Add an account's calls, tokens and money to what a role has spent."""
        self._run(
            "INSERT INTO spent VALUES (?, ?, ?, ?, ?) ON CONFLICT (role) DO UPDATE"
            " SET calls = calls + excluded.calls,"
            " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
            " completion_tokens = completion_tokens + excluded.completion_tokens,"
            " money = money + excluded.money",
            (role, account.calls, account.prompt_tokens, account.completion_tokens, account.money),
        )

    def _run(self, statement: str, values: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        with _in_one_line(self.path):
            return self._db.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite has rolled back itself where the disk is full
                self._run("ROLLBACK")
            raise

    def spent(self) -> list[tuple[str, int, int, int, float]]:
        """(role, calls, prompt tokens, completion tokens, money), summed over every process that used this
        file, at the prices set when the calls were made."""
        return self._run("SELECT role, calls, prompt_tokens, completion_tokens, money FROM spent").fetchall()

    def money(self) -> float:
        """Money spent by all roles, in every process."""
        return sum(money for *_, money in self.spent())

    @property
    def in_flight(self) -> bool:
        """Whether calls are under way."""
        return bool(self._in_flight)

    async def settle(self, seconds: float) -> None:
        """Wait at most `seconds` for the calls in flight, so that their replies are stored and the requests
        are not sent again."""
        if self._in_flight:
            await asyncio.wait(self._in_flight.values(), timeout=seconds)

    def give_up(self, requests: Iterable[tuple[str, int]]) -> None:
        """Mark the replies to these requests (key and token limit) as no valid answers. They stay in the
        cache, so a run that resumes after a kill ends the same way."""
        for key, limit in requests:
            row = self._run(_FIND, {"key": key, "limit": limit}).fetchone()
            if row:
                self._run("INSERT OR IGNORE INTO unparsable VALUES (?)", (row[-1],))

    def forget_unparsable(self) -> None:
        """Delete the replies marked by `give_up`, so that those requests are sent and paid for again. Their
        cost stays in `spent`."""
        with self._transaction():
            self._run("DELETE FROM replies WHERE key IN (SELECT key FROM unparsable)")
            self._run("DELETE FROM unparsable")

    def _landed(self, request: str, task: asyncio.Task[tuple[ChatReply, bool]]) -> None:
        del self._in_flight[request]
        if not task.cancelled():
            task.exception()  # mark as retrieved, even if every caller has been cancelled

    def close(self) -> None:
        for database in (*self._others, self._db):
            database.close()


def _place(key: str, limit: int, reply: ChatReply) -> str:
    """Where a reply is kept. One that the token limit cut off is the reply to requests with that limit; any
    other to those with a limit that it fits, so that a run goes on with another limit and pays for nothing
    twice. It fits the limit within which it ended, too, although servers that count hidden reasoning or the
    end token may count more."""
    within = reply.finish != "length" and (limit == 0 or reply.completion_tokens <= limit)
    return key if within else f"{key} {limit}"


def _hashed(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return message | {
        "content": [
            _digest(part["image_url"]["url"]) if part["type"] == "image_url" else part for part in content
        ]
    }


def _digest(url: str) -> dict[str, str]:
    return {"type": "image_url", "sha256": hashlib.sha256(url.encode()).hexdigest()}
