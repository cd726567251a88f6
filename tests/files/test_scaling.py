"""Photographs are large: a run scales them once, all see the same pixels, and the original is known again."""

import asyncio
import base64
import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from assembly_run import left_out
from display import safer_steer
from endpoint_server import EndpointServer, says
from photographs import RED, TEAL, photograph, raw_png
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import read_suites
from safer_steer.config import Bench, Config
from safer_steer.data.assembly.build import assemble
from safer_steer.data.seeds.build import build_seeds
from safer_steer.dialogue import read_seeds
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.files import scaling
from safer_steer.files.images import PictureError, check_whole, load_picture, picture_from
from safer_steer.files.scaling import fitted
from safer_steer.plan import dry_run
from safer_steer.run import preflight
from safer_steer.sandbox.world import draw, from_png, to_png, training_devices
from safer_steer.student.assistant import open_images
from seeds_run import Watched, build, dropped, pool

MOST = 1_048_576
"""What `student.max_pixels` is unless a config says otherwise."""
SMALL = (1182, 886)
"""What a photograph becomes then."""


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


# One picture -----------------------------------------------------------------


def test_a_photograph_is_scaled_down_in_its_own_format_and_the_same_way_each_time() -> None:
    data = photograph()
    first, again = (picture_from(data, "a.jpg", MOST) for _ in range(2))
    assert opened(first.data).size == SMALL and opened(first.data).format == "JPEG"
    assert first.data == again.data != data
    assert first.mime == "image/jpeg"
    assert first.original == picture_from(data, "a.jpg", 3_000_000).sha256 != first.sha256
    assert picture_from(first.data, "a.jpg", MOST).data == first.data  # and never again


def near(pixel: Any, wanted: tuple[int, int, int]) -> bool:
    return all(abs(one - other) < 24 for one, other in zip(pixel[:3], wanted, strict=True))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(400, 300), (300, 400)])
def test_it_stands_upright_for_everybody(orientation: int, size: tuple[int, int]) -> None:
    """An endpoint may or may not heed the EXIF orientation; the student's trainers do."""
    picture = picture_from(photograph(size, orientation=orientation), "a.jpg", 30_000)
    assert opened(picture.data).getexif().get(0x0112) is None
    (seen,) = open_images([picture])
    assert seen.size == opened(picture.data).size == ((200, 150) if size == (400, 300) else (150, 200))
    assert near(seen.getpixel((5, 5)), RED) and near(seen.getpixel((5, seen.height - 5)), TEAL)


@pytest.mark.parametrize(
    ("type", "value"),
    [(2, b"6\0\0\0"), (7, b"\0\6\0\0"), (3, b"\0\x63\0\0"), (11, struct.pack(">f", 6))],
    ids=["ASCII", "UNDEFINED", "99", "FLOAT"],
)
def test_an_orientation_that_is_none_turns_nothing_and_goes(type: int, value: bytes) -> None:
    entry = struct.pack(">HHHI", 1, 0x0112, type, 1 if type in (3, 11) else 2) + value
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08" + entry + bytes(4)
    file = BytesIO()
    opened(photograph((400, 300))).save(file, "JPEG", exif=exif)
    picture = picture_from(file.getvalue(), "a.jpg", MOST)
    assert opened(picture.data).size == (400, 300) and opened(picture.data).getexif().get(0x0112) is None
    sizes: list[tuple[int, int]] = []

    class Trial:
        max_pixels = MOST

        def __call__(self, size: tuple[int, int], called: str) -> None:
            sizes.append(size)

    assert check_whole(file.getvalue(), trial=Trial()) == "image/jpeg" and sizes == [(400, 300)]


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        *(("JPEG", mode) for mode in ("L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        ("MPO", "RGB"),
    ],
)
def test_formats_and_colours(format: str, mode: str) -> None:
    large = given = photograph((400, 300), format, mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        file = BytesIO()
        opened(large).convert("I").point(lambda value: value * 257).convert("I;16").save(file, "PNG")
        given = file.getvalue()
    picture = picture_from(given, "a", 30_000)
    assert opened(picture.data).size == (200, 150)
    assert opened(picture.data).format == ("JPEG" if format == "MPO" else format)
    (before, after) = (
        opened(data).convert("RGB").resize((20, 15), Image.Resampling.BOX) for data in (large, picture.data)
    )
    assert all(
        near(one, other)
        for one, other in zip(before.get_flattened_data(), after.get_flattened_data(), strict=True)
    )


def test_what_is_transparent_is_white_for_everybody() -> None:
    file = BytesIO()
    Image.new("P", (400, 300)).save(file, "PNG", transparency=0)
    assert opened(picture_from(file.getvalue(), "a", 30_000).data).getpixel((9, 9)) == (255, 255, 255)


def small(mode: str, format: str, **options: Any) -> bytes:
    """A picture that needs no scaling: red at the top left, teal elsewhere."""
    image = Image.new("RGB", (60, 40), TEAL)
    image.paste(RED, (0, 0, 20, 20))
    file = BytesIO()
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    image.save(file, format, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def deep_colours() -> bytes:
    """The same as a PNG of 16 bits a channel, which Pillow reads and cannot write."""
    red, teal = (struct.pack(">3H", *(value * 257 for value in colour)) for colour in (RED, TEAL))
    rows = b"".join(b"\0" + (red * 20 + teal * 40 if y < 20 else teal * 60) for y in range(40))
    return raw_png((60, 40), 16, rows)


def clear() -> bytes:
    """Transparent where it is not red; the colour below is black."""
    image = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 20, 20))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def animated(format: str) -> bytes:
    file = BytesIO()
    first, second = (Image.new("RGB", (60, 40), colour) for colour in (TEAL, "white"))
    first.paste(RED, (0, 0, 20, 20))
    first.save(file, format, save_all=True, append_images=[second], duration=100, quality=95)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "ground"),
    [
        (small("RGB", "JPEG", quality=95, exif=turned(6)), TEAL),
        (small("RGB", "PNG", exif=turned(3)), TEAL),
        (small("RGB", "WEBP", quality=95, exif=turned(8)), TEAL),
        (small("CMYK", "JPEG", quality=95), TEAL),
        (small("P", "PNG"), TEAL),
        (deep_colours(), TEAL),
        (clear(), (255, 255, 255)),
        (animated("WEBP"), TEAL),
        (animated("PNG"), TEAL),
    ],
    ids=["turned JPEG", "turned PNG", "turned WebP", "CMYK", "palette", "16 bits", "clear", "WebP", "APNG"],
)
def test_a_picture_that_needs_no_scaling_is_the_same_for_everybody_too(
    data: bytes, ground: tuple[int, int, int]
) -> None:
    """Endpoint, page and student differ in what they make of EXIF data, inks, 16 bits and transparency."""
    picture = picture_from(data, "a", 10**6)
    assert picture.original == hashlib.sha256(data).hexdigest() != picture.sha256
    stored = opened(picture.data)
    assert stored.mode == "RGB" and not stored.has_transparency_data
    assert stored.getexif().get(0x0112) is None and not getattr(stored, "is_animated", False)
    colours = Counter(stored.convert("RGB").get_flattened_data())
    assert sum(count for colour, count in colours.items() if near(colour, RED)) == pytest.approx(400, abs=80)
    assert sum(count for colour, count in colours.items() if near(colour, ground)) > 1800
    (seen,) = open_images([picture])
    assert seen.tobytes() == stored.tobytes()
    assert picture_from(picture.data, "a", 10**6).data == picture.data, "and never again"


def test_where_the_red_square_is_after_a_turn() -> None:
    for orientation, corner in ((6, (35, 5)), (3, (55, 35)), (8, (5, 55))):
        (seen,) = open_images([picture_from(small("RGB", "PNG", exif=turned(orientation)), "a", 10**6)])
        assert seen.size == ((60, 40) if orientation == 3 else (40, 60))
        assert near(seen.getpixel(corner), RED)


def test_a_colour_profile_that_no_longer_holds_is_left_out() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode, kept in (("CMYK", False), ("RGB", True)):
        data = small(mode, "JPEG", icc_profile=profile, exif=turned(3))
        assert bool(opened(picture_from(data, "a", 10**6).data).info.get("icc_profile")) is kept


@given(st.integers(1, 70_000), st.integers(1, 70_000), st.integers(784, 2_000_000))
def test_the_shape_is_kept_within_the_bound(width: int, height: int, most: int) -> None:
    wide, high = fitted(width, height, most)
    assert 1 <= wide <= width and 1 <= high <= height
    assert wide * high <= most
    if width * height <= most:
        assert (wide, high) == (width, height)
    elif min(wide, high) > 1:
        assert abs(wide - high * width / height) <= 1 + width / height  # to the pixel of the rounding
        assert (wide + 1) * (high + 1) > most


def test_a_strip_keeps_a_pixel_of_its_height() -> None:
    assert opened(picture_from(photograph((30_000, 9), "PNG"), "a", 1000).data).size == (1000, 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_the_preflight_finds_what_scaling_would_find(format: str) -> None:
    """Though it decodes a JPEG at an eighth of its size."""
    data = photograph((800, 600), format)
    for cut in (len(data) * 3 // 4, len(data) - 200, len(data) - 2, len(data)):
        verdicts = []
        for look in (
            check_whole,
            lambda part: picture_from(part, "a", 30_000),
            lambda part: picture_from(part, "a", MOST),
        ):
            try:
                look(data[:cut])
                verdicts.append("")
            except PictureError as error:
                verdicts.append(error.reason)
        assert len(set(verdicts)) == 1, (cut, verdicts)
        assert bool(verdicts[0]) is (cut < len(data) - 2) or cut == len(data) - 2


# Stage I ---------------------------------------------------------------------


class Looking(Watched):
    """The sandbox's agents; the sizes of the pictures each job was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, set[tuple[int, int]]] = {}

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        reply = await super().complete(messages, schema, repeat)
        for message in messages:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image_url":
                    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    self.shown.setdefault(self.calls[-1][0], set()).add(opened(data).size)
        return reply


def large_device(number: int = 0) -> bytes:
    """A picture of the sandbox, 1,400 x 1,400 pixels."""
    device = training_devices()[number]
    return to_png(draw(device, True, number).resize((1400, 1400)), device, True)


def source(folder: Path, pictures: dict[str, bytes], use: str = "train", **keys: Any) -> dict[str, Any]:
    folder.mkdir(parents=True)
    rows = [{"id": name, "image": name, "question": f"what is it in {name}?"} | keys for name in pictures]
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": folder.name, "path": str(folder / "rows.jsonl"), "use": use}


def settings(*sources: dict[str, Any], **seeds: Any) -> Config:
    keys = {
        "seeds": {"sources": list(sources)} | seeds,
        "assembly": {"rules": False},
        "rl": {"seeds": 1, "benign_share": 1},
    }
    return Config.model_validate(keys)


def answering(answer: Callable[[], str]) -> ChatModel:
    return ChatModel("generator", Config().role("generator"), Watched(lambda *_: ChatReply(answer())))


async def test_all_who_work_in_stage_1_see_the_scaled_picture(tmp_path: Path) -> None:
    config = settings(source(tmp_path / "mine", {"0.png": large_device()}), perturb_share=1, max_turns=4)
    config.student.max_pixels = 10**6
    looking = Looking()
    preflight._survey_sources(config)
    await build(config, tmp_path / "run", looking)
    assert {"probe", "caption", "attack_judge", "target"} <= set(looking.shown)
    assert set.union(*looking.shown.values()) == {(1000, 1000)}
    seeds = [*pool(tmp_path / "run", "benign"), *pool(tmp_path / "run", "red_team")]
    assert {
        opened((tmp_path / "run" / image).read_bytes()).size for seed in seeds for image in seed.images
    } == {(1000, 1000)}
    assert {from_png((tmp_path / "run" / seed.images[0]).read_bytes())[0].name for seed in seeds} == {
        training_devices()[0].name
    }
    original = picture_from(large_device(), "", 10**7).sha256[:16]
    assert {seed.meta["picture"] for seed in seeds} == {original}
    assert {seed.meta["original"] for seed in seeds} == {f"images/{original}.png"}


async def test_a_photograph_in_a_source(tmp_path: Path) -> None:
    pictures = {
        "a.jpg": photograph(),
        "b.jpg": photograph(number=1),
        "c.jpg": photograph((80, 60)),
        "same.jpg": photograph(),
    }
    config = settings(source(tmp_path / "spa", pictures, safe=True, answer="rings"), kinds=["benign"])
    generator = answering(lambda: json.dumps({"turns": ["what is on it?", "and what below?"]}))
    [said] = await build_seeds(config, tmp_path / "run", lambda _: generator, None)  # type: ignore[arg-type]  # no target is asked
    assert said == "spa: 2 pictures scaled down to 1,048,576 pixels"
    assert dry_run._source(config, 0).endswith(f"4 pairs; {said}")
    assert json.loads((tmp_path / "run/seeds/plan.json").read_text())["scaled"] == {"spa": 2}
    sizes = {
        opened((tmp_path / "run" / seed.images[0]).read_bytes()).size
        for seed in pool(tmp_path / "run", "benign")
    }
    assert sizes == {SMALL, (80, 60)}
    [again] = await build_seeds(config, tmp_path / "run", lambda _: generator, None)  # type: ignore[arg-type]
    assert again == said


# The bench -------------------------------------------------------------------


def suite(folder: Path, pictures: dict[str, bytes], name: str = "mine") -> Path:
    """Attack scripts of two turns on two pictures each."""
    folder.mkdir(parents=True, exist_ok=True)
    for image, data in pictures.items():
        (folder / image).write_bytes(data)
    script = {"kind": "red_team", "images": list(pictures)}
    rows = [
        script | {"id": str(n), "turns": [{"user": f"hello {n}"}, {"user": "and now?"}]} for n in range(2)
    ]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PICTURES = {"a.jpg": photograph(), "b.png": photograph((40, 30), "PNG")}


async def test_a_photograph_in_a_suite_needs_no_option(tmp_path: Path) -> None:
    path, out = suite(tmp_path / "suite", PICTURES), tmp_path / "run"
    verdict = json.dumps({"harmlessness": 3, "helpfulness": 3, "refused": False, "reason": "fine"})
    async with (
        EndpointServer(always=says("I see rings.")) as model,
        EndpointServer(always=says(verdict)) as judge,
    ):
        command = ["bench", "--model", "m", "--base-url", model.url, "--suite", str(path), "--out", str(out)]
        command += ["--judge-model", "j", "--judge-base-url", judge.url]
        done = await asyncio.to_thread(safer_steer, *command)
    assert done.exit_code == 0, done.output
    assert "bench: mine: 1 picture scaled down to 1,048,576 pixels\n" in done.stderr
    copy = (out / "suites/mine/a.jpg").read_bytes()
    assert opened(copy).size == SMALL and (out / "suites/mine/b.png").read_bytes() == PICTURES["b.png"]
    sent = base64.b64encode(copy).decode()
    assert model.calls == judge.calls == 5, "four turns, and the check before them"
    assert all(sent in json.dumps(body) for body in (*model.bodies[1:], *judge.bodies[1:]))
    assert load_picture(out, "suites/mine/a.jpg", MOST).data == copy  # what the student and its trainers open


def test_a_picture_is_scaled_once_however_often_the_bench_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, scaled = suite(tmp_path / "suite", PICTURES), []
    real = scaling.normalised
    monkeypatch.setattr(
        scaling, "normalised", lambda picture, most, bare: scaled.append(most) or real(picture, most, bare)
    )
    read_suites([str(path)])  # the preflight
    assert scaled == []
    first, again = (bring_in([str(path)], tmp_path / "run", None, 10**6 - 1) for _ in range(2))
    assert scaled == [10**6 - 1] and again == first
    assert first[0].scaled == 1
    (tmp_path / "suite/a.jpg").write_bytes(photograph(number=2))
    bring_in([str(path)], tmp_path / "run", None, 10**6 - 1)
    assert len(scaled) == 2
    wanted = picture_from(photograph(number=2), "", 10**6 - 1)
    assert (tmp_path / "run/suites/mine/a.jpg").read_bytes() == wanted.data
    (row, _) = read_seeds(tmp_path / "run/suites/mine/mine.jsonl")
    assert row.meta == {"scaled_from": {"a.jpg": wanted.original[:16]}}


def test_scaled_down_is_said_only_of_what_was(tmp_path: Path) -> None:
    path = suite(tmp_path / "suite", {"turned.png": small("RGB", "PNG", exif=turned(6))})
    for _ in range(2):  # the second time, the copy is there
        (mine,) = bring_in([str(path)], tmp_path / "run", None, MOST)
        assert mine.scaled == 0
        assert mine.seeds[0].meta["scaled_from"].keys() == {"turned.png"}
    assert opened((tmp_path / "run/suites/mine/turned.png").read_bytes()).size == (40, 60)


def test_the_plan_says_what_will_be_scaled_in_a_suite(tmp_path: Path) -> None:
    path = suite(tmp_path, PICTURES)
    config = Config(bench=Bench(suites=[str(path)]))
    assert (
        dry_run._suite(str(path), config)
        == "2 dialogues, multi_turn; 1 picture scaled down to 1,048,576 pixels"
    )


def test_a_suite_made_from_a_set_keeps_the_photograph_for_the_run_to_scale(tmp_path: Path) -> None:
    given = source(tmp_path / "mine", {"a.jpg": photograph()})
    done = safer_steer("suite", "mine", "--path", given["path"], "--out", tmp_path / "made.jsonl")
    assert done.exit_code == 0, done.output
    (script,) = read_seeds(tmp_path / "made.jsonl")
    assert (tmp_path / script.images[0]).read_bytes() == photograph()


# Known again -----------------------------------------------------------------


async def test_one_photograph_in_training_and_bench_is_known_as_the_same(tmp_path: Path) -> None:
    """Wherever the bench has it: in a source, in a suite's file, or in the scaled copy that another run took
    in."""
    keys = {"safe": True, "answer": "rings"}
    pictures = {f"{number}.jpg": photograph(number=number) for number in range(4)}
    train = source(tmp_path / "train", pictures, **keys)
    held = source(tmp_path / "held", {"x.jpg": photograph(number=3)}, use="bench", **keys)
    original = suite(tmp_path / "suite", {"large.jpg": photograph()}, "original")
    bring_in([str(original)], tmp_path / "other", None, MOST)
    copy = tmp_path / "other/suites/original/original.jsonl"
    assert opened((copy.parent / "large.jpg").read_bytes()).size == SMALL

    config = settings(train, held, kinds=["benign"])
    words = iter(
        f"where is the {word} of it kept?" for word in ("first", "second", "third", "fourth", "fifth")
    )
    generator = answering(lambda: json.dumps({"turns": [next(words), "go on"]}))
    await build_seeds(config, tmp_path / "run", lambda _: generator, None)  # type: ignore[arg-type]
    for file in (original, copy):
        await assemble(config, tmp_path / "run", lambda _: generator, [file])
        leaks = {
            id: row["reason"]
            for id, row in left_out(tmp_path / "run").items()
            if row["reason"].startswith("leak")
        }
        assert leaks == {"train-0.jpg-benign": "leak_picture", "train-3.jpg-benign": "leak_picture"}


async def test_a_question_on_one_photograph_twice_is_one_pair(tmp_path: Path) -> None:
    pictures = {"a.jpg": photograph(), "b.jpg": photograph()}
    train = source(tmp_path / "mine", pictures, safe=True, answer="rings", question="what is it?")
    generator = answering(lambda: json.dumps({"turns": ["one?", "two?"]}))
    await build_seeds(settings(train, kinds=["benign"]), tmp_path / "run", lambda _: generator, None)  # type: ignore[arg-type]
    assert [row["reason"] for row in dropped(tmp_path / "run")] == ["duplicate_pair"]
