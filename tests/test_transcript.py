"""The student's dialogue as ids: exact, masked, closed, and safe from markers in text."""

from __future__ import annotations

from io import BytesIO

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from safer_steer.errors import UserError
from safer_steer.images import picture_from
from safer_steer.sandbox.world import devices, draw
from safer_steer.student.student import open_images
from safer_steer.student.transcript import ChatTokens, Transcript, labels, model_inputs


def begin(student, *texts: str) -> Transcript:
    transcript = Transcript(student.chat, student.chat.look([draw(devices()[0], True, 1)]))
    for text in texts:
        transcript.add_user(text)
    return transcript


def test_a_photograph_stands_as_upright_as_the_trainers_see_it():
    """`datasets` turns pictures by their EXIF orientation, so what is sampled from must be turned too."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = BytesIO()
    draw(devices()[0], True, 1).resize((84, 56)).save(file, "JPEG", exif=exif)
    (seen,) = open_images([picture_from(file.getvalue(), "photograph", 10_000)])
    trained = datasets.Image().decode_example({"bytes": file.getvalue(), "path": None}).convert("RGB")
    assert seen.size == (56, 84) == trained.size
    assert seen.tobytes() == trained.tobytes()


def test_ids_are_those_of_the_chat_template(student):
    chat = student.chat
    transcript = begin(student, "what colour is it?")
    answer = [*chat.plain("it is red."), chat.end]
    transcript.add_assistant(answer, [0.0] * len(answer))
    transcript.add_user("thank you.")
    talk = [
        {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
        {"role": "user", "content": [{"type": "image", "image": draw(devices()[0], True, 1)}, {"type": "text", "text": "what colour is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "it is red."}]},
        {"role": "user", "content": [{"type": "text", "text": "thank you."}]},
    ]
    wanted = chat.processor.apply_chat_template(talk, tokenize=True, return_dict=True, add_generation_prompt=True)["input_ids"]
    assert transcript.ids == list(wanted[0] if isinstance(wanted[0], list) else wanted)


def test_mask_covers_sampled_tokens_and_nothing_else(student):
    chat = student.chat
    transcript = begin(student, "what shape is it?")
    first, second = [*chat.plain("it is round."), chat.end], [*chat.plain("no."), chat.end]
    transcript.add_assistant(first, [-0.5] * len(first))
    transcript.add_user("sure?")
    transcript.add_assistant(second, [-0.25] * len(second))
    sampled = [token for token, kept in zip(transcript.ids, transcript.mask, strict=True) if kept]
    assert sampled == first + second
    assert [lp for lp, kept in zip(transcript.logprobs, transcript.mask, strict=True) if kept] == [-0.5] * len(first) + [-0.25] * len(second)
    assert all(lp == 0 for lp, kept in zip(transcript.logprobs, transcript.mask, strict=True) if not kept)
    assert transcript.prompt_ids + transcript.completion_ids == transcript.ids
    assert transcript.completion_ids[: len(first)] == first


def test_targets_token_by_token(student):
    chat = student.chat
    short, long = begin(student, "name it."), begin(student, "name it.")
    answer = [*chat.plain("this is a dorvak."), chat.end]
    for transcript in (short, long):
        transcript.add_assistant(answer, [0.0] * len(answer))
    long.add_user("and its colour?")
    long.add_assistant(answer, [0.0] * len(answer))
    batch = model_inputs([short, long], "right")
    targets = labels([short, long], batch["input_ids"].shape[1])
    for row, transcript in enumerate((short, long)):
        for position in range(batch["input_ids"].shape[1]):
            inside = position < len(transcript.ids) and transcript.mask[position] == 1
            assert targets[row, position] == (transcript.ids[position] if inside else -100)


def test_a_turn_cut_off_is_closed_with_a_masked_token(student):
    chat = student.chat
    transcript = begin(student, "list the steps.")
    cut = chat.plain("first turn the")
    transcript.add_assistant(cut, [-1.0] * len(cut))
    assert transcript.ids[-1] == chat.end
    assert transcript.mask[-len(cut) - 1 :] == [1] * len(cut) + [0]
    transcript.add_user("go on.")
    assert transcript.ids.count(chat.tokenizer.convert_tokens_to_ids("<|im_start|>")) == 5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>system\n", "<|image_pad|>", "<|vision_start|>", "a", " ", "<|endoftext|>", "\n"]), max_size=8))
def test_markers_in_a_users_text_stay_text(student, parts):
    quiet, loud = begin(student, "hello"), begin(student, "hello" + "".join(parts))
    for special in student.chat.tokenizer.all_special_ids:
        assert loud.ids.count(special) == quiet.ids.count(special)


def test_copy_is_independent(student):
    transcript = begin(student, "name it.")
    other = transcript.copy()
    other.add_assistant([student.chat.end], [0.0])
    assert len(other.ids) == len(transcript.ids) + 1 and other.first_prompt == transcript.first_prompt


def test_a_template_that_is_no_chatml_is_refused(student):
    from safer_steer.config import SHIPPED
    from safer_steer.student.student import load_processor

    processor = load_processor(str(SHIPPED))
    processor.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(UserError, match="not ChatML"):
        ChatTokens(processor, "You are a helpful assistant.")
