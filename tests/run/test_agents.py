"""Who fills the roles: the engine that samples the student's answers is a line in a table or one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from display import Quiet
from safer_steer.config.named import load_named
from safer_steer.dialogue import Dialogue, Kind, Seed, Turn
from safer_steer.errors import UserError
from safer_steer.run import agents
from safer_steer.run.preflight import prepared
from safer_steer.student.policy import ENGINES, maker_of
from safer_steer.student.transformers_policy import in_process
from student_parts import TINY, tiny_config

OWN = '''
from safer_steer.student.transformers_policy import in_process

KEYS = []


class Listening:
    """What an engine must do: `reply`."""

    def __init__(self, inside):
        self.inside = inside

    async def reply(self, transcript, key):
        KEYS.append(key)
        return await self.inside.reply(transcript, key)


def make(student):
    return Listening(in_process(student))
'''


def test_every_engine_of_the_table_is_there() -> None:
    assert load_named("", ENGINES["transformers"]) is in_process
    assert all(callable(load_named("", maker_of(name))) for name in ENGINES)


async def test_an_engine_of_ones_own_samples_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_engine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny_config(rl={"rollouts": {"engine": "my_engine:make"}})
    run = agents.Run(config, tmp_path / "run", Quiet())
    dialogue = Dialogue.begin(Seed(id="d", kind=Kind.BENIGN, turns=[Turn(user="what is it?")]))
    reply = await agents.student(run, "base").answer(dialogue, Turn(user="what is it?"))
    assert reply.text
    assert load_named("", "my_engine:KEYS") == ["bench 0 d 0"]


@pytest.mark.parametrize("stage", ["rl", "bench"])
@pytest.mark.parametrize(
    ("rollouts", "message"),
    [
        ({"engine": "vllm2"}, "engine: vllm2 is unknown; use transformers, vllm, or "),
        ({"engine": "no_such:make"}, "engine: no_such:make: No module named"),
        (
            {"engine": "vllm", "base_url": "localhost:1"},
            "base_url is 'localhost:1'; give the",
        ),
    ],
)
def test_an_engine_that_cannot_be_used_is_refused_before_anything_is_written(
    tmp_path: Path, stage: str, rollouts: dict[str, str], message: str
) -> None:
    refused(tmp_path / "run", stage, rollouts, message)


def test_servers_need_a_gpu_for_the_training(tmp_path: Path) -> None:
    rollouts = {"engine": "vllm", "base_url": "http://localhost:1"}
    message = "engine: vllm is sent all weights over NCCL, and there is no GPU; set student"
    refused(tmp_path / "run", "rl", rollouts, message)


@pytest.mark.parametrize(
    ("rollouts", "student", "message"),
    [
        (
            {},
            {"sharding": "full"},
            "engine: vllm is not sent all weights of a student with sharding: full; set",
        ),
        ({"api_key_env": "KEY"}, {}, "api_key_env: TRL sends all weights without a key, so the server would"),
    ],
)
def test_weights_that_cannot_be_sent_are_refused_before_anything_is_paid(
    tmp_path: Path,
    rollouts: dict[str, str],
    student: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY", "none of yours")
    servers = {"engine": "vllm", "base_url": "http://localhost:1"} | rollouts
    refused(tmp_path / "run", "rl", servers, message, student)


def refused(
    folder: Path, stage: str, rollouts: dict[str, str], message: str, student: dict[str, str] | None = None
) -> None:
    config = tiny_config(rl={"rollouts": rollouts}, student=TINY["student"] | (student or {}))
    with (
        pytest.raises(UserError, match=rf"^rl\.rollouts\.{message}"),
        prepared(config, folder, Quiet(), (stage,)),
    ):
        pass
    assert not folder.exists()
