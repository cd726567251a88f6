"""The renderer of the shipped student, and what is refused in one line before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safer_steer.config import SHIPPED, Student
from safer_steer.errors import UserError
from safer_steer.sandbox.train_base import TEMPLATE
from safer_steer.student.load import load_processor, renderer_of
from safer_steer.student.proof import load_renderer
from safer_steer.student.training import lora
from student_parts import tiny_config
from tiny_families import built

SYSTEM = "You are a helpful assistant."


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}",
            r"cannot render a dialogue \(it writes no answer, or takes no messages of parts\); give another",
        ),
        (
            "{% for m in messages %}[{{ m['role'] }}] {% for part in m['content'] %}{{ part['text'] }}"
            "{% endfor %}\n{% endfor %}",
            r"closes an answer with .* no special token; give one that does in student\.chat_template: FILE$",
        ),
        (
            TEMPLATE.replace("part['type'] == 'image'", "false"),
            "does not write pictures|cannot render a dialogue",
        ),
        (
            "{% for m in messages %}{{ '<|im_start|>' + m['content'] }}{% endfor %}",
            "cannot render a dialogue",
        ),
        (
            "{{ raise_exception('no system message') }}",
            r"cannot render a dialogue \(no system message\); give another one in .*chat_template: FILE$",
        ),
        (
            TEMPLATE.replace(
                "{% for message in messages %}", "{{ messages | length }}{% for message in messages %}"
            ),
            "renders past answers otherwise than they were sampled",
        ),
    ],
)
def test_a_template_that_cannot_be_taken_apart_is_refused(template: str, told: str) -> None:
    processor = load_processor(str(SHIPPED))
    processor.chat_template = template
    with pytest.raises(UserError, match=told) as refused:
        load_renderer(processor, SYSTEM)
    assert str(SHIPPED) in str(refused.value) and "\n" not in str(refused.value)


def test_special_tokens_that_overlap_are_split_each() -> None:
    processor = load_processor(str(SHIPPED))
    new = ["[e~[", "]~b]", "]~!b["]
    processor.tokenizer.add_special_tokens({"additional_special_tokens": new})
    renderer = load_renderer(processor, SYSTEM)
    ids = set(processor.tokenizer.convert_tokens_to_ids(new))
    for text in ("[e~[e~[", "a [e~[e~[e~[ b", "]~b]~!b[", "[e~[]~b]~b]"):
        for safe in (renderer.defused(text), renderer.quoted(text)):
            assert not ids & set(processor.tokenizer(safe)["input_ids"])
            assert safe.replace(" ", "") == text.replace(" ", "")


def test_a_template_that_numbers_turns_is_refused() -> None:
    """Past answers stand as they were sampled, but the user's turns depend on what comes before them."""
    numbered = "{{ loop.index if message['role'] == 'user' else '' }}<|im_start|>{{ message['role'] }}"
    processor = load_processor(str(SHIPPED))
    processor.chat_template = TEMPLATE.replace("<|im_start|>{{ message['role'] }}", numbered)
    with pytest.raises(UserError, match="without pictures otherwise in one go than turn by turn"):
        load_renderer(processor, SYSTEM)


class Darker:
    """A processor that prepares the pictures of a later turn otherwise."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside
        self.tokenizer, self.chat_template = inside.tokenizer, inside.chat_template

    def apply_chat_template(self, *args: Any, **options: Any) -> Any:
        return self.inside.apply_chat_template(*args, **options)

    def __call__(self, **inputs: Any) -> Any:
        made = self.inside(**inputs)
        if "pixel_values" in made:
            made["pixel_values"] = made["pixel_values"] / 2
        return made


def test_a_processor_that_prepares_pictures_otherwise_is_refused() -> None:
    with pytest.raises(
        UserError, match="makes another pixel_values of a dialogue with a picture in a later turn"
    ):
        load_renderer(Darker(load_processor(str(SHIPPED))), SYSTEM)


class Forgetful(Darker):
    """A processor that makes no mask of a picture that fills its row."""

    def __call__(self, **inputs: Any) -> Any:
        made = self.inside(**inputs)
        if "pixel_attention_mask" in made and made["pixel_attention_mask"].all():
            del made["pixel_attention_mask"]
        return made


def test_a_processor_that_gives_rows_of_pictures_other_inputs_is_refused() -> None:
    _, processor = built("idefics2")
    with pytest.raises(UserError, match="its processor gives some pictures other inputs than others; choose"):
        load_renderer(Forgetful(processor), SYSTEM)


def test_a_template_that_takes_pictures_in_the_first_turn_alone_renders_them_there() -> None:
    processor = load_processor(str(SHIPPED))
    processor.chat_template = TEMPLATE.replace(
        "part['type'] == 'image' %}",
        "part['type'] == 'image' %}{% if loop.index0 == 0 and message != messages[1] %}"
        "{{ raise_exception('one picture') }}{% endif %}",
    )
    renderer = load_renderer(processor, SYSTEM)
    assert renderer.user_turn("what is it?", [Image.new("RGB", (84, 84))], first=True).pictures


def test_a_model_of_text_alone_is_refused() -> None:
    """`AutoProcessor` gives its tokenizer."""
    tokenizer = load_processor(str(SHIPPED)).tokenizer
    with pytest.raises(UserError, match=r"^student .*: it has no processor with a chat template"):
        load_renderer(tokenizer, SYSTEM)


def test_any_system_message_is_rendered_and_a_templates_own_is_kept() -> None:
    processor = load_processor(str(SHIPPED))
    for system in ("", SYSTEM, "Two\n\nlines."):
        load_renderer(processor, system)
    own = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    processor.chat_template = own + TEMPLATE
    ids = load_renderer(processor, "").user_turn("hello", [], first=True).ids
    assert "Be brief." in processor.tokenizer.decode(ids)


def test_a_template_of_ones_own_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("<|im_start|>system\nBe brief.<|im_end|>\n" + TEMPLATE)
    renderer = renderer_of(Student(chat_template=str(file)))
    assert renderer.processor.chat_template == file.read_text()
    assert "Be brief." in renderer.tokenizer.decode(renderer.user_turn("hello", [], first=True).ids)
    renderer.processor.save_pretrained(tmp_path / "trained")
    assert load_processor(str(tmp_path / "trained")).chat_template == file.read_text()
    with pytest.raises(UserError, match=r"^student\.chat_template: .*none\.jinja cannot be read"):
        renderer_of(Student(chat_template=str(tmp_path / "none.jinja")))


def test_pictures_may_stand_in_any_turn_of_the_shipped_student(student: Any) -> None:
    renderer, shown = student.renderer, Image.new("RGB", (84, 84), "red")
    later = renderer.user_turn("and this?", [shown], first=False)
    blind = renderer.user_turn("and this?", [], first=False)
    image = student.model.config.image_token_id
    assert later.ids.count(image) == 9 and blind.ids.count(image) == 0 and not blind.pictures
    first = renderer.user_turn("and this?", [shown], first=True)
    assert all(torch.equal(first.pictures[name], later.pictures[name]) for name in renderer.picture_inputs)


def test_lora_goes_where_it_always_went(student: Any) -> None:
    """Every linear layer of the language model's blocks; none of the vision tower, which has projections of
    such names too."""
    adapters = lora(tiny_config(student={"lora_rank": 2}).student, student.model)
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    every = [name for name, _ in student.model.named_modules() if name.endswith(names)]
    assert adapters.target_modules == {name for name in every if "visual" not in name}
    assert len(adapters.target_modules) == 6 * 7 < len(every)
