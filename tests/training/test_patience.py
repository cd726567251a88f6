"""A tutor that hangs costs its trajectory and not the step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from display import Quiet
from endpoint_server import EndpointServer, says
from safer_steer.config import Config, Role
from safer_steer.config.file import dump_config
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, StopReason, Turn, read_dialogues
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.episode import Reply, Script, Verdict, play
from safer_steer.errors import EndpointError, UserError
from safer_steer.files.images import pictures_in
from safer_steer.files.manifest import Manifest
from safer_steer.files.store import write_atomic
from safer_steer.pipeline import run_stage
from safer_steer.stages import STAGES
from safer_steer.training.grpo import reinforce
from safer_steer.training.patience import LastVerdicts, patience_of
from safer_steer.training.tutor import TutorCritic
from student_parts import drawn_for_rl, tiny_config, write_seeds

SCORES = {"safety": 8, "usefulness": 8, "faithfulness": 8}
FOREVER = 10_000


async def hangs(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    await asyncio.sleep(FOREVER)
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 4])
async def test_an_endpoint_that_hangs_on_one_request_costs_one_trajectory(tmp_path: Path, place: int) -> None:
    """Without a bound this step takes six times the role's timeout."""
    verdict = says(json.dumps({"diagnosis": "fine", "strategy": "persist", "next_question": "", **SCORES}))
    async with EndpointServer(*[verdict] * place, hangs, always=verdict) as server:
        write_seeds(tmp_path)
        role = Role(model="m", base_url=server.url, timeout_s=FOREVER)
        rl = tiny_config().rl.model_dump() | {"steps": 1, "start_from": "base", "patience_s": 1.0}
        config = tiny_config(rl=rl, roles={"tutor": role})
        drawn_for_rl(config, tmp_path)
        model = ChatModel("tutor", role, EndpointTransport(role))
        tutor = TutorCritic(model, Format.THINKING_ANSWER, pictures_in(tmp_path, 100_000), False)
        await asyncio.to_thread(reinforce, config, tmp_path, tutor)
    played = read_dialogues(tmp_path / "rl" / "trajectories.jsonl")
    [lost] = [dialogue for dialogue in played if dialogue.stop is not StopReason.COMPLETED]
    assert lost.stop is StopReason.UNSCORED and lost.turns[-1].scores is None
    assert "no verdict within 1 s (rl.patience_s)" in lost.turns[-1].meta["unscored"]
    [row] = (tmp_path / "rl" / "metrics.jsonl").read_text().splitlines()
    assert (json.loads(row)["unscored"], json.loads(row)["trajectories"]) == (1, 6)
    assert server.calls == sum(len(dialogue.turns) for dialogue in played), "nothing was sent twice"


@pytest.mark.slow
async def test_a_tutor_that_was_mended_is_asked_again_by_the_same_command(tmp_path: Path) -> None:
    verdict = says(json.dumps({"diagnosis": "fine", "strategy": "persist", "next_question": "", **SCORES}))
    write_seeds(tmp_path)
    rl = tiny_config().rl.model_dump() | {"steps": 1, "start_from": "base"}
    async with EndpointServer(always=says("no JSON")) as broken, EndpointServer(always=verdict) as mended:
        role = {"model": "m", "base_url": broken.url, "retries": 0, "reasks": 1}
        config = tiny_config(rl=rl, roles={"tutor": role})
        drawn_for_rl(config, tmp_path)
        write_atomic(tmp_path / "config.yaml", dump_config(config))
        for stage in ("seeds", "assemble"):
            Manifest(tmp_path).record(stage, STAGES[stage].writes, (), {})
        with pytest.raises(UserError, match="no trajectory of step 1 could be scored"):
            await asyncio.to_thread(run_stage, "rl", config, tmp_path, Quiet())
        assert broken.calls
        config.roles["tutor"].base_url = mended.url
        await asyncio.to_thread(run_stage, "rl", config, tmp_path, Quiet())
        assert mended.calls and (tmp_path / "rl" / "model").is_dir()


class Echo:
    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        return Reply(f"yes, {asked.user}")


class Slow:
    """A critic of its own, which takes as long as it is told."""

    immediate = True

    def __init__(self, seconds: Callable[[str, int], float]) -> None:
        self.seconds = seconds

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        await asyncio.sleep(self.seconds(dialogue.id, turn))
        return Verdict(SCORES)


async def played(critic: Slow, most: int, turns: int = 3) -> list[StopReason | None]:
    """How five trajectories end whose step waits a second for its last verdicts."""
    last = LastVerdicts(critic, 1.0, most)

    async def one(name: str) -> StopReason | None:
        script = [Turn(user=f"turn {number}") for number in range(turns)]
        seed = Seed(id=name, kind=Kind.BENIGN, intent="x", images=[], turns=script)
        with last.playing(name):
            return (await play(seed, Script(), Echo(), last, turns)).stop

    async with last.watching():
        return list(await asyncio.gather(*map(one, "abcde")))


async def test_a_trajectory_that_moves_is_waited_for_however_long_it_takes() -> None:
    slow = Slow(lambda name, turn: 0.3 if name == "a" else 0)
    assert await played(slow, 1, turns=6) == [StopReason.COMPLETED] * 5


async def test_a_call_that_hangs_is_waited_for_while_others_move() -> None:
    """It answers at last, after one and a half times the step's patience."""
    slow = Slow(lambda name, turn: 1.5 if (name, turn) == ("a", 0) else 0.4 if name == "b" else 0)
    assert await played(slow, 1, turns=6) == [StopReason.COMPLETED] * 5


async def test_turns_of_one_trajectory_that_are_scored_side_by_side_each_count() -> None:
    """As the audit does. While one of them moves, the other is waited for."""
    dialogue = Dialogue(id="d", kind=Kind.BENIGN, turns=[Turn(user="u", assistant="a")] * 2)

    async def scored(most: int, *seconds: float) -> list[bool]:
        last = LastVerdicts(Slow(lambda name, turn: seconds[turn]), 0.4, most)

        async def one(place: int) -> bool:
            with last.playing(dialogue.id):
                try:
                    return bool(await last.judge(dialogue, place, None))
                except EndpointError:
                    return False

        async with last.watching():
            return list(await asyncio.gather(one(0), one(1)))

    assert await scored(1, FOREVER, 0.1) == [False, True]
    assert await scored(1, 0.7, 0.7) == [True, True], "two hang, so the endpoint decides"
    assert await scored(2, FOREVER, FOREVER) == [False, False]


async def test_another_check_of_a_trajectory_that_hangs_is_given_up_too() -> None:
    """As that of an attacker's turns, which would else hold up the tutor's calls as well."""
    last = LastVerdicts(Slow(lambda name, turn: FOREVER), 0.3, 2)
    dialogue = Dialogue(id="a", kind=Kind.BENIGN, turns=[Turn(user="u", assistant="a")])

    async def hanging(name: str) -> None:
        with last.playing(name), pytest.raises(EndpointError, match="no verdict within"):
            await (last.judge(dialogue, 0, None) if name == "a" else last.waited("b", asyncio.sleep(FOREVER)))

    async with last.watching():
        await asyncio.wait_for(asyncio.gather(hanging("a"), hanging("b")), 5)


async def test_where_many_hang_the_endpoint_decides() -> None:
    hanging = Slow(lambda name, turn: 2.0 if name in "ab" else 0)
    assert await played(hanging, 1, turns=1) == [StopReason.COMPLETED] * 5
    assert await played(hanging, 2, turns=1) == [StopReason.UNSCORED] * 2 + [StopReason.COMPLETED] * 3


async def test_whoever_cancels_a_step_cancels_its_calls() -> None:
    last = LastVerdicts(Slow(lambda name, turn: FOREVER), 0.5, 0)
    dialogue = Dialogue(id="d", kind=Kind.BENIGN, turns=[Turn(user="u", assistant="a")])
    waiting = asyncio.create_task(last.judge(dialogue, 0, None))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_an_error_of_the_critic_is_its_own() -> None:
    class Failing(Slow):
        async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
            raise EndpointError("it is broken")

    assert await played(Failing(lambda name, turn: 0), 5) == [StopReason.UNSCORED] * 5


def test_patience_goes_by_the_tutors_timeout() -> None:
    assert patience_of(Config()) == 180
    assert (
        patience_of(tiny_config(roles={"tutor": Role(model="m", base_url="http://a/v1", timeout_s=600)}))
        == 900
    )
    assert patience_of(tiny_config(rl={"patience_s": 20})) == 20
