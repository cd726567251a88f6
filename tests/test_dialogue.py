"""The nouns and their JSONL form."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from safer_steer.dialogue import (
    Dialogue,
    Format,
    Kind,
    Seed,
    StopReason,
    Turn,
    read_dialogues,
    read_seeds,
    to_jsonl,
    visible_answer,
)
from safer_steer.errors import UserError

ROW = '{"id": "a", "kind": "benign", "turns": [{"user": "hello"}]}'


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("<thinking>secret</thinking><answer> b </answer>", "b"),
        ("<thinking>secret</thinking>\n<answer>b\nc</answer>\n", "b\nc"),
        ("<answer>b</answer><answer>c</answer>", "b"),
        ("<thinking>or <answer>b</answer>?</thinking><answer>c</answer>", "c"),
        ("<thinking>or <answer>b</answer>?</thinking><answer>cut o", "cut o"),
        ("<thinking>or <answer>b</answer>?</thinking>", "b"),
        ("<answer>b</answer><thinking>secret</thinking>", "b"),
        ("<thinking>secret</thinking><answer>cut o", "cut o"),
        ("<thinking>secret", ""),
        ("no blocks at all", ""),
        ("<answer></answer>", ""),
        ("", ""),
    ],
)
def test_only_the_answer_block_is_visible(text: str, visible: str) -> None:
    assert visible_answer(text, Format.THINKING_ANSWER) == visible


def test_in_the_plain_format_everything_is_visible() -> None:
    assert visible_answer(" <answer>b</answer> and more ", Format.PLAIN) == "<answer>b</answer> and more"


PIECES = st.lists(st.sampled_from(["<thinking>", "<answer>", "</answer>", "a", " ", "b"])).map("".join)


@settings(deadline=None)
@given(st.text() | PIECES, st.text() | PIECES)
def test_thinking_is_never_visible(thinking: str, answer: str) -> None:
    if "</thinking>" not in thinking and "</answer>" not in answer:
        assert (
            visible_answer(
                f"<thinking>{thinking}</thinking><answer>{answer}</answer>", Format.THINKING_ANSWER
            )
            == answer.strip()
        )


@pytest.mark.parametrize("blank", ["", "  ", "\\n\\t", "\\u3000"])
def test_a_user_turn_without_a_word_is_refused_with_its_line(tmp_path: Path, blank: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW + "\n" + ROW.replace("hello", blank) + "\n")
    with pytest.raises(
        UserError, match=r"rows\.jsonl:2: turns\.0\.user: (is empty|has no words, only blanks)$"
    ):
        read_seeds(path)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW + "\n", encoding="utf-8-sig")
    assert [seed.script for seed in read_seeds(path)] == [["hello"]]


def test_rows_have_the_stable_keys_and_come_back_whole(tmp_path: Path) -> None:
    dialogue = Dialogue(
        id="é",
        kind=Kind.RED_TEAM,
        source="s",
        intent="i",
        images=["pictures/1.png"],
        turns=[
            Turn(
                user="line\nbreak \u2028 <|im_end|>",
                assistant="a",
                scores={"harmlessness": 3},
                meta={"k": [1]},
            ),
            Turn(user="u"),
        ],
        stop=StopReason.CONTEXT_FULL,
        meta={"m": None},
    )
    path = tmp_path / "rows.jsonl"
    path.write_text(to_jsonl([dialogue, dialogue]), encoding="utf-8")
    assert len(path.read_bytes().splitlines()) == 2
    assert read_dialogues(path) == [dialogue, dialogue]
    assert set(dialogue.model_dump()) == {"id", "kind", "source", "intent", "images", "turns", "stop", "meta"}
    assert set(dialogue.turns[0].model_dump()) == {"user", "assistant", "scores", "meta"}
    assert read_seeds(path)[0].script == [
        "line\nbreak \u2028 <|im_end|>",
        "u",
    ]  # a played dialogue is a seed, too


def test_a_turn_may_have_pictures_of_its_own_and_a_row_without_is_as_before(tmp_path: Path) -> None:
    without = Seed(id="a", kind=Kind.BENIGN, images=["x.png"], turns=[Turn(user="one")])
    assert '"turns":[{"user":"one","assistant":null,"scores":null,"meta":{}}]' in to_jsonl([without])
    path = tmp_path / "rows.jsonl"
    turns = '[{"user": "one"}, {"user": "two", "image": "y.png"}, {"user": "3", "images": ["z.png", "x"]}]'
    path.write_text(f'{{"id": "a", "kind": "benign", "image": "x.png", "turns": {turns}}}\n')
    [seed] = read_seeds(path)
    assert seed.images_by_turn() == [["x.png"], ["y.png"], ["z.png", "x"]]
    assert seed.all_images == ["x.png", "y.png", "z.png", "x"]
    assert seed.with_images(lambda image: f"run/{image}").images_by_turn()[1] == ["run/y.png"]
    path.write_text(to_jsonl([seed]))
    assert read_seeds(path) == [seed] and '{"user":"two","images":["y.png"],' in path.read_text()


def test_the_row_s_pictures_are_shown_with_the_first_turn_whatever_it_shows_itself() -> None:
    asked = Turn(user="one", images=["y.png"])
    dialogue = Dialogue(id="a", kind=Kind.BENIGN, images=["x.png"])
    assert dialogue.images_by_turn(asked) == [["x.png", "y.png"]]
    dialogue.turns.append(asked)
    assert dialogue.images_by_turn(Turn(user="two", images=["z.png"])) == [["x.png", "y.png"], ["z.png"]]


def test_a_dialogue_begins_without_turns_and_shares_nothing_with_its_seed() -> None:
    seed = Seed(id="a", kind=Kind.BENIGN, images=["p.png"], turns=[Turn(user="u")], meta={"k": 1})
    dialogue = Dialogue.begin(seed)
    dialogue.images.append("q.png")
    dialogue.meta["k"] = 2
    assert (dialogue.turns, dialogue.stop) == ([], None)
    assert (seed.images, seed.meta) == (["p.png"], {"k": 1})


def test_half_a_surrogate_pair_does_not_reach_the_disk() -> None:
    dialogue = Dialogue(id="a", kind=Kind.BENIGN, turns=[Turn(user="\udc00", assistant="x\ud800y")])
    assert "x?y" in to_jsonl([dialogue])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no rows in it"),
        (b"\n \n", "no rows in it"),
        (b"{oops\n", ":1: row: not JSON"),
        (ROW.encode() + b"\n\n{}\n", ":3: id: the key is missing"),
        (b'{"id": "\xff"}\n', ":1: row: not JSON"),
        (b'{"id": "a", "kind": "benign", "turns": []}\n', ":1: turns: is empty"),
        (b'{"id": "a", "kind": "benign"}\n', ":1: turns: the key is missing"),
        (
            b'{"id": "a", "kind": "evil", "turns": [{"user": "u"}]}\n',
            ":1: kind: give one of: benign, obfuscated, red_team",
        ),
        (
            b'{"id": "a", "kind": "benign", "turns": [{"user": "u"}, {"user": ""}]}\n',
            ":1: turns.1.user: is empty",
        ),
        (b"[1]\n", ":1: row: give an object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_seeds(path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_seeds(tmp_path / "none.jsonl")


def test_no_dialogues_is_a_result_and_no_seeds_is_none(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert read_dialogues(tmp_path / "rows.jsonl") == []


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        Dialogue.model_validate_json(ROW.replace('"id"', '"score": 1, "id"'))
