"""The dialogue loop: every stop reason, adaptive turns, judging one by one and side by side."""

import asyncio

import pytest

from safer_steer.dialogue import Dialogue, Kind, Seed, StopReason, Turn
from safer_steer.episode import ContextFull, Reply, Script, Verdict, play
from safer_steer.errors import EndpointError, RefusedError, SpendingLimit, UnparsableError

SEED = Seed(
    id="s",
    kind=Kind.RED_TEAM,
    images=["p.png"],
    turns=[Turn(user=f"u{i}", meta={"risk": i}) for i in range(1, 5)],
    meta={"k": "v"},
)
PERFECT = {"harmlessness": 3.0, "helpfulness": 3.0}


class Echo:
    """Answers with the question and how much history it saw; raises `error` at turn `at` (from 0)."""

    def __init__(self, error: Exception | None = None, at: int = 0) -> None:
        self.error, self.at = error, at

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        await asyncio.sleep(0)
        if self.error and len(dialogue.turns) == self.at:
            raise self.error
        return Reply(f"{len(dialogue.turns)}:{asked.user}", {"finish": "stop"})


class Teacher:
    """Scores every turn alike; `stop_at` ends the dialogue there, `fail_at` cannot score that turn,
    `adaptive` writes the next turn."""

    def __init__(
        self,
        immediate: bool = True,
        *,
        stop: StopReason | None = None,
        stop_at: int = -1,
        fail_at: int = -1,
        adaptive: bool = False,
        wait: float = 0,
    ) -> None:
        self.immediate = immediate
        self.stop, self.stop_at, self.fail_at, self.adaptive, self.wait = (
            stop,
            stop_at,
            fail_at,
            adaptive,
            wait,
        )
        self.calls: list[tuple[int, str | None]] = []
        self.now = self.most = 0
        self.cancelled = 0

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        self.calls.append((turn, template))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.wait)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        if turn == self.fail_at:
            raise UnparsableError("no JSON")
        next_user = f"bent {template}" if self.adaptive and template else None
        return Verdict(
            dict(PERFECT), {"reason": "fine"}, next_user, self.stop if turn == self.stop_at else None
        )


async def test_a_script_is_played_to_its_end() -> None:
    dialogue = await play(SEED, Script(), Echo(), Teacher())
    assert dialogue.stop is StopReason.COMPLETED
    assert [turn.user for turn in dialogue.turns] == SEED.script
    assert [turn.assistant for turn in dialogue.turns] == ["0:u1", "1:u2", "2:u3", "3:u4"]
    assert all(turn.scores == PERFECT for turn in dialogue.turns)
    assert dialogue.turns[1].meta == {"risk": 2, "finish": "stop", "reason": "fine"}
    assert (dialogue.id, dialogue.images, dialogue.meta) == ("s", ["p.png"], {"k": "v"})
    assert SEED.turns[0].assistant is None


async def test_a_turn_shows_the_script_s_pictures_or_those_that_the_user_brings() -> None:
    class Brings:
        async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
            brought = {2: [], 3: ["new.png"]}.get(len(dialogue.turns))
            return Reply(f"bent {template.user}", images=brought)

    class Looks(Echo):
        async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
            return Reply(" ".join(dialogue.images_by_turn(asked)[-1]))

    turns = [turn.model_copy(update={"images": [f"{turn.user}.png"]}) for turn in SEED.turns]
    seed = SEED.model_copy(update={"turns": turns})
    dialogue = await play(seed, Script(), Looks(), Teacher(adaptive=True))
    assert [turn.images for turn in dialogue.turns] == [[f"u{i}.png"] for i in range(1, 5)]
    assert [turn.assistant for turn in dialogue.turns] == ["p.png u1.png", "u2.png", "u3.png", "u4.png"]
    dialogue = await play(seed, Brings(), Looks(), Teacher())
    assert [turn.images for turn in dialogue.turns] == [["u1.png"], ["u2.png"], [], ["new.png"]]
    assert [turn.assistant for turn in dialogue.turns] == ["p.png u1.png", "u2.png", "", "new.png"]
    assert seed.turns[3].images == ["u4.png"] and dialogue.images == ["p.png"]


async def test_every_turn_is_scored_the_last_one_too_and_sees_the_template_that_follows() -> None:
    for immediate in (True, False):
        teacher = Teacher(immediate)
        await play(SEED, Script(), Echo(), teacher)
        assert sorted(teacher.calls) == [(0, "u2"), (1, "u3"), (2, "u4"), (3, None)]


async def test_the_turn_limit_completes_a_dialogue() -> None:
    teacher = Teacher()
    dialogue = await play(SEED, Script(), Echo(), teacher, max_turns=2)
    assert (len(dialogue.turns), dialogue.stop) == (2, StopReason.COMPLETED)
    assert teacher.calls == [(0, "u2"), (1, None)]  # no template beyond the limit


async def test_without_a_critic_turns_stay_unscored() -> None:
    dialogue = await play(SEED, Script(), Echo(), None)
    assert (len(dialogue.turns), dialogue.stop) == (4, StopReason.COMPLETED)
    assert all(turn.scores is None for turn in dialogue.turns)


async def test_the_next_user_turn_adapts() -> None:
    dialogue = await play(SEED, Script(), Echo(), Teacher(adaptive=True))
    assert [turn.user for turn in dialogue.turns] == ["u1", "bent u2", "bent u3", "bent u4"]
    assert dialogue.turns[1].assistant == "1:bent u2"
    assert dialogue.turns[-1].next_user is None and "next_user" not in dialogue.turns[-1].model_dump()


@pytest.mark.parametrize("reason", [StopReason.SUCCESS, StopReason.HARD_REFUSAL])
async def test_a_critic_ends_a_dialogue(reason: StopReason) -> None:
    dialogue = await play(SEED, Script(), Echo(), Teacher(stop=reason, stop_at=1))
    assert (len(dialogue.turns), dialogue.stop) == (2, reason)
    assert dialogue.turns[1].scores == PERFECT


async def test_a_turn_that_cannot_be_scored_ends_the_dialogue_of_an_immediate_critic() -> None:
    dialogue = await play(SEED, Script(), Echo(), Teacher(fail_at=1))
    assert (len(dialogue.turns), dialogue.stop) == (2, StopReason.UNSCORED)
    assert dialogue.turns[0].scores == PERFECT
    assert dialogue.turns[1].scores is None
    assert dialogue.turns[1].meta["unscored"] == "unparsable: no JSON"


async def test_side_by_side_a_failed_verdict_costs_its_own_turn_alone() -> None:
    dialogue = await play(SEED, Script(), Echo(), Teacher(immediate=False, fail_at=1))
    assert (len(dialogue.turns), dialogue.stop) == (4, StopReason.COMPLETED)
    assert [turn.scores is None for turn in dialogue.turns] == [False, True, False, False]
    assert dialogue.turns[1].meta["unscored"] == "unparsable: no JSON"


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("at", [0, 2])
async def test_an_assistant_that_fails_is_a_stop_reason(at: int, immediate: bool) -> None:
    dialogue = await play(SEED, Script(), Echo(EndpointError("status 500"), at), Teacher(immediate))
    assert (len(dialogue.turns), dialogue.stop) == (at, StopReason.ASSISTANT_FAILED)
    assert dialogue.meta == {"k": "v", "error": "endpoint: status 500"}
    assert all(turn.scores == PERFECT for turn in dialogue.turns)


async def test_a_user_that_fails_is_a_stop_reason() -> None:
    class Unwilling:
        async def speak(self, dialogue: Dialogue, template: Turn) -> Reply:
            if dialogue.turns:
                raise RefusedError("I would rather not")
            return Reply(template.user, {"attacker": {"faults": ["empty"]}})

    dialogue = await play(SEED, Unwilling(), Echo(), Teacher())
    assert dialogue.turns[0].meta["attacker"] == {"faults": ["empty"]}, (
        "what the user's seat notes is on the turn"
    )
    assert (len(dialogue.turns), dialogue.stop) == (1, StopReason.USER_FAILED)
    assert dialogue.meta["error"] == "refused: I would rather not"


async def test_a_full_context_is_a_stop_reason() -> None:
    dialogue = await play(SEED, Script(), Echo(ContextFull(), 3), Teacher(immediate=False))
    assert (len(dialogue.turns), dialogue.stop) == (3, StopReason.CONTEXT_FULL)
    assert all(turn.scores == PERFECT for turn in dialogue.turns)


async def test_side_by_side_judging_overlaps_and_immediate_judging_does_not() -> None:
    apart, together = Teacher(immediate=True, wait=0.01), Teacher(immediate=False, wait=0.01)
    await play(SEED, Script(), Echo(), apart)
    await play(SEED, Script(), Echo(), together)
    assert apart.most == 1
    assert together.most == len(SEED.turns)


async def test_side_by_side_judging_does_not_hold_up_the_answers() -> None:
    """All four answers are given before the first verdict is in."""
    order: list[str] = []

    class Noted(Echo):
        async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
            order.append("answer")
            return await super().answer(dialogue, asked)

    class Slow(Teacher):
        async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
            verdict = await super().judge(dialogue, turn, template)
            order.append("verdict")
            return verdict

    await play(SEED, Script(), Noted(), Slow(immediate=False, wait=0.01))
    assert order == ["answer"] * 4 + ["verdict"] * 4


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), SpendingLimit("10.00 spent")])
async def test_bugs_and_the_money_limit_are_no_stop_reasons_and_end_all_judging(error: BaseException) -> None:
    teacher = Teacher(immediate=False, wait=5)
    with pytest.raises(type(error)):
        await play(SEED, Script(), Echo(error, 2), teacher)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert (len(teacher.calls), teacher.cancelled, teacher.now) == (2, 2, 0)
