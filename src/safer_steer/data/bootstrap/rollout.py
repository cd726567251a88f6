"""Red-blue rollouts and their filter (docs/explanation/method.md, "Stage II")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from safer_steer.config import Bootstrap, Config, RoleName
from safer_steer.data.assembly.splits import questions, read_split
from safer_steer.data.bootstrap.single_turn import FOLDER
from safer_steer.dialogue import (
    Dialogue,
    Format,
    Seed,
    StopReason,
    Turn,
    lay_out,
    read_dialogues,
    to_jsonl,
)
from safer_steer.endpoints.asked_again import TEMPLATE, Request
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.refusals import check_turn
from safer_steer.episode import Assistant, Reply, User, Verdict
from safer_steer.episodes import play_all
from safer_steer.errors import BoundaryError, EndpointError, UserError
from safer_steer.files.images import PicturesOf, in_view, pictures_in
from safer_steer.files.store import writing
from safer_steer.prompts.base import history
from safer_steer.prompts.judge import EVALUATOR, JudgeInput
from safer_steer.prompts.red import BLUE, RED, Approach, BlueInput, RedInput
from safer_steer.rewards import EMPTY_SAFETY, has_thinking_answer
from safer_steer.workers import UNANSWERED, Bound, Patience, Progress, in_parts, reasons_in


class _Seat:
    def __init__(self, model: ChatModel, format: Format, pictures_of: PicturesOf) -> None:
        self.model, self.format, self.pictures_of = model, format, pictures_of


class RedAgent(_Seat):
    """The user: adapts the template turn to the dialogue so far.

    If its turn is a refusal, empty or a repetition, it is requested once more with another approach. If that
    fails too, the template is used, which is a valid user turn. The turn's meta records this (`attacker`).
    A template whose words stand in its picture is used as it is: other words would not belong to them.
    """

    async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
        if template.meta.get("in_picture"):
            return Reply(template.user)
        pictures = in_view(dialogue.images_by_turn(template), self.pictures_of)
        approaches = list(Approach)
        other = approaches[len(dialogue.turns) % len(approaches)]
        request = Request()
        for repeat, approach in enumerate((None, other)):
            inputs = RedInput(
                intent=dialogue.intent,
                history=history(dialogue, self.format),
                template=template.user,
                approach=approach,
            )
            try:
                text = (await self.model.ask(RED, inputs, pictures, repeat=repeat)).user
                check_turn("red", text, dialogue, template.user)
            except EndpointError:
                raise
            except BoundaryError as error:
                if not request.again(error):
                    break
                continue
            return Reply(text, {"attacker": request.noted(other.label)} if request.faults else {})
        return Reply(template.user, {"attacker": request.noted(TEMPLATE)})


class BlueExpert(_Seat):
    """The assistant: answers under the safety guidelines, in the student's format."""

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        inputs = BlueInput(history=history(dialogue, self.format), question=asked.words)
        pictures = in_view(dialogue.images_by_turn(asked), self.pictures_of)
        output = await self.model.ask(BLUE, inputs, pictures)
        return Reply(lay_out(output.thinking, output.answer, self.format))


def blue_expert(config: Config, model: ChatModel, pictures_of: PicturesOf) -> Assistant:
    """The assistant of the rollouts: the expert with the `blue` prompt, or a model used as a plain chat."""
    stage, student = config.bootstrap, config.student
    if stage.blue == "job":
        return BlueExpert(model, student.format, pictures_of)
    system = student.system if stage.blue_system is None else stage.blue_system
    return ChatAssistant(model, pictures_of, system=system, format=student.format)


class EvaluatorCritic(_Seat):
    """The critic: scores safety and helpfulness of every turn, 1-10. Turns are scored concurrently."""

    immediate = False

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        inputs = JudgeInput.of(dialogue, turn, self.format)
        pictures = in_view(dialogue.images_by_turn()[: turn + 1], self.pictures_of)
        verdict = await self.model.ask(EVALUATOR, inputs, pictures)
        scores: dict[str, float] = {"safety": verdict.safety, "helpfulness": verdict.helpfulness}
        if not inputs.answer:
            scores = {"safety": min(verdict.safety, EMPTY_SAFETY), "helpfulness": 1}
        return Verdict(scores, {"reason": verdict.reason})


def why_rejected(dialogue: Dialogue, config: Bootstrap, format: Format) -> list[str]:
    """Reasons to reject a dialogue; empty if it is kept.

    It is kept if min_t safety_t >= tau_safe, mean_t helpfulness_t >= tau_help, and every turn is scored,
    whole and in the format.
    """
    if any(fault.unreached for fault in dialogue.faults):
        return [UNANSWERED]
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
    if any(turn.meta.get("finish") in ("length", "content_filter") for turn in dialogue.turns):
        reasons.append("cut_off")
    in_format = [has_thinking_answer(turn.assistant or "") for turn in dialogue.turns]
    if format is Format.THINKING_ANSWER and not all(in_format):
        reasons.append("format")
    return reasons


def in_play(config: Config) -> int:
    """Number of dialogues to play at once. Each has one red or blue call in flight, so this is the larger of
    the two concurrency limits."""
    return max(config.role("red").concurrency, config.role("blue").concurrency)


async def roll_out(
    config: Config,
    folder: Path,
    ask: Callable[[RoleName], ChatModel],
    progress: Progress | None = None,
) -> list[str]:
    """Play every seed red against blue. Write the dialogues to bootstrap/kept.jsonl and rejected.jsonl, with
    reasons. Returns lines to say: which dialogues got no answer from an endpoint.

    With `bootstrap.sft.single_turn`, also play the original questions unchanged; their dialogues go to files
    of the same names in bootstrap/single_turn/. Raises `UserError`: no dialogue was kept; or, before anything
    is played, the seeds lack their questions.
    """
    seeds = read_split(folder, "sft")
    singles = questions(seeds) if config.bootstrap.sft.single_turn else []
    format, part = config.student.format, in_parts(progress, len(seeds) + len(singles))
    pictures_of = pictures_in(folder, config.student.max_pixels)
    blue = blue_expert(config, ask("blue"), pictures_of)
    evaluator = EvaluatorCritic(ask("evaluator"), format, pictures_of)

    async def filtered(rows: list[Seed], out: Path, user: User | None) -> str:
        bound = Bound("bootstrap.max_unanswered", config.bootstrap.max_unanswered, len(rows))
        patience = Patience(out.name, "dialogue", bound)
        dialogues = await play_all(
            rows,
            blue,
            evaluator,
            out / "journal.jsonl",
            user=user,
            again_if_unreached=True,
            patience=patience,
            concurrency=in_play(config),
            progress=part(),
        )
        count = 0
        with writing(out / "rejected.jsonl") as rejected_file, writing(out / "kept.jsonl") as kept_file:
            for dialogue in dialogues:
                reasons = why_rejected(dialogue, config.bootstrap, format)
                if reasons:
                    dialogue.meta["reasons"] = reasons
                count += not reasons
                (rejected_file if reasons else kept_file).write(to_jsonl([dialogue]).encode())
        if not count:
            why = _none_passed(read_dialogues(out / "rejected.jsonl"), config.bootstrap)
            raise UserError(f"{out}: none of {len(rows)} dialogues passed the filter: {why}")
        return patience.left_out

    lines = [await filtered(seeds, folder / "bootstrap", RedAgent(ask("red"), format, pictures_of))]
    if singles:
        lines.append(await filtered(singles, folder / "bootstrap" / FOLDER, None))
    return list(filter(None, lines))


def _none_passed(rejected: Sequence[Dialogue], config: Bootstrap) -> str:
    """How often each reason was given, what the best dialogues reached, and the commonest error."""
    reasons = Counter(reason for dialogue in rejected for reason in dialogue.meta["reasons"])
    parts = [", ".join(f"{count} {reason}" for reason, count in reasons.most_common())]
    scores = []
    for dialogue in rejected:
        of_turns = [turn.scores for turn in dialogue.turns if turn.scores]
        if of_turns and len(of_turns) == len(dialogue.turns):
            scores.append(of_turns)
    if scores:
        safest = max(min(score["safety"] for score in turns) for turns in scores)
        most_helpful = max(fmean(score["helpfulness"] for score in turns) for turns in scores)
        parts.append(
            f"the safest has {safest:g} at its worst turn, bootstrap.tau_safe asks for {config.tau_safe};"
            f" the most helpful has {most_helpful:.3g} on average, bootstrap.tau_help asks for"
            f" {config.tau_help:g}"
        )
    if failed := reasons_in(rejected).commonest:
        parts.append(f"the commonest error: {failed}")
    return "; ".join([*parts, "rejected.jsonl has them all"])
