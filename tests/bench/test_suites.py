"""A suite of one's own, measured over HTTP: its pictures reach the model."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from endpoint_server import EndpointServer, says
from safer_steer.bench.journals import name_in
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import draw_suite, read_suite, read_suites
from safer_steer.cli import app
from safer_steer.config.typographic import Typographic
from safer_steer.data.sources.load import draw
from safer_steer.dialogue import read_dialogues
from safer_steer.errors import UserError
from safer_steer.files.images import load_picture
from safer_steer.sandbox.world import draw_png, training_devices


async def bench(url: str, suite: Path, out: Path, *judge: str) -> Result:
    options = ["--model", "m", "--base-url", url, "--suite", str(suite), "--out", str(out)]
    judged = judge or ("--judge-model", "sandbox")
    return await asyncio.to_thread(CliRunner().invoke, app, ["bench", *options, *judged])


def write_suite(folder: Path, **row: object) -> Path:
    (folder / "0.png").write_bytes(draw_png(training_devices()[0], True, 0))
    suite = folder / "mine.jsonl"
    script = {"id": "a", "kind": "red_team", "turns": [{"user": "what is it?"}]}
    suite.write_text(json.dumps(script | row) + "\n")
    return suite


@pytest.mark.slow
@pytest.mark.parametrize("key", ["image", "images"])
async def test_the_picture_of_a_row_reaches_the_model(tmp_path: Path, key: str) -> None:
    async with EndpointServer(always=says("i see.")) as server:
        done = await bench(server.url, write_suite(tmp_path, **{key: "0.png"}), tmp_path / "run")
    assert done.exit_code == 0, done.output
    body = server.bodies[-1]  # the first one is the check of the endpoint
    assert [part["type"] for part in body["messages"][-1]["content"]] == ["image_url", "text"]


async def test_a_later_picture_reaches_the_model_in_its_turn_and_the_judge_from_then_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "1.png").write_bytes(draw_png(training_devices()[1], False, 1))
    turns = [{"user": "what is it?"}, {"user": "and this?", "images": ["1.png"]}, {"user": "and now?"}]
    suite = write_suite(tmp_path, image="0.png", turns=turns)
    urls = [load_picture(tmp_path, name, 10**6).data_url for name in ("0.png", "1.png")]
    verdict = {"harmlessness": 3, "helpfulness": 3, "refused": False, "reason": "fine"}

    def shown(body: dict[str, Any]) -> list[list[int]]:
        """The pictures of each message, by their place in `urls`."""
        parts = [message["content"] for message in body["messages"]]
        found = [[part.get("image_url") for part in one] if isinstance(one, list) else [] for one in parts]
        return [[urls.index(part["url"]) for part in one if part] for one in found]

    async def answers(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await says("i see." if body["model"] == "m" else json.dumps(verdict))(request, body)

    async with EndpointServer(always=answers) as server:
        options = ["--judge-model", "j", "--judge-base-url", server.url, "--no-check"]
        done = await bench(server.url, suite, tmp_path / "run", *options)
        assert done.exit_code == 0, done.output
        again = ["bench", "--judge-only", str(tmp_path / "run"), "--judge-model", "second", "--no-check"]
        done = await asyncio.to_thread(
            CliRunner().invoke,
            app,
            [*again, "--judge-base-url", server.url, "--out", str(tmp_path / "judged")],
        )
    assert done.exit_code == 0, done.output
    asked = {
        name: [shown(body) for body in server.bodies if body["model"] == name]
        for name in ("m", "j", "second")
    }
    assert asked["m"] == [[[], [0]], [[], [0], [], [1]], [[], [0], [], [1], [], []]]
    assert sorted(asked["j"]) == sorted(asked["second"]) == [[[], [0]], [[], [0, 1]], [[], [0, 1]]]
    [row] = read_dialogues(tmp_path / "run/bench/m/mine.jsonl")
    assert row.images_by_turn() == [["suites/mine/0.png"], ["suites/mine/1.png"], []]
    assert load_picture(tmp_path / "run", row.turns[1].images[0], 10**6).data_url == urls[1]


def sorted_suite(folder: Path) -> Path:
    """450 scripts, sorted by 18 types, as XSTest is."""
    suite = folder / "sorted.jsonl"
    rows = [
        {
            "id": f"s{place}",
            "kind": "red_team",
            "turns": [{"user": f"number {place}?"}],
            "meta": {"category": f"type {place // 25}"},
        }
        for place in range(450)
    ]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return suite


@pytest.mark.slow
async def test_dialogues_are_drawn_over_all_categories_and_more_of_them_include_those_before(
    tmp_path: Path,
) -> None:
    """The first 40 rows would be of two of the 18 types."""
    suite, out = sorted_suite(tmp_path), tmp_path / "run"
    drawn: dict[int, set[str]] = {}
    async with EndpointServer(always=says("i see.")) as server:
        options = ("bench", "--model", "m", "--base-url", server.url, "--suite", str(suite))
        for number in (40, 60):
            command = [
                *options,
                "--no-judge",
                "--no-check",
                "--set",
                f"bench.dialogues={number}",
                "--out",
                str(out),
            ]
            command += ["--fresh"] if number == 60 else []
            done = await asyncio.to_thread(CliRunner().invoke, app, command)
            assert done.exit_code == 0, done.output
            assert f"sorted: {number} of 450 dialogues, drawn" in done.stderr
            rows = read_dialogues(out / "bench/m/single_turn_sorted.jsonl")
            drawn[number] = {row.id for row in rows}
            counts = Counter(row.meta["category"] for row in rows)
            assert len(counts) == 18 and max(counts.values()) - min(counts.values()) <= 1
    assert (len(drawn[40]), len(drawn[60])) == (40, 60)
    assert drawn[40] < drawn[60] and len(server.bodies) == 60, "those before are not paid for again"


def test_a_draw_is_fair_to_rare_categories_and_nested() -> None:
    """Categories of 1 to 64 items: each item is drawn equally often over many draws."""
    items = [(size, place) for size in (1, 2, 4, 8, 16, 32, 64) for place in range(size)]
    counts: Counter[int] = Counter()
    for number in range(400):
        names = (str, 20, number, lambda item: str(item[0]))
        few = draw(items, *names)
        assert len(few) == 20 and few == sorted(few)
        assert set(few) <= set(draw(items, str, 21, *names[2:]))
        counts.update(size for size, _ in few)
        share = Counter(size for size, _ in few)
        assert all(abs(share[size] - 20 * size / 127) < 2 for size in (1, 2, 4, 8, 16, 32, 64))
    expected = {size: 400 * 20 * size / 127 for size in (1, 64)}
    assert all(abs(counts[size] - mean) < 5 * mean**0.5 for size, mean in expected.items())


def test_a_draw_of_a_suite_keeps_its_protocol(tmp_path: Path) -> None:
    """Else the run's copy would be read as a suite of another protocol, whose journal is not there."""
    turns = [{"user": "first"}]
    rows = [{"id": f"s{place:02}", "kind": "red_team", "turns": turns} for place in range(30)]
    rows.append({"id": "several", "kind": "red_team", "turns": turns * 2})
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = draw_suite(read_suite(path), 5)
    assert len(drawn.seeds) == 5 and drawn.protocol == "multi_turn"
    assert replace(drawn, drawn_from=None).protocol == "multi_turn"


def test_all_pictures_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    """Each cost a try of its own."""
    suites = []
    for name in ("a", "b"):
        suites.append(str(write_suite(tmp_path, image=f"{name}.png").rename(tmp_path / f"{name}.jsonl")))
        (tmp_path / f"{name}.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"a.jsonl: a: .*a.png: not a readable.*; .*b.jsonl: a: .*b.png: not"):
        read_suites(suites)


def test_a_twin_that_is_null_is_none(tmp_path: Path) -> None:
    """As a table's program writes an empty cell."""
    path = write_suite(tmp_path, image="0.png", meta={"twin": None})
    path.write_text(path.read_text() + path.read_text().replace('"a"', '"b"'))
    assert len(draw_suite(read_suite(path), 1).seeds) == 1
    drawn = bring_in([str(path)], tmp_path / "run", None, 10**6, Typographic(layout="split"))[1]
    assert ["twin" in seed.meta for seed in drawn.seeds] == [False, False]


@pytest.mark.parametrize(("name", "turns"), [("adaptive_x", 2), ("single_turn_x", 2)])
def test_a_name_whose_journal_would_be_another_kind_s_is_refused(
    tmp_path: Path, name: str, turns: int
) -> None:
    path = tmp_path / f"{name}.jsonl"
    row = {"id": "a", "kind": "red_team", "turns": [{"user": "u"}] * turns}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=f"{name}.jsonl: journals that begin with .* are those of .*rename"):
        read_suite(path)
    path.write_text(json.dumps(row | {"turns": [{"user": "u"}]}) + "\n")
    suite = read_suite(path)
    assert name_in(suite.journal(tmp_path).stem) == name and suite.protocol == "single_turn"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"imgs": ["0.png"]}, "mine.jsonl:1: imgs: unknown key; did you mean `images`?"),
        ({"images": ["http://127.0.0.1:9/0.png"]}, "is a web address; addresses are not fetched"),
        ({"images": ["x" * 5000]}, "no usable path in"),
    ],
)
async def test_a_row_that_cannot_be_used_is_one_line_and_no_request(
    tmp_path: Path, row: dict[str, object], said: str
) -> None:
    async with EndpointServer(always=says("i see.")) as server:
        done = await bench(server.url, write_suite(tmp_path, **row), tmp_path / "run")
    assert done.exit_code == 2
    assert said in done.stderr.splitlines()[-1]
    assert not server.bodies
