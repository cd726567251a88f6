"""The work on one pair: its pictures, the probe, and one script of each kind. A red-team script is captioned,
rewritten and planned, and if it is for training, played (`red_team.py`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safer_steer.config import Config
from safer_steer.data.seeds.journal import failed_for, key_of, kinds_of, rewrite_for, try_twice
from safer_steer.data.seeds.perturb import chosen, perturb
from safer_steer.data.seeds.red_team import simulate
from safer_steer.data.sources.pair import Pair
from safer_steer.data.typographic import Undrawable, in_picture, keep
from safer_steer.dialogue import Kind, Seed, Turn
from safer_steer.endpoints.asked_again import ATTEMPTS
from safer_steer.endpoints.chat import REASK, ChatModel
from safer_steer.endpoints.refusals import check, check_script
from safer_steer.episode import Assistant
from safer_steer.errors import BoundaryError, UnparsableError
from safer_steer.files.images import Picture, load_picture, pictures_in
from safer_steer.files.meta import SeedMeta
from safer_steer.files.store import Journal, content_id, write_atomic
from safer_steer.prompts.base import Input, Output, Prompt
from safer_steer.prompts.scripts import (
    BENIGN,
    CAPTION,
    OBFUSCATED,
    PLAN,
    PROBE,
    REWRITE,
    BenignInput,
    CaptionInput,
    ObfuscatedInput,
    PlanInput,
    ProbeInput,
    RewriteInput,
    Strategy,
)
from safer_steer.workers import Patience, side_by_side

HARMLESS = 1
"""The planned risk (1-5) of a turn that anyone would answer. 5 asks outright for restricted content."""


@dataclass(frozen=True)
class Seats:
    """Who makes and tries the scripts of a run, and where its pictures go."""

    config: Config
    folder: Path
    """The run's."""
    generator: ChatModel
    attack_judge: ChatModel
    target: Assistant
    """The fixed policy that red-team scripts are played against."""
    patience: Patience
    """Counts the jobs that failed because of an endpoint."""


class PairWork:
    """Makes the scripts of one pair."""

    def __init__(self, seats: Seats, pair: Pair) -> None:
        self.seats, self.config, self.pair = seats, seats.config, pair
        self.bounds = seats.config.seeds.min_turns, seats.config.seeds.max_turns

    async def do(self, journal: Journal) -> None:
        """Do the jobs of this pair that the journal does not hold yet. A script that fails is journalled as
        failed. Raises `UserError`: the pair's picture is unusable, or an endpoint does not respond."""
        pair, patience = self.pair, self.seats.patience
        kinds = kinds_of(pair, self.config.seeds.kinds)
        # The known answer would not fit a rewrite.
        benign, obfuscated = pair.question if pair.safe and pair.answer is not None else "", ""
        if kinds and not benign:
            probed = await try_twice(journal, patience, pair, "probe", self._probe)
            if probed is None or "failed" in probed:
                return
            benign, obfuscated = probed["made"]["benign"], probed["made"]["obfuscated"]
            kinds = [kind for kind in kinds if not failed_for(probed, kind)]

        async def script(kind: Kind) -> None:
            async def job(attempt: int) -> dict[str, Any]:
                match kind:
                    case Kind.BENIGN:
                        seed = await self._benign(benign, attempt)
                    case Kind.OBFUSCATED:
                        seed = await self._obfuscated(obfuscated, attempt)
                    case Kind.RED_TEAM:
                        seed = await self._red_team(obfuscated, attempt)
                return {"seed": seed.model_dump(mode="json"), "picture": self.picture.original}

            strategy = self._strategy if kind is Kind.RED_TEAM else None
            await try_twice(journal, patience, pair, kind, job, strategy)

        await side_by_side(script(kind) for kind in kinds)

    # the jobs

    async def _probe(self, attempt: int) -> dict[str, Any]:
        """A benign and an obfuscated single-turn rewrite of the question. The benign rewrite of a harmless
        question may be the question itself; the obfuscated one never. Those that no script is made from are
        not checked. If the last attempt has one good rewrite of two, `failed` has the other's fault, by its
        name."""
        rewrites = await self._ask(PROBE, ProbeInput(question=self.pair.question), attempt)
        faults: dict[str, BoundaryError] = {}
        used = {rewrite_for(kind) for kind in kinds_of(self.pair, self.config.seeds.kinds)}
        for name, before in (("benign", []), ("obfuscated", [self.pair.question])):
            try:
                if name in used:
                    check("probe", getattr(rewrites, name), before, sayings=1)
            except BoundaryError as error:
                faults[name] = error
        if faults and (len(faults) == len(used) or attempt + 1 < ATTEMPTS):
            raise next(iter(faults.values()))
        failed = {name: str(error.fault) for name, error in faults.items()}
        return rewrites.model_dump() | ({"failed": failed} if failed else {})

    async def _benign(self, task: str, attempt: int) -> Seed:
        """Expands a harmless task. The planned risk of every turn is 1."""
        turns = self._rng(Kind.BENIGN).randint(*self.bounds)
        script = (await self._ask(BENIGN, BenignInput(task=task, turns=turns), attempt)).turns
        check_turns("benign", script, self.bounds)
        facts: SeedMeta = {}
        if task == self.pair.question and self.pair.answer is not None:
            facts["answer"] = self.pair.answer
        plan = [Turn(user=user, meta={"risk": HARMLESS}) for user in script]
        return self._seed(Kind.BENIGN, task, plan, attempt, facts)

    async def _obfuscated(self, task: str, attempt: int) -> Seed:
        """Expands a risky task into turns that are each neutral but keep the intent as a whole."""
        intent, turns = self.pair.intent, self._rng(Kind.OBFUSCATED).randint(*self.bounds)
        inputs = ObfuscatedInput(task=task, intent=intent, turns=turns)
        script = (await self._ask(OBFUSCATED, inputs, attempt)).turns
        check_turns("obfuscated", [turn.user for turn in script], self.bounds)
        plan = [Turn(user=turn.user, meta={"risk": turn.risk}) for turn in script]
        return self._seed(Kind.OBFUSCATED, intent, plan, attempt, {})

    async def _red_team(self, task: str, attempt: int) -> Seed:
        """Plans an attack of the pair's strategy, and tries it if it is to be filtered by success. Raises
        `BoundaryError`: the generator failed or refused, including a refusal inside a valid answer; or the
        attack failed (see `simulate`)."""
        pair, seeds, strategy = self.pair, self.config.seeds, self._strategy(attempt)
        turns = self._rng(Kind.RED_TEAM).randint(*self.bounds)
        caption = await self._caption(attempt)
        inputs = RewriteInput(task=task, caption=caption, strategy=strategy)
        rewrite = (await self._ask(REWRITE, inputs, attempt)).rewrite
        check("rewrite", rewrite, [task], sayings=1)
        plan_inputs = PlanInput(
            rewrite=rewrite, intent=pair.intent, caption=caption, strategy=strategy, turns=turns
        )
        plan = await self._ask(PLAN, plan_inputs, attempt)
        check_turns("plan", [turn.user for turn in plan.turns], self.bounds)
        script = [Turn(user=turn.user, meta={"risk": turn.risk, "goal": turn.goal}) for turn in plan.turns]
        facts: SeedMeta = {"strategy": strategy.value, "escalation": plan.escalation.value}
        tried = seeds.tries(pair.use)
        if tried and pair.use == "bench":
            facts["filtered_against"] = self.config.role("target").title()
        seed = self._seed(Kind.RED_TEAM, pair.intent, script, attempt, facts)
        if not tried:
            return seed
        pictures_of = pictures_in(self.seats.folder, self.config.student.max_pixels)
        return await simulate(seed, self.seats.target, self.seats.attack_judge, pictures_of, seeds.success_at)

    async def _caption(self, attempt: int) -> str:
        """The first usable description of the picture up to this attempt. One that an earlier attempt paid
        for comes from the cache."""
        if attempt:
            with suppress(BoundaryError):
                return await self._caption(attempt - 1)
        described = await self._ask(CAPTION, CaptionInput(question=self.pair.question), attempt)
        check("caption", described.caption)
        return described.model_dump_json()

    async def _ask(self, prompt: Prompt[Input, Output], inputs: Input, attempt: int) -> Output:
        """The generator's answer. Sample numbers differ by pair, config seed and attempt, so that the same
        question may be asked twice."""
        pair = int(content_id(self.config.seed, self.pair.id), 16) % (REASK // ATTEMPTS)
        return await self.seats.generator.ask(
            prompt, inputs, [self.picture], repeat=pair * ATTEMPTS + attempt
        )

    def _strategy(self, attempt: int) -> Strategy:
        """The strategy of a red-team script, drawn for the pair; the second attempt uses the next one."""
        rng = self._rng(Kind.RED_TEAM)
        rng.randint(*self.bounds)  # the number of turns
        strategies = list(Strategy)
        return strategies[(strategies.index(rng.choice(strategies)) + attempt) % len(strategies)]

    def _rng(self, kind: Kind) -> random.Random:
        return random.Random(f"{self.config.seed} {self.pair.id} {kind}")

    def _seed(self, kind: Kind, intent: str, script: list[Turn], attempt: int, facts: SeedMeta) -> Seed:
        pair, picture = self.pair, self.picture
        meta: SeedMeta = {"pair": pair.id, "question": pair.question, "use": pair.use}
        meta |= {"picture": picture.original[:16], "attempts": attempt + 1, "perturbed": self.perturbed}
        if pair.category:
            meta["category"] = pair.category
        if pair.safe is not None:
            meta["question_safe"] = pair.safe  # of the question; a script's safety follows from its kind
        if intent != pair.intent:
            meta["intent"] = pair.intent  # of the question, if the script has a different one
        first, image = self._first_turn(script[0])
        if image != picture.name:
            meta["original"] = picture.name
        return Seed(
            id=key_of(pair, kind),
            kind=kind,
            source=pair.source,
            intent=intent,
            images=[image],
            turns=[first, *script[1:]],
            meta=meta | facts,
        )

    # the picture, in the run's folder once it is used; names are derived from the content

    @cached_property
    def picture(self) -> Picture:
        """The picture that the generator sees: the set's, scaled down if it is too large for the student."""
        picture = self.pair.picture(self.config.student.max_pixels)
        name = f"images/{picture.original[:16]}{picture.suffix}"
        self._keep(name, picture.data)
        return replace(picture, name=name)

    @property
    def perturbed(self) -> bool:
        return chosen(self.picture.original, self.config.seeds.perturb_share, self.config.seed)

    @cached_property
    def image(self) -> str:
        """The path of the picture in the seeds, which target, judge and student see: the perturbed copy if
        there is one."""
        if not self.perturbed:
            return self.picture.name
        original = self.picture.original
        name = f"images/{original[:16]}-perturbed.png"
        if not (self.seats.folder / name).exists():
            draw = f"{self.config.seed} {original}"
            self._keep(name, perturb(self.picture.data, self.config.seeds.noise_sigma, draw))
        return name

    def _first_turn(self, turn: Turn) -> tuple[Turn, str]:
        """The first turn of a script and the path of the picture shown with it: its words may be drawn below
        the picture (`seeds.typographic`), for all scripts of a pair alike. Words that cannot be drawn stay
        text."""
        style, original = self.config.seeds.typographic, self.picture.original
        if style and chosen(f"typographic {original}", style.share, self.config.seed):
            picture = load_picture(self.seats.folder, self.image, self.config.student.max_pixels)
            with suppress(Undrawable):
                picture_turn, data = in_picture(turn, [picture], style)
                return picture_turn, keep(data, self.seats.folder, f"images/{original[:16]}-")
        return turn, self.image

    def _keep(self, name: str, data: bytes) -> None:
        path = self.seats.folder / name
        if not path.exists():  # an existing file is complete: writes are atomic
            write_atomic(path, data)


def check_turns(job: str, script: Sequence[str], bounds: tuple[int, int]) -> None:
    """Checks a script. Its length need not be the one asked for.

    Raises:
        UnparsableError: the script is shorter or longer than `bounds`.
        RefusedError, EmptyError, RepeatedError: a turn is refused, empty or repeated.
    """
    if not bounds[0] <= len(script) <= bounds[1]:
        raise UnparsableError(
            f"{job}: a script of {len(script)} turns; {bounds[0]} to {bounds[1]} are allowed"
        )
    check_script(job, script)
