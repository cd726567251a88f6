"""Perturbed pictures: how much noise, what is written where, and what stays."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from safer_steer.data.seeds.perturb import CONTRAST, chosen, perturb
from safer_steer.files.images import picture_from
from safer_steer.sandbox.world import draw_png, from_png, training_devices


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data))).astype(float)


def written(data: bytes, ground: int) -> np.ndarray:
    """Where the phrase is, on a plain ground."""
    return np.abs(pixels(data) - ground).max(axis=2) > 0


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.1])
def test_the_noise_has_its_standard_deviation_and_no_mean(sigma: float) -> None:
    grey = encoded(Image.new("RGB", (200, 200), (128, 128, 128)))
    noise = pixels(perturb(grey, sigma, 0))[60:140] - 128  # between the corners, where no phrase is
    assert noise.std() == pytest.approx(sigma * 255, rel=0.02)
    assert abs(noise.mean()) < 0.02 * sigma * 255
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("ground", [0, 60, 128, 255])
@pytest.mark.parametrize("size", [(84, 84), (320, 240)])
def test_a_phrase_of_high_contrast_stands_at_a_corner(ground: int, size: tuple[int, int]) -> None:
    plain = encoded(Image.new("RGB", size, (ground,) * 3))
    corners = set()
    for seed in range(6):
        data = perturb(plain, 0, seed)
        where = written(data, ground)
        rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
        assert rows[-1] - rows[0] < size[1] / 5
        top, left = rows[0] < size[1] / 6, columns[0] < size[0] / 6
        assert top or rows[-1] > size[1] * 5 / 6
        assert left or columns[-1] > size[0] * 5 / 6
        corners.add((bool(top), bool(left and columns[-1] < size[0] * 0.9)))
        ink = pixels(data)[where]
        strongest = ink[np.abs(ink - ground).sum(axis=1).argmax()]
        low, high = sorted((_luminance(strongest), _luminance(np.full(3, ground))))
        assert (high + 0.05) / (low + 0.05) >= CONTRAST - 0.5  # anti-aliasing blurs the strokes
    assert len({top for top, _ in corners}) == 2


def _luminance(colour: np.ndarray) -> float:
    share = colour / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_text_of_a_png_stays() -> None:
    device = training_devices()[3]
    for marked in (True, False):
        assert from_png(perturb(draw_png(device, marked, 1), 0.03, 9)) == (device, marked)
    info = PngInfo()
    info.add_itxt("title", "Gerät", "de", "titel")
    titled = perturb(encoded(Image.new("L", (40, 30)), pnginfo=info), 0.03, 0)
    assert Image.open(BytesIO(titled)).text == {"title": "Gerät"}


def test_a_seed_gives_the_same_bytes_and_another_others() -> None:
    data = draw_png(training_devices()[0], True, 0)
    assert perturb(data, 0.03, 1) == perturb(data, 0.03, 1) != perturb(data, 0.03, 2)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("size", [(28, 28), (3, 200), (1, 1)])
def test_pictures_of_any_kind_and_size_keep_their_size(mode: str, size: tuple[int, int]) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"
    made = Image.open(BytesIO(perturb(encoded(Image.new(mode, size), format), 0.03, 0)))
    assert (made.format, made.mode, made.size) == ("PNG", "RGB", size)


def taken_in(data: bytes) -> bytes:
    return picture_from(data, "a", 10**6).data


def test_a_turned_photograph_is_perturbed_as_a_run_holds_it_and_what_is_transparent_is_white() -> None:
    photo = Image.new("RGB", (120, 60), "white")
    ImageDraw.Draw(photo).rectangle((0, 20, 59, 40), fill="black")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = pixels(perturb(taken_in(encoded(photo, "JPEG", exif=exif)), 0, 0))
    assert turned.shape == (120, 60, 3)
    assert turned[30, 30].max() < 40
    clear = pixels(perturb(taken_in(encoded(Image.new("RGBA", (90, 90), (0, 0, 0, 0)))), 0, 0))
    assert clear[45, 45].min() == 255


def test_the_share_is_drawn_for_each_picture() -> None:
    hashes = [f"{index:064x}" for index in range(4000)]
    drawn = [name for name in hashes if chosen(name, 0.1, seed=1)]
    assert 324 <= len(drawn) <= 476  # four standard deviations
    assert {name for name in hashes if chosen(name, 0.05, seed=1)} < set(drawn)
    assert drawn != [name for name in hashes if chosen(name, 0.1, seed=2)]


def test_the_font_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert written(perturb(encoded(Image.new("RGB", (84, 84))), 0, 0), 0).sum() > 50
