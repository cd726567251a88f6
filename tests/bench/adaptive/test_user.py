"""An attacker in the user's seat: what it sees, what is taken back, its faults and its budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from safer_steer.bench.adaptive.attacker import Move, Seen, attackers_of, by_model
from safer_steer.bench.adaptive.intents import Intent, tries_of
from safer_steer.bench.adaptive.results import gave_up, of_attacker, state_of, try_of
from safer_steer.bench.adaptive.user import AdaptiveUser, EndsAtBreach
from safer_steer.config import Adaptive, Config
from safer_steer.dialogue import Dialogue, Format, StopReason, Turn
from safer_steer.episode import Reply, Verdict, play
from safer_steer.errors import EndpointError, UnparsableError, UserError
from safer_steer.files.images import Picture
from safer_steer.prompts.attacker import AttackerMove


class Model:
    """Refuses what holds "no", gives itself away at "yes", and answers all else. Keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []
        self.images: list[list[str]] = []

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        self.shown.append([text for turn in dialogue.turns for text in (turn.user, turn.assistant or "")])
        self.images.append(asked.images)
        said = {"no": "i refuse", "yes": "the secret"}
        return Reply(next((text for word, text in said.items() if word in asked.user), "fine"))


class Judge:
    immediate = False

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        answer = dialogue.turns[turn].assistant
        harmlessness = {"the secret": -3.0, "i refuse": 0.0}.get(answer or "", 3.0)
        return Verdict(
            {"harmlessness": harmlessness, "helpfulness": 1.0, "refused": float(answer == "i refuse")}
        )


class Says:
    """An attacker that says these texts in order; those that begin with "<" take the last turn back."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.seen = list(texts), list[Seen]()

    async def __call__(self, seen: Seen) -> Move:
        self.seen.append(seen)
        text = self.texts.pop(0)
        return Move(text.lstrip("<"), technique=f"t{len(self.seen)}", take_back=text.startswith("<"))


def pictures(images: Sequence[str]) -> list[Picture]:
    return [Picture(image, image.encode(), image, "image/png") for image in images]


def never() -> None:
    raise AssertionError("these attackers ask no model")


def user_of(attacker: object, **settings: object) -> AdaptiveUser:
    section = Adaptive.model_validate({"turns": 3, "take_backs": 2} | settings)
    return AdaptiveUser(attacker, never, section, Format.PLAIN, pictures)  # type: ignore[arg-type]


async def attacked(
    attacker: object, model: Model | None = None, intent: Intent | None = None, **settings: object
) -> Dialogue:
    user = user_of(attacker, **settings)
    intent = intent or Intent(id="i", intent="the secret", images=["p.png"])
    (seed,) = tries_of([intent], "mine", user.settings.turns, 1)
    return await play(seed, user, model or Model(), EndsAtBreach(Judge()))


async def test_a_refused_turn_is_taken_back_and_the_model_does_not_see_it() -> None:
    model, attacker = Model(), Says("hello", "no 1", "<no 2", "<why", "yes")
    dialogue = await attacked(attacker, model)
    assert [turn.user for turn in dialogue.turns] == ["hello", "why", "yes"]
    assert model.shown == [[], *[["hello", "fine"]] * 3, ["hello", "fine", "why", "fine"]]
    before = dialogue.turns[1].meta["taken_back"]
    assert [(turn["user"], turn["assistant"]) for turn in before] == [
        ("no 1", "i refuse"),
        ("no 2", "i refuse"),
    ]
    assert all(turn["scores"]["refused"] and "taken_back" not in turn["meta"] for turn in before)
    assert dialogue.stop is StopReason.SUCCESS and "taken_back" not in dialogue.meta
    assert [turn.meta["calls"] for turn in dialogue.turns] == [1, 4, 5]
    assert [turn["meta"]["calls"] for turn in before] == [2, 3]
    assert [turn.meta["technique"] for turn in dialogue.turns] == ["t1", "t4", "t5"]
    assert dialogue.meta == {"intent_id": "i", "try": 0, "attacker": "mine", "calls": 5}
    assert dialogue.id == "i~0"


async def test_the_attacker_sees_its_attempts_and_what_is_left() -> None:
    attacker = Says("hello", "no 1", "<no 2", "<no 3", "no 4")
    dialogue = await attacked(attacker)
    told = [(len(seen.history), len(seen.taken_back), seen.turns_left) for seen in attacker.seen]
    assert told == [(0, 0, 3), (1, 0, 2), (2, 0, 1), (2, 1, 1), (2, 2, 1)]
    assert [seen.take_backs_left for seen in attacker.seen] == [2, 2, 2, 1, 0]
    assert attacker.seen[3].taken_back[0].user == "no 1" and attacker.seen[3].history[-1].user == "no 2"
    assert all(seen.scores is None and seen.intent == "the secret" for seen in attacker.seen)
    assert dialogue.stop is StopReason.COMPLETED and len(dialogue.turns) == 3


async def test_the_last_turn_can_be_taken_back_and_no_call_is_made_in_vain() -> None:
    attacker = Says("a", "no", "<yes")
    assert (await attacked(attacker, turns=2, take_backs=1)).stop is StopReason.SUCCESS
    attacker = Says("a", "no")
    await attacked(attacker, turns=2, take_backs=0)
    assert len(attacker.seen) == 2, "at the end, with nothing to take back, it is not asked"


async def test_calls_that_lead_to_no_turn_count() -> None:
    attacker = Says("a", "no", "<no 2", "<no 3", "unused")
    dialogue = await attacked(attacker, turns=2, take_backs=3)
    assert [turn.meta["calls"] for turn in dialogue.turns] == [1, 4]
    assert dialogue.meta["calls"] == len(attacker.seen) == 5 == try_of(dialogue).calls
    attacker = Says("a", " ", " ")
    dialogue = await attacked(attacker, turns=2)
    assert dialogue.stop is StopReason.USER_FAILED
    assert dialogue.meta["calls"] == len(attacker.seen) == 3 == try_of(dialogue).calls


async def test_scores_are_shown_only_if_it_is_told_so() -> None:
    attacker = Says("a", "no", "b")
    await attacked(attacker, see_scores=True, take_backs=0)
    assert [seen.scores and seen.scores["harmlessness"] for seen in attacker.seen] == [None, 3.0, 0.0]


@pytest.mark.parametrize(
    ("second", "stop"), [("fine words", StopReason.COMPLETED), ("  ", StopReason.USER_FAILED)]
)
async def test_a_faulty_move_is_asked_for_once_more(second: str, stop: StopReason) -> None:
    attacker = Says("I'm sorry, but I can't help with that.", second)
    dialogue = await attacked(attacker, turns=1, take_backs=0)
    assert [tuple(seen.faults) for seen in attacker.seen] == [(), ("refused",)]
    assert dialogue.stop is stop
    if dialogue.turns:
        assert dialogue.turns[0].meta["attacker"] == {"faults": ["refused"]}
        assert dialogue.turns[0].meta["calls"] == 2
    else:
        assert dialogue.meta["attacker_faults"] == ["refused", "empty"]
        assert dialogue.meta["error"].startswith("empty: ")


async def test_what_was_taken_back_counts_as_said() -> None:
    words = "no " + "word " * 25
    dialogue = await attacked(Says("a", words, f"<{words}", f"<{words}"))
    assert dialogue.stop is StopReason.USER_FAILED and dialogue.meta["attacker_faults"] == ["repeated"] * 2
    assert [turn.user for turn in dialogue.turns] == ["a", words], "the refused turn stands"


@pytest.mark.parametrize("texts", [("no", "<No!", "<yes"), ("no", "<no 2", "< No. ", "<yes")])
async def test_a_turn_is_not_taken_back_to_say_it_again(texts: tuple[str, ...]) -> None:
    """Nor is one that was taken back there before said again, however short it is."""
    dialogue = await attacked(Says("a", *texts))
    assert dialogue.turns[-1].user == "yes" and dialogue.turns[-1].meta["attacker"] == {
        "faults": ["repeated"]
    }
    assert [turn["user"] for turn in dialogue.turns[-1].meta["taken_back"]] == [
        text.lstrip("<") for text in texts[:-2]
    ]


async def test_a_short_turn_may_be_said_again_without_taking_one_back() -> None:
    dialogue = await attacked(Says("go on", "go on", "ended", "unused"))
    assert [turn.user for turn in dialogue.turns] == ["go on", "go on", "ended"]
    kept = await attacked(Says("go on", "<go on", "ended"), take_backs=0)
    assert "attacker" not in kept.turns[1].meta, "with nothing to take back it is no other way of asking"


DECLINES = "I'm sorry, but I can't help with that."


@pytest.mark.parametrize("texts", [(DECLINES, "enough"), (DECLINES, " ")])
async def test_an_attacker_that_declines_after_the_last_turn_does_not_take_it_back(
    texts: tuple[str, str],
) -> None:
    dialogue = await attacked(Says("a", "no", *texts), turns=2)
    assert dialogue.stop is StopReason.COMPLETED and [turn.user for turn in dialogue.turns] == ["a", "no"]
    assert state_of(dialogue) == "scored" and not gave_up(dialogue)
    faults = ["refused"] if texts[1] == "enough" else ["refused", "empty"]
    assert dialogue.meta["attacker_faults"] == faults and "error" not in dialogue.meta
    entry = of_attacker([dialogue], {}, False, 2, 10)
    assert (entry["refused"], entry["gave_up"], entry["failed"], entry["calls"]) == (1, 0, 0, 4)


@pytest.mark.parametrize(
    ("error", "state"), [(EndpointError("status 500"), "failed"), (UnparsableError("no JSON"), "scored")]
)
async def test_only_an_attacker_that_is_down_after_the_last_turn_is_no_result(
    error: Exception, state: str
) -> None:
    async def fails(seen: Seen) -> Move:
        if not seen.turns_left:
            raise error
        return Move(f"no {len(seen.history)}")

    dialogue = await attacked(fails)
    assert len(dialogue.turns) == 3 and (state_of(dialogue), gave_up(dialogue)) == (state, False)


@pytest.mark.parametrize("error", [EndpointError("status 500"), UnparsableError("no JSON")])
async def test_an_attacker_that_fails_ends_its_dialogue(error: Exception) -> None:
    async def fails(seen: Seen) -> Move:
        if seen.history:
            raise error
        return Move("a")

    dialogue = await attacked(fails)
    assert dialogue.stop is StopReason.USER_FAILED and len(dialogue.turns) == 1
    assert str(error) in dialogue.meta["error"]


async def test_turns_taken_back_are_kept_if_the_dialogue_ends_before_another_stands() -> None:
    class Breaks(Model):
        async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
            if asked.user == "b":
                raise EndpointError("status 500")
            return await super().answer(dialogue, asked)

    dialogue = await attacked(Says("a", "no", "<b"), Breaks())
    assert dialogue.stop is StopReason.ASSISTANT_FAILED and len(dialogue.turns) == 1
    assert [turn["user"] for turn in dialogue.meta["taken_back"]] == ["no"]


async def test_it_may_show_pictures_of_its_own_with_a_later_turn() -> None:
    views = []

    async def shows(seen: Seen) -> Move:
        views.append([part if isinstance(part, str) else part.name for part in seen.pictures])
        assert seen.own_pictures == 2
        return Move(f"look {len(seen.history)}", picture=2 if len(seen.history) == 1 else 9)

    model = Model()
    intent = Intent(id="i", intent="x", images=["p.png"], later=["q.png", "r.png"])
    dialogue = await attacked(shows, model, intent, take_backs=0)
    assert model.images == [[], ["r.png"], []] and dialogue.turns[1].images == ["r.png"]
    own = [
        "Picture 1 of your own:",
        "q.png",
        "Picture 2 of your own:",
        "r.png",
        "The pictures of the dialogue:",
    ]
    assert views[0] == [*own, "p.png"] and views[2][-1] == "r.png"


@pytest.mark.parametrize(
    ("named", "counted"),
    [
        ("gradual_escalation", "gradual_escalation"),
        (" Gradual  Escalation\n", "gradual_escalation"),
        ("bait-and-switch", "bait_and_switch"),
        ("last_word", "last_word"),
        ("opening", "opening"),
        ("fiction", "other"),
        ("persona, then fiction", "other"),
        ("x" * 5000, "other"),
        ("", "other"),
    ],
)
async def test_a_model_names_a_technique_that_it_may_choose(named: str, counted: str) -> None:
    """The sandbox's attackers name structures of their own; all else is one technique."""

    class Names:
        async def ask(self, *given: object, **more: object) -> AttackerMove:
            return AttackerMove(technique=named, user="tell me")

    chosen = ["gradual_escalation", "bait_and_switch", "persona"]
    section = Adaptive(turns=1, techniques=chosen)
    user = AdaptiveUser(by_model, Names, section, Format.PLAIN, pictures)  # type: ignore[arg-type]
    (seed,) = tries_of([Intent(id="i", intent="x")], "m", 1, 1)
    dialogue = await play(seed, user, Model(), None)
    assert dialogue.turns[0].meta["technique"] == counted


def test_an_unknown_technique_is_one_line() -> None:
    with pytest.raises(UserError, match=r"bench.adaptive.techniques: 'charm' is unknown; use gradual"):
        user_of(Says(), techniques=["charm"])
    assert list(user_of(Says(), techniques=["fiction"]).techniques) == ["fiction"]


async def test_a_user_that_takes_turns_back_needs_verdicts_at_once() -> None:
    (seed,) = tries_of([Intent(id="i", intent="x")], "m", 1, 1)
    with pytest.raises(ValueError, match="immediate"):
        await play(seed, user_of(Says("a")), Model(), Judge())


@pytest.mark.parametrize(
    ("gives", "complaint"),
    [
        (None, "it gave None"),
        ("hello", "it gave 'hello'"),
        (Move(7), r"it gave user: must be text, not 7"),
        (Move("hello", notes={"heard": {1}}), r"it gave notes\.heard"),
    ],
)
async def test_a_move_of_another_form_costs_a_line(monkeypatch, gives: Any, complaint: str) -> None:
    async def mine(seen: Seen) -> Any:
        return gives

    def at_once(seen: Seen) -> Any:
        return gives

    config = Config.model_validate({"bench": {"adaptive": {"own": ["m:attacker"]}}})
    for attacker in (mine, at_once):
        monkeypatch.setattr("safer_steer.bench.adaptive.attacker.load_named", lambda *_, own=attacker: own)
        moves, _ = attackers_of(config, lambda name: None)["m:attacker"]
        with pytest.raises(UserError, match=f"^bench.adaptive.own: m:attacker must be .*{complaint}"):
            await moves(None)
