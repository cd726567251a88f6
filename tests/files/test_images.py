"""Pictures: what is let through, what is refused with one line, and that each is read once."""

import base64
import hashlib
import json
import os
from itertools import product
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from photographs import bomb
from safer_steer.bench.suites import read_suites
from safer_steer.errors import UserError
from safer_steer.files import images, scaling
from safer_steer.files.images import PictureError, check_whole, load_picture, picture_from
from safer_steer.student.assistant import open_images


def draw(path: Path, size: tuple[int, int] = (20, 10), colour: str = "teal", **options: object) -> Path:
    Image.new("RGB", size, colour).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mime"), [("a.png", "image/png"), ("a.jpg", "image/jpeg"), ("a.webp", "image/webp")]
)
def test_the_file_travels_as_it_is(tmp_path: Path, name: str, mime: str) -> None:
    data = draw(tmp_path / name).read_bytes()
    picture = load_picture(tmp_path, name, 200)
    assert (picture.name, picture.data, picture.mime, picture.sha256) == (
        name,
        data,
        mime,
        hashlib.sha256(data).hexdigest(),
    )
    head, _, body = picture.data_url.partition(",")
    assert head == f"data:{mime};base64"
    assert base64.b64decode(body) == data


def test_a_phone_s_jpeg_with_two_pictures_is_a_jpeg(tmp_path: Path) -> None:
    draw(tmp_path / "two.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (20, 10))])
    assert load_picture(tmp_path, "two.jpg", 200).mime == "image/jpeg"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_file_with_far_more_bytes_than_its_pixels_need_is_written_anew(tmp_path: Path, name: str) -> None:
    """Else every call would send them."""
    path = draw(tmp_path / name)
    whole = path.read_bytes()
    for more, rewritten in ((900_000, False), (2_000_000, True)):
        path.write_bytes(whole + bytes(more))
        picture = load_picture(tmp_path, name, 200)
        assert picture.original == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (picture.rewritten_from is not None) is rewritten is (len(picture.data) < 100_000)
    again = picture_from(picture.data, name, 200)
    assert again.data == picture.data and again.rewritten_from is None, "and it is stable"


def test_texts_and_profiles_of_a_padded_file_go(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("k", "x" * 2_000_000)
    for name, more in (("a.png", {"pnginfo": text}), ("a.jpg", {"icc_profile": os.urandom(2_000_000)})):
        draw(tmp_path / name, **more)
        picture = load_picture(tmp_path, name, 200)
        assert len(picture.data) < 1000 and picture_from(picture.data, name, 200).data == picture.data


@pytest.mark.parametrize("max_pixels", [200, 50])
def test_a_grey_picture_of_16_bits_keeps_its_greys(tmp_path: Path, max_pixels: int) -> None:
    """Converted to colours as it is, all but its darkest 256 greys are white."""
    deep = Image.new("I;16", (20, 10))
    for x, y in product(range(20), range(10)):
        deep.putpixel((x, y), x * 65_535 // 19)
    deep.save(tmp_path / "deep.png")
    picture = load_picture(tmp_path, "deep.png", max_pixels)
    assert picture.original == hashlib.sha256((tmp_path / "deep.png").read_bytes()).hexdigest()
    [seen] = open_images([picture])
    assert seen.size == ((20, 10) if max_pixels == 200 else (10, 5))
    greys = [seen.getpixel((x, 2)) for x in range(seen.width)]
    assert all(len(set(grey)) == 1 for grey in greys)
    wanted = [round(255 * x / 19) for x in range(20)]
    if max_pixels == 50:
        wanted = [(one + other) // 2 for one, other in zip(wanted[::2], wanted[1::2], strict=True)]
    assert [grey[0] for grey in greys] == pytest.approx(wanted, abs=3)


def test_read_and_encoded_once_until_the_file_changes(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png")
    first = load_picture(tmp_path, "a.png", 200)
    again = load_picture(tmp_path, "a.png", 200)
    assert again is first
    assert again.data_url is first.data_url
    draw(path, colour="red")
    assert load_picture(tmp_path, "a.png", 200).sha256 != first.sha256


def test_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_KEPT", 3)
    for number in range(6):
        draw(tmp_path / f"{number}.png")
        load_picture(tmp_path, f"{number}.png", 200)
    assert len(images._pictures) <= 3


def test_a_picture_that_left_the_memory_is_read_again_and_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_KEPT", 1)
    paths = [draw(tmp_path / f"{number}.png") for number in range(2)]
    first, _ = (load_picture(tmp_path, path.name, 200) for path in paths)
    with monkeypatch.context() as without:
        without.setattr(scaling, "decode", None)
        assert load_picture(tmp_path, "0.png", 200) == first
    load_picture(tmp_path, "1.png", 200)
    times = paths[0].stat()
    draw(paths[0], colour="red")
    os.utime(paths[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load_picture(tmp_path, "0.png", 200).sha256 != first.sha256, "others' bytes at the same time"


@pytest.mark.parametrize("side", [13_300, 60_000])
def test_a_decompression_bomb_is_told_from_the_header(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big.png").write_bytes(bomb(side))
    monkeypatch.setattr(scaling, "decode", None)  # nothing gets there
    for max_pixels in (200, 10**10):
        with pytest.raises(
            UserError, match=r"big\.png: .*larger than 175,000,000 pixels, the most that is decoded"
        ):
            load_picture(tmp_path, "big.png", max_pixels)
    with pytest.raises(UserError, match=r"the embedded picture: .*larger than 175,000,000 pixels"):
        check_whole(bomb(side))


def test_a_file_far_larger_than_any_picture_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file claims 6 GB and takes 4 kB of the disk."""
    path = draw(tmp_path / "a.png")
    os.truncate(path, 6_000_000_000)
    assert path.stat().st_blocks * 512 < 100_000
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read"))
    line = r"a\.png: larger than 525,000,000 bytes, the most that is read; scale it down"
    with pytest.raises(PictureError, match=line) as caught:
        load_picture(tmp_path, "a.png", 200)
    assert caught.value.reason == "picture too large"
    row = {"id": "a", "kind": "red_team", "images": ["a.png"], "turns": [{"user": "hello"}]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=rf"mine\.jsonl: a: .*{line}"):
        read_suites([str(tmp_path / "mine.jsonl")])


def test_missing_and_outside(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png: no such picture"):
        load_picture(tmp_path, "none.png", 200)
    draw(tmp_path / "secret.png")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="leads out of"):
        load_picture(tmp_path / "run", "../secret.png", 200)


def unreadable(path: Path, how: str) -> None:
    if how == "text":
        path.write_text("no picture")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.mkdir()
    elif how == "gif":
        draw(path, format="GIF")
    else:
        noise = Image.effect_noise((20, 10), 90)
        noise.save(path, format=how)
        path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize("how", ["text", "empty", "folder", "gif", "PNG", "JPEG", "WEBP"])
def test_unreadable_or_cut_short_names_the_file(tmp_path: Path, how: str) -> None:
    unreadable(tmp_path / "bad.png", how)
    with pytest.raises(UserError, match=r"bad\.png: not a readable PNG, JPEG or WebP") as caught:
        load_picture(tmp_path, "bad.png", 200)
    assert "\n" not in str(caught.value)
