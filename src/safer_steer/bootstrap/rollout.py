"""Red-blue rollouts and their filter (docs/method.md, "Stage II")."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from safer_steer.config import Bootstrap, Config, RoleName
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, StopReason, lay_out, read_seeds, to_jsonl, visible_answer
from safer_steer.episode import Reply, Verdict
from safer_steer.episodes import play_all
from safer_steer.errors import UserError
from safer_steer.models.chat import ChatModel
from safer_steer.models.images import Picture, pictures_in
from safer_steer.prompts.base import history
from safer_steer.prompts.blue import BLUE, BlueInput
from safer_steer.prompts.evaluator import EVALUATOR, EvaluatorInput
from safer_steer.prompts.red import RED, RedInput
from safer_steer.rewards import has_thinking_answer
from safer_steer.store import content_id, write_atomic


class RedAgent:
    """The user's seat: fits the template turn to what was really said."""

    def __init__(self, model: ChatModel, format: Format, pictures_of: Callable[[Dialogue], list[Picture]]) -> None:
        self.model, self.format, self.pictures_of = model, format, pictures_of

    async def speak(self, dialogue: Dialogue, template: str) -> str:
        inputs = RedInput(intent=dialogue.intent, history=history(dialogue, self.format), template=template)
        return (await self.model.ask(RED, inputs, self.pictures_of(dialogue))).user


class BlueExpert:
    """The assistant's seat: answers under the safety guidelines, in the student's format."""

    def __init__(self, model: ChatModel, format: Format, pictures_of: Callable[[Dialogue], list[Picture]]) -> None:
        self.model, self.format, self.pictures_of = model, format, pictures_of

    async def answer(self, dialogue: Dialogue, question: str) -> Reply:
        inputs = BlueInput(history=history(dialogue, self.format), question=question)
        said = await self.model.ask(BLUE, inputs, self.pictures_of(dialogue))
        return Reply(lay_out(said.thinking, said.answer, self.format))


class EvaluatorCritic:
    """The critic's seat: safety and helpfulness 1-10 of every turn, side by side."""

    immediate = False

    def __init__(self, model: ChatModel, format: Format, pictures_of: Callable[[Dialogue], list[Picture]]) -> None:
        self.model, self.format, self.pictures_of = model, format, pictures_of

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        exchange = dialogue.turns[turn]
        answer = visible_answer(exchange.assistant or "", self.format)
        inputs = EvaluatorInput(history=history(dialogue, self.format, turn), question=exchange.user, answer=answer)
        verdict = await self.model.ask(EVALUATOR, inputs, self.pictures_of(dialogue))
        return Verdict({"safety": verdict.safety, "helpfulness": verdict.helpfulness}, {"reason": verdict.reason})


def why_rejected(dialogue: Dialogue, config: Bootstrap, format: Format) -> list[str]:
    """Empty if the dialogue is kept: min_t safety_t >= tau_safe and mean_t helpfulness_t >= tau_help, every turn scored and in the format."""
    if dialogue.stop is not StopReason.COMPLETED:
        return [str(dialogue.stop)]
    scores = [turn.scores for turn in dialogue.turns]
    if not scores or None in scores:
        return ["unscored"]
    reasons = []
    if min(score["safety"] for score in scores if score) < config.tau_safe:
        reasons.append("unsafe")
    if fmean(score["helpfulness"] for score in scores if score) < config.tau_help:
        reasons.append("unhelpful")
    if format is Format.THINKING_ANSWER and not all(has_thinking_answer(turn.assistant or "") for turn in dialogue.turns):
        reasons.append("format")
    return reasons


def read_pools(folder: Path, kinds: list[Kind]) -> list[Seed]:
    """The seeds of Stage I, pool by pool; a pool may be empty.

    Raises:
        UserError: a pool is missing, or all are empty.
    """
    seeds = [seed for kind in kinds for seed in read_seeds(folder / "seeds" / f"{kind.value}.jsonl", may_be_empty=True)]
    if not seeds:
        raise UserError(f"{folder}/seeds: every pool is empty; dropped.jsonl says why, `safer-steer seeds` builds them")
    return seeds


async def roll_out(config: Config, folder: Path, ask: Callable[[RoleName], ChatModel], progress: Callable[[int, int], None] | None = None) -> None:
    """Play every seed red against blue and sort the dialogues into bootstrap/kept.jsonl and rejected.jsonl, with reasons.

    Raises:
        UserError: nothing was kept.
    """
    seeds = read_pools(folder, config.seeds.kinds)
    if config.bootstrap.dialogues:
        seeds = sorted(seeds, key=lambda seed: content_id("bootstrap", config.seed, seed.id))[: config.bootstrap.dialogues]
    format = config.student.format

    pictures_of = pictures_in(folder, config.student.max_pixels)
    played = await play_all(
        seeds,
        BlueExpert(ask("blue"), format, pictures_of),
        EvaluatorCritic(ask("evaluator"), format, pictures_of),
        folder / "bootstrap" / "journal.jsonl",
        user=RedAgent(ask("red"), format, pictures_of),
        again_if_unreached=True,
        progress=progress,
    )
    kept: list[Dialogue] = []
    rejected: list[Dialogue] = []
    for dialogue in played:
        reasons = why_rejected(dialogue, config.bootstrap, format)
        if reasons:
            dialogue.meta["reasons"] = reasons
        (rejected if reasons else kept).append(dialogue)
    write_atomic(folder / "bootstrap" / "rejected.jsonl", to_jsonl(rejected))
    write_atomic(folder / "bootstrap" / "kept.jsonl", to_jsonl(kept))
    if not kept:
        raise UserError(f"{folder}/bootstrap: none of {len(played)} dialogues passed the filter; see rejected.jsonl for the reasons")
