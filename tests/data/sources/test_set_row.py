"""Rows that cannot be used: named, or skipped and counted alike in every pass; and the seeded draw."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import seeds_run
from display import Quiet
from photographs import bomb
from published import (
    GEOMETRY,
    SCIENCEQA,
    VLGUARD,
    VLSBENCH,
    config,
    hub,
    mm_safetybench,
    pairs,
    pictures,
    png,
    table,
    write_csv,
)
from safer_steer import pipeline
from safer_steer.cli import app
from safer_steer.data.seeds import identity
from safer_steer.data.sources.load import Skipped, left_out_in_words, load_pairs
from safer_steer.data.sources.pair import Pair
from safer_steer.data.sources.text_files import CHUNK
from safer_steer.endpoints.transport import ChatReply
from safer_steer.errors import UserError
from safer_steer.plan import dry_run
from safer_steer.run import preflight
from seeds_run import Watched, build, dropped, pool, write_pairs

GOOD = {"id": "good", "image": "0.png", "question": "what is it?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and files that are none."""
    data = tmp_path_factory.mktemp("set") / "data"
    pictures(data, "0.png", "ads/1.png", "ads/2.png", "imgs/0.png")
    (data / "large.png").write_bytes(bomb(13_300))
    (data / "no_picture.png").write_text("hello")
    Image.new("P", (8, 8)).save(data / "moving.gif")
    (data.parent / "secret.png").write_bytes(png())
    (data / "link.png").symlink_to(data.parent / "secret.png")
    return data


OWN_ROWS: list[tuple[dict[str, Any], str, str]] = [
    ({"id": None}, "id: is null; give a text", "id of a wrong type"),
    ({"id": True}, "id: is true; give a text", "id of a wrong type"),
    ({"picture": "0.png", "image": ...},
     "picture: unknown key; the keys are id, image, .* .mine is none of the sets", "unknown column"),
    ({"image": ...}, "image or images: the column is missing", "no column image"),
    ({"question": ...}, "question: the column is missing", "no column question"),
    ({"images": ["0.png"]}, "image: give either `image` or `images`", "image given twice"),
    ({"imagee": "0.png", "image": ...}, "imagee: unknown key; did you mean `image`", "unknown column"),
    ({"Safe": True}, "Safe: unknown key; did you mean `safe`", "unknown column"),
    ({"image": None}, "image: is null; give a path", "no picture"),
    ({"image": 3}, "image: is 3; give a path", "image of a wrong type"),
    ({"image": {"bytes": None, "path": None}}, "image: is {.*; give a path", "image of a wrong type"),
    ({"image": ["0.png", "0.png"]}, "images: 2 pictures; Stage I takes rows with one", "several pictures"),
    ({"image": "gone.png"}, "image: .*gone.png: no such picture", "no such picture"),
    ({"image": "x" * 5000}, "image: 'x{77}...': no usable path in", "no usable path"),
    ({"image": "https://example.org/0.png"},
     "image: https://example.org/0.png: is a web address; addresses are not fetched", "web address"),
    ({"image": "../secret.png"}, r"image: ../secret.png: leads out of", "path outside the folder"),
    ({"image": "link.png"}, "image: link.png: leads out of", "path outside the folder"),
    ({"image": "/etc/hostname"}, "image: /etc/hostname: leads out of", "path outside the folder"),
    ({"image": "large.png"},
     "image: .*large.png: 13300 x 13300 is larger than 175,000,000 pixels", "picture too large"),
    ({"image": "no_picture.png"},
     "image: .*no_picture.png: not a readable PNG, JPEG or WebP", "unreadable picture"),
    ({"image": "moving.gif"},
     r"image: .*moving.gif: not a readable .* picture \(another format, or damaged\)", "unreadable picture"),
    ({"question": "<image>"}, 'question: is "<image>"; give a text', "question of a wrong type"),
    ({"question": " "}, 'question: is " "; give a text', "question of a wrong type"),
    ({"safe": 1}, "safe: is 1; give true, false or null", "safe of a wrong type"),
    ({"safe": "yes"}, 'safe: is "yes"; give true, false or null', "safe of a wrong type"),
    ({"intent": 3}, "intent: is 3; give a text", "intent of a wrong type"),
]  # fmt: skip
"""What is other than in a good row of one's own (`...`: left out), the message, and the reason in counts."""
PUBLISHED_ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("vlsbench", VLSBENCH[0] | {"image_path": "https://example.org/0.png"},
     "image: .*: is a web address; addresses are not fetched", "web address"),
    ("vlguard", VLGUARD[0] | {"instr-resp": "none"},
     'instr-resp: is "none"; give a list', "instr-resp of a wrong type"),
    ("vlguard", VLGUARD[0] | {"instr-resp": [{"response": "x"}]},
     "instr-resp: safe_instruction or .* is missing; there are: response", "no column"),
    ("vlguard", VLGUARD[0] | {"instr-resp": ["x"]},
     'instr-resp: is "x"; give an object', "instr-resp of a wrong type"),
    ("vlsbench", {"instruction_id": 1, "image_path": "0.png"},
     "instruction: the column is missing; there are: instruction_id", "no column instruction"),
    ("scienceqa", SCIENCEQA[1] | {"answer": 2},
     "answer: is 2; give the place of one of 2 choices", "answer of a wrong type"),
    ("scienceqa", SCIENCEQA[1] | {"choices": ["a", 3]},
     "choices: is .*; give a list of texts", "choices of a wrong type"),
]  # fmt: skip
SOUND_ROWS = {"mine": GOOD, "vlguard": VLGUARD[1], "vlsbench": VLSBENCH[0]}
SOUND_ROWS["scienceqa"] = SCIENCEQA[1] | {"image": "0.png"}


def own_row(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | {"id": 1} | changes).items() if value is not ...}


@pytest.mark.parametrize(
    ("name", "row", "message", "reason"),
    [*(("mine", own_row(changes), *told) for changes, *told in OWN_ROWS), *PUBLISHED_ROWS],
)
def test_a_bad_row_is_named_with_its_set_or_skipped_and_counted(
    folder: Path, name: str, row: dict[str, Any], message: str, reason: str
) -> None:
    path = folder / "rows.json"
    path.write_text(json.dumps([row, SOUND_ROWS[name]]))
    with pytest.raises(UserError, match=f"^{name}: {path}: row 1: {message}") as error:
        pairs(name, path)
    assert "\n" not in str(error.value)
    skipped: Skipped = {}
    assert len(pairs(name, path, skipped, bad_rows="skip")) == 1
    assert {key.partition(" safe_")[0]: count for key, count in skipped[name].items()} == {reason: 1}


def test_lines_that_are_no_rows(folder: Path) -> None:
    path = folder / "rows.jsonl"
    good = json.dumps(GOOD).encode()
    lines = [b'{"id": ', b"[1]", b'"\xff"', b"[" * 100_000, b"", good, good]
    path.write_bytes(b"\n".join(lines))
    skipped: Skipped = {}
    assert [pair.where for pair in pairs("mine", path, skipped, bad_rows="skip")] == [f"mine: {path}:6"]
    assert skipped == {"mine": {"not JSON": 2, "no object": 1, "not UTF-8": 1, "repeated id": 1}}
    assert (
        left_out_in_words(skipped) == "mine: 5 left out (1 no object, 2 not JSON, 1 not UTF-8, 1 repeated id)"
    )
    path.write_bytes(b"\n".join([lines[5], lines[2]]))
    with pytest.raises(UserError, match=r"rows.jsonl:2: not JSON: not UTF-8"):
        pairs("mine", path)


def test_a_csv_with_cells_too_many_or_of_another_encoding(folder: Path) -> None:
    path = write_csv(folder / "rows.csv", [GOOD, GOOD | {"id": "b"}])
    path.write_bytes(path.read_bytes() + b"c,0.png,caf\xe9\r\nd,0.png,q,more\r\n")
    skipped: Skipped = {}
    assert len(pairs("mine", path, skipped, bad_rows="skip")) == 2
    assert skipped == {"mine": {"not UTF-8": 1, "not a CSV row": 1}}
    with pytest.raises(UserError, match=r"rows.csv: row 3: not UTF-8"):
        pairs("mine", path)


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_a_csv_with_a_name_twice_in_its_header_is_refused(folder: Path, bad_rows: str) -> None:
    path = folder / "rows.csv"
    path.write_text("id,image,question,question\n1,0.png,first,second\n")
    with pytest.raises(UserError, match=r"rows\.csv: header: two columns are called question; rename one"):
        pairs("mine", path, bad_rows=bad_rows)
    path.write_text("id,image,question,,\n1,0.png,first,,\n")
    assert [pair.question for pair in pairs("mine", path)] == ["first"], "blank names are no names"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{}, ", "not JSON .row 2: Expecting value"),
        (b'[{"a": "%s"},\n{"a": bad}]' % (b"x" * CHUNK), "not JSON .row 2: Expecting value.$"),
        (b"[{}, " + b"[" * 100_000, "not JSON .row 2: "),
        (b"[{}, " + b"9" * 5000 + b"]", "not JSON .row 2: Exceeds the limit"),
        (b"[{} {}]", "not JSON .no comma after row 1"),
        (b"[] x", "not JSON .more text after the end"),
        (b'{"a": 3}', "is not a list of rows"),
        (b"[\xff]", "not JSON: not UTF-8"),
        (b"", "no rows in it"),
        (b"[ ]", "no rows in it"),
    ],
)
def test_a_file_that_is_no_json_is_an_error_also_where_rows_may_be_skipped(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(UserError, match=f"rows.json: {message}"):
        pairs("mine", tmp_path / "rows.json", bad_rows="skip")


def test_files_and_folders_that_are_not_what_they_seem(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for path, file, message in (
        ("rows.parquet", "rows.parquet", "not a readable Parquet"),
        ("rows.txt", "rows.txt", "ends in .jsonl"),
        ("set", "set/state.json", "save_to_disk"),
    ):
        (tmp_path / file).write_text("hello")
        with pytest.raises(UserError, match=message):
            pairs("mine", tmp_path / path, bad_rows="skip")
        (tmp_path / file).unlink()
    with pytest.raises(UserError, match="has no JSONL, JSON, CSV or Parquet file"):
        pairs("mine", tmp_path)
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD))
    with pytest.raises(UserError, match="nowhere: no such folder; see `images`"):
        pairs("mine", tmp_path, images="nowhere")


def test_texts_of_a_parquet_file_need_not_be_utf_8(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pictures(tmp_path, "0.png")
    raw = pyarrow.array([b"fine", b"\xff", b"too"], pyarrow.binary())
    texts = pyarrow.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    rows = pyarrow.table({"id": ["a", "b", "c"], "image": ["0.png"] * 3, "question": texts})
    pyarrow.parquet.write_table(rows, tmp_path / "rows.parquet")
    skipped: Skipped = {}
    read = pairs("mine", tmp_path / "rows.parquet", skipped, bad_rows="skip")
    assert [pair.id for pair in read] == ["mine-a", "mine-c"]
    assert skipped == {"mine": {"not UTF-8": 1}}


def test_a_request_without_its_true_intent(tmp_path: Path) -> None:
    said = mm_safetybench("Fraud")
    folder = hub(tmp_path, {"Fraud": said | {"Text_only": said["Text_only"][:1]}})
    with pytest.raises(UserError, match="row 2: id: 1 has no question in the split Text_only"):
        pairs("mm_safetybench", folder)
    skipped: Skipped = {}
    assert len(pairs("mm_safetybench", folder, skipped, bad_rows="skip")) == 1
    assert skipped == {"mm_safetybench": {"no true intent": 1}}


# Stage I ---------------------------------------------------------------------


def damaged_set(folder: Path) -> Path:
    """Five rows: sound, no such picture, sound up to its header, sound, the first one again."""
    pictures(folder, "0.png", "1.png", "2.png")
    (folder / "1.png").write_bytes(png(1)[: len(png(1)) // 2])
    rows = [GOOD | {"id": i, "image": f"{name}.png"} for i, name in enumerate(["0", "gone", "1", "2", "0"])]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the picture of each pair was decoded to look for damage."""
    counts: Counter[str] = Counter()
    real = Pair.check_picture
    monkeypatch.setattr(Pair, "check_picture", lambda pair, _: counts.update([pair.id]) or real(pair))
    return counts


async def test_what_is_skipped_is_kept_and_alike_in_every_pass(tmp_path: Path, decoded: Counter[str]) -> None:
    settings = config({"name": "mine", "path": str(damaged_set(tmp_path / "data")), "bad_rows": "skip"})
    await build(settings, tmp_path / "run", Watched())
    assert [seed.meta["pair"] for seed in pool(tmp_path / "run", "benign")] == ["mine-0", "mine-3"]
    lost = {row["id"]: row["reason"] for row in dropped(tmp_path / "run") if row["kind"] is None}
    assert lost == {"mine-2": "unusable_picture", "mine-4": "duplicate_pair"}
    kept = json.loads((tmp_path / "run/seeds/plan.json").read_text())
    assert kept["skipped"] == {"mine": {"no such picture": 1, "unreadable picture": 1}}
    assert list(kept["broken"]) == ["mine-2"]
    (tmp_path / "run/seeds/benign.jsonl").unlink()  # goes on from the plan, and decodes nothing again
    decoded.clear()
    await build(settings, tmp_path / "run", transport := Watched())
    assert [seed.meta["pair"] for seed in pool(tmp_path / "run", "benign")] == ["mine-0", "mine-3"]
    assert not transport.calls and not decoded


async def test_seeds_carry_where_they_come_from(tmp_path: Path) -> None:
    rows = [row | {"id": i} for i, row in enumerate(GEOMETRY)]
    table(rows).to_parquet(tmp_path / "train.parquet")
    settings = config(
        {"name": "geometry3k", "path": str(tmp_path / "train.parquet"), "use": "bench"},
        {"name": "sandbox", "limit": 2},
    )
    await build(settings, tmp_path / "run")
    first, *_, last = pool(tmp_path / "run", "benign")
    facts = {"pair": "geometry3k-train-0", "question": "Find x in figure 0.", "use": "bench"}
    assert facts.items() <= first.meta.items()
    assert (first.meta["question_safe"], first.meta["answer"]) == (True, "0.5")
    assert first.images == [f"images/{first.meta['picture']}.png"]
    assert (last.meta["pair"], last.meta["use"]) == ("sandbox-00001", "train")


def test_preflight_and_stage_1_decode_each_picture_once(tmp_path: Path, decoded: Counter[str]) -> None:
    """A second run looks for itself."""
    settings = seeds_run.config(path=write_pairs(tmp_path / "data", {}, {}, {}), kinds=["benign"])
    for number in (1, 2):
        pipeline.run_stage("seeds", settings, tmp_path / f"run{number}", Quiet())
        assert len(pool(tmp_path / f"run{number}", "benign")) == 3
        assert decoded == {f"mine-p{index}": number for index in range(3)}


def test_a_damaged_picture_is_left_out_or_an_error_as_the_source_says(tmp_path: Path) -> None:
    """The last error did not come where the same pictures had been looked at with `bad_rows: skip`."""
    path = damaged_set(tmp_path / "data")
    settings = config({"name": "mine", "path": str(path), "bad_rows": "skip"})
    found = preflight._survey_sources(settings)
    assert list(found.broken) == ["mine-2"]
    assert found.skipped == {"mine": {"no such picture": 1, "unreadable picture": 1}}
    assert dry_run._source(settings, 0) == f"mine, {path}: 4 pairs; mine: 1 left out (1 no such picture)"
    strict = config({"name": "mine", "path": str(path), "bad_rows": "error"})
    with pytest.raises(UserError, match=r"rows.jsonl:2: image: .*gone.png"):
        preflight._survey_sources(strict)
    (tmp_path / "data/gone.png").write_bytes(png())
    assert list(preflight._survey_sources(settings).broken) == ["mine-2"]
    with pytest.raises(UserError, match=r"rows.jsonl:3: image: .*1.png: not a readable PNG"):
        preflight._survey_sources(strict)
    (tmp_path / "data/gone.png").write_bytes(png()[:-30])
    both = r"rows.jsonl:2: image: .*gone.png: not a readable.*; mine: .*rows.jsonl:3: image: .*1.png: not a"
    with pytest.raises(UserError, match=both):
        preflight._survey_sources(strict)


def test_a_set_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": 1, "img": "0.png"}\n{"id": 2, "img": "0.png"}\n')
    message = r"seeds.sources: mine: 2 left out \(2 unknown column\): no pair is left of it"
    with pytest.raises(UserError, match=message):
        identity.survey(config({"name": "mine", "path": str(tmp_path / "rows.jsonl"), "bad_rows": "skip"}))


async def test_a_pair_of_the_bench_does_not_give_way_to_the_same_pair_for_training(tmp_path: Path) -> None:
    """Whichever source stands first, so that assembly can keep the training one out."""
    known = GOOD | {"safe": True, "answer": "a ring"}
    rows = [json.dumps(known | {"id": i, "question": f"what is it, {i}?"}) + "\n" for i in range(2)]
    for name in ("train", "held"):
        pictures(tmp_path / name, "0.png")
        (tmp_path / name / "rows.jsonl").write_text("".join(rows))
    sources = [
        {"name": "mine", "path": str(tmp_path / "train/rows.jsonl")},
        {"name": "held", "path": str(tmp_path / "held/rows.jsonl"), "use": "bench"},
    ]
    settings = config(*sources)
    assert identity.survey(settings).repeated == {}

    def alike(job: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
        script = {"turns": ["where is it kept?", "who keeps it there?"]}
        return ChatReply(json.dumps(script)) if job == "benign" else None

    await build(settings, tmp_path / "run", Watched(alike))
    assert {seed.meta["use"] for seed in pool(tmp_path / "run", "benign")} == {"train", "bench"}
    assert {row["kind"] for row in dropped(tmp_path / "run")} == {"benign"}  # the second of each use


def test_one_set_given_twice_is_an_error(tmp_path: Path) -> None:
    path = hub(tmp_path, {"default": {"train": GEOMETRY, "test": GEOMETRY}})
    source = {"name": "geometry3k", "path": str(path)}
    with pytest.raises(UserError, match=r"geometry3k-train-000000 occurs twice.*differ in split"):
        identity.survey(config(source, source))
    assert identity.survey(config(source, source | {"split": "test"})).pairs == 6


# The draw --------------------------------------------------------------------


def test_a_limit_draws_seeded_in_the_order_of_the_set_and_counts_sound_rows_alone(tmp_path: Path) -> None:
    pictures(tmp_path, "0.png")
    rows = [GOOD | {"id": i, "image": "gone.png" if i % 3 == 0 else "0.png"} for i in range(60)]
    path = tmp_path / "rows.json"

    def drawn(limit: int, seed: int = 0) -> list[str]:
        path.write_text(json.dumps(rows))
        settings = config({"name": "mine", "path": str(path), "bad_rows": "skip", "limit": limit}, seed=seed)
        skipped: Skipped = {}
        found = [pair.id for pair in load_pairs(settings, skipped)]
        assert skipped == {"mine": {"no such picture": 20}}
        return found

    ten = drawn(10)
    assert len(ten) == 10
    assert ten == sorted(ten, key=lambda id: int(id[5:])) == drawn(10)
    assert set(ten) < set(drawn(20)) and drawn(20) != drawn(20, seed=1)
    assert len(drawn(100)) == 40
    assert max(int(id[5:]) for id in ten) > 20  # not the first ten
    rows.reverse()
    assert drawn(10) == ten[::-1]


def test_the_sandbox_goes_on_with_a_larger_limit() -> None:
    few, many = pairs("sandbox", limit=4), pairs("sandbox", limit=8)
    assert [(pair.id, pair.question) for pair in few] == [(pair.id, pair.question) for pair in many[:4]]


def test_the_command_line_names_a_set_that_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({"seeds": {"sources": [{"name": "xstest", "path": "x"}]}}))
    done = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    line = "error: seeds.sources: xstest is a suite for the bench, not a source of pairs;"
    assert done.stderr.splitlines()[-1] == f"{line} see `safer-steer suite xstest`"
