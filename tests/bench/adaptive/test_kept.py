"""Dialogues of an earlier bench, played again for another judge: where each ends, and what it counts as."""

from __future__ import annotations

from typing import Any

import pytest

from safer_steer.bench.adaptive.intents import Intent, tries_of
from safer_steer.bench.adaptive.kept import KeptAttack
from safer_steer.bench.adaptive.results import gave_up, state_of
from safer_steer.bench.adaptive.user import EndsAtBreach
from safer_steer.dialogue import Dialogue, StopReason, Turn
from safer_steer.episode import Verdict, play

MOST = 10
"""User turns of a dialogue, at most."""


class Mild:
    """Sees no breach."""

    immediate = False

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        return Verdict({"harmlessness": 3.0, "helpfulness": 1.0, "refused": 0.0})


def said(text: str, *before: Turn, **meta: Any) -> Turn:
    taken = {"taken_back": [turn.model_dump(mode="json") for turn in before]} if before else {}
    return Turn(user=text, assistant=f"to {text}", meta=meta | taken)


async def again(turns: int, *kept: Turn, **facts: Any) -> Dialogue:
    """A dialogue that was kept with these turns, under a judge that sees no breach."""
    (seed,) = tries_of([Intent(id="i", intent="x")], "m", turns, 1)
    before = Dialogue.begin(seed).model_copy(update={"turns": list(kept)} | facts)
    attack = KeptAttack({before.id: before})
    (places,) = attack.seeds([seed])
    return await play(places, attack, attack, EndsAtBreach(Mild()))


@pytest.mark.parametrize("turns", [3, 2])
async def test_where_the_first_judge_failed_the_second_has_no_result(turns: int) -> None:
    """The attacker was not asked whether it takes the last turn back, either."""
    kept = (said("a"), said("b", said("b1"), unscored="judge: down"))
    found = await again(turns, *kept, stop=StopReason.UNSCORED)
    assert [turn.user for turn in found.turns] == ["a", "b"] and all(turn.scores for turn in found.turns)
    assert len(found.turns[1].meta["taken_back"]) == 1
    assert found.stop is StopReason.USER_FAILED and "not played to its end" in found.meta["error"]
    assert state_of(found) == "failed" and not gave_up(found)


async def test_the_longest_dialogue_has_no_place_after_its_last_turn() -> None:
    kept = [said(f"u{place}") for place in range(MOST)]
    found = await again(MOST, *kept, stop=StopReason.UNSCORED)
    assert (len(found.turns), state_of(found)) == (MOST, "failed")
    assert state_of(await again(MOST, *kept, stop=StopReason.COMPLETED)) == "scored"


@pytest.mark.parametrize(
    ("stop", "error", "ends", "state"),
    [
        (StopReason.SUCCESS, None, StopReason.COMPLETED, "scored"),
        (StopReason.USER_FAILED, "refused: attacker: declined", StopReason.USER_FAILED, "scored"),
        (StopReason.USER_FAILED, "endpoint: status 500", StopReason.USER_FAILED, "failed"),
        (StopReason.ASSISTANT_FAILED, "endpoint: status 500", StopReason.ASSISTANT_FAILED, "failed"),
        (StopReason.CONTEXT_FULL, None, StopReason.CONTEXT_FULL, "incomplete"),
    ],
)
async def test_it_ends_where_it_ended(
    stop: StopReason, error: str | None, ends: StopReason, state: str
) -> None:
    meta = {"intent_id": "i", "try": 0, "attacker": "m", "calls": 4} | ({"error": error} if error else {})
    found = await again(3, said("a"), said("b", said("b1")), stop=stop, meta=meta)
    assert [turn.user for turn in found.turns] == ["a", "b"]
    assert (found.stop, state_of(found)) == (ends, state)
    assert found.meta["calls"] == 4 and found.meta.get("error", "").endswith(error or "")


async def test_a_turn_whose_successor_was_not_answered_is_taken_back_again() -> None:
    taken = {"taken_back": [said("b1").model_dump(mode="json")], "error": "endpoint: status 500"}
    for stop in (StopReason.USER_FAILED, StopReason.ASSISTANT_FAILED):
        found = await again(3, said("a"), stop=stop, meta=taken)
        assert [turn.user for turn in found.turns] == ["a"] and found.stop is stop
        assert [turn["user"] for turn in found.meta["taken_back"]] == ["b1"]


async def test_a_try_that_was_not_played_is_no_result() -> None:
    played, other = tries_of([Intent(id="i", intent="x")], "m", 3, 2)
    attack = KeptAttack({played.id: Dialogue.begin(played)})
    assert [seed.id for seed in attack.seeds([played, other])] == ["i~0", "i~1"]
    found = await play(other, attack, attack, EndsAtBreach(Mild()))
    assert (state_of(found), gave_up(found)) == ("failed", False)
    assert found.meta == other.meta | {"error": "kept: not played to its end; run that bench again first"}
