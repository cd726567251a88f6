"""A run's spending: calls, tokens and money, by role."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from safer_steer.config import Role
from safer_steer.endpoints.transport import ChatReply
from safer_steer.errors import SpendingLimit


@dataclass
class Account:
    """One role's counts. Calls, tokens and money include all processes that worked on the run folder; the
    other counts are of this process only."""

    calls: int = 0
    cached: int = 0
    """Replies from the cache; they cost nothing."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    failed: int = 0
    """Calls that ended, after all retries, in an endpoint error or a rejection."""
    refused: int = 0
    unparsable: int = 0
    """Replies that were not valid answers, including replies to re-asks."""


class Ledger:
    """Accounts by role, and an optional limit on the money that all roles together may spend."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self.in_all: Callable[[], float] | None = None
        """Money spent by all processes of a launch, if there are several; accounts are of one."""
        self.accounts: defaultdict[str, Account] = defaultdict(Account)

    def go_on_from(self, rows: Iterable[tuple[str, int, int, int, float]]) -> None:
        """Start from what earlier processes paid (`Cache.spent`)."""
        for name, calls, prompt_tokens, completion_tokens, money in rows:
            self.accounts[name] = Account(calls, 0, prompt_tokens, completion_tokens, money)

    @property
    def money(self) -> float:
        return sum(account.money for account in self.accounts.values())

    def may_spend(self) -> None:
        """Called before every request that may cost money; those in flight may exceed the limit by their own
        price. Raises `SpendingLimit`."""
        if self.limit is None:
            return
        spent = self.in_all() if self.in_all else self.money
        if spent >= self.limit:
            raise SpendingLimit(
                f"{spent:.2f} of {self.limit:.2f} spent; raise spending_limit and run the same command"
                " to go on"
            )

    def paid(self, name: str, role: Role, reply: ChatReply) -> float:
        """Book one reply at the role's prices (money per million tokens). Returns its cost."""
        money = (role.price_in * reply.prompt_tokens + role.price_out * reply.completion_tokens) / 1e6
        account = self.accounts[name]
        account.calls += 1
        account.prompt_tokens += reply.prompt_tokens
        account.completion_tokens += reply.completion_tokens
        account.money += money
        return money

    def as_dict(self) -> dict[str, dict[str, float]]:
        """The accounts as plain numbers, for the manifest and the report."""
        return {name: asdict(account) for name, account in sorted(self.accounts.items())}
