"""The whole bench: every model on every suite, then the summary."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safer_steer.bench.adaptive.intents import Intent
from safer_steer.bench.adaptive.results import state_of
from safer_steer.bench.adaptive.user import EndsAtBreach
from safer_steer.bench.attacks import Attack, adaptive_summary, attacks_on, bring_in_intents, kept_attacks
from safer_steer.bench.capability import Answers, answer_all, capability
from safer_steer.bench.journals import kind_of
from safer_steer.bench.judges import judges_summary
from safer_steer.bench.judging import critic_by
from safer_steer.bench.kept import KeptModel
from safer_steer.bench.losses import (
    Say,
    check_answered,
    check_kept,
    check_scored,
    say_judges,
    say_lost,
)
from safer_steer.bench.protocol import FILE as PROTOCOL
from safer_steer.bench.protocol import Answering, protocol_of, write
from safer_steer.bench.questions import FOLDER, QuestionSet, bring_in_sets
from safer_steer.bench.results import Attacked, Summary
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import Suite
from safer_steer.bench.summary import commonest_error, summarise
from safer_steer.bench.watch import Watch, WatchedAssistant, label_of
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, read_dialogues, to_jsonl
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.episode import Assistant, Critic, User
from safer_steer.episodes import play_all
from safer_steer.files.images import pictures_in
from safer_steer.files.scaling import in_words
from safer_steer.files.store import Journal, write_atomic
from safer_steer.metrics import ProtocolName, state
from safer_steer.workers import Progress, in_parts, side_by_side

Results = dict[ProtocolName, dict[str, list[Dialogue]]]
"""A model's dialogues by protocol and suite."""
Wait = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""


class Measured(NamedTuple):
    """What was played with a model."""

    scripted: Results
    attacked: dict[str, list[Dialogue]]
    """By attackers that adapt."""


@dataclass(frozen=True)
class Material:
    """What every model is measured on."""

    suites: list[Suite]
    sets: list[QuestionSet]
    intents: list[Intent]
    attacks: list[Attack]
    """None where answers are kept: each model's are its own."""

    @property
    def dialogues(self) -> int:
        return _dialogues_in(self.suites, self.attacks)

    @property
    def questions(self) -> int:
        return sum(len(one.seeds) for one in self.sets)

    @property
    def twins(self) -> set[str]:
        return {suite.name for suite in self.suites if suite.safe_twins}


@dataclass
class BenchDialogues:
    """All that was played, by model."""

    scripted: dict[str, Results] = field(default_factory=dict)
    attacked: dict[str, dict[str, list[Dialogue]]] = field(default_factory=dict)
    answers: dict[str, Answers] = field(default_factory=dict)


IN_PLAY = 64
"""Dialogues of a suite in play at once, at least."""


def measure_models(
    config: Config,
    folder: Path,
    models: Mapping[str, Callable[[], Assistant | KeptModel]],
    judges: Sequence[ChatModel],
    wait: Wait,
    progress: Progress | None = None,
    say: Say | None = None,
    attacker: Callable[[str], ChatModel] | None = None,
    answering: Answering = "students",
) -> None:
    """Measure models by name, one after the other, and write `summary.json`: the dialogues of all suites,
    then the questions of `bench.capability`.

    Dialogues that an earlier process left without a result are played again.

    Args:
        models: what makes the assistant of each; called when its turn comes, so that one student at a
            time is in memory.
        judges: without one, the answers are kept and nothing is scored; the summary then has the questions,
            and what is seen of answers without a judge.
        progress: called with dialogues and questions (finished, all, failed), over all models.
        say: told in one line each how many dialogues of a suite were drawn, how many of its pictures were
            scaled down, how many answers the token limit cut off or have nothing to see, and how many
            dialogues ran out of context.
        attacker: the role `attacker` with another model, for `bench.adaptive`.
        answering: whose answers these are, for the protocol.

    Raises:
        NoResult: more than `bench.max_unscored` of a protocol's dialogues have no scores; without a judge, no
            answers; or of a set's questions, no answers.
        UserError: the model or the judge, or more than half of several judges, failed many times in a row
            (`watch.Watch`).
    """
    say = say or (lambda line: None)
    watch = Watch()
    material = _bring_in(config, folder, attacker, watch, say)
    _forget(folder, judges, {intent.id for intent in material.intents})
    measuring = _Measuring(config, folder, material, judges, watch, wait)
    results = BenchDialogues()
    each = material.dialogues + material.questions
    if (adaptive := config.bench.adaptive) and not attacker:  # tries that an earlier bench kept
        attackers = (*config.attacker_roles(), *adaptive.trained, *adaptive.own)
        each += len(attackers) * len(material.intents) * adaptive.tries
    for place, (name, make) in enumerate(models.items()):

        def show(done: int, failed: int = 0, before: int = place * each) -> None:
            if progress:
                progress(before + done, len(models) * each, failed)

        measuring.play(name, make(), results, show)
        gc.collect()
    protocol = protocol_of(config, folder, answering)
    summary = summary_of(config, material, results, bool(judges), protocol.sha256)
    content = json.dumps(summary.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(folder / "summary.json", content)
    reasons = {model: commonest_error({model: suites}) for model, suites in results.scripted.items()}
    write(protocol, summary, reasons, config, folder / PROTOCOL, answering)
    most = config.bench.max_unscored
    everything = {
        model: {**suites, "attackers": results.attacked[model]} for model, suites in results.scripted.items()
    }
    if not judges:
        check_kept(everything, folder, most, say)
    else:
        say_lost(summary, say)
        say_judges(summary, say)
    check_answered(summary.capability, results.answers, most)
    if judges:
        check_scored(summary, everything, most)


def _forget(folder: Path, judges: Sequence[ChatModel], intents: Set[str]) -> None:
    """What an earlier process left without a result is done again."""
    forget_unfinished(folder / "bench", bool(judges), intents)
    for path in sorted((folder / FOLDER).glob("*")):
        forget_unfinished(path, judged=False)
    if judges and (folder / "summary.json").exists():
        judges[0].forget_unparsable()


def _bring_in(
    config: Config, folder: Path, attacker: Callable[[str], ChatModel] | None, watch: Watch, say: Say
) -> Material:
    """Copy what the models are measured on into the run's folder."""
    bench, max_pixels = config.bench, config.student.max_pixels
    suites = bring_in(bench.suites, folder, bench.dialogues, max_pixels, bench.typographic)
    for suite in suites:
        if suite.drawn_from:
            say(f"{suite.name}: {len(suite.seeds):,} of {len(suite.drawn_from.seeds):,} dialogues, drawn")
        if suite.left_out:
            say(f"{suite.name}: {suite.left_out}")
        if suite.scaled:
            say(f"{suite.name}: {in_words(suite.scaled, max_pixels)}")
    sets = bring_in_sets(bench.capability, folder, bench.questions, max_pixels)
    intents, attacks = list[Intent](), list[Attack]()
    if bench.adaptive:
        intents = bring_in_intents(bench.adaptive, folder, suites, max_pixels)
        if attacker:
            attacks = attacks_on(config, intents, attacker, folder, watch)
    return Material(suites, sets, intents, attacks)


class _Measuring:
    """Plays everything with one model after the other."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        material: Material,
        judges: Sequence[ChatModel],
        watch: Watch,
        wait: Wait,
    ) -> None:
        self.folder, self.material, self.judges, self.watch, self.wait = folder, material, judges, watch, wait
        self.critic: Critic | None = None
        if judges:
            self.critic = critic_by(config, judges, pictures_in(folder, config.student.max_pixels), watch)

    def play(
        self,
        name: str,
        assistant: Assistant | KeptModel,
        results: BenchDialogues,
        show: Callable[[int, int], None],
    ) -> None:
        """Add a model's dialogues and answers to `results`; `show` is called with those done and failed."""
        material, out = self.material, self.folder / "bench" / name
        in_flight = [chat.role.concurrency for chat in (*self.judges, _chat_model(assistant)) if chat]
        in_play = max(IN_PLAY, sum(in_flight))

        def after(before: int) -> Progress:
            return lambda done, _, failed=0: show(before + done, failed)

        attacks = material.attacks
        if not attacks and isinstance(assistant, KeptModel):
            attacks = kept_attacks(assistant, self.folder)
        assistant_for = _assistant_for(assistant, name, self.watch)
        playing = measure(material.suites, assistant_for, self.critic, out, in_play, after(0), attacks)
        results.scripted[name], results.attacked[name] = self.wait(playing)
        if material.sets and not isinstance(assistant, KeptModel):
            watched = _watched(assistant, name, self.watch)
            progress = after(material.dialogues)
            results.answers[name] = self.wait(
                answer_all(material.sets, watched, self.folder, name, in_play, progress)
            )


def summary_of(
    config: Config, material: Material, results: BenchDialogues, judged: bool, protocol: str
) -> Summary:
    """The content of `summary.json`."""
    bench, format, twins = config.bench, config.student.format, material.twins
    summary = summarise(results.scripted, twins, bench.resamples, config.seed, format)
    attacked: dict[str, dict[str, Attacked]] = {}
    if bench.adaptive and judged:
        attacked = adaptive_summary(results.attacked, results.scripted, twins, material.intents, config)
    answered = capability(results.answers, format)
    several = judges_summary(config, results.scripted, results.attacked, twins) if judged else None
    update = {"capability": answered, "adaptive": attacked, "judges": several, "protocol": protocol}
    return summary.model_copy(update=update)


AssistantOf = Callable[[Suite | Attack], Assistant]
"""The assistant that plays a suite, or answers an attacker."""


def _assistant_for(assistant: Assistant | KeptModel, name: str, watch: Watch) -> AssistantOf:
    if isinstance(assistant, KeptModel):
        return partial(_kept_answers, assistant)
    watched = _watched(assistant, name, watch)
    return lambda one: watched


def _kept_answers(model: KeptModel, one: Suite | Attack) -> Assistant:
    if isinstance(one, Suite):
        return model.of(one)
    assert one.kept
    return one.kept


def _dialogues_in(suites: Sequence[Suite], attacks: Sequence[Attack]) -> int:
    return sum(len(suite.seeds) for suite in suites) + sum(len(attack.seeds) for attack in attacks)


def _watched(assistant: Assistant, name: str, watch: Watch) -> WatchedAssistant:
    chat = _chat_model(assistant)
    return WatchedAssistant(assistant, watch, f"the model {label_of(chat) if chat else name}")


def _chat_model(assistant: Assistant | KeptModel) -> ChatModel | None:
    """The model behind an endpoint, if it is one."""
    return assistant.model if isinstance(assistant, ChatAssistant) else None


async def measure(
    suites: Sequence[Suite],
    assistant_for: AssistantOf,
    critic: Critic | None,
    out: Path,
    in_play: int = IN_PLAY,
    progress: Progress | None = None,
    attacks: Sequence[Attack] = (),
) -> Measured:
    """Play all suites and attacks with one model, side by side so that its batches are full. Finished
    dialogues are in `out` at once and not played again.

    Args:
        out: `bench/<model>`; a suite's journal is `<suite>.jsonl`, with `single_turn_` before it where the
            protocol is single-turn.
        in_play: dialogues of each suite in play at once. It must exceed the calls that model and judge may
            have in flight together, or the endpoints wait for dialogues.
        progress: called with dialogues (finished, all, failed), over all suites and attacks.
    """
    part = in_parts(progress, _dialogues_in(suites, attacks))
    ending = EndsAtBreach(critic) if critic else None
    on_suites = [assistant_for(suite) for suite in suites]  # before any is played: a journal may be missing
    on_attacks = [assistant_for(attack) for attack in attacks]

    def playing(
        one: Suite | Attack, assistant: Assistant, critic: Critic | None, user: User | None = None
    ) -> Coroutine[Any, Any, Iterator[Dialogue]]:
        journal = one.journal(out)
        return play_all(
            one.seeds, assistant, critic, journal, user=user, concurrency=in_play, progress=part()
        )

    work = [playing(suite, assistant, critic) for suite, assistant in zip(suites, on_suites, strict=True)]
    for attack, assistant in zip(attacks, on_attacks, strict=True):
        work.append(playing(attack, assistant, ending, attack.user))
    journals = await side_by_side(work)
    results: Results = {}
    for suite, dialogues in zip(suites, journals, strict=False):
        results.setdefault(suite.protocol, {})[suite.name] = list(dialogues)
    attacked = zip(attacks, journals[len(suites) :], strict=True)
    return Measured(results, {attack.name: list(dialogues) for attack, dialogues in attacked})


def forget_unfinished(bench: Path, judged: bool, intents: Set[str] | None = None) -> None:
    """Drop failed dialogues from a bench's journals, and unscored ones if there is a judge (`judged`): they
    are played again. Attackers' go with their intents, if these are given: a further suite may bring others
    in their place.

    Incomplete ones stay, since they would end the same way.
    """
    finished = ("scored", "incomplete") if judged else ("scored", "incomplete", "unscored")
    for path in sorted(bench.glob("*/*.jsonl")):
        with Journal(path):
            pass  # cuts off a torn last line
        dialogues = read_dialogues(path)
        outcome_of = state_of if kind_of(path.stem) == "adaptive" else state
        stay = [dialogue for dialogue in dialogues if outcome_of(dialogue) in finished]
        if intents is not None and outcome_of is state_of:
            stay = [dialogue for dialogue in stay if dialogue.meta["intent_id"] in intents]
        if len(stay) < len(dialogues):
            write_atomic(path, to_jsonl(stay))
