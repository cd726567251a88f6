"""What TRL allows: pictures in the first user turn only, and the inputs that it knows.

TRL renders a seed's prompt and its pictures once more for the forward pass, and takes what follows the first
answer as token ids. So a picture in a later turn would be missing there.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING

from safer_steer.dialogue import Dialogue, Seed
from safer_steer.errors import UserError

if TYPE_CHECKING:
    from safer_steer.student.renderer import Renderer

_WHY = "RL with TRL takes pictures in the first user turn only"


def refuse_lost_inputs(renderer: Renderer) -> None:
    """Raises `UserError` if the student has inputs of the vision tower that TRL does not hand on to the
    model."""
    from trl import GRPOTrainer

    handed_on = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    if any(each.kind is each.VAR_KEYWORD for each in handed_on.values()):
        return  # whatever it is given
    if lost := [name for name in renderer.picture_inputs if name not in handed_on]:
        raise renderer.refused(
            f"TRL's GRPO hands {', '.join(lost)} not on to the model, so it would be trained without what it"
            " sees; choose another model, or rl.algorithm: dpo"
        )


def refuse_later_pictures(seeds: Iterable[Seed]) -> None:
    """Raises `UserError` that names the first script with a picture in a later turn."""
    for seed in seeds:
        for number, images in enumerate(seed.images_by_turn()[1:], 2):
            if images:
                raise UserError(
                    f"rl: {seed.id}: turn {number} shows {images[0]}, and {_WHY}; give it in the row's"
                    " `images`, or leave the script out"
                )


def refuse_other_pictures(played: Dialogue, seed: Seed) -> None:
    """Raises `UserError` if a trajectory shows other pictures than the seed's first turn does."""
    shown = played.images_by_turn()
    if shown and (shown[0] != seed.images_by_turn()[0] or any(shown[1:])):
        raise UserError(
            f"rl: {seed.id}: the user showed pictures that the script's first turn does not, and {_WHY};"
            " give a user that brings none"
        )
