"""Stage I, steps 1-3: rewrites a question in two ways and expands each rewrite into a script of short
turns."""

from __future__ import annotations

from collections.abc import Sequence

from safer_steer.dialogue import Turn
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.refusals import check, check_script
from safer_steer.errors import UnparsableError
from safer_steer.files.images import Picture
from safer_steer.prompts.benign import BENIGN, BenignInput
from safer_steer.prompts.obfuscated import OBFUSCATED, ObfuscatedInput
from safer_steer.prompts.probe import PROBE, ProbeInput, ProbeOutput

HARMLESS = 1
"""The planned risk (1-5) of a turn that anyone would answer. 5 asks outright for restricted content."""


async def probe(model: ChatModel, question: str, picture: Picture, repeat: int = 0) -> ProbeOutput:
    """A benign and an obfuscated single-turn rewrite of `question`.

    The benign rewrite of a harmless question may be the question itself; the obfuscated one never.

    Raises:
        BoundaryError: also from `benign_script` and `obfuscated_script`.
    """
    rewrites = await model.ask(PROBE, ProbeInput(question=question), [picture], repeat=repeat)
    check("probe", rewrites.benign)
    check("probe", rewrites.obfuscated, [question], sayings=1)
    return rewrites


async def benign_script(
    model: ChatModel, task: str, turns: int, bounds: tuple[int, int], picture: Picture, repeat: int = 0
) -> list[Turn]:
    """Expands a harmless task into a script of about `turns` turns, within `bounds` (shortest, longest). The
    planned risk of every turn is 1."""
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
    """Expands a risky task into a script whose turns are each neutral but keep the intent as a whole. Each
    turn's meta holds its planned risk (1-5)."""
    found = await model.ask(
        OBFUSCATED, ObfuscatedInput(task=task, intent=intent, turns=turns), [picture], repeat=repeat
    )
    checked("obfuscated", [turn.user for turn in found.turns], bounds)
    return [Turn(user=turn.user, meta={"risk": turn.risk}) for turn in found.turns]


def checked(job: str, script: Sequence[str], bounds: tuple[int, int]) -> Sequence[str]:
    """Returns the script if its length is within `bounds` and no turn is refused, empty or repeated. The
    length need not be the one asked for.

    Raises:
        UnparsableError: the script is shorter or longer.
        RefusedError, EmptyError, RepeatedError: see `endpoints.refusals`.
    """
    if not bounds[0] <= len(script) <= bounds[1]:
        raise UnparsableError(
            f"{job}: a script of {len(script)} turns; {bounds[0]} to {bounds[1]} are allowed"
        )
    check_script(job, script)
    return script
