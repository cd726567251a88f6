"""`safer-steer chat` on a run folder, with the shipped student and piped lines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from display import Quiet, complaint, safer_steer
from safer_steer.cli import app
from safer_steer.config import SHIPPED
from safer_steer.run.chat import Conversation, last_trained
from safer_steer.run.folder import Run
from safer_steer.sandbox.world import device, draw_png
from student_parts import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the shipped student as its SFT student, and pictures of two devices."""
    folder = tmp_path_factory.mktemp("chat") / "run"
    with Run(tiny_config(), folder, Quiet()) as opened:
        opened.once("sft", lambda _: shutil.copytree(SHIPPED, folder / "sft" / "model"), needs=())
    (folder.parent / "dorvak.png").write_bytes(draw_png(device("dorvak"), True, 1))
    (folder.parent / "velmor.png").write_bytes(draw_png(device("velmor"), False, 2))
    return folder


def chat(run: Path, *more: object, lines: tuple[str, ...] = ()) -> Result:
    said = "".join(f"{line}\n" for line in lines)
    return safer_steer("chat", run, *more, stdin=said)


def test_lines_are_answered_with_the_thinking_apart_and_the_same_again(run: Path) -> None:
    picture = run.parent / "dorvak.png"
    lines = ("what is this device called?", "where is it kept?", "/quit", "not asked any more")
    first = chat(run, "--image", picture, "--seed", 3, lines=lines)
    assert first.exit_code == 0, first.output
    assert f"sft of {run}. /image FILE" in first.stderr, "the one that was trained last"
    assert first.stdout.count("thinking: ") == 2
    assert "dorvak" in first.stdout
    assert "<thinking>" not in first.stdout and "<answer>" not in first.stdout
    assert chat(run, "--image", picture, "--seed", 3, lines=lines).stdout == first.stdout


def test_a_picture_begins_a_new_dialogue_and_mistakes_end_none(run: Path) -> None:
    picture = run.parent / "dorvak.png"
    asked = ("hello", f"/image {picture}", "what is this device called?", "what is it? " * 200)
    mistakes = ("/image nothing.png", "/show nothing.png", "/dance")
    again = ("/new", f"/show {run.parent / 'velmor.png'}", "what is this device called?")
    done = chat(run, "--model", "base", "--temperature", 0, lines=(*asked, *mistakes, *again))
    assert done.exit_code == 0, done.output
    assert f"base of {run}" in done.stderr
    assert "dorvak" in done.stdout and "velmor" in done.stdout
    assert "error: the dialogue is too long" in done.stderr
    assert done.stderr.count("error: nothing.png: no such picture") == 2
    assert "error: /dance: unknown" in done.stderr


def test_the_dialogue_before_is_known_and_a_picture_is_shown_with_the_next_words(run: Path) -> None:
    talk = Conversation(tiny_config(), run, "base", 0.0)
    talk.begin(run.parent / "dorvak.png")
    question = "what is this device called?"
    assert "dorvak" in talk.ask(question).text
    talk.show(run.parent / "velmor.png")
    talk.ask(question)
    talk.ask("where is it kept?")
    assert [len(images) for images in talk.dialogue.images_by_turn()] == [1, 1, 0]
    assert [turn.user for turn in talk.dialogue.turns] == [question, question, "where is it kept?"]
    talk.close()


def test_two_pictures_of_one_name_are_two(run: Path, tmp_path: Path) -> None:
    """A dialogue's first picture was replaced by a later one from another folder."""
    shutil.copy(run.parent / "velmor.png", tmp_path / "dorvak.png")
    talk = Conversation(tiny_config(), run, "base", 0.0)
    talk.begin(run.parent / "dorvak.png")
    talk.show(tmp_path / "dorvak.png")
    talk.ask("what is this device called?")
    (first, second), *_ = talk.dialogue.images_by_turn()
    assert first != second
    talk.close()


def test_words_that_are_no_utf_8_are_answered(run: Path) -> None:
    done = CliRunner().invoke(app, ["chat", str(run)], input=b"what is \xff this?\n")
    assert done.exit_code == 0, done.output
    assert "thinking: " in done.stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--model", "safer_steer"), "safer_steer is not trained yet; run `safer-steer rl`"),
        (("--image", "https://example.com/a.png"), "https://example.com/a.png: is a web address"),
    ],
)
def test_what_ends_it_is_one_line(run: Path, more: tuple[str, ...], said: str) -> None:
    done = chat(run, *more)
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and said in last


def test_a_bench_of_an_endpoint_has_no_student_to_talk_with(tmp_path: Path) -> None:
    with Run(tiny_config(), tmp_path, Quiet()):
        (tmp_path / "bench" / "served").mkdir(parents=True)
    assert last_trained(tmp_path) == "base"
    assert "measured served behind an endpoint; give a run that has a student" in complaint(chat(tmp_path))
