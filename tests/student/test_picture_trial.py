"""A picture that the student's processor does not take costs one line, before anything is paid or written."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from display import Quiet
from endpoint_server import EndpointServer, says
from safer_steer import pipeline
from safer_steer.config import Config, RoleName
from safer_steer.dialogue import Dialogue, Kind, Turn, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.images import PictureError
from safer_steer.run import preflight
from safer_steer.student.load import PictureTrial
from safer_steer.training.sft import fine_tune

TOLD = r"the student's processor does not take a picture of 3000 x 10 pixels \(.*aspect ratio.*\)"
STAGES = ["seeds", "assemble", "bootstrap", "sft", "rl", "bench"]


def strip(path: Path, size: tuple[int, int] = (3000, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def rows(path: Path, *lines: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def pairs(folder: Path, **keys: Any) -> dict[str, Any]:
    strip(folder / "strip.png")
    strip(folder / "good.png", (60, 40))
    lines = [
        {"id": name, "image": f"{name}.png", "question": f"what is {name}?"} for name in ("good", "strip")
    ]
    return {"name": "mine", "path": rows(folder / "pairs.jsonl", *lines)} | keys


def intents(folder: Path) -> str:
    strip(folder / "strip.png")
    row = {"id": "i1", "kind": "red_team", "intent": "open it", "images": ["strip.png"]}
    return rows(folder / "intents.jsonl", row)


def quiz(folder: Path) -> str:
    strip(folder / "strip.png")
    row = {"id": "q1", "image": "strip.png", "question": "Which?", "choices": ["a", "b"], "answer": 0}
    return rows(folder / "quiz.jsonl", row)


def script(folder: Path, image: str = "strip.png", kind: str = "red_team") -> str:
    strip(folder / image)
    turns = [{"user": "What is it?"}, {"user": "And now?"}]
    return rows(folder / "own.jsonl", {"id": "a1", "kind": kind, "images": [image], "turns": turns})


def test_it_is_tried_once_a_size_upright_and_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = PictureTrial(Config().student)
    tried = []
    real = trial._refusal
    monkeypatch.setattr(trial, "_refusal", lambda size: tried.append(size) or real(size))
    for _ in range(3):
        trial((60, 40), "good.png")
        with pytest.raises(PictureError, match=rf"^strip\.png: {TOLD}; leave it out, or crop it$"):
            trial((3000, 10), "strip.png")
    assert tried == [(60, 40), (3000, 10)]


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        (lambda folder: {"seeds": {"sources": [pairs(folder)]}}, r"pairs\.jsonl:2: image: .*strip\.png"),
        (lambda folder: {"seeds": {"scripts": script(folder)}}, r"own\.jsonl: a1: strip\.png"),
        (lambda folder: {"bench": {"suites": [script(folder)]}}, r"own\.jsonl: a1: .*strip\.png"),
        (
            lambda folder: {"bench": {"suites": ["sandbox"], "adaptive": {"intents": intents(folder)}}},
            r"intents\.jsonl: i1: .*strip\.png",
        ),
        (
            lambda folder: {"bench": {"suites": ["sandbox"], "capability": [quiz(folder)]}},
            r"quiz\.jsonl:1: image: .*strip\.png",
        ),
    ],
    ids=["source", "scripts", "suite", "intents", "capability"],
)
async def test_where_it_enters_a_run_that_trains_or_measures_the_student(
    tmp_path: Path, keys: Any, where: str
) -> None:
    async with EndpointServer(always=says("fine")) as server:
        role = {"model": "m", "base_url": server.url}
        names = get_args(RoleName)
        config = Config.model_validate({"roles": dict.fromkeys(names, role)} | keys(tmp_path))
        check = preflight.check(config, STAGES, trial=PictureTrial(config.student))
        with pytest.raises(UserError, match=rf"{where}: {TOLD}") as refused:
            await check
        assert server.calls == 0 and "\n" not in str(refused.value)


def test_a_source_may_skip_it(tmp_path: Path) -> None:
    config = Config.model_validate({"seeds": {"sources": [pairs(tmp_path, bad_rows="skip")]}})
    found = preflight._survey_sources(config, PictureTrial(config.student))
    assert found.skipped == {"mine": {"picture the student does not take": 1}}
    assert list(found.broken) == ["mine-strip"]


def test_a_student_that_cannot_be_loaded_is_no_fault_of_the_pictures(tmp_path: Path) -> None:
    """With `bad_rows: skip`, every row would be left out for it."""
    student = {"model": str(tmp_path / "nowhere")}
    config = Config.model_validate(
        {"student": student, "seeds": {"sources": [pairs(tmp_path, bad_rows="skip")]}}
    )
    with pytest.raises(UserError, match=r"^student .*nowhere: no such folder"):
        preflight._survey_sources(config, PictureTrial(config.student))


def test_a_turned_strip_is_tried_as_it_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = pairs(tmp_path)
    Image.new("RGB", (3000, 10)).save(tmp_path / "strip.png", exif=exif)
    config = Config.model_validate({"seeds": {"sources": [source]}})
    with pytest.raises(UserError, match="does not take a picture of 10 x 3000 pixels"):
        preflight._survey_sources(config, PictureTrial(config.student))


def test_training_on_seeds_that_were_made_before_ends_with_one_line_too(tmp_path: Path) -> None:
    """`seeds` and `bootstrap` alone load no student."""
    strip(tmp_path / "images/strip.png")
    dialogue = Dialogue(
        id="d",
        kind=Kind.BENIGN,
        images=["images/strip.png"],
        turns=[Turn(user="What?", assistant="A strip.")],
    )
    (tmp_path / "bootstrap").mkdir()
    (tmp_path / "bootstrap/kept.jsonl").write_text(to_jsonl([dialogue] * 2))
    config = Config.model_validate({"student": {"device": "cpu", "dtype": "float32"}})
    told = r"^images/strip\.png \(3000 x 10\): the student's processor does not take this \(.*\); leave out"
    with pytest.raises(UserError, match=told) as refused:
        fine_tune(config, tmp_path)
    assert "\n" not in str(refused.value)


def test_a_run_checks_before_it_writes(tmp_path: Path) -> None:

    config = Config.model_validate(
        {
            "seeds": {"sources": [pairs(tmp_path / "data")]},
            "roles": {"generator": {"model": "stub"}},
        }
    )
    with pytest.raises(UserError, match=TOLD):
        pipeline.run(config, tmp_path / "run", Quiet())
    assert not (tmp_path / "run").exists()
