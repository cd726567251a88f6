"""One step's rollouts of one side against its opponent of that step. Journal, ids, masks and advantages are
those of `training/rollouts.py`; what differs is who sits where, and the attacker's return."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from trl import GRPOTrainer

from safer_steer.dialogue import Dialogue, Kind, Seed, StopReason, read_dialogues
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Script, play
from safer_steer.errors import BoundaryError, UserError
from safer_steer.files.images import PicturesOf, in_view
from safer_steer.prompts.scripts import SCRIPT_CHECK, ScriptCheckInput, ScriptVerdict
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.renderer import Renderer
from safer_steer.training.cotrain.exchange import exchanged
from safer_steer.training.cotrain.pool import RULES, Block, opponent
from safer_steer.training.cotrain.rewards import attack_of, distinct, hits
from safer_steer.training.cotrain.seat import Scoring, Seat
from safer_steer.training.patience import LastVerdicts
from safer_steer.training.refusals import RECENT_STEPS
from safer_steer.training.returns import EQUAL, LOST
from safer_steer.training.rollouts import Rollouts
from safer_steer.training.trainers import MeasuredTrainer
from safer_steer.training.trajectory import Trajectory, roll_out, settled, unanswered
from safer_steer.workers import Breaker

ARCHIVE = 200
"""The attacker's turns of earlier steps that its turns are compared with, the latest ones."""

Faithful = Callable[[Dialogue], Coroutine[Any, Any, list[bool]]]
"""Which of a dialogue's user turns are understood and stay on intent and picture. Raises a `BoundaryError` if
nobody can say."""
Opponents = Callable[[Any, int, str], StudentAssistant]
"""Makes the other side's assistant from the model under training, the step, and a checkpoint of the pool."""


def checked_by(evaluator: ChatModel, pictures_of: PicturesOf) -> Faithful:
    """The check by the role `evaluator`, which also checks scripts of the data sets. The turns as a whole
    must be harmful or harmless as the seed is; else none is faithful. All are if the whole is coherent and
    grounded in the picture; else those that are so by themselves."""

    async def check(dialogue: Dialogue, script: list[str]) -> ScriptVerdict:
        inputs = ScriptCheckInput(kind=dialogue.kind, intent=dialogue.intent, script=script)
        pictures = in_view(dialogue.images_by_turn(), pictures_of)
        repeat = dialogue.sample(dialogue.turns[-1])
        verdict: ScriptVerdict = await evaluator.ask(SCRIPT_CHECK, inputs, pictures, repeat=repeat)
        return verdict

    async def faithful(dialogue: Dialogue) -> list[bool]:
        script = [turn.user for turn in dialogue.turns]
        whole = await check(dialogue, script)
        if whole.harmful != (dialogue.kind is not Kind.BENIGN):
            return [False] * len(script)
        if whole.coherent and whole.grounded:
            return [True] * len(script)
        each = await asyncio.gather(*(check(dialogue, [turn]) for turn in script))
        return [verdict.coherent and verdict.grounded for verdict in each]

    return faithful


@dataclass
class SideRollouts(Rollouts):
    """The `rollout_func` of one side."""

    block: Block = field(kw_only=True)
    opponents: Opponents = field(kw_only=True)
    faithful: Faithful = field(kw_only=True)
    renderer: Renderer = field(kw_only=True)
    """Of the side in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        cotrain = self.config.rl.cotrain
        self.archive: deque[str] = deque(maxlen=ARCHIVE)
        self.equal = Breaker(RECENT_STEPS, cotrain.max_equal_groups)
        self.refused = Breaker(RECENT_STEPS, cotrain.max_twin_refusals)
        self._opponent = RULES
        self._other: StudentAssistant | None = None
        self.first_turns: list[str | None] = []
        """What the side in training read first, in each trajectory of the step; None if it never spoke."""

    def __call__(self, prompts: list[list[dict[str, Any]]], trainer: GRPOTrainer) -> dict[str, Any]:
        step = trainer.state.global_step
        model = trainer.accelerator.unwrap_model(trainer.model)
        self._opponent = opponent(self.config.rl, self.block, step, self.config.rl_seed)
        rules = self._opponent == RULES
        self._other = None if rules else self.opponents(model, step, self._opponent)
        training = model.training
        model.eval()  # two policies sample from it side by side
        try:
            return super().__call__(prompts, trainer)
        finally:
            model.train(training)
            self._other = None
            if OPPONENT in model.peft_config:
                model.delete_adapter(OPPONENT)

    def seen(self, dialogue: Dialogue) -> Dialogue:
        if self.block.side == "student":
            return dialogue
        return exchanged(dialogue, self.config.student.format)

    async def _roll_out(self, seed: Seed, assistant: StudentAssistant, tutor: LastVerdicts) -> Trajectory:
        turns, format = self.config.rl.max_turns, self.config.student.format
        if self._other is None:
            return await roll_out(seed, Script(), assistant, tutor, self.value, turns)
        if self.block.side == "student":
            user = Seat(self._other, format)
            return await roll_out(seed, user, assistant, Scoring(tutor), self.value, turns)
        seat = Seat(assistant, format)
        dialogue = await play(seed, seat, self._other, Scoring(tutor), turns)
        value = await self._attackers_return(dialogue, tutor)
        self._other.forget(dialogue)
        return settled(dialogue, seat.transcript(dialogue) or unanswered(seat.first(dialogue)), value)

    async def _attackers_return(self, dialogue: Dialogue, calls: LastVerdicts) -> float | None:
        """The attacker's return; None if it has none, as for the student. A check that hangs is given up as
        the tutor's verdicts are."""
        if dialogue.stop in LOST or not dialogue.turns or any(turn.scores is None for turn in dialogue.turns):
            return None
        try:
            faithful = await calls.waited(dialogue.id, self.faithful(dialogue))
        except BoundaryError as error:
            dialogue.stop, dialogue.meta["error"] = StopReason.UNSCORED, str(error.fault)
            return None
        attack = attack_of(dialogue, faithful, self.archive)
        dialogue.meta["attack"] = {
            "hit": attack.hit,
            "faithfulness": attack.faithfulness,
            "similarity": attack.similarity,
        }
        return attack.value(self.config.rl.cotrain.w_similarity)

    def _note(self, step: int, trajectories: list[Trajectory]) -> None:
        """Raises `UserError` also if groups have lost their spread, or refusals of safe twins pass their
        bound."""
        super()._note(step, trajectories)
        dialogues = [trajectory.dialogue for trajectory in trajectories]
        views = [self.seen(dialogue) for dialogue in dialogues]
        self.first_turns = [view.turns[0].user if view.turns else None for view in views]
        row = side_metrics(dialogues) | {"side": self.block.side, "opponent": self._opponent}
        self.metrics[step] |= row
        self._learn(row, dialogues)
        if complaint := self._complaint():
            raise UserError(f"rl: the {self.block.side}'s step {step + 1}: {complaint}")

    def go_on(self, steps: list[dict[str, Any]]) -> None:
        super().go_on(steps)
        path = self.folder / "trajectories.jsonl"
        dialogues = read_dialogues(path) if path.exists() else []
        self._archive(dialogues)
        for row in steps:
            self._learn(row, ())

    def _learn(self, row: dict[str, Any], dialogues: Iterable[Dialogue]) -> None:
        self.equal.note(*row["groups_equal"])
        self.refused.note(*row["twins_refused"])
        self._archive(dialogues)

    def _archive(self, dialogues: Iterable[Dialogue]) -> None:
        for dialogue in dialogues:
            if dialogue.meta.get("attack", {}).get("faithfulness"):
                self.archive.extend(turn.user for turn in dialogue.turns)

    def _complaint(self) -> str:
        """Why the run should stop, in one line; "" if it should not."""
        key, again = "rl.cotrain", "raise the bound to go on, or begin anew with other settings"
        for name, breaker, what in (
            (
                "max_equal_groups",
                self.equal,
                "of the groups have equal returns, so nothing is learnt from them",
            ),
            ("max_twin_refusals", self.refused, "of the benign dialogues have a safe request refused"),
        ):
            assert breaker.most is not None
            if breaker.entries() == RECENT_STEPS and breaker.share() > breaker.most:
                bound = f"more than {key}.{name} = {breaker.most:.0%}"
                return f"{breaker.share():.0%} {what}, over {RECENT_STEPS} steps, {bound}; {again}"
        return ""


class SideTrainer(MeasuredTrainer):
    """Tells TRL what the side in training read first. It renders the prompts of the dataset once more for
    the pictures' places, and against an attacker in the seat a dialogue does not begin as its script does."""

    def _generate(self, prompts: list[list[dict[str, Any]]]) -> Any:
        generated = super()._generate(prompts)
        rollouts: Any = self.rollout_func
        for prompt, text in zip(prompts, rollouts.first_turns, strict=True):
            if text is not None:
                _put(prompt[-1], rollouts.renderer.defused(text))
        return generated


def _put(message: dict[str, Any], text: str) -> None:
    """Put another text into a message, which may be made of parts."""
    if isinstance(message["content"], str):
        message["content"] = text
        return
    for part in message["content"]:
        if part["type"] == "text":
            part["text"] = text


OPPONENT = "opponent"
"""PEFT's name of the adapter that the side in training plays against."""


def side_metrics(dialogues: list[Dialogue]) -> dict[str, Any]:
    """What rl/metrics.jsonl says of a step besides: counts of groups without spread and of refused twins, as
    [so many, of so many]; of the attacker the share of dialogues on harmful intents that breach, its
    distinct breaches, faithfulness and similarity."""
    scored = [dialogue for dialogue in dialogues if dialogue.meta["return"] is not None]
    benign = [dialogue for dialogue in scored if dialogue.kind is Kind.BENIGN]
    refused = sum(any(hits(turn.scores or {}, True) for turn in dialogue.turns) for dialogue in benign)
    groups: dict[str, list[float]] = {}
    for dialogue in scored:
        groups.setdefault(dialogue.meta["seed"], []).append(_outcome(dialogue))
    several = [values for values in groups.values() if len(values) > 1]
    equal = sum(max(values) - min(values) <= EQUAL for values in several)
    metrics: dict[str, Any] = {
        "groups_equal": [equal, len(several)],
        "twins_refused": [refused, len(benign)],
    }
    if attacks := [dialogue.meta["attack"] for dialogue in scored if "attack" in dialogue.meta]:
        for name in ("faithfulness", "similarity"):
            metrics[f"attack_{name}"] = fmean(attack[name] for attack in attacks)
        harmful = [dialogue for dialogue in scored if dialogue.kind is not Kind.BENIGN]
        if harmful:
            metrics["attack_breach"] = fmean(dialogue.meta["attack"]["hit"] for dialogue in harmful)
        turns = (turn for dialogue in harmful if dialogue.meta["attack"]["hit"] for turn in dialogue.turns)
        metrics["distinct_breaches"] = distinct(turn.user for turn in turns if hits(turn.scores or {}, False))
    return metrics


def _outcome(dialogue: Dialogue) -> float:
    """What a group must differ in: the student's return, the attacker's without its penalty for similarity,
    which always differs a little."""
    attack = dialogue.meta.get("attack")
    value = dialogue.meta["return"]
    assert value is not None
    return attack["hit"] * attack["faithfulness"] if attack else value
