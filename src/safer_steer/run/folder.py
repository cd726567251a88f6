"""A run is a config and a folder: its lock, its models, and which stages are done."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import yaml

from safer_steer.bench.judge_check.file import FILE as JUDGE_CHECK
from safer_steer.config import Config, Role, RoleName
from safer_steer.config.changes import all_stubs, another_run, keep_finished
from safer_steer.config.file import BoundedLoader, dump_config
from safer_steer.endpoints.cache import FILE as CACHE
from safer_steer.errors import SpendingLimit, UserError
from safer_steer.files.manifest import Manifest, config_sha256
from safer_steer.files.store import locked, write_atomic
from safer_steer.prompts.base import fingerprints
from safer_steer.run.additions import advice, with_additions
from safer_steer.run.input_files import named_paths, take_inputs
from safer_steer.run.roles import in_process
from safer_steer.stages import STAGES
from safer_steer.student import processes
from safer_steer.workers import Progress

if TYPE_CHECKING:
    from safer_steer.data.seeds.identity import Survey
    from safer_steer.endpoints.blind import BlindTransport, Captions
    from safer_steer.endpoints.cache import Cache
    from safer_steer.endpoints.chat import ChatModel
    from safer_steer.endpoints.endpoint import EndpointTransport
    from safer_steer.endpoints.ledger import Account
    from safer_steer.endpoints.transport import ChatReply
    from safer_steer.files.images import PicturesOf

Result = TypeVar("Result")


WRITTEN = tuple(name for stage in STAGES.values() for name in stage.writes)
"""The files and folders of a run that its stages write."""
SETTLE_S = 20
"""Seconds that replies under way are awaited after Ctrl-C, or an error that the user has to fix."""


class Show(Protocol):
    """Where progress is shown."""

    def stage(self, name: str) -> Progress:
        """A stage begins. The returned callable is called with its progress."""

    def say(self, line: str) -> None:
        """Print one line."""

    def over(self) -> None:
        """The stage has ended."""


class Run:
    """A context manager. Inside it, only this process writes to the folder.

    `cache.sqlite` in the folder holds every paid reply. `fresh` does not delete it.
    Of several processes (`processes.py`) the first writes. The others enter after it, and may ask models.
    """

    def __init__(self, config: Config, folder: Path, show: Show, fresh: bool = False) -> None:
        """Writes nothing yet. Raises `UserError` if the folder cannot be used for this run."""
        self.config, self.folder, self.show, self.fresh = config, folder, show, fresh
        self.outdated: frozenset[str] = frozenset()
        """Stages that the config has given more to do since they were finished."""
        self.override: frozenset[str] = frozenset()
        """Gates that may be out of their bands (`run.gates`)."""
        self.survey: Survey | None = None  # set if the preflight surveyed the sources; then Stage I need not
        from safer_steer.endpoints.ledger import Ledger

        self.ledger = Ledger(config.spending_limit)
        self._transports: dict[tuple[RoleName, str], EndpointTransport | BlindTransport] = {}
        self._captions: Captions | None = None
        self._cache: Cache | None = None
        self._ending = False
        self._lock: IO[bytes] | None = None
        if processes.first():
            self._check_folder()

    def _check_folder(self) -> None:
        """Check that the folder is new, empty, or holds a run of the same config (of any config if
        `fresh`)."""
        folder, config = self.folder, self.folder / "config.yaml"
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; give a folder")
        if not config.is_file():
            if folder.is_dir() and any(
                entry.name not in (".lock", "config.yaml.part") for entry in folder.iterdir()
            ):
                raise UserError(
                    f"{folder}: has files but is not a run (no config.yaml); choose an empty or new folder"
                )
            return
        if is_run(folder):
            for path in named_paths(self.config):
                if any(Path(path).is_relative_to(folder.resolve() / name) for name in WRITTEN):
                    raise UserError(f"{folder}: {path} lies where a run writes; choose another folder")
            if self.fresh:
                return
        old, new = _read_yaml(config), self.config.model_dump(mode="json")
        *compared, self.outdated = with_additions(old, new)
        key = another_run(*compared)
        if not is_run(folder) and (self.fresh or key):
            raise UserError(
                f"{folder}: has files but is not a run (no manifest.json); choose an empty or new folder"
            )
        if key and (stub := all_stubs(old)) != all_stubs(new):
            with_or_without, what = ("with", "give --stub too") if stub else ("without", "leave --stub out")
            raise UserError(
                f"{folder}: holds a run {with_or_without} --stub; {what}, or choose another folder"
            )
        if key:
            raise UserError(
                f"{folder}: holds a run whose config differs in {key};{advice(key, new)} choose another"
                " folder, or start over with --fresh"
            )

    def __enter__(self) -> Run:
        if processes.first():
            self._take()
        self.manifest = Manifest(self.folder)
        self.resume_spending()  # before the first stage, whose calls are counted from here on
        return self

    def _take(self) -> None:
        self._lock = locked(self.folder)
        self._check_folder()  # again, now that no other process can write
        if self.fresh:
            self._start_over()
        config, values = self.folder / "config.yaml", self.config.model_dump(mode="json")
        if self.outdated:
            Manifest(self.folder).go_on(config, values, self.outdated)
        if not self.fresh and config.is_file():
            for key, stage in keep_finished(_read_yaml(config), values, Manifest(self.folder).whole):
                self.show.say(f"{key} has no effect: {stage} is finished; config.yaml keeps what it ran with")
        write_atomic(config, dump_config(values))
        if processes.count() > 1:
            self._opened_cache().forget_asking()

    def __exit__(self, *_: object) -> None:
        if self._cache:
            self._cache.close()
        if self._lock:
            self._lock.close()

    def _start_over(self) -> None:
        """Delete everything a run writes, by name, and what judges made of its answers, but nothing that a
        link leads to. The manifest goes first: without it nothing counts as done."""
        home = self.folder.resolve()
        judged = [path for path in home.glob("judged/*") if path.resolve() == path]
        for folder in (home, *judged):
            for name in ("manifest.json", JUDGE_CHECK, *WRITTEN):
                path = folder / name
                is_folder = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if is_folder else path.unlink(missing_ok=True)

    # Asking ------------------------------------------------------------------

    def ask(self, role: RoleName, model: str | None = None) -> ChatModel:
        """The model that does a role's jobs; `model` is the one of several (`Config.models_of`). Raises
        `UserError` if the role's endpoint is not usable as configured."""
        from safer_steer.endpoints.chat import ChatModel

        settings = self.config.role(role, model).shared_by(processes.count())
        name = self.config.account(role, settings.model)
        if here := in_process(settings):
            return ChatModel(name, settings, here, None, self.ledger)
        key = role, settings.model
        if key not in self._transports:
            self._transports[key] = self._transport(name, settings)
        return ChatModel(name, settings, self._transports[key], self._opened_cache(), self.ledger)

    def judges(self) -> list[ChatModel]:
        """The models that judge. Raises as `ask` does."""
        return [self.ask("judge", model) for model in self.config.models_of("judge")]

    def pictures(self) -> PicturesOf:
        """What reads the pictures of the folder, scaled down to what the student takes."""
        from safer_steer.files.images import pictures_in

        return pictures_in(self.folder, self.config.student.max_pixels)

    def read_also(self, caches: Iterable[Path]) -> None:
        """Pay for no reply that is in one of these caches of other runs. The run must be open."""
        for path in caches:
            self._opened_cache().read_also(path)

    def resume_spending(self) -> None:
        """Let the ledger take over what earlier processes paid in this folder."""
        if (self.folder / CACHE).exists() or processes.count() > 1:
            self._opened_cache()

    def charge(self, spent: Mapping[str, Account]) -> None:
        """Record the cost of calls whose replies are not kept. The run must be open."""
        cache = self._opened_cache()
        for role, account in spent.items():
            cache.charge(role, account)
        self.ledger.go_on_from(cache.spent())

    def _transport(self, name: str, settings: Role) -> EndpointTransport | BlindTransport:
        from safer_steer.endpoints.blind import Captions, endpoint_of

        def captions() -> Captions:
            captioner = self.config.captioner
            assert captioner, "the config has been checked"
            self._captions = self._captions or Captions(self.ask(captioner))
            return self._captions

        return endpoint_of(settings, captions, self._may_send, partial(self._pay_lost, name, settings))

    def _may_send(self) -> None:
        """Called before every request. Raises `SpendingLimit` if nothing more is to be sent."""
        if self._ending:
            raise SpendingLimit("the run is ending")
        self.ledger.may_spend()

    def _pay_lost(self, name: str, settings: Role, reply: ChatReply) -> None:
        """Book a reply that was thrown away."""
        from safer_steer.endpoints.ledger import Account

        money = self.ledger.paid(name, settings, reply)
        account = Account(1, 0, reply.prompt_tokens, reply.completion_tokens, money)
        self._opened_cache().charge(name, account)

    def forget_unparsable(self) -> None:
        """Have requests sent again whose replies were no valid answers."""
        if self._cache:
            self._cache.forget_unparsable()

    def _opened_cache(self) -> Cache:
        """The cache. When it is opened, the ledger takes over the spending recorded in it."""
        if self._cache is None:
            from safer_steer.endpoints.cache import Cache

            several = processes.count() > 1
            self._cache = Cache(self.folder / CACHE, shared=several)
            self.ledger.go_on_from(self._cache.spent())
            if several:
                self.ledger.in_all = self._cache.money
        return self._cache

    def wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run asynchronous work to completion and close the connections it used. Calls in flight are awaited
        at the spending limit, and for a while after Ctrl-C or an error that the user has to fix: they are
        paid for."""

        async def closing() -> Result:
            try:
                return await work
            except SpendingLimit:
                if self._cache:
                    await self._cache.settle(
                        max((role.timeout_s for _, role in self.config.each_role()), default=0)
                    )
                raise
            except (UserError, asyncio.CancelledError) as error:
                self._ending = True
                if self._cache and self._cache.in_flight:
                    if isinstance(error, asyncio.CancelledError):  # Ctrl-C
                        self.show.say(
                            f"waiting at most {SETTLE_S} s for replies under way, which are paid for;"
                            " Ctrl-C again stops at once"
                        )
                    await self._cache.settle(SETTLE_S)
                raise
            finally:
                from safer_steer.endpoints.clients import close_all

                await close_all()

        return asyncio.run(closing())

    # Stages ------------------------------------------------------------------

    def once(
        self,
        stage: str,
        work: Callable[[Progress], Any],
        needs: tuple[str, ...] | None = None,
        student: bool = True,
    ) -> None:
        """Run a stage unless it is done, and record it in the manifest. `needs` are the stages it builds on,
        if they differ from those in `stages.STAGES`; `student`: whether it may load the student.

        Raises `UserError` if a stage it builds on is not finished; or its scripts or dialogues, or inputs of
        it or of this stage, were changed since."""
        needs = STAGES[stage].needs(self.config) if needs is None else needs
        if processes.decided(partial(self._is_done, stage, needs)):
            return
        # As the stage begins: of what is edited while it works, it may have read either version.
        inputs = take_inputs(STAGES[stage], self.config, student) if processes.first() else {}
        started, before = time.monotonic(), self.ledger.as_dict()
        working = partial(work, self.show.stage(stage))
        if STAGES[stage].trains:
            working()
        else:
            processes.decided(working)
        self.show.over()
        calls = processes.gathered(_spent(before, self.ledger.as_dict()))
        if not processes.first():
            return
        seconds = time.monotonic() - started
        facts: dict[str, Any] = {
            "seconds": round(seconds, 1),
            "calls": _summed(calls),
            "config": config_sha256(self.folder / "config.yaml"),
            "prompts": fingerprints(STAGES[stage].asked_with(self.config)),
            "inputs": inputs,
            **STAGES[stage].facts(self.config),
        }
        for (_, model), transport in self._transports.items():
            if transport.not_taken:
                facts.setdefault("not_taken", {})[model] = transport.not_taken
        self.manifest.record(stage, STAGES[stage].writes, needs, facts)
        self.show.say(f"{stage}: done in {seconds:.0f} s")

    def _is_done(self, stage: str, needs: tuple[str, ...]) -> bool:
        """Whether the stage is done. If not, those in `needs` are. Raises as `once` does."""
        self.manifest.refuse_edited(stage)
        if self.manifest.finished(stage):
            if missing := self.manifest.refuse_other_inputs(stage, renew=True):
                self.show.say(missing)
            self.show.say(f"{stage}: done already")
            return True
        for before in needs:
            self.manifest.refuse_edited(before)
            if not self.manifest.finished(before):
                raise UserError(
                    f"{self.folder}: `{stage}` needs `{before}`, which is not finished;"
                    f" run `safer-steer {before}` with the same arguments first"
                )
            self.manifest.refuse_other_inputs(before, renew=True)
        return False


def report_again(folder: Path) -> Path:
    """Write a run's page anew, and enter it in the manifest; returns its path. The run may be one of an
    earlier version: its config is not compared with what a config is now."""
    from safer_steer.report.page import write_report

    with locked(folder):
        started, manifest = time.monotonic(), Manifest(folder)
        page = write_report(folder)
        seconds, config = round(time.monotonic() - started, 1), config_sha256(folder / "config.yaml")
        facts = {"seconds": seconds, "config": config}
        manifest.record("report", STAGES["report"].writes, (), facts)
    return page


def _spent(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each role used between two readings of the ledger. Roles that used nothing are left out."""
    accounts = {}
    for role, account in after.items():
        earlier = before.get(role, {})
        used = {key: value - earlier.get(key, 0) for key, value in account.items()}
        if any(used.values()):
            accounts[role] = used
    return accounts


def _summed(calls: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    totals = defaultdict[str, Counter[str]](Counter)
    for accounts in calls:
        for role, account in accounts.items():
            totals[role].update(account)
    return {role: dict(account) for role, account in totals.items()}


def is_run(folder: Path) -> bool:
    """Whether a run has worked in the folder. A project of `init` has only the config."""
    return (folder / "config.yaml").is_file() and any(
        (folder / name).exists() for name in (".lock", "manifest.json")
    )


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), BoundedLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{path}: no valid YAML; start over with --fresh") from None
