"""What Stage III is refused for, each with one line: before it is paid for, or before more of it is.

TRL renders a seed's prompt and its pictures once more for the forward pass, and takes what follows the first
answer as token ids. So a picture in a later turn would be missing there, and inputs that TRL does not know.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safer_steer.dialogue import Dialogue, Seed
from safer_steer.errors import UserError
from safer_steer.workers import Breaker

if TYPE_CHECKING:
    from safer_steer.student.renderer import Renderer

RECENT_STEPS = 5
"""Number of recent steps over which `rl.max_unscored` is computed."""
MOST_SILENT = 0.5
"""Largest share of answers that may be empty or end by a marker. A student that answers ends one in thousands
so; one that opens its reasoning with a special token, nearly all."""


def refuse_lost_inputs(renderer: Renderer) -> None:
    """Raises `UserError` if the student has inputs, of the vision tower or of each token, that TRL does not
    hand on to the model."""
    from trl import GRPOTrainer

    handed_on = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    if any(each.kind is each.VAR_KEYWORD for each in handed_on.values()):
        return  # whatever it is given
    inputs = (*renderer.picture_inputs, *renderer.aligned_inputs)
    if names := [name for name in inputs if name not in handed_on]:
        raise renderer.refused(
            f"TRL's GRPO hands {', '.join(names)} not on to the model, so it would be trained without what it"
            " sees; choose another model, or rl.algorithm: dpo"
        )


def refuse_later_pictures(seeds: Iterable[Seed]) -> None:
    """Raises `UserError` that names the first script with a picture in a later turn."""
    for seed in seeds:
        for number, images in enumerate(seed.images_by_turn()[1:], 2):
            if images:
                raise UserError(
                    f"rl: {seed.id}: turn {number} shows {images[0]}, and RL with TRL takes pictures in the"
                    " first user turn only; give it in the row's `images`, or leave the script out"
                )


def refuse_mixed_pictures(renderer: Renderer, seeds: Sequence[Seed]) -> None:
    """Raises `UserError` for seeds that TRL would give another seed's pictures.

    If the pictures of a step are as many as its dialogues, TRL treats inputs of shape [dialogues, pictures,
    ...] as one row per picture. That is wrong if some dialogues have no picture and others have several.
    """
    counts = {len(seed.images_by_turn()[0]) for seed in seeds}
    if renderer.rowwise and 0 in counts and max(counts) > 1:
        raise UserError(
            "rl: with this student, scripts without a picture cannot be mixed with scripts of several"
            " pictures; use sources that give every script a picture, or at most one"
        )


def refuse_another_seed(journal: Path, dialogue: Dialogue, seed: Seed) -> None:
    """Raises `UserError` if what the journal has under the id of `seed` was played from another one
    (`meta.seed`)."""
    if dialogue.meta["seed"] != seed.meta["seed"]:
        raise UserError(
            f"{journal}: {seed.id} was played from the seed {dialogue.meta['seed']}, and this run draws"
            f" {seed.meta['seed']}: splits/rl.jsonl has changed; put it back to go on, or use a new folder"
        )


def refuse_silence(dialogues: Iterable[Dialogue], when: str) -> None:
    """Raises `UserError` if most of the student's answers are empty, or end by a special token that is not
    the end of a turn: nothing would be learnt, and every check would pass. `when` is for the message."""
    answers = [turn for dialogue in dialogues for turn in dialogue.turns if turn.assistant is not None]
    empty = sum(not (turn.assistant or "").strip() for turn in answers)
    cut = sum(
        turn.meta.get("finish") == "marker" and bool((turn.assistant or "").strip()) for turn in answers
    )
    if empty + cut > MOST_SILENT * len(answers):
        raise UserError(
            f"rl: {when}: of {len(answers)} answers {empty} are empty and {cut} break off at a special token"
            " that does not end a turn, so next to nothing would be learnt: the student opens its reasoning,"
            " or a call of a tool, with such a token; give a template that closes an empty reasoning before"
            " the answer in student.chat_template: FILE, or choose another student.model"
        )


def refuse_unscored(recent: Breaker, unscored: int, trajectories: int, why: str, again: str) -> None:
    """Count a step of which so many trajectories are unscored. Raises `UserError` if those of the last steps
    are too many.

    Args:
        recent: of the last steps; it stops at `rl.max_unscored`.
        why: the commonest reason, in brackets; or nothing.
        again: how to go on.
    """
    if recent.note(unscored, trajectories):
        raise UserError(
            f"rl: {recent.share():.0%} of the trajectories of the last {recent.entries()} step(s) could not"
            f" be scored{why}, more than rl.max_unscored = {recent.most:.0%}; fix the tutor, then {again}"
        )
