"""The student's dialogue as ids: exact, masked, closed, and safe from markers in text."""

from __future__ import annotations

from hashlib import sha256
from io import BytesIO

import datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from safer_steer.files.images import picture_from
from safer_steer.sandbox.world import devices, draw
from safer_steer.student.assistant import open_images
from safer_steer.student.transcript import Transcript, labels, model_inputs


def begin(student, *texts: str) -> Transcript:
    transcript = Transcript(student.renderer)
    for number, text in enumerate(texts):
        transcript.add_user(text, [] if number else [draw(devices()[0], True, 1)])
    return transcript


def test_a_photograph_stands_as_upright_as_the_trainers_see_it():
    """`datasets` turns pictures by their EXIF orientation, and so does a run that takes one in."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = BytesIO()
    draw(devices()[0], True, 1).resize((84, 56)).save(file, "PNG", exif=exif)
    (seen,) = open_images([picture_from(file.getvalue(), "photograph", 10_000)])
    trained = datasets.Image().decode_example({"bytes": file.getvalue(), "path": None}).convert("RGB")
    assert seen.size == (56, 84) == trained.size
    assert seen.tobytes() == trained.tobytes()


def test_ids_are_those_of_the_chat_template(student):
    renderer = student.renderer
    transcript = begin(student, "what colour is it?")
    answer = [*renderer.plain("it is red."), renderer.end]
    transcript.add_assistant(answer, [0.0] * len(answer))
    transcript.add_user("thank you.")
    talk = [
        {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": draw(devices()[0], True, 1)},
                {"type": "text", "text": "what colour is it?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "it is red."}]},
        {"role": "user", "content": [{"type": "text", "text": "thank you."}]},
    ]
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    wanted = renderer.processor.apply_chat_template(talk, **options)["input_ids"]
    assert transcript.ids == list(wanted[0] if isinstance(wanted[0], list) else wanted)


def test_ids_and_inputs_of_the_shipped_student_are_what_they_always_were(student):
    """Recorded before families had renderers: checkpoints, caches and journals rest on them."""
    renderer = student.renderer
    transcript = begin(student, "what colour is it?")
    answer = [*renderer.plain("it is red."), renderer.end]
    transcript.add_assistant(answer, [-0.5] * len(answer))
    transcript.add_user("list <|im_end|> steps.")
    cut = renderer.plain("first")
    transcript.add_assistant(cut, [-0.5] * len(cut))
    opening = [1, 405, 205, 397, 342, 285, 404, 402, 20, 2, 205, 1, 403, 205]
    picture = [3, *[5] * 9, 4]
    assert transcript.ids == [
        *opening, *picture, 469, 867, 284, 300, 37, 2, 205, 1, 398, 205,
        331, 284, 387, 20, 2,
        205, 1, 403, 205, 82, 320, 227, 34, 227, 98, 718, 69, 321, 74, 98, 36, 534, 20, 2, 205, 1, 398, 205,
        503, 2,
    ]  # fmt: skip
    assert transcript.mask == [0] * 35 + [1] * 5 + [0] * 23 + [1, 0] and transcript.first_prompt == 35
    batch = model_inputs([transcript, transcript], "left")
    digests = {name: sha256(tensor.numpy().tobytes()).hexdigest()[:16] for name, tensor in batch.items()}
    assert digests == {
        "input_ids": "0b67403f40cba778",
        "attention_mask": "947088618b13a58a",
        "mm_token_type_ids": "59629cccf7035b41",
        "pixel_values": "1e8dd8550f037e79",
        "image_grid_thw": "d0bf21779f09d4a7",
    }


def test_mask_covers_sampled_tokens_and_nothing_else(student):
    renderer = student.renderer
    transcript = begin(student, "what shape is it?")
    first, second = [*renderer.plain("it is round."), renderer.end], [*renderer.plain("no."), renderer.end]
    transcript.add_assistant(first, [-0.5] * len(first))
    transcript.add_user("sure?")
    transcript.add_assistant(second, [-0.25] * len(second))
    sampled = [token for token, kept in zip(transcript.ids, transcript.mask, strict=True) if kept]
    assert sampled == first + second
    assert [lp for lp, kept in zip(transcript.logprobs, transcript.mask, strict=True) if kept] == [
        -0.5
    ] * len(first) + [-0.25] * len(second)
    assert all(lp == 0 for lp, kept in zip(transcript.logprobs, transcript.mask, strict=True) if not kept)
    assert transcript.prompt_ids + transcript.completion_ids == transcript.ids
    assert transcript.completion_ids[: len(first)] == first


def test_targets_token_by_token(student):
    renderer = student.renderer
    short, long = begin(student, "name it."), begin(student, "name it.")
    answer = [*renderer.plain("this is a dorvak."), renderer.end]
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
    renderer = student.renderer
    transcript = begin(student, "list the steps.")
    cut = renderer.plain("first turn the")
    transcript.add_assistant(cut, [-1.0] * len(cut))
    assert transcript.ids[-1] == renderer.end
    assert transcript.mask[-len(cut) - 1 :] == [1] * len(cut) + [0]
    transcript.add_user("go on.")
    assert transcript.ids.count(renderer.tokenizer.convert_tokens_to_ids("<|im_start|>")) == 5


def test_each_answer_has_its_end_even_if_nothing_was_sampled(student):
    renderer = student.renderer
    transcript = begin(student, "what shape is it?")
    for number, sampled in enumerate(([*renderer.plain("it is round."), renderer.end], [], [403])):
        if number:
            transcript.add_user("go on.")
        transcript = transcript.copy()
        transcript.add_assistant(sampled, [-0.5] * len(sampled))
        assert transcript.ends[number] == len(transcript.ids) - 1
    assert [transcript.ids[end] for end in transcript.ends] == [renderer.end] * 3
    assert [transcript.mask[end] for end in transcript.ends] == [1, 0, 0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [
                "<|im_end|>",
                "<|im_start|>system\n",
                "<|image_pad|>",
                "<|vision_start|>",
                "a",
                " ",
                "<|endoftext|>",
                "\n",
            ]
        ),
        max_size=8,
    )
)
def test_markers_in_a_users_text_stay_text(student, parts):
    quiet, loud = begin(student, "hello"), begin(student, "hello" + "".join(parts))
    for special in student.renderer.tokenizer.all_special_ids:
        assert loud.ids.count(special) == quiet.ids.count(special)


def test_copy_is_independent(student):
    transcript = begin(student, "name it.")
    other = transcript.copy()
    other.add_assistant([student.renderer.end], [0.0])
    assert len(other.ids) == len(transcript.ids) + 1 and other.first_prompt == transcript.first_prompt
