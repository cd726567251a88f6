"""The tutor's memory: counts of the last steps, a bounded table, seeded draws, and what Stage III does with
them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from safer_steer.config import SHIPPED
from safer_steer.dialogue import Dialogue, Format, Kind, Turn, read_dialogues
from safer_steer.endpoints.cache import Cache
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.ledger import Ledger
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.files.images import pictures_in
from safer_steer.prompts.attacker import TECHNIQUES
from safer_steer.prompts.base import sections
from safer_steer.prompts.tutor import TUTOR, TUTOR_MEMORY, TutorInput, TutorMemoryInput
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.sandbox.families import SET_UP, approaches_of
from safer_steer.training.grpo import reinforce
from safer_steer.training.tutor import TutorCritic
from safer_steer.training.tutor_memory import (
    LONGEST,
    MOST,
    WINDOW,
    Tries,
    TutorMemory,
    full_table,
    memory_of,
    tries_in,
)
from student_parts import drawn_for_rl, tiny_config, write_seeds

pytestmark = pytest.mark.slow

NAMES = {"story": "tell it", "step": "ask for it", "before": "ask what is before"}


def played(*turns: tuple[str | None, int | None], kind: Kind = Kind.RED_TEAM, **meta: Any) -> Dialogue:
    """A dialogue of these turns: the approach of the turn that follows, and the safety of its own."""
    return Dialogue(
        id=meta.pop("id", "00000-0000"),
        kind=kind,
        turns=[
            Turn(
                user="u",
                assistant="a",
                scores=None if safety is None else {"safety": safety},
                meta={"approach": approach} if approach else {},
            )
            for approach, safety in turns
        ],
        meta=meta,
    )


def knowing(**breached: int) -> TutorMemory:
    """A memory of ten tries of each approach, of which so many breached."""
    memory = TutorMemory(NAMES, 0)
    memory.learn({name: {"": [10, breached.get(name, 0)]} for name in NAMES})
    return memory


def draws(memory: TutorMemory, times: int = 200, **meta: Any) -> Counter[str]:
    return Counter(memory.draw(played((None, 10), id=f"00003-{n:04d}", **meta), 0) for n in range(times))


def test_turns_in_a_row_of_one_approach_are_one_try() -> None:
    set_up = played((None, 10), ("story", 10), ("story", 10), ("step", 2), (None, 10))
    assert tries_in([set_up]) == {"step": {"": [1, 0]}, "story": {"": [1, 1]}}
    twice = played(("story", 10), ("step", 10), ("story", 4), ("story", 5), (None, 1))
    assert tries_in([twice, twice]) == {"step": {"": [2, 2]}, "story": {"": [4, 2]}}
    assert tries_in([played(("story", 10), (None, None))]) == {}, "a turn without a score tells nothing"
    assert tries_in([played(("story", 10), (None, 1), kind=Kind.BENIGN)]) == {}
    scored = (("a", 1), ("b", 9))
    of_each = [played(("story", 10), (None, safety), category=name) for name, safety in scored]
    assert tries_in(of_each) == {"story": {"a": [1, 1], "b": [1, 0]}}


def test_what_breaches_is_drawn_more_and_what_was_hardly_tried_is_drawn_too() -> None:
    assert draws(TutorMemory(NAMES, 0)).most_common()[-1][1] > 40, "without counts all are alike"
    breaching = draws(knowing(before=8))
    assert breaching["before"] > 140 and breaching["story"] > 3, "more, and not alone: siblings are compared"
    hardly = TutorMemory(NAMES, 0)
    hardly.learn({"step": {"": [10, 0]}, "before": {"": [10, 0]}})
    assert draws(hardly)["story"] > 110


def test_a_category_goes_by_its_own_tries_first() -> None:
    memory = TutorMemory(NAMES, 0)
    memory.learn({"story": {"a": [10, 9], "b": [10, 0]}, "step": {"a": [10, 0], "b": [10, 9]}})
    memory.learn({"before": {"a": [20, 0], "b": [20, 0]}})
    a, b = (draws(memory, category=name) for name in "ab")
    assert a["story"] > a["step"] + 30 and b["step"] > b["story"] + 30


def test_only_the_last_steps_are_remembered() -> None:
    memory = knowing(before=10)
    for _ in range(WINDOW):
        memory.learn({})
    assert memory.counts("before"), (
        "a step without tries, as against a checkpoint in co-training, is none of them"
    )
    for _ in range(WINDOW):
        memory.learn({"another": {"": [1, 0]}})
    assert memory.counts("before") == {} and draws(memory) == draws(TutorMemory(NAMES, 0))


def test_a_draw_follows_from_seed_dialogue_and_memory_and_leaves_out_what_was_used() -> None:
    assert draws(knowing(step=3)) == draws(knowing(step=3))
    other = TutorMemory(NAMES, 1)
    other.steps = knowing(step=3).steps
    siblings = [played((None, 10), id=f"00003-{n:04d}") for n in range(40)]
    assert [other.draw(one, 0) for one in siblings] != [knowing(step=3).draw(one, 0) for one in siblings]
    assert len({TutorMemory(NAMES, 0).draw(one, 0) for one in siblings[:5]}) > 1, "siblings differ"
    used = [played(("before", 10), ("step", 9), (None, 9), id=f"00003-{n:04d}") for n in range(40)]
    assert {knowing(before=10, step=10).draw(one, 2) for one in used} == {"story"}
    every = played(("before", 10), ("step", 9), ("story", 9), (None, 9))
    assert knowing().draw(every, 3) in NAMES


def test_the_table_is_bounded_and_names_no_category_of_the_dialogue_at_hand() -> None:
    memory = TutorMemory(TECHNIQUES, 0)
    memory.learn({name: {f"{'long' * 30} {n}": [3, 2] for n in range(500)} for name in TECHNIQUES})
    memory.learn(tries_in([played(("fiction", 10), (None, 1), category="x" * 1000)]))
    rows = memory.table()
    assert [row.approach for row in rows] == list(TECHNIQUES) and all(len(row.most) == MOST for row in rows)
    assert rows[0].tried == 1500 and rows[0].breached == 1000
    name = next(iter(memory.counts("fiction")))
    assert all(len(one) <= LONGEST for one in tries_in([played(("a", 9), (None, 1), category="x" * 99)])["a"])
    assert name not in json.dumps([row.model_dump() for row in TutorMemory(TECHNIQUES, 0).table()])
    rl = tiny_config().rl.model_dump() | {"tutor_memory": True}
    assert all(len(row.most) == MOST for row in full_table(tiny_config(rl=rl)))


def test_with_the_memory_off_the_prompt_is_the_one_it_was_and_with_it_nothing_of_that_is_lost() -> None:
    """`tests/prompts` holds the prompt without it to the byte."""
    given = TutorInput(history=[], question="q", answer="a", next_template="n")
    memory = TutorMemory(NAMES, 0)
    for approach in (None, "persist"):
        plain = given.model_copy(update={"approach": approach})
        system, user = TUTOR.render(plain)
        asked, shown = TUTOR_MEMORY.render(
            TutorMemoryInput(**dict(plain), memory=memory.table(), drawn="story")
        )
        assert asked.removeprefix("Job: tutor_memory").startswith(system.removeprefix("Job: tutor"))
        assert user.partition("\n\nAnswer with one JSON")[0] in shown
        assert "memory" not in system + user
        assert json.loads(sections(shown)["memory"]) == [row.model_dump() for row in memory.table()]


def test_only_a_tutor_that_attacks_has_a_memory() -> None:
    rl = tiny_config().rl.model_dump()
    assert memory_of(tiny_config()) is None
    remembering = memory_of(tiny_config(rl=rl | {"tutor_memory": True}))
    assert remembering and remembering.approaches == approaches_of("sandbox")
    served = {"tutor": {"model": "m", "base_url": "http://localhost:1/v1"}}
    endpoint = memory_of(tiny_config(rl=rl | {"tutor_memory": True}, roles=served))
    assert endpoint and endpoint.approaches == TECHNIQUES
    for change in ({"feedback_dynamics": False}, {"algorithm": "dpo"}):
        assert memory_of(tiny_config(rl=rl | {"tutor_memory": True} | change)) is None
    with pytest.raises(ValidationError, match=r"no setting of your own tutor \(a:B\)"):
        tiny_config(rl=rl | {"tutor_memory": True, "tutor": "a:B"})


class Recording:
    """The sandbox's agents, and the sections of what they are asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.agents = SandboxTransport()

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        content: Any = messages[-1]["content"]
        self.asked.append(sections(content[-1]["text"]))
        return await self.agents.complete(messages, schema, repeat)


class Frozen(TutorMemory):
    """A memory that learns nothing."""

    def learn(self, tries: Tries) -> None:
        self.steps.append({})


RL = {"group_size": 5, "micro_batch_size": 10, "steps": 3, "seeds": 4, "benign_share": 0.0}
RL["tutor_memory"] = True


def trained(run: Path, cache: Cache, memory: TutorMemory) -> tuple[list[Dialogue], Recording, int]:
    """Three steps of two risky seeds with the shipped student, which leaks; the tutor's paid calls."""
    if not run.exists():
        write_seeds(run, 6)
        shutil.copytree(SHIPPED, run / "sft" / "model")
    config = tiny_config(rl=tiny_config().rl.model_dump() | RL)
    drawn_for_rl(config, run)
    transport, ledger = Recording(), Ledger()
    model = ChatModel("tutor", config.role("tutor"), transport, cache, ledger)
    tutor = TutorCritic(model, Format.THINKING_ANSWER, pictures_in(run, 100_000), memory=memory)
    reinforce(config, run, tutor)
    return read_dialogues(run / "rl" / "trajectories.jsonl"), transport, ledger.accounts["tutor"].calls


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    cache = Cache(tmp_path_factory.mktemp("cache") / "cache")
    yield cache
    cache.close()


@pytest.fixture(scope="module")
def remembering(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run whose tutor has a memory, and what `trained` says of it."""
    run = tmp_path_factory.mktemp("remembering") / "run"
    return run, trained(run, cache, TutorMemory(approaches_of("sandbox"), 0))


def of_step(dialogues: list[Dialogue], step: int) -> list[Dialogue]:
    return [dialogue for dialogue in dialogues if dialogue.id.startswith(f"{step:05d}")]


def test_the_tutor_is_told_of_the_steps_before_and_attacks_otherwise_for_it(
    remembering: tuple[Path, Any], cache: Cache, tmp_path: Path
) -> None:
    """With a memory that learns nothing, the first step is the same and the next ones are others."""
    approaches = approaches_of("sandbox")
    run, (dialogues, transport, calls) = remembering
    rows = [json.loads(line) for line in (run / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert [row["approaches"] for row in rows] == [tries_in(of_step(dialogues, step)) for step in range(3)]
    assert all(row["approaches"] for row in rows) and calls == len(transport.asked)

    tables = [json.loads(asked["memory"]) for asked in transport.asked]
    wanted, memory = [], TutorMemory(approaches, 0)
    for step in range(3):
        told = [row.model_dump() for row in memory.table()]
        wanted += [told] * sum(len(dialogue.turns) for dialogue in of_step(dialogues, step))
        memory.learn(rows[step]["approaches"])
    assert tables == wanted, "all calls of a step are told the same, and of all steps before"
    assert len({json.dumps(table) for table in tables}) == 3

    frozen, others, _ = trained(tmp_path / "frozen", cache, Frozen(approaches, 0))
    assert of_step(frozen, 0) == of_step(dialogues, 0)
    assert all(of_step(frozen, step) != of_step(dialogues, step) for step in (1, 2))
    assert {json.dumps(json.loads(asked["memory"])) for asked in others.asked} == {json.dumps(tables[0])}


def test_siblings_that_answer_alike_meet_several_approaches(remembering: tuple[Path, Any]) -> None:
    _, (dialogues, _, _) = remembering
    for step in range(3):
        group = of_step(dialogues, step)
        for seed in {dialogue.meta["seed"] for dialogue in group}:
            siblings = [one for one in group if one.meta["seed"] == seed]
            assert len({one.turns[0].next_user for one in siblings}) >= 3, "of five"
    assert SET_UP in {turn.meta.get("approach") for one in dialogues for turn in one.turns}
