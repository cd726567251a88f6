"""Words drawn into pictures: what is drawn, how large it gets, and what is not drawn."""

from __future__ import annotations

import json
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from safer_steer.config import Role
from safer_steer.config.typographic import MOST_CHARACTERS, Layout, Lettering, Typographic
from safer_steer.data.bootstrap.rollout import RedAgent
from safer_steer.data.typographic import (
    ITEMS,
    MOST_HEIGHT,
    Undrawable,
    draw,
    drawn_picture,
    in_parts,
    keep,
    legible,
)
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import ChatReply
from safer_steer.episode import Reply, play
from safer_steer.files.images import picture_from
from safer_steer.metrics import modality
from safer_steer.sandbox.language import understand
from safer_steer.sandbox.world import devices, draw_png, from_png, words_in
from seeds_run import KINDS, Watched, build, config, contents, pool

QUESTION = "Thank you. Tell me the first step."


def ink(words: str, lettering: Lettering) -> np.ndarray:
    """Where the picture is not its ground."""
    return np.asarray(draw(words, lettering)).astype(int).sum(axis=2) < 3 * 255


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  what \t is\r\n\r\nit? ", "what is\nit?"),
        ("\x00\x1b[31mred\x07 \u202ebackwards\u200b", "[31mred backwards"),
        ("../../etc/passwd <script>alert(1)</script>", "../../etc/passwd <script>alert(1)</script>"),
        ("naïve – “so” … ½ ﬁne", "naive - “so” … 1/2 fine"),
        ("half of a pair \ud800", "half of a pair ?"),
        ("<|im_end|>", "<|im_end|>"),
        ("x" * MOST_CHARACTERS, "x" * MOST_CHARACTERS),
    ],
)
def test_what_the_picture_shows(text: str, shown: str) -> None:
    assert legible(text) == legible(legible(text)) == shown.replace("…", "...")
    assert ink(legible(text), Lettering()).any()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("日本語", r"the font has no '\u65e5'"),
        ("😀 and more", r"the font has no '\U0001f600'"),
        (" \n\x00\u200b", "no words"),
        ("x" * 10_000, "more than 600 characters"),
        ("x " * 301 + "x", "more than 600 characters"),
    ],
)
def test_what_cannot_be_drawn_says_why(text: str, why: str) -> None:
    with pytest.raises(Undrawable) as raised:
        legible(text)
    assert str(raised.value) == why


@given(text=st.text(max_size=900), size=st.sampled_from([8, 28, 96]))
@settings(max_examples=60, deadline=None)
def test_any_text_is_a_bounded_picture_or_is_not_drawn(text: str, size: int) -> None:
    lettering = Lettering(size=size, width=768)
    try:
        words = legible(text)
        data = drawn_picture(words, lettering)
    except Undrawable:
        return
    image = Image.open(BytesIO(data))
    assert image.width == 768 and image.height <= MOST_HEIGHT
    assert words_in(data) == words and len(words) <= MOST_CHARACTERS


def test_lines_are_as_wide_as_the_picture_and_a_longer_word_is_broken() -> None:
    where = ink("W" * MOST_CHARACTERS, Lettering())
    columns = np.flatnonzero(where.any(axis=0))
    assert columns[0] >= 14 and columns[-1] < 640 - 14 and columns[-1] > 560
    with pytest.raises(Undrawable, match="more than 2048 pixels high"):
        draw("W" * MOST_CHARACTERS, Lettering(size=96, width=768))


def test_the_same_words_and_lettering_give_the_same_bytes() -> None:
    styles = [Lettering(), Lettering(size=40), Lettering(ink="#ff0000"), Typographic(layout="list")]
    twice = [[sha256(drawn_picture(QUESTION, style)).hexdigest() for style in styles] for _ in range(2)]
    assert twice[0] == twice[1] and len(set(twice[0])) == len(styles)
    red = np.asarray(draw("a", Lettering(ink="#ff0000", ground="#0000ff"))).reshape(-1, 3)
    assert {(255, 0, 0), (0, 0, 255)} <= set(map(tuple, red.tolist()))


@pytest.mark.parametrize("layout", ["whole", "split", "list"])
def test_text_and_picture_together_are_the_question(layout: Layout) -> None:
    said, words = in_parts(QUESTION, layout)
    request = understand(f"{said} {words}")
    assert request == understand(QUESTION) and request and request.form == "step"
    assert words == ("me the first step." if layout == "split" else QUESTION)
    assert ("Tell" in said) == (layout == "split")
    plain, styled = (draw(words, style) for style in (Lettering(), Typographic(layout=layout)))
    assert styled.height - plain.height == (ITEMS * 35 if layout == "list" else 0)


def test_below_a_picture_its_pixels_and_its_text_stay() -> None:
    data = draw_png(devices()[3], True, 1)
    for width in (128, 640):
        below = drawn_picture("a", Lettering(width=width, size=16), picture_from(data, "p", 10**6))
        image, original = (np.asarray(Image.open(BytesIO(one))) for one in (below, data))
        left = (width - 84) // 2
        assert (image[:84, left : left + 84] == original).all() and image.shape[1] == width
        assert from_png(below) == (devices()[3], True) and words_in(below) == "a"


def test_a_picture_is_kept_by_its_hash_in_its_folder(tmp_path: Path) -> None:
    data = drawn_picture("../../up", Lettering())
    names = {keep(data, tmp_path, "shown/") for _ in range(2)}
    assert names == {f"shown/{sha256(data).hexdigest()[:16]}.png"}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / names.pop()]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 96}, "letters of 96 pixels need a width of 768, not 640"),
        ({"ink": "#FFFFFF"}, "ink and ground are both #FFFFFF"),
        ({"ink": "red"}, "should match pattern"),
        ({"font": "x.ttf"}, "Extra inputs are not permitted"),
    ],
)
def test_a_lettering_that_nobody_could_read_is_an_error(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Lettering.model_validate(given)
    assert Lettering.model_validate(True) == Lettering()


@pytest.mark.parametrize(
    ("place", "turn", "found"),
    [
        (1, {}, "picture"),
        (2, {}, "text"),
        (2, {"images": ["q.png"]}, "picture"),
        (2, {"images": ["q.png"], "meta": {"in_picture": "a"}}, "text_in_picture"),
        (1, {"meta": {"in_picture": "a"}}, "text_in_picture"),
    ],
)
def test_the_modality_of_a_turn_is_by_what_it_brings(place: int, turn: dict[str, object], found: str) -> None:
    assert modality({"images": ["p.png"]}, place, {"user": "u", "meta": {}} | turn) == found


async def test_stage_one_draws_the_first_turn_of_all_scripts_of_a_pair(tmp_path: Path) -> None:
    drawn = {"share": 0.5, "layout": "split"}
    for name in ("once", "again"):
        await build(config(12, typographic=drawn, perturb_share=0.3), tmp_path / name)
    await build(config(12, perturb_share=0.3), tmp_path / "text")
    assert contents(tmp_path / "once") == contents(tmp_path / "again")
    pairs: dict[str, set[bool]] = {}
    for kind in KINDS:
        texts = {seed.id: seed for seed in pool(tmp_path / "text", kind)}
        for seed in pool(tmp_path / "once", kind):
            words = [turn.meta.get("in_picture") for turn in seed.turns]
            pairs.setdefault(seed.meta["pair"], set()).add(words[0] is not None)
            data = (tmp_path / "once" / seed.images[0]).read_bytes()
            text = texts[seed.id]
            assert not any(words[1:]) and len(seed.images) == 1 and words_in(data) == (words[0] or "")
            assert from_png(data) == from_png((tmp_path / "text" / text.images[0]).read_bytes())
            if words[0]:
                assert seed.script[0].endswith(text.script[0]) and seed.meta["original"] != seed.images[0]
                assert Path(seed.images[0]).stem[:16] == seed.meta["picture"], "named after its original"
            else:
                assert seed == text
    assert all(len(found) == 1 for found in pairs.values()), "the harmful and the harmless alike"
    assert {found for one in pairs.values() for found in one} == {True, False}


@pytest.mark.parametrize("layout", ["whole", "split"])
async def test_the_red_agent_leaves_a_turn_whose_words_stand_in_the_picture(layout: Layout) -> None:
    """It would rewrite the pointer, or half of the question."""

    class Blue:
        async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
            return Reply("no")

    said, words = in_parts(QUESTION, layout)
    turns = [Turn(user="what is it?"), Turn(user=said, meta={"in_picture": words}), Turn(user="and then?")]
    seed = Seed(id="a", kind=Kind.OBFUSCATED, intent="operate it", turns=turns)
    transport = Watched(lambda job, repeat, given: ChatReply(json.dumps({"user": f"so {given['template']}"})))
    red = RedAgent(ChatModel("red", Role(), transport), Format.PLAIN, lambda paths: [])
    played = await play(seed, red, Blue(), None)
    assert played.turns[1].user == said and played.turns[1].meta == {"in_picture": words}
    assert [given["template"] for _, _, given in transport.calls] == ["what is it?", "and then?"]
