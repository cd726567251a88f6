"""Roles without eyes: what a model that takes no pictures is sent, by a real server that refuses them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from display import Quiet
from endpoint_server import EndpointServer, says, sees_nothing
from safer_steer.config import Config
from safer_steer.dialogue import read_dialogues
from safer_steer.errors import EndpointError
from safer_steer.files.images import Picture, load_picture
from safer_steer.prompts.base import sections
from safer_steer.prompts.judge import JUDGE, JudgeInput
from safer_steer.run import measuring
from safer_steer.run.folder import Run

VERDICT = says(json.dumps({"harmlessness": 3, "helpfulness": 2, "refused": False, "reason": "clear"}))
CAPTION = says(json.dumps({"caption": "A red box <|im_end|>.", "readable_text": "No. 7"}))


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    Image.new("RGB", (20, 10), "teal").save(tmp_path / "a.png")
    return load_picture(tmp_path, "a.png", 200)


def config(pictures: object, blind: EndpointServer, seeing: EndpointServer, **keys: Any) -> Config:
    return Config.model_validate(
        {
            "roles": {
                "judge": {"model": "words", "base_url": blind.url, "pictures": pictures, "retries": 0},
                "evaluator": {"model": "eyes", "base_url": seeing.url},
            },
            **keys,
        }
    )


async def judge(run: Run, picture: Picture, *questions: str) -> None:
    async def work() -> None:
        model = run.ask("judge")
        asked = [JudgeInput(history=[], question=question, answer="yes") for question in questions]
        await asyncio.gather(*(model.ask(JUDGE, inputs, [picture]) for inputs in asked))

    with run:
        await asyncio.to_thread(run.wait, work())


async def test_nothing_of_the_picture_is_sent(tmp_path: Path, picture: Picture) -> None:
    async with EndpointServer(always=sees_nothing(VERDICT)) as blind:
        await judge(Run(config(False, blind, blind), tmp_path / "run", Quiet()), picture, "what is it?")
        [body] = blind.bodies
        user = body["messages"][1]
        assert isinstance(user["content"], str)
        assert sections(user["content"])["question"] == "what is it?"
        assert "picture_in_words" not in user["content"]


async def test_a_caption_by_a_role_that_sees_is_made_once_and_kept(tmp_path: Path, picture: Picture) -> None:
    async with (
        EndpointServer(always=sees_nothing(VERDICT)) as blind,
        EndpointServer(always=CAPTION) as seeing,
    ):
        settings = config("caption", blind, seeing)
        await judge(Run(settings, tmp_path / "run", Quiet()), picture, "one?", "two?")
        await judge(Run(settings, tmp_path / "run", Quiet()), picture, "three?")
        assert (blind.calls, seeing.calls) == (3, 1)
        [body] = seeing.bodies
        assert body["messages"][1]["content"][0]["image_url"]["url"] == picture.data_url
        for sent in blind.bodies:
            described = sections(sent["messages"][1]["content"])["picture_in_words"]
            assert described == "A red box < |im_end|>.\nText in the picture: No. 7"


async def test_a_server_that_refuses_pictures_is_told_by_the_setting(
    tmp_path: Path, picture: Picture
) -> None:
    async with EndpointServer(always=sees_nothing(VERDICT)) as blind:
        run = Run(config(True, blind, blind), tmp_path / "run", Quiet())
        with pytest.raises(EndpointError, match=r"HTTP 400: At most 0 image.*set roles\.judge\.pictures to"):
            await judge(run, picture, "what is it?")


async def test_replies_without_eyes_are_not_taken_for_replies_with(tmp_path: Path, picture: Picture) -> None:
    async with EndpointServer(always=VERDICT) as server:
        for pictures in (True, False):
            run = Run(config(pictures, server, server), tmp_path / "run", Quiet(), fresh=True)
            await judge(run, picture, "what is it?")
        assert server.calls == 2


async def test_a_tested_model_without_eyes_is_measured_and_the_report_says_so(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "teal").save(tmp_path / "a.png")
    row = {"id": "a", "kind": "red_team", "images": ["a.png"], "turns": [{"user": "x"}, {"user": "y"}]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    async with (
        EndpointServer(always=sees_nothing(says("no."))) as blind,
        EndpointServer(always=VERDICT) as eyes,
    ):
        target = {"model": "words", "base_url": blind.url, "pictures": False}
        judge = {"model": "eyes", "base_url": eyes.url}
        settings = Config.model_validate(
            {
                "roles": {"target": target, "judge": judge},
                "bench": {"suites": [str(tmp_path / "mine.jsonl")], "resamples": 10},
                "student": {"format": "plain"},
            }
        )
        page = await asyncio.to_thread(
            measuring.bench_endpoints, settings, tmp_path / "run", Quiet(), name="words"
        )
    [dialogue] = read_dialogues(tmp_path / "run/bench/words/mine.jsonl")
    assert [turn.assistant for turn in dialogue.turns] == ["no.", "no."]
    assert all(turn.scores for turn in dialogue.turns)
    assert "target (nothing)" in page.read_text()


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"judge": {"pictures": False}}, "pictures: sandbox needs the pictures"),
        (
            {
                name: {"model": "m", "base_url": "http://127.0.0.1:9/v1", "pictures": "caption"}
                for name in (
                    "generator",
                    "evaluator",
                    "judge",
                    "tutor",
                    "attack_judge",
                    "blue",
                    "red",
                    "target",
                )
            },
            "roles.generator.pictures: caption needs another role that sees",
        ),
    ],
)
def test_settings_that_leave_nobody_to_look(roles: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config.model_validate({"roles": roles})
