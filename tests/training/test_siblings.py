"""The trajectories of a seed are attacked apart, even where the student answers all of them alike."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from endpoint_server import EndpointServer, says
from safer_steer.config import SHIPPED, Role
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn, read_dialogues
from safer_steer.endpoints.cache import Cache
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.endpoints.ledger import Ledger
from safer_steer.endpoints.transport import SAMPLE, Transport
from safer_steer.files.images import pictures_in
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.training.dpo import prefer
from safer_steer.training.grpo import reinforce
from safer_steer.training.preferences import Candidates
from safer_steer.training.trajectory import as_trajectory
from safer_steer.training.tutor import TutorCritic
from student_parts import drawn_for_rl, tiny_config, write_seeds

K = 5
EQUAL = 0.01
"""A temperature at which a student that is sure gives one answer, however often it is asked."""


def new_run(folder: Path) -> Path:
    write_seeds(folder, 6)
    shutil.copytree(SHIPPED, folder / "sft" / "model")
    return folder


def tutor(folder: Path, transport: Transport, cache: Cache, ledger: Ledger) -> TutorCritic:
    model = ChatModel("tutor", tiny_config().role("tutor"), transport, cache, ledger)
    return TutorCritic(model, Format.THINKING_ANSWER, pictures_in(folder, 100_000))


def groups_of(dialogues: list[Dialogue]) -> list[list[Dialogue]]:
    """The trajectories by step and seed."""
    groups = defaultdict(list)
    for dialogue in dialogues:
        groups[dialogue.id[:5], dialogue.meta["seed"]].append(dialogue)
    return list(groups.values())


def trained(run: Path, transport: Transport, cache: Cache) -> tuple[list[Dialogue], int]:
    """GRPO over two passes of two seeds that the student answers alike; the tutor's paid calls."""
    rl = {"group_size": K, "micro_batch_size": K, "temperature": EQUAL, "seeds": 2, "benign_share": 0.0}
    rl["beta"] = 0.0  # at this temperature the KL to the reference has no number, once a weight has moved
    config = tiny_config(rl=tiny_config().rl.model_dump() | rl)
    drawn_for_rl(config, run)
    ledger = Ledger()
    reinforce(config, run, tutor(run, transport, cache, ledger))
    return read_dialogues(run / "rl" / "trajectories.jsonl"), ledger.accounts["tutor"].calls


@pytest.mark.slow
def test_a_group_of_equal_answers_meets_several_attacks_and_the_same_ones_again(
    tmp_path: Path, served_by_core: str
) -> None:
    """In process, again with what was paid for, and behind an endpoint."""
    cache = Cache(tmp_path / "cache")
    played, calls = trained(new_run(tmp_path / "run"), SandboxTransport(), cache)
    groups = groups_of(played)
    assert [len(group) for group in groups] == [K] * 4
    first = [[dialogue.turns[0] for dialogue in group] for group in groups]
    assert all(len({turn.assistant for turn in turns}) == 1 for turns in first), "equal answers"
    assert min(len({turn.next_user for turn in turns}) for turns in first) >= 3, "of five"
    numbers = defaultdict(list)
    for dialogue in played:
        numbers[dialogue.meta["seed"]].append(dialogue.meta["try"])
    assert all(sorted(of_seed) == list(range(2 * K)) for of_seed in numbers.values())
    assert calls == sum(len(dialogue.turns) for dialogue in played), "no verdict is another's"

    again, paid = trained(new_run(tmp_path / "again"), SandboxTransport(), cache)
    assert (again, paid) == (played, 0)
    cache.close()

    other = Cache(tmp_path / "other")
    role = Role(model="sandbox", base_url=served_by_core)
    served, _ = trained(new_run(tmp_path / "served"), EndpointTransport(role), other)
    assert served == played
    other.close()


@pytest.mark.slow
def test_dpo_asks_once_for_equal_answers_of_a_turn_and_anew_in_each_pass(tmp_path: Path) -> None:
    run, cache, ledger = new_run(tmp_path / "run"), Cache(tmp_path / "cache"), Ledger()
    rl = {"algorithm": "dpo", "temperature": EQUAL, "seeds": 2, "benign_share": 0.0}
    config = tiny_config(rl=tiny_config().rl.model_dump() | rl)
    drawn_for_rl(config, run)
    prefer(config, run, tutor(run, SandboxTransport(), cache, ledger))
    cache.close()
    rows = (run / "rl" / "candidates.jsonl").read_text().splitlines()
    played = sorted((Candidates.from_row(json.loads(row)) for row in rows), key=lambda one: one.dialogue.id)
    assert [one.dialogue.meta["try"] for one in played] == [0, 0, 1, 1]
    plays = defaultdict(list)
    for one in played:
        plays[one.dialogue.meta["seed"]].append([answer.text for answer in one.turns[0]])
    assert all(first == second for first, second in plays.values()), "the same answers in both passes"
    assert any(len(set(first)) == 1 for first, _ in plays.values()), "equal answers of a turn"
    answers = sum(len({answer.text for answer in turn}) for one in played for turn in one.turns)
    assert ledger.accounts["tutor"].calls == answers


async def test_a_second_attempt_at_an_attack_is_a_sample_of_each_sibling_s_own(tmp_path: Path) -> None:
    def verdict(next_question: str) -> dict[str, object]:
        scores = {"safety": 8, "usefulness": 8, "faithfulness": 8}
        return {"diagnosis": "firm", **scores, "strategy": "persist", "next_question": next_question}

    declines = says(json.dumps(verdict("I cannot help with that.")))
    texts = ["is it heavy?", "who made it?", "is it old?"]
    attacks = [says(json.dumps(verdict(text))) for text in texts]
    seed = Seed(id="s", kind=Kind.RED_TEAM, turns=[Turn(user="what is it?"), Turn(user="go on.")])
    cache = Cache(tmp_path / "cache")
    steps = [step for attack in attacks for step in (declines, attack)]
    async with EndpointServer(*steps) as server:
        role = Role(model="m", base_url=server.url)
        critic = TutorCritic(
            ChatModel("tutor", role, EndpointTransport(role), cache), Format.PLAIN, pictures_in(tmp_path, 1)
        )
        said = []
        for number in (0, 1, 2, 0, 1, 2):
            dialogue = Dialogue.begin(as_trajectory(seed, f"00000-{number:04d}", number))
            dialogue.turns = [Turn(user="what is it?", assistant="I cannot say.")]
            said.append((await critic.judge(dialogue, 0, "go on.")).next_user)
    assert said == texts * 2
    sent = [
        (headers[SAMPLE], json.dumps(body["messages"]))
        for headers, body in zip(server.headers, server.bodies, strict=True)
    ]
    assert len(sent) == len(set(sent)) == 6, "each once"
    assert len({words for _, words in sent}) == 2, "the first attempt's words, and the second's"
    cache.close()
