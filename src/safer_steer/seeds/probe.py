"""Stage I, steps 1-3: two rewrites of a question, and the expansion of each into a script of short turns."""

from __future__ import annotations

from collections.abc import Sequence

from safer_steer.dialogue import Turn
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.refusals import check, check_script
from safer_steer.errors import UnparsableError
from safer_steer.images import Picture
from safer_steer.prompts.benign import BENIGN, BenignInput
from safer_steer.prompts.obfuscated import OBFUSCATED, ObfuscatedInput
from safer_steer.prompts.probe import PROBE, ProbeInput, ProbeOutput

HARMLESS = 1
"""The planned risk (1-5) of a turn that anyone would answer; 5 asks outright for what is restricted."""


async def probe(model: ChatModel, question: str, picture: Picture, repeat: int = 0) -> ProbeOutput:
    """A benign and an obfuscated single-turn rewrite of `question`. Raises `BoundaryError`, as do the two
    below.

    A harmless question may be its own benign rewrite, but never its own obfuscated one.
    """
    rewrites = await model.ask(PROBE, ProbeInput(question=question), [picture], repeat=repeat)
    check("probe", rewrites.benign)
    check("probe", rewrites.obfuscated, [question], sayings=1)
    return rewrites


async def benign_script(
    model: ChatModel, task: str, turns: int, bounds: tuple[int, int], picture: Picture, repeat: int = 0
) -> list[Turn]:
    """A harmless task as a script of about `turns` turns, within `bounds` (shortest, longest). Every turn's
    planned risk is 1."""
    found = await model.ask(BENIGN, BenignInput(task=task, turns=turns), [picture], repeat=repeat)
    return [Turn(user=text, meta={"risk": HARMLESS}) for text in checked("benign", found.turns, bounds)]


async def obfuscated_script(
    model: ChatModel,
    task: str,
    intent: str,
    turns: int,
    bounds: tuple[int, int],
    picture: Picture,
    repeat: int = 0,
) -> list[Turn]:
    """A risky task as a script that is neutral turn by turn and keeps the intent on the whole; each turn with
    its planned risk (1-5) in its meta."""
    found = await model.ask(
        OBFUSCATED, ObfuscatedInput(task=task, intent=intent, turns=turns), [picture], repeat=repeat
    )
    checked("obfuscated", [turn.user for turn in found.turns], bounds)
    return [Turn(user=turn.user, meta={"risk": turn.risk}) for turn in found.turns]


def checked(job: str, script: Sequence[str], bounds: tuple[int, int]) -> Sequence[str]:
    """The script, if it has a length within `bounds` (not always the one asked for) and no turn is an
    attacker's fault.

    Raises:
        UnparsableError: it is shorter or longer.
        RefusedError, EmptyError, RepeatedError: see `models.attack_text`.
    """
    if not bounds[0] <= len(script) <= bounds[1]:
        raise UnparsableError(
            f"{job}: a script of {len(script)} turns; {bounds[0]} to {bounds[1]} are allowed"
        )
    check_script(job, script)
    return script
