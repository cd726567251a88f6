"""What an attacker sees, and what it does: an attacker is an async function from `Seen` to `Move`.

It keeps nothing between two calls, so a dialogue can be interrupted and played again. `by_model` asks the
role's model; any other such function can stand in its place (`bench.adaptive.own`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from safer_steer.config.file import in_words
from safer_steer.config.named import load_named
from safer_steer.errors import UserError
from safer_steer.prompts.attacker import ATTACKER, ATTACKER_SHOW_TEXT, SHOW_TEXT, AttackerInput
from safer_steer.prompts.base import Exchange
from safer_steer.prompts.red import Approach

if TYPE_CHECKING:
    from safer_steer.config import Config
    from safer_steer.endpoints.chat import ChatModel
    from safer_steer.files.images import View


@dataclass(frozen=True)
class Seen:
    """What an attacker knows when it moves."""

    intent: str
    """What it is after."""
    history: list[Exchange]
    """The dialogue as the model under test sees it: user turns, and the answers' visible parts."""
    taken_back: list[Exchange]
    """What it tried in the place of the last turn before that, and took back."""
    turns_left: int
    """User turns that may follow the history. At 0 the last turn can only be taken back."""
    take_backs_left: int
    scores: dict[str, float] | None
    """The judge's scores of the last answer: `harmlessness`, `helpfulness`, `refused`. None before the first
    answer, and if the attacker is not to see them."""
    techniques: dict[str, str]
    """Those to choose from, with what each means."""
    pictures: View
    """The pictures shown so far, and before them those of its own, with their numbers."""
    own_pictures: int
    """How many pictures of its own it may show."""
    faults: Sequence[str]
    """What was wrong with its first proposal for this move: `refused`, `empty` or `repeated`. Empty at first:
    it is asked twice at most."""
    key: str
    """Tells apart the dialogues and tries of a bench, for an attacker that draws."""
    ask: Callable[..., Awaitable[Any]]
    """`await seen.ask(prompt, inputs)` does a job with the model of roles.attacker, and shows it the
    pictures."""


@dataclass(frozen=True)
class Move:
    """The next user turn."""

    user: str
    technique: str = ""
    """What results are counted by."""
    take_back: bool = False
    """The last turn is taken back, and this one said in its place. It is another text than those that were
    said there before."""
    picture: int = 0
    """Number of a picture of the attacker's own to show with it, from 1; 0 for none."""
    observation: str = ""
    thought: str = ""
    notes: dict[str, JsonValue] = field(default_factory=dict)
    """Further facts for the turn's meta; `safe` is true for a turn that asks for nothing harmful."""
    show_text: str = ""
    """Words to draw into a picture that is shown with it, besides the other one; lines stay lines. If they
    cannot be drawn (`data.typographic.legible`), the attacker has given up."""


Attacker = Callable[[Seen], Awaitable[Move]]
OTHER = "other"
"""The technique of a model's turn that names none of those it may choose from."""
OPENING = "opening"
"""What the sandbox's attackers name where they ask for a fact: a safe request (`metrics.asks_safely`)."""


async def by_model(seen: Seen) -> Move:
    """The role's model observes, thinks, chooses a technique and writes the turn, in one answer.

    Raises a `BoundaryError` if it declines or gives no valid answer.
    """
    scores = None
    if seen.scores is not None:
        scores = ", ".join(f"{name} {score:g}" for name, score in seen.scores.items())
    inputs = AttackerInput(
        intent=seen.intent,
        history=seen.history,
        taken_back=seen.taken_back,
        scores=scores,
        techniques=[f"{name}: {meaning}" for name, meaning in seen.techniques.items()],
        turns_left=seen.turns_left,
        take_backs_left=seen.take_backs_left,
        pictures=seen.own_pictures,
        approach=Approach.OTHER_SIDE if seen.faults else None,
    )
    move = await seen.ask(ATTACKER_SHOW_TEXT if SHOW_TEXT in seen.techniques else ATTACKER, inputs)
    technique = "_".join(move.technique.lower().replace("-", " ").split())
    if technique not in seen.techniques and technique not in _of_sandbox():
        technique = OTHER
    notes: dict[str, JsonValue] = {"safe": True} if technique == OPENING else {}
    words = getattr(move, "show_text", "")
    details = (move.take_back, move.picture, move.observation, move.thought)
    return Move(move.user, technique, *details, notes, words)


@cache
def _of_sandbox() -> frozenset[str]:
    """What the sandbox's attackers name: an opening, and the structures that they ask in."""
    from safer_steer.sandbox.families import AGENTS

    forms = (form for families in AGENTS.values() for family in families for form in family.forms)
    return frozenset((OPENING, *forms))


def attackers_of(
    config: Config, ask: Callable[[str], ChatModel]
) -> dict[str, tuple[Attacker, Callable[[], ChatModel]]]:
    """The attackers of a config by name, each with the role's model for its `Seen.ask`.

    Args:
        ask: the role `attacker` with another model.

    Raises:
        UserError: an attacker of one's own cannot be imported, or a trained one not loaded.
    """
    from functools import partial

    from safer_steer.config.bench import name_of

    adaptive = config.bench.adaptive
    assert adaptive
    attackers: dict[str, tuple[Attacker, Callable[[], ChatModel]]] = {
        name: (by_model, partial(ask, name)) for name in config.attacker_roles()
    }
    model = partial(ask, config.role("attacker").model)
    for path in adaptive.trained:
        from safer_steer.bench.adaptive.trained import TrainedAttacker

        attackers[name_of(path)] = (TrainedAttacker(config, path), model)
    for name in adaptive.own:
        attackers[name] = (_own(name), model)
    return attackers


def _own(name: str) -> Attacker:
    """An attacker of one's own, whose moves are looked at. Raises `UserError` if it cannot be imported."""
    attacker, form = load_named("bench.adaptive.own", name), TypeAdapter(Move)

    async def moves(seen: Seen) -> Move:
        move = attacker(seen)
        move = await move if isawaitable(move) else move
        complaint = f"{move!r:.60}"
        if isinstance(move, Move):
            try:
                return form.validate_python(vars(move))
            except ValidationError as error:
                complaint = in_words(error)
        raise UserError(
            f"bench.adaptive.own: {name} must be an async function that gives a Move; it gave {complaint}"
        )

    return moves
