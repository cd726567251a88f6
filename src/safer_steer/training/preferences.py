"""Preference pairs for DPO: the student answers each turn of a script several times, and the tutor scores all
answers.

The pair of a turn is its best answer against its worst, by the turn reward that GRPO has too. The dialogue
goes on with the first answer, the policy's own. So the students' histories are on-policy, all answers of a
turn have the same one, and a seed takes as many answers and verdicts as a group of trajectories. Equal
answers of a turn have one verdict: with two, a pair could prefer an answer to itself.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safer_steer.config import Config
from safer_steer.config.rl import Reinforce
from safer_steer.dialogue import Dialogue, Seed, StopReason, Turn
from safer_steer.episode import Critic, Reply, Script, Verdict, play
from safer_steer.errors import BoundaryError, UserError
from safer_steer.files.store import Journal, write_atomic
from safer_steer.student.assistant import StudentAssistant
from safer_steer.training.draws import steps_of
from safer_steer.training.patience import LastVerdicts, patience_of
from safer_steer.training.refusals import refuse_another_seed, refuse_silence
from safer_steer.training.returns import reward_of
from safer_steer.training.trajectory import as_trajectory
from safer_steer.workers import Breaker, Patience, Progress, run_jobs

TIE = 1e-9
"""Rewards that differ by less are equal."""
JOURNAL, SETTLED = "candidates.jsonl", "preferences.json"
"""In `rl/`: the answers of every dialogue, and the counts, written when all are settled."""


@dataclass
class Candidate:
    """One of the answers to a turn."""

    text: str
    ids: list[int]
    """As sampled, with the end token if it was."""
    scores: dict[str, float] | None = None
    """The tutor's; None if it failed."""
    reward: float | None = None
    """r_t' (docs/explanation/method.md, "Stage III")."""
    why: str = ""
    """Why there are no scores."""


@dataclass
class Candidates:
    """A dialogue, and the candidates of each of its turns; the first of a turn is the one it went on with."""

    dialogue: Dialogue
    turns: list[list[Candidate]]

    @property
    def final(self) -> bool:
        """Whether nothing would change if it were played again: no call failed."""
        ended = self.dialogue.stop in (StopReason.COMPLETED, StopReason.CONTEXT_FULL)
        return ended and all(answer.scores for answers in self.turns for answer in answers)

    def to_row(self) -> dict[str, Any]:
        """The journal row, keyed by the dialogue's id."""
        turns = [[asdict(answer) for answer in answers] for answers in self.turns]
        return {"id": self.dialogue.id, "dialogue": self.dialogue.model_dump(mode="json"), "turns": turns}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Candidates:
        """Rebuild from the row that `to_row` made."""
        turns = [[Candidate(**answer) for answer in answers] for answers in row["turns"]]
        return cls(Dialogue.model_validate(row["dialogue"]), turns)


@dataclass(frozen=True)
class Pair:
    """Two answers to one turn (0-based) of a dialogue."""

    played: Candidates
    turn: int
    chosen: Candidate
    rejected: Candidate


def pairs_of(record: Candidates) -> list[Pair]:
    """A pair for each turn with two answers of different rewards: the highest against the lowest, the first
    of equal ones."""
    pairs = []
    for turn, answers in enumerate(record.turns):
        scored = [answer for answer in answers if answer.reward is not None]
        if scored:
            best = max(scored, key=lambda answer: answer.reward or 0)
            worst = min(scored, key=lambda answer: answer.reward or 0)
            if (best.reward or 0) - (worst.reward or 0) > TIE:
                pairs.append(Pair(record, turn, best, worst))
    return pairs


def drawn(seeds: Sequence[Seed], rl: Reinforce, seed: int) -> list[Seed]:
    """As many seeds as GRPO's steps take, in a shuffled order that begins anew in each pass, each as the
    dialogue that is played from it."""
    count = steps_of(rl, len(seeds)) * rl.prompts_per_step
    order: list[Seed] = []
    while len(order) < count:
        order += random.Random(f"dpo {seed} {len(order)}").sample(list(seeds), len(seeds))
    return [
        as_trajectory(one, f"{place:05d}", place // len(seeds)) for place, one in enumerate(order[:count])
    ]


class Group:
    """The assistant's seat: answers every turn `count` times, and has all answers scored."""

    def __init__(
        self, assistant: StudentAssistant, tutor: Critic, config: Config, templates: Sequence[str]
    ) -> None:
        """`templates` are the script's user turns."""
        self.assistant, self.tutor, self.config, self.templates = assistant, tutor, config, templates
        self.turns: list[list[Candidate]] = []

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        reply, sampled = await self.assistant.answers(dialogue, asked, self.config.rl.group_size)
        answers = [Candidate(one.text, one.token_ids) for one in sampled]
        await asyncio.gather(*(self._score(dialogue, asked, answer) for answer in answers))
        self.turns.append(answers)
        return reply

    async def _score(self, dialogue: Dialogue, asked: Turn, answer: Candidate) -> None:
        answered = asked.model_copy(update={"assistant": answer.text})
        so_far = dialogue.model_copy(update={"turns": [*dialogue.turns, answered]})
        following = self.templates[len(so_far.turns) :]
        try:
            verdict = await self.tutor.judge(so_far, len(dialogue.turns), following[0] if following else None)
        except BoundaryError as error:
            answer.why = str(error.fault)
            return
        answer.scores = verdict.scores
        answer.reward = reward_of(answer.text, verdict.scores, self.config.rl, self.config.student.format)


def play_seeds(
    config: Config,
    seeds: Sequence[Seed],
    assistant_of: Callable[[], StudentAssistant],
    tutor: Critic,
    folder: Path,
    wait: Callable[[Coroutine[Any, Any, None]], None],
    progress: Progress | None = None,
) -> list[Candidates]:
    """Play all seeds (`drawn`). What an earlier process settled is neither sampled nor scored again.

    Args:
        assistant_of: loads the student; not called if there is nothing to play.
        folder: the run's `rl`.

    Raises:
        UserError: most answers are empty, the tutor failed `workers.PATIENCE` times in a row, or on more than
            `rl.max_unscored` of the answers, more than that share of the dialogues got no answer, or there is
            no pair. Running the same command again goes on.
    """
    with Journal(folder / JOURNAL) as journal:
        earlier = []
        for seed in seeds:
            if seed.id in journal:
                earlier.append(Candidates.from_row(journal.rows[seed.id]).dialogue)
                refuse_another_seed(journal.path, earlier[-1], seed)
        if len(earlier) >= config.rl.prompts_per_step:
            refuse_silence(earlier, f"the first {len(earlier)} dialogues")
        if any(seed.id not in journal for seed in seeds):
            unsettled: list[Candidates] = []
            wait(_play_rest(config, seeds, assistant_of(), tutor, journal, unsettled, progress))
            _refuse_unscored([*map(Candidates.from_row, journal), *unsettled], config.rl.max_unscored)
            for record in unsettled:
                journal.append(record.to_row())
        dialogues = [Candidates.from_row(journal.rows[seed.id]) for seed in seeds]
    facts = counts(dialogues)
    if not facts["pairs"]:
        raise UserError(
            "rl: no turn has two answers of different rewards, so there is nothing to prefer; raise"
            " rl.temperature or rl.group_size"
        )
    write_atomic(folder / SETTLED, json.dumps(facts, indent=1) + "\n")
    return dialogues


async def _play_rest(
    config: Config,
    seeds: Sequence[Seed],
    assistant: StudentAssistant,
    tutor: Critic,
    journal: Journal,
    unsettled: list[Candidates],
    progress: Progress | None,
) -> None:
    """Play the seeds that are not in the journal. Those for which a call failed go into `unsettled`."""
    rl = config.rl
    waiting = [seed for seed in seeds if seed.id not in journal]
    verdicts = LastVerdicts(_Watched(tutor), patience_of(config), int(rl.max_unscored * rl.prompts_per_step))

    recent: list[Dialogue] = []

    async def one(seed: Seed) -> None:
        group = Group(assistant, verdicts, config, [turn.user for turn in seed.turns[: rl.max_turns]])
        with verdicts.playing(seed.id):
            dialogue = await play(seed, Script(), group, None, rl.max_turns)
        record = Candidates(dialogue, group.turns)
        if record.final:
            journal.append(record.to_row())
        else:
            unsettled.append(record)
        recent.append(dialogue.model_copy())  # the assistant keeps a dialogue's pictures while it is there
        if len(recent) == rl.prompts_per_step:
            refuse_silence(recent, f"the last {len(recent)} dialogues")
            recent.clear()

    async with verdicts.watching():
        await run_jobs(
            waiting,
            one,
            concurrency=rl.prompts_per_step,
            patience=Patience("rl", "dialogue"),
            total=len(seeds),
            finished=len(seeds) - len(waiting),
            progress=progress,
        )


class _Watched:
    """A tutor that ends the run when it fails again and again."""

    def __init__(self, tutor: Critic) -> None:
        self.tutor, self.immediate, self.patience = tutor, tutor.immediate, Patience("rl", "verdict")

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        try:
            verdict = await self.tutor.judge(dialogue, turn, template)
        except BoundaryError as error:
            self.patience.failed(str(error.fault))
            raise
        self.patience.answered()
        return verdict


def counts(dialogues: Sequence[Candidates]) -> dict[str, int]:
    """How many dialogues, turns, answers, answers without scores, pairs, and turns without one."""
    turns = [answers for record in dialogues for answers in record.turns]
    pairs = sum(len(pairs_of(record)) for record in dialogues)
    return {
        "dialogues": len(dialogues),
        "turns": len(turns),
        "answers": sum(map(len, turns)),
        "unscored": sum(answer.scores is None for answers in turns for answer in answers),
        "pairs": pairs,
        "ties": len(turns) - pairs,
    }


def _refuse_unscored(dialogues: Sequence[Candidates], most: float) -> None:
    """Raises `UserError` if too many answers have no scores, or dialogues ended without an answer."""
    unscored = [answer.why for record in dialogues for answers in record.turns for answer in answers]
    unanswered = [str(record.dialogue.fault or "") for record in dialogues]
    for whys, what, mend in (
        (unscored, "answers could not be scored", "the tutor"),
        (unanswered, "dialogues got no answer from the student", "its engine (rl.rollouts)"),
    ):
        reasons = [why for why in whys if why]
        if Breaker(last=1, most=most).note(len(reasons), len(whys)):
            raise UserError(
                f"rl: {len(reasons)} of {len(whys)} {what} (such as {reasons[0]}), more than"
                f" rl.max_unscored = {most:.0%}; fix {mend}, then run the same command to go on"
            )
