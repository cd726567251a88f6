"""Many dialogues, some of which an endpoint fails: those are not journalled, and the next call plays them."""

from pathlib import Path

import pytest

from safer_steer.dialogue import Dialogue, Kind, Seed, Turn, read_dialogues
from safer_steer.episode import Reply, Verdict
from safer_steer.episodes import play_all
from safer_steer.errors import EndpointError, UnparsableError, UserError
from safer_steer.workers import PATIENCE, Bound, Patience


class Seats:
    """The assistant's and the critic's seat. The endpoint fails these dialogues, or their verdicts."""

    immediate = False

    def __init__(self, dialogues: set[str], verdicts: set[str]) -> None:
        self.dialogues, self.verdicts = dialogues, verdicts
        self.played: list[str] = []

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        self.played.append(dialogue.id)
        if dialogue.id in self.dialogues:
            raise EndpointError("status 500")
        return Reply("yes")

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        if dialogue.id in self.verdicts:
            raise EndpointError("status 503")
        if dialogue.id == "d2":
            raise UnparsableError("no JSON")
        return Verdict({"safety": 8.0})


def seeds(count: int) -> list[Seed]:
    return [Seed(id=f"d{i}", kind=Kind.BENIGN, turns=[Turn(user="is it?")]) for i in range(count)]


async def play(
    out: Path, count: int, dialogues: set[str], verdicts: set[str], most: float | None = None
) -> tuple[Seats, list[Dialogue]]:
    """`most`: the share that may be left out."""
    seats = Seats(dialogues, verdicts)
    patience = None if most is None else Patience("bootstrap", "dialogue", Bound("key", most, count))
    played = await play_all(
        seeds(count), seats, seats, out, again_if_unreached=True, patience=patience, concurrency=3
    )
    return seats, list(played)


async def test_a_dialogue_that_an_endpoint_failed_is_played_again(tmp_path: Path) -> None:
    out = tmp_path / "bootstrap/journal.jsonl"
    named = r"\((d3, d5|d5, d3)\)"
    with pytest.raises(UserError, match=rf"^bootstrap: 2 dialogues {named} got no answer .*: status 50[03];"):
        await play(out, 9, {"d3"}, {"d5"})
    kept = read_dialogues(out)
    assert {dialogue.id for dialogue in kept} == {f"d{i}" for i in range(9)} - {"d3", "d5"}
    assert any("unscored" in dialogue.turns[0].meta for dialogue in kept), "no JSON is an answer"
    _, played = await play(out, 9, {"d3"}, {"d5"}, most=0.3)
    assert [dialogue.id for dialogue in played] == [f"d{i}" for i in range(9)]
    assert [dialogue.id for dialogue in played if any(fault.unreached for fault in dialogue.faults)] == [
        "d3",
        "d5",
    ]
    assert read_dialogues(out) == kept, "what is left out is not journalled"
    assert sorted((await play(out, 9, set(), set()))[0].played) == ["d3", "d5"]


async def test_a_played_dialogue_that_failed_is_a_script_like_any_other(tmp_path: Path) -> None:
    """Its old errors, and what its own attacker, assistant and judge noted, are not those of the dialogue
    that is played on it now."""
    rows = seeds(2)
    rows[0].meta["error"] = rows[1].turns[0].meta["unscored"] = "endpoint: status 500"
    rows[1].turns[0].meta |= {"risk": 2, "mine": [1], "attacker": {"faults": ["refused"]}, "tokens": 9}
    rows[1].turns[0].meta |= {"verdicts": {"old judge": {"reason": "old"}}, "thinking": "old", "calls": 3}
    seats = Seats(set(), set())
    played = list(await play_all(rows, seats, seats, tmp_path / "journal.jsonl", again_if_unreached=True))
    assert [dialogue.meta for dialogue in played] == [{}, {}]
    assert [dialogue.turns[0].meta for dialogue in played] == [{}, {"risk": 2, "mine": [1]}]


async def test_progress_counts_failed_dialogues_apart_from_the_others(tmp_path: Path) -> None:
    """Whether they are played again (an endpoint's failure) or kept as data (a verdict that is no JSON)."""
    told: list[tuple[int, ...]] = []
    seats = Seats({"d3"}, set())
    with pytest.raises(UserError):
        await play_all(
            seeds(5),
            seats,
            seats,
            tmp_path / "journal.jsonl",
            again_if_unreached=True,
            progress=lambda *counts: told.append(counts),
        )
    assert (told[0], told[-1]) == ((0, 5, 0), (3, 5, 2))


async def test_a_dead_endpoint_ends_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^bootstrap: {PATIENCE} dialogues .*: status 500; fix"):
        await play(tmp_path / "bootstrap/journal.jsonl", 100, {f"d{i}" for i in range(4, 100)}, set())
    assert 1 <= len(read_dialogues(tmp_path / "bootstrap/journal.jsonl")) <= 4, "a verdict may be on its way"
