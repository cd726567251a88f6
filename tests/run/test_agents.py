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
from student_parts import tiny_config

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


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "http://localhost:1",
            "engine: vllm is sent all weights over NCCL, and there is no GPU; set student",
        ),
        ("localhost:1", "base_url: 'localhost:1' is no server's address"),
    ],
)
def test_what_rollouts_on_servers_need_is_checked_before_anything_is_written(
    tmp_path: Path, url: str, message: str
) -> None:
    config = tiny_config(rl={"rollouts": {"engine": "vllm", "base_url": url}})
    with (
        pytest.raises(UserError, match=rf"^rl\.rollouts\.{message}"),
        prepared(config, tmp_path / "run", Quiet(), ("rl",)),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["rl", "bench"])
@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("vllm2", "vllm2 is unknown; use transformers, vllm, or "),
        ("no_such:make", "no_such:make: No module named"),
    ],
)
def test_an_unknown_engine_is_refused_before_anything_is_written(
    tmp_path: Path, stage: str, engine: str, message: str
) -> None:
    config = tiny_config(rl={"rollouts": {"engine": engine}})
    with (
        pytest.raises(UserError, match=rf"^rl\.rollouts\.engine: {message}"),
        prepared(config, tmp_path / "run", Quiet(), (stage,)),
    ):
        pass
    assert not (tmp_path / "run").exists()
