"""The register of `meta`: every fact that a stage notes on a script, a turn or a dialogue.

For each key: its type, who writes it, what it says. mypy holds the code to keys and types, a test does so for
rows that are read as plain objects, and docs/reference/run-folder.md is written from here. A row may have
further keys, of a user's own; they are carried along, and nothing here reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict, TypeVar, cast, get_type_hints

from pydantic import GetPydanticSchema
from pydantic_core.core_schema import no_info_after_validator_function

STAGE_I, DIALOGUE, ATTACKER, CHAT = "Stage I", "the dialogue loop", "the adaptive bench", "a chat model"


class AskedAgain(TypedDict, total=False):
    """What came of a request to a role that writes user turns, if not all went well: see
    `endpoints/asked_again.py`."""

    faults: list[str]
    approach: str


class Attacked(TypedDict):
    """The parts of an attacker's return: see `training/cotrain/rewards.py`."""

    hit: bool
    faithfulness: float
    similarity: float


class OneVerdict(TypedDict, total=False):
    """What one of several judges said of a turn, or why it has no scores."""

    scores: dict[str, float]
    reason: str
    unscored: str


_Try = TypedDict(
    "_Try",
    {"try": Annotated[int, "RL, the adaptive bench", "Which of several plays of one seed it is, from 0."]},
    total=False,
)
_Return = TypedDict(
    "_Return",
    {"return": Annotated[float | None, "RL", "The trajectory's return; null if it has none."]},
    total=False,
)
"""Keys that Python does not take as names."""


class SeedMeta(_Try, total=False):
    """Facts of a script. A dialogue played from it has them too."""

    pair: Annotated[str, STAGE_I, "The single-turn pair it was made from."]
    question: Annotated[str, STAGE_I, "The pair's question."]
    question_safe: Annotated[bool, STAGE_I, "Whether the question is harmless, if its source says so."]
    intent: Annotated[str, STAGE_I, "The question's intent, if the script has another."]
    use: Annotated[str, STAGE_I, "`bench` or `train`: what its source is for."]
    category: Annotated[str, "Stage I, `suite`", "As in the source, if it has one."]
    picture: Annotated[str, STAGE_I, "First 16 hex digits of the SHA-256 of the set's own picture."]
    perturbed: Annotated[bool, STAGE_I, "Whether it shows a changed copy of the picture."]
    original: Annotated[str, STAGE_I, "Path of the picture that was changed."]
    attempts: Annotated[int, STAGE_I, "Attempts it took, 1 or 2."]
    answer: Annotated[
        str | int,
        "Stage I, `suite`, the questions of the bench",
        "The right answer, if there is one; of a multiple-choice question its place, from 0.",
    ]
    strategy: Annotated[str, STAGE_I, "The red-team script's strategy."]
    escalation: Annotated[str, STAGE_I, "How it escalates."]
    success_turn: Annotated[int, STAGE_I, "The turn, from 1, at which it succeeded against the target."]
    attack_scores: Annotated[list[float], STAGE_I, "The attack judge's scores, 1-5, up to that turn."]
    filtered_against: Annotated[str, STAGE_I, "The model that this script of the bench broke."]
    set: Annotated[str, "`suite`", "The set it comes from."]
    twin: Annotated[str, "`suite`", "Id of its twin, in the suite of attacks or in that of their safe twins."]
    choices: Annotated[list[str], "the questions of the bench", "The options of a multiple-choice question."]
    safe: Annotated[bool, "you", "Whether the whole script is safe; by default, if its kind is benign."]
    scaled_from: Annotated[dict[str, str], "bench", "The originals' ids of pictures written anew, by path."]
    in_text: Annotated[str, "bench", "Id of the script whose turns this one has in pictures."]
    script_of: Annotated[list[str], ATTACKER, "Suite and id of the script whose intent it is."]
    intent_id: Annotated[str, ATTACKER, "The intent's id."]
    attacker: Annotated[str, ATTACKER, "The attacker's name."]
    later: Annotated[list[str], ATTACKER, "The pictures that the attacker may show."]
    seed: Annotated[str, "RL", "The id of the script that a trajectory was played from."]


class DialogueMeta(SeedMeta, _Return, total=False):
    """Facts of a dialogue."""

    error: Annotated[str, DIALOGUE, "What ended it, if a call failed: the boundary, and the message."]
    reasons: Annotated[list[str], "bootstrap", "Why it was rejected."]
    taken_back: Annotated[
        list[dict[str, Any]], DIALOGUE, "Turns that the user took back at its end; whole rows."
    ]
    calls: Annotated[int, ATTACKER, "Calls of the attacker."]
    attacker_faults: Annotated[
        list[str], ATTACKER, "Faults of the attacker's last move, if it led to no turn."
    ]
    attack: Annotated[
        Attacked, "co-training", "What it came to for its attacker: the parts of the attacker's return."
    ]


class TemplateMeta(TypedDict, total=False):
    """Facts of a script's turn. A turn played from it has them too."""

    risk: Annotated[int, STAGE_I, "The planned risk, 1-5; 1 is harmless."]
    goal: Annotated[str, STAGE_I, "What the turn is for in a red-team script."]
    safe: Annotated[bool, "you, the sandbox, an attacker", "Whether it is a safe request, whatever its risk."]
    in_picture: Annotated[
        str, "Stage I, bench, an attacker", "Words that were drawn into the picture shown with it."
    ]
    prefilled: Annotated[str, "`suite`", "The set's own answer, which nobody is shown."]


class TurnMeta(TemplateMeta, total=False):
    """Facts of a turn. Those that its script does not have come from user, assistant, critic and loop as it
    is played; a script that was played before loses its old ones."""

    attacker: Annotated[AskedAgain, "bootstrap, the adaptive bench", "How the role was asked again for it."]
    next_attacker: Annotated[AskedAgain, "RL", "How the tutor was asked again for its verdict or next turn."]
    technique: Annotated[str, ATTACKER, "The attacker's technique."]
    observation: Annotated[str, ATTACKER, "What the attacker observed."]
    thought: Annotated[str, ATTACKER, "What it thought."]
    calls: Annotated[int, ATTACKER, "Calls of the attacker up to here."]
    taken_back: Annotated[
        list[dict[str, Any]], DIALOGUE, "Turns that the user took back in its place; whole rows."
    ]
    finish: Annotated[str, "the assistant", "Why the answer ended: `stop`, `length`."]
    tokens: Annotated[int, "the student", "Tokens of the answer."]
    prompt_tokens: Annotated[int, CHAT, "Tokens of the request."]
    completion_tokens: Annotated[int, CHAT, "Tokens of the reply."]
    thinking: Annotated[str, CHAT, "Reasoning of its own, which is no part of the answer."]
    reason: Annotated[str, "a judge", "Its reason."]
    verdicts: Annotated[dict[str, OneVerdict], "several judges", "What each said, by its model's name."]
    unscored: Annotated[str, DIALOGUE, "Why it has no scores: the boundary, and the message."]
    audit: Annotated[OneVerdict, "RL", "What a second judge said of it (`rl.audit`); no part of the return."]
    diagnosis: Annotated[str, "the tutor", "What it says of the answer."]
    strategy: Annotated[
        str, "the tutor", "The strategy of its next turn; `template` if that is the script's."
    ]
    approach: Annotated[str, "the tutor", "With a memory, the approach of its next turn; none if no attack."]


PLAYED = DialogueMeta.__annotations__.keys() - SeedMeta.__annotations__.keys()
PLAYED_TURN = TurnMeta.__annotations__.keys() - TemplateMeta.__annotations__.keys()
"""What is noted of a script, or of a turn, when it is played."""
READ = ("pair", "question", "question_safe", "original", "twin", *TemplateMeta.__annotations__)
"""Facts of a user's own scripts that code reads by their type."""
OF_JUDGE = ("reason", "verdicts", "unscored")
"""What a judge notes of a turn."""


def reason_in(meta: Mapping[str, Any]) -> str:
    """The judge's reason of a turn; of several judges, each one's scores and reason."""
    if not (verdicts := meta.get("verdicts")):
        return str(meta.get("reason") or "")
    reasons = []
    for name, one in verdicts.items():
        scores = "/".join(f"{score:g}" for score in one.get("scores", {}).values())
        reasons.append(f"{name} {scores or 'unscored'}: {one.get('reason') or one.get('unscored', '')}")
    return "; ".join(reasons)


_IN_WORDS = {str: "a text", bool: "true or false", int: "a whole number"}


def complaint(meta: Mapping[str, Any], form: type) -> str:
    """What is wrong with the first fact of a user's own script that is not of its type here, for an error
    message; "" if all are. Facts that no code takes for what they say may be anything."""
    for name, hint in get_type_hints(form).items():
        if name in READ and name in meta and type(meta[name]) is not hint:
            return f"meta.{name}: give {_IN_WORDS[hint]}"
    return ""


def _non_null(meta: dict[str, Any]) -> dict[str, Any]:
    """Without facts that are null, as a table's program writes an empty cell. A return says by it that there
    is none."""
    return {name: fact for name, fact in meta.items() if fact is not None or name == "return"}


AsWritten = GetPydanticSchema(
    lambda _, handler: no_info_after_validator_function(_non_null, handler.generate_schema(dict[str, Any]))
)
"""Of a field: an object with any keys, in their order. What is null is left out."""
Meta = TypeVar("Meta", bound=Mapping[str, Any])


def only(meta: Meta, *names: str) -> Meta:
    """These facts, as far as they are known, in the order of the names."""
    return cast(Meta, {name: meta[name] for name in names if name in meta})


def without(meta: Meta, *names: str) -> Meta:
    """A copy without these facts."""
    return cast(Meta, {name: fact for name, fact in meta.items() if name not in names})
