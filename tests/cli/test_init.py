"""`safer-steer init`, and the dry walk with `--stub` through the project that it writes."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from PIL import Image

from display import safer_steer
from endpoint_server import EndpointServer, says
from safer_steer.bench.suites import read_suites
from safer_steer.config.file import load_config
from safer_steer.data.sources.load import load_pairs
from safer_steer.dialogue import Kind, read_dialogues, read_seeds
from safer_steer.run.stub import StubTransport

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "mine"
    result = safer_steer("init", folder)
    assert result.exit_code == 0, result.output
    assert f"{folder / 'pairs.jsonl'}: 12 pairs" in result.stdout
    return folder


def test_the_project_is_complete(project: Path) -> None:
    config = load_config(project / "config.yaml")
    pairs = list(load_pairs(config))
    assert [pair.safe for pair in pairs] == [True] * 6 + [False] * 6
    assert len({Path(str(pair.image)).read_bytes() for pair in pairs}) == 12
    attacks, twins = read_suites(config.bench.suites)
    assert (len(attacks.seeds), len(twins.seeds)) == (8, 8)
    assert [seed.script for seed in attacks.seeds] == [seed.script for seed in twins.seeds]
    assert (attacks.safe_twins, twins.safe_twins) == (False, True)
    shown = [(project / "suites" / seed.images[0]).read_bytes() for seed in attacks.seeds + twins.seeds]
    assert not set(shown) & {Path(str(pair.image)).read_bytes() for pair in pairs}, (
        "never bench on trained data"
    )
    lines = (project / "config.yaml").read_text().splitlines()
    assert len(lines) <= 30
    assert len((project / "README.md").read_text().splitlines()) <= 15


def test_a_disk_that_is_full_leaves_nothing_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A limit on the size of files stands for it; the pictures are larger."""
    folder = tmp_path / "project"
    command = [sys.executable, "-m", "safer_steer", "init", str(folder)]
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1000, 1000))
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert full.returncode == 2 and "File too large" in full.stderr, full.stderr
    assert not [*folder.glob("*")]
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("name", ["2026", "1e3", "null", "yes", "2026-11-25"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    assert safer_steer("init", tmp_path / name).exit_code == 0
    assert load_config(tmp_path / name / "config.yaml").name == name


async def answered(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Any job's answer, over HTTP."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    reply = await StubTransport().complete(body["messages"], schema, body.get("seed", 0))
    return await says(reply.text)(request, body)


async def test_two_lines_are_enough_for_a_real_endpoint(project: Path, tmp_path: Path) -> None:
    """All roles follow the first one's base_url and model."""
    text = (project / "config.yaml").read_text()
    assert text.count("http://localhost:8000/v1") == text.count("my-model") == 1
    mine = tmp_path / "mine"
    shutil.copytree(project, mine)
    async with EndpointServer(always=answered) as server:
        text = text.replace("http://localhost:8000/v1", server.url).replace("my-model", "large-vl")
        (mine / "config.yaml").write_text(text)
        command = ("seeds", mine / "config.yaml", "--limit", 3, "--out", tmp_path / "out")
        result = await asyncio.to_thread(safer_steer, *command)
    assert result.exit_code == 0, result.output
    assert "seeds: 3 benign, " in result.stderr
    assert {body["model"] for body in server.bodies} == {"large-vl"}
    roles = load_config(mine / "config.yaml").roles
    assert (len(roles), len({role.base_url for role in roles.values()})) == (8, 1)
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["limit"] == 3


@pytest.fixture(scope="module")
def walked(project: Path) -> Path:
    """A whole run of the project with stubs, from another working folder. Nothing listens at its endpoint."""
    out, began = project.parent / "run", os.times()
    command = [sys.executable, "-m", "safer_steer", "run", project / "config.yaml"]
    command += ["--stub", "--limit", "4", "--out", out]
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_KEY")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=project.parent, env=environment)
    assert done.returncode == 0, done.stderr
    assert "The answers in this run are stubs: the numbers mean nothing." in done.stdout
    ended = os.times()
    seconds = ended.children_user + ended.children_system - began.children_user - began.children_system
    assert seconds < 90, "processor seconds, since other tests may keep the machine busy"
    return out


def test_the_dry_walk_does_every_stage_and_says_that_it_is_one(walked: Path) -> None:
    assert set(json.loads((walked / "manifest.json").read_text())["stages"]) == {
        *("seeds", "assemble", "bootstrap", "sft", "rl", "bench", "report")
    }
    roles = yaml.safe_load((walked / "config.yaml").read_text())["roles"]
    assert {role["model"] for role in roles.values()} == {"stub"}
    page = (walked / "report.html").read_text()
    assert "The answers in this run are stubs." in page
    kinds = [len(read_seeds(walked / "seeds" / f"{kind}.jsonl")) for kind in Kind]
    assert min(kinds) >= 2, kinds
    [dialogue, *_] = read_dialogues(walked / "bench" / "base" / "attacks.jsonl")
    assert dialogue.turns[0].scores
    assert safer_steer("verify", walked).exit_code == 0


def test_a_run_goes_on_from_its_own_config(
    walked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its paths are absolute, so it finds its files from any folder."""
    monkeypatch.chdir(tmp_path)
    again = safer_steer("run", walked / "config.yaml", "--out", walked)
    assert again.exit_code == 0, again.output
    assert "bench: done already" in again.stderr


# One's own folder


def own_folder(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A CSV file of these rows, with the pictures that are not there yet."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for index, row in enumerate(rows):
        if not (folder / row["image"]).exists():
            Image.new("RGB", (40, 40), (index * 9, 60, 90)).save(folder / row["image"])
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": str(index),
            "image": f"photos/{index}.png",
            "question": f"What is number {index}?",
            "safe": str(index % 2 == 0),
            "intent": "",
        }
        for index in range(count)
    ]


def test_ones_own_pictures_and_csv(tmp_path: Path) -> None:
    own = own_folder(tmp_path / "own", rows(20))
    assert safer_steer("init", tmp_path / "mine", "--from-folder", own).exit_code == 0
    config = load_config(tmp_path / "mine" / "config.yaml")
    pairs = list(load_pairs(config))
    attacks, twins = read_suites(config.bench.suites)
    assert (len(pairs), len(attacks.seeds), len(twins.seeds)) == (16, 2, 2)
    held_out = {seed.id for seed in attacks.seeds + twins.seeds}
    assert not held_out & {pair.id.removeprefix("my-pairs-") for pair in pairs}
    assert attacks.seeds[0].script == ["What does this picture show?", "What is number 7?"]
    assert all((tmp_path / "mine" / "suites" / seed.images[0]).is_file() for seed in attacks.seeds)
    assert Path(str(pairs[0].image)).read_bytes() == (own / "photos/0.png").read_bytes()
    assert Path(str(pairs[0].image)).is_relative_to(tmp_path / "mine")


def test_few_rows_still_leave_something_to_measure_on_and_what_they_lack_is_said(tmp_path: Path) -> None:
    own = own_folder(tmp_path / "own", rows(4))
    done = safer_steer("init", tmp_path / "mine", "--from-folder", own)
    config = load_config(tmp_path / "mine" / "config.yaml")
    assert len(list(load_pairs(config))) == 3
    [attacks] = read_suites(config.bench.suites)
    assert len(attacks.seeds) == 1 and "attacks.jsonl: 1 script\n" in done.stdout
    lacking = (
        "no suites/twins.jsonl: it takes 4 pictures with safe: true; without it over-refusal is not measured"
    )
    assert lacking in done.stdout


def photo(number: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """A scene of eight boxes of its own."""
    rng, image = random.Random(number), Image.new("RGB", (400, 300), (120, 150, 180))
    for _ in range(8):
        x, y = rng.randrange(350), rng.randrange(250)
        colour = tuple(rng.randrange(256) for _ in range(3))
        image.paste(colour, (x, y, x + rng.randrange(30, 150), y + rng.randrange(30, 150)))
    return image.resize(size)


def test_no_picture_is_trained_on_and_measured_on(tmp_path: Path) -> None:
    """Each picture has a safe and a risky question, and two of them a copy that is another file."""
    own = tmp_path / "own"
    own.mkdir()
    table = []
    for number in range(9):
        photo(number).save(own / f"{number}.png")
        table += [
            {"image": f"{number}.png", "question": f"{'safe' if safe else 'risky'} {number}?", "safe": safe}
            for safe in (True, False)
        ]
    photo(3).save(own / "3-small.jpg", quality=70)
    photo(7, (200, 150)).save(own / "7-small.webp")
    turned = Image.Exif()
    turned[0x0112] = 6
    photo(3).transpose(Image.Transpose.ROTATE_90).save(own / "3-turned.jpg", quality=90, exif=turned)
    copies = ("3-small.jpg", "7-small.webp", "3-turned.jpg")
    table += [{"image": name, "question": f"copy {name}?", "safe": False} for name in copies]
    assert safer_steer("init", tmp_path / "mine", "--from-folder", own_folder(own, table)).exit_code == 0
    config = load_config(tmp_path / "mine" / "config.yaml")
    trained = {Path(str(pair.image)).stem[0] for pair in load_pairs(config)}
    suites = read_suites(config.bench.suites)
    measured = {Path(image).stem[0] for suite in suites for seed in suite.seeds for image in seed.images}
    assert trained == set("0124568") and measured == {"3", "7"}
    assert [len(suite.seeds) for suite in suites] == [5, 2], "with all their pairs"
