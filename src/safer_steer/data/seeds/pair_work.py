"""The work on one pair: its pictures, the probe, and one script of each kind."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from safer_steer.config import Config, RoleName
from safer_steer.data.seeds.attempts import try_twice
from safer_steer.data.seeds.perturb import chosen, perturb
from safer_steer.data.seeds.pools import key_of, kinds_of
from safer_steer.data.seeds.red_team import (
    benign_script,
    next_strategy,
    obfuscated_script,
    plan_attack,
    probe,
    simulate,
)
from safer_steer.data.sources import Pair, picture_of
from safer_steer.dialogue import Kind, Seed, Turn
from safer_steer.endpoints.asked_again import ATTEMPTS
from safer_steer.endpoints.chat import REASK, ChatModel
from safer_steer.episode import Assistant
from safer_steer.files.images import Picture, load_picture, pictures_in
from safer_steer.files.meta import SeedMeta
from safer_steer.files.store import Journal, content_id, write_atomic
from safer_steer.prompts.scripts import Strategy
from safer_steer.workers import Patience, side_by_side


class PairPicture:
    """A pair's picture in the run's folder, written on first use. File names are derived from the content."""

    def __init__(self, pair: Pair, config: Config, folder: Path) -> None:
        self.pair = pair
        self.config = config
        self.folder = folder

    @property
    def source(self) -> Picture:
        """The picture the generator sees: the set's, scaled down if it is too large for the student."""
        return self._kept[0]

    @property
    def original(self) -> str:
        """The SHA-256 in hex of the set's picture before scaling. Identifies it for the bench and for other
        pairs."""
        return self._kept[1]

    @cached_property
    def _kept(self) -> tuple[Picture, str]:
        picture = picture_of(self.pair, self.config.student.max_pixels)
        name = f"images/{picture.original[:16]}{picture.suffix}"
        self._keep(name, picture.data)
        return load_picture(self.folder, name, self.config.student.max_pixels), picture.original

    @property
    def perturbed(self) -> bool:
        return chosen(self.original, self.config.seeds.perturb_share, self.config.seed)

    @cached_property
    def shown(self) -> str:
        """The path of the picture in the seeds, which target, judge and student see: the perturbed copy if
        there is one."""
        if not self.perturbed:
            return self.source.name
        name = f"images/{self.original[:16]}-perturbed.png"
        if not (self.folder / name).exists():
            draw = f"{self.config.seed} {self.original}"
            self._keep(name, perturb(self.source.data, self.config.seeds.noise_sigma, draw))
        return name

    def _keep(self, name: str, data: bytes) -> None:
        if not (self.folder / name).exists():  # an existing file is complete: writes are atomic
            write_atomic(self.folder / name, data)


class PairWork:
    """Makes the scripts of pairs. `patience` counts the jobs that failed because of an endpoint."""

    def __init__(
        self, config: Config, folder: Path, ask: Callable[[RoleName], ChatModel], target: Assistant
    ) -> None:
        self.config = config
        self.folder = folder
        self.generator = ask("generator")
        self.attack_judge = ask("attack_judge")
        self.target = target
        self.patience = Patience("seeds", "script")
        self.bounds = (config.seeds.min_turns, config.seeds.max_turns)

    async def do(self, pair: Pair, journal: Journal) -> None:
        """Do the jobs of this pair that the journal does not hold yet. A script that fails is journalled as
        failed.

        Raises:
            UserError: the pair's picture is unusable, or an endpoint does not respond.
        """
        picture = PairPicture(pair, self.config, self.folder)
        kinds = kinds_of(pair, self.config.seeds.kinds)
        # The known answer would not fit a rewrite.
        given = pair.question if pair.safe and pair.answer is not None else ""
        benign, obfuscated = given, ""
        if kinds and not given:
            job = partial(self._probe, pair, picture)
            probed = await try_twice(journal, self.patience, "probe", key_of(pair, "probe"), job)
            if probed is None or "failed" in probed:
                return
            benign, obfuscated = probed["made"]["benign"], probed["made"]["obfuscated"]
        jobs: dict[Kind, Callable[[int], Awaitable[dict[str, Any]]]] = {
            Kind.BENIGN: lambda attempt: self._benign(pair, picture, benign, attempt),
            Kind.OBFUSCATED: lambda attempt: self._obfuscated(pair, picture, obfuscated, attempt),
            Kind.RED_TEAM: lambda attempt: self._red_team(pair, picture, obfuscated, attempt),
        }
        await side_by_side(self._one(journal, kind, pair, jobs[kind]) for kind in kinds)

    async def _one(
        self, journal: Journal, kind: Kind, pair: Pair, job: Callable[[int], Awaitable[dict[str, Any]]]
    ) -> None:
        strategy = (lambda attempt: self._strategy(pair, attempt)[1]) if kind is Kind.RED_TEAM else None
        await try_twice(journal, self.patience, kind, key_of(pair, kind), job, strategy)

    async def _probe(self, pair: Pair, picture: PairPicture, attempt: int) -> dict[str, Any]:
        return (
            await probe(self.generator, pair.question, picture.source, self._repeat(pair, attempt))
        ).model_dump()

    async def _benign(self, pair: Pair, picture: PairPicture, task: str, attempt: int) -> dict[str, Any]:
        turns = self._rng(pair, Kind.BENIGN).randint(*self.bounds)
        script = await benign_script(
            self.generator, task, turns, self.bounds, picture.source, self._repeat(pair, attempt)
        )
        facts: SeedMeta = {}
        if task == pair.question and pair.answer is not None:
            facts["answer"] = pair.answer
        return self._row(picture, self._seed(pair, Kind.BENIGN, task, picture, script, attempt, facts))

    async def _obfuscated(self, pair: Pair, picture: PairPicture, task: str, attempt: int) -> dict[str, Any]:
        turns = self._rng(pair, Kind.OBFUSCATED).randint(*self.bounds)
        script = await obfuscated_script(
            self.generator, task, pair.intent, turns, self.bounds, picture.source, self._repeat(pair, attempt)
        )
        return self._row(
            picture, self._seed(pair, Kind.OBFUSCATED, pair.intent, picture, script, attempt, {})
        )

    async def _red_team(self, pair: Pair, picture: PairPicture, task: str, attempt: int) -> dict[str, Any]:
        turns, strategy = self._strategy(pair, attempt)
        script, facts = await plan_attack(
            self.generator,
            question=pair.question,
            task=task,
            intent=pair.intent,
            strategy=strategy,
            turns=turns,
            bounds=self.bounds,
            picture=picture.source,
            repeat=self._repeat(pair, attempt),
        )
        if not self.config.seeds.tries(pair.use):
            return self._row(
                picture, self._seed(pair, Kind.RED_TEAM, pair.intent, picture, script, attempt, facts)
            )
        if pair.use == "bench":
            facts["filtered_against"] = self.config.role("target").title()
        seed = self._seed(pair, Kind.RED_TEAM, pair.intent, picture, script, attempt, facts)
        return self._row(
            picture,
            await simulate(
                seed,
                self.target,
                self.attack_judge,
                pictures_in(self.folder, self.config.student.max_pixels),
                self.config.seeds.success_at,
            ),
        )

    def _strategy(self, pair: Pair, attempt: int) -> tuple[int, Strategy]:
        """The number of turns and the strategy of a red-team script. Both are drawn for the pair; the second
        attempt uses the next strategy."""
        rng = self._rng(pair, Kind.RED_TEAM)
        turns, strategy = rng.randint(*self.bounds), rng.choice(list(Strategy))
        for _ in range(attempt):
            strategy = next_strategy(strategy)
        return turns, strategy

    def _rng(self, pair: Pair, kind: Kind) -> random.Random:
        return random.Random(f"{self.config.seed} {pair.id} {kind}")

    def _repeat(self, pair: Pair, attempt: int) -> int:
        """Sample number by pair, config seed and attempt, so that the same question may be asked twice."""
        return int(content_id(self.config.seed, pair.id), 16) % (REASK // ATTEMPTS) * ATTEMPTS + attempt

    def _seed(
        self,
        pair: Pair,
        kind: Kind,
        intent: str,
        picture: PairPicture,
        script: list[Turn],
        attempt: int,
        facts: SeedMeta,
    ) -> Seed:
        meta: SeedMeta = {"pair": pair.id, "question": pair.question, "use": pair.use}
        meta |= {"picture": picture.original[:16], "attempts": attempt + 1, "perturbed": picture.perturbed}
        if pair.category:
            meta["category"] = pair.category
        if pair.safe is not None:
            meta["question_safe"] = pair.safe  # of the question; a script's safety follows from its kind
        if intent != pair.intent:
            meta["intent"] = pair.intent  # of the question, if the script has a different one
        if picture.perturbed:
            meta["original"] = picture.source.name
        return Seed(
            id=key_of(pair, kind),
            kind=kind,
            source=pair.source,
            intent=intent,
            images=[picture.shown],
            turns=script,
            meta=meta | facts,
        )

    def _row(self, picture: PairPicture, seed: Seed) -> dict[str, Any]:
        return {"seed": seed.model_dump(mode="json"), "picture": picture.original}
