"""The whole bench: every model on every suite, then the summary."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safer_steer.adaptive.critic import EndsAtBreach
from safer_steer.adaptive.intents import Intent
from safer_steer.adaptive.results import ADAPTIVE, state_of
from safer_steer.bench.attacks import Attack, adaptive_summary, attacks_on, bring_in_intents, kept_attacks
from safer_steer.bench.capability import Answers, answer_all, capability, failed_share
from safer_steer.bench.judging import JudgeCritic
from safer_steer.bench.kept import KeptModel
from safer_steer.bench.questions import FOLDER, bring_in_sets
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import Suite
from safer_steer.bench.summary import commonest_error, cut_off, incomplete, summarise, unscored_share
from safer_steer.bench.watch import Watch, WatchedAssistant, WatchedCritic
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, read_dialogues, to_jsonl
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.episode import Assistant, Critic
from safer_steer.episodes import play_all
from safer_steer.errors import NoResult, UserError
from safer_steer.images import pictures_in
from safer_steer.metrics import ProtocolName, state
from safer_steer.scaling import in_words
from safer_steer.store import Journal, write_atomic
from safer_steer.workers import Progress

Results = dict[ProtocolName, dict[str, list[Dialogue]]]
"""A model's dialogues by protocol and suite."""
Wait = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""


class Measured(NamedTuple):
    """What was played with a model."""

    scripted: Results
    attacked: dict[str, list[Dialogue]]
    """By attackers that adapt."""


IN_PLAY = 64
"""Dialogues of a suite in play at once, at least."""


def measure_models(
    config: Config,
    folder: Path,
    models: Mapping[str, Callable[[], Assistant | KeptModel]],
    judge: ChatModel | None,
    wait: Wait,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    attacker: Callable[[str], ChatModel] | None = None,
) -> None:
    """Measure models by name, one after the other, and write `summary.json`: the dialogues of all suites,
    then the questions of `bench.capability`.

    Dialogues that an earlier process left without a result are played again.

    Args:
        models: what makes the assistant of each; called when its turn comes, so that one student at a
            time is in memory.
        judge: None keeps the answers and scores nothing; only questions are in the summary then.
        progress: called with dialogues and questions (finished, all, failed), over all models.
        say: told in one line each how many dialogues of a suite were drawn, how many of its pictures were
            scaled down, how many answers the token limit cut off, and how many dialogues ran out of context.
        attacker: the role `attacker` with another model, for `bench.adaptive`.

    Raises:
        NoResult: more than `bench.max_unscored` of a protocol's dialogues have no scores; without a judge, no
            answers; or of a set's questions, no answers.
        UserError: the model or the judge failed many times in a row (`watch.Watch`).
    """
    bench, summary = config.bench, folder / "summary.json"
    forget_unfinished(folder / "bench", judge is not None)
    for answered in sorted((folder / FOLDER).glob("*")):
        forget_unfinished(answered, judged=False)
    if summary.exists() and judge:
        judge.forget_unparsable()
    suites = bring_in(bench.suites, folder, bench.dialogues, config.student.max_pixels)
    for suite in suites:
        if say and suite.drawn_from:
            say(f"{suite.name}: {len(suite.seeds):,} of {len(suite.drawn_from.seeds):,} dialogues, drawn")
        if say and suite.scaled:
            say(f"{suite.name}: {in_words(suite.scaled, config.student.max_pixels)}")
    sets = bring_in_sets(bench.capability, folder, bench.questions, config.student.max_pixels)
    pictures_of = pictures_in(folder, config.student.max_pixels)
    watch, critic = Watch(), None
    intents, attacks = list[Intent](), list[Attack]()
    if bench.adaptive:
        intents = bring_in_intents(bench.adaptive, folder, suites, config.student.max_pixels)
        if attacker:
            attacks = attacks_on(config, intents, attacker, pictures_of, watch)
    dialogues = _dialogues_in(suites, attacks)
    each = dialogues + sum(len(one.seeds) for one in sets)
    if judge:
        judging = JudgeCritic(judge, config.student.format, pictures_of)
        critic = WatchedCritic(judging, watch, f"the judge {_named(judge)}")
    results: dict[str, Results] = {}
    attacked: dict[str, dict[str, list[Dialogue]]] = {}
    answers: dict[str, Answers] = {}
    for place, (name, make) in enumerate(models.items()):

        def shown(done: int, _: int, failed: int = 0, before: int = place * each) -> None:
            if progress:
                progress(before + done, len(models) * each, failed)

        assistant = make()
        in_play = max(IN_PLAY, sum(asked.role.concurrency for asked in (judge, _asked(assistant)) if asked))
        assistant_for = _assistant_for(assistant, name, watch)
        try:
            out = folder / "bench" / name
            against = attacks or (kept_attacks(assistant) if isinstance(assistant, KeptModel) else [])
            played = wait(measure(suites, assistant_for, critic, out, in_play, shown, against))
            results[name], attacked[name] = played
            if sets and not isinstance(assistant, KeptModel):
                asked = _watched(assistant, name, watch)
                answering = partial(shown, before=place * each + dialogues)
                answers[name] = wait(answer_all(sets, asked, folder, name, in_play, answering))
        except UserError:
            if judge:
                judge.forget_unparsable()
            raise
        del assistant, assistant_for
        gc.collect()
    kept = capability(answers, config.student.format)
    twins = {suite.name for suite in suites if suite.safe_twins}
    scored = results if judge else dict.fromkeys(results, Results())
    found = summarise(scored, twins, bench.resamples, config.seed) | ({"capability": kept} if kept else {})
    if bench.adaptive and judge:
        found["adaptive"] = adaptive_summary(attacked, results, twins, intents, config)
    if judge or kept:
        write_atomic(summary, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if judge is None:
        _say_kept(results, folder, bench.max_unscored, say)
    elif say:
        _say_lost(found, len(models) * dialogues, say)
    if (share := failed_share(kept)) > bench.max_unscored:
        raise NoResult(
            f"{share:.1%} of the questions of a set in bench.capability have no answer, more than"
            f" bench.max_unscored = {bench.max_unscored:.1%}; the commonest cause:"
            f" {commonest_error({name: {'single_turn': sets} for name, sets in answers.items()})};"
            " fix it and run the same command to ask them again"
        )
    if judge is None:
        return
    if (share := unscored_share(found)) > bench.max_unscored:
        everything = {model: {**results[model], "attackers": attacked[model]} for model in results}
        raise NoResult(
            f"{share:.1%} of a model's dialogues have no scores, more than bench.max_unscored ="
            f" {bench.max_unscored:.1%}; the commonest cause: {commonest_error(everything)};"
            " fix it and run the same command to play these dialogues again"
        )


AssistantOf = Callable[[Suite | Attack], Assistant]
"""The assistant that plays a suite, or answers an attacker."""


def _assistant_for(assistant: Assistant | KeptModel, name: str, watch: Watch) -> AssistantOf:
    if isinstance(assistant, KeptModel):
        return partial(_kept_answers, assistant)
    watched = _watched(assistant, name, watch)
    return lambda played: watched


def _kept_answers(model: KeptModel, played: Suite | Attack) -> Assistant:
    if isinstance(played, Suite):
        return model.of(played)
    assert played.kept
    return played.kept


def _dialogues_in(suites: Sequence[Suite], attacks: Sequence[Attack]) -> int:
    return sum(len(suite.seeds) for suite in suites) + sum(len(attack.seeds) for attack in attacks)


def _watched(assistant: Assistant, name: str, watch: Watch) -> WatchedAssistant:
    asked = _asked(assistant)
    return WatchedAssistant(assistant, watch, f"the model {_named(asked) if asked else name}")


def _asked(assistant: Assistant | KeptModel) -> ChatModel | None:
    """The model behind an endpoint, if it is one."""
    return assistant.model if isinstance(assistant, ChatAssistant) else None


def _named(model: ChatModel) -> str:
    return model.role.model + (f" at {model.role.base_url}" if model.role.base_url else "")


def _say_lost(found: Mapping[str, Any], dialogues: int, say: Callable[[str], None]) -> None:
    """Say how many answers were cut off, and how many of the dialogues ran out of context."""
    short, answers = cut_off(found)
    if short:
        say(
            f"{short} of {answers} answers were cut off at the token limit and judged as they stand; raise"
            " --max-tokens, or student.max_turn_tokens for a run's own models"
        )
    if full := incomplete(found):
        say(
            f"{full} of {dialogues} dialogues ran out of context and count as incomplete;"
            " for a run that has none, raise student.max_length (a served model's: at its server)"
            " or lower student.max_turn_tokens (a served model's: max_tokens)"
        )


def _say_kept(
    results: Mapping[str, Results], folder: Path, most: float, say: Callable[[str], None] | None
) -> None:
    """Say where the answers are. Raises `NoResult` if more than a share `most` of the dialogues failed."""
    suites = [played for protocols in results.values() for played in protocols.values()]
    states = [state(dialogue) for played in suites for dialogues in played.values() for dialogue in dialogues]
    failed = states.count("failed")
    if failed > most * len(states):
        raise NoResult(
            f"{failed} of {len(states)} dialogues failed; the commonest cause: {commonest_error(results)};"
            " fix it and run the same command to play these dialogues again"
        )
    if say:
        say(
            f"the answers of {len(states)} dialogues are kept, none is scored; score them with"
            f" `safer-steer bench --judge-only {folder} --judge-model ... --judge-base-url ...`"
        )


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
    finished, failures = Counter[str](), Counter[str]()
    total = _dialogues_in(suites, attacks)
    ending = EndsAtBreach(critic) if critic else None

    def report(name: str) -> Progress:
        def of_suite(done: int, total_of_suite: int, failed: int = 0) -> None:
            finished[name], failures[name] = done, failed
            if progress:
                progress(finished.total(), total, failures.total())

        return of_suite

    tasks = [
        asyncio.ensure_future(
            play_all(
                suite.seeds,
                assistant_for(suite),
                critic,
                suite.journal(out),
                concurrency=in_play,
                progress=report(suite.name),
            )
        )
        for suite in suites
    ]
    tasks += [
        asyncio.ensure_future(
            play_all(
                attack.seeds,
                assistant_for(attack),
                ending,
                attack.journal(out),
                user=attack.user,
                concurrency=in_play,
                progress=report(attack.journal(out).stem),
            )
        )
        for attack in attacks
    ]
    try:
        played = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    results: Results = {}
    for suite, dialogues in zip(suites, played, strict=False):
        results.setdefault(suite.protocol, {})[suite.name] = list(dialogues)
    attacked = zip(attacks, played[len(suites) :], strict=True)
    return Measured(results, {attack.name: list(dialogues) for attack, dialogues in attacked})


def forget_unfinished(bench: Path, judged: bool) -> None:
    """Drop failed dialogues from a bench's journals, and unscored ones if there is a judge (`judged`): they
    are played again.

    Incomplete ones stay, since they would end the same way.
    """
    finished = ("scored", "incomplete") if judged else ("scored", "incomplete", "unscored")
    for path in sorted(bench.glob("*/*.jsonl")):
        with Journal(path):
            pass  # cuts off a torn last line
        dialogues = read_dialogues(path)
        known = state_of if path.stem.startswith(ADAPTIVE) else state
        stay = [dialogue for dialogue in dialogues if known(dialogue) in finished]
        if len(stay) < len(dialogues):
            write_atomic(path, to_jsonl(stay))
