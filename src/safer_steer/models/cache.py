"""Replies on disk: nothing that was answered is asked, or paid, twice. No key and no header ever gets here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from safer_steer.errors import UserError
from safer_steer.models.transport import ChatReply, Message


class Cache:
    """Replies by the hash of everything that determines them, in one SQLite file.

    A reply is committed before `get_or_call` returns it. In WAL mode the commit is in the operating system's hands, so it
    survives a kill of the process; a power cut may cost the last few.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            UserError: the file cannot be opened, or is no SQLite file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,"
                " completion_tokens INTEGER NOT NULL, finish TEXT NOT NULL, refusal INTEGER NOT NULL)"
            )
        except sqlite3.Error as error:
            raise UserError(f"{path}: no usable cache ({error}); move the file away") from None
        self._in_flight: dict[str, asyncio.Task[ChatReply]] = {}

    @staticmethod
    def key(model: str, sampling: dict[str, Any], messages: list[Message], schema: dict[str, Any] | None, repeat: int) -> str:
        """SHA-256 of the canonical JSON of what determines a reply; a picture counts as the hash of its data URL."""
        what = [model, sampling, [_hashed(message) for message in messages], schema, repeat]
        return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()

    def get(self, key: str) -> ChatReply | None:
        """The committed reply, if there is one."""
        row = self._db.execute("SELECT text, prompt_tokens, completion_tokens, finish, refusal FROM replies WHERE key = ?", (key,)).fetchone()
        return ChatReply(row[0], row[1], row[2], row[3], bool(row[4])) if row else None

    async def get_or_call(self, key: str, call: Callable[[], Awaitable[ChatReply]]) -> tuple[ChatReply, bool]:
        """The reply, and whether it cost nothing. Equal keys in flight share one call (and its error, which is not kept).

        A caller that is cancelled does not cancel the call: it is paid for, so its reply is committed.
        """
        kept = self.get(key)
        if kept is not None:
            return kept, True
        task = self._in_flight.get(key)
        if task is not None:
            return await asyncio.shield(task), True
        task = asyncio.ensure_future(self._call(key, call))
        self._in_flight[key] = task
        task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task), False

    async def _call(self, key: str, call: Callable[[], Awaitable[ChatReply]]) -> ChatReply:
        reply = await call()
        row = (key, reply.text, reply.prompt_tokens, reply.completion_tokens, reply.finish, int(reply.refusal))
        self._db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?)", row)
        return reply

    def _landed(self, key: str, task: asyncio.Task[ChatReply]) -> None:
        del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # seen, also where every caller was cancelled meanwhile

    def close(self) -> None:
        """Fold the log into the file and close it."""
        self._db.close()


def _hashed(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return message | {"content": [_digest(part["image_url"]["url"]) if part["type"] == "image_url" else part for part in content]}


def _digest(url: str) -> dict[str, str]:
    return {"type": "image_url", "sha256": hashlib.sha256(url.encode()).hexdigest()}
