"""Families of students: renderers agree with real processors and models, and a wrong processor is refused in
one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from peft import get_peft_model
from PIL import Image
from transformers import PreTrainedTokenizerFast, set_seed
from transformers.models.got_ocr2 import GotOcr2ImageProcessor
from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from safer_steer.config import SHIPPED
from safer_steer.errors import UserError
from safer_steer.sandbox.tiny import SPECIALS, TEMPLATE
from safer_steer.student import families
from safer_steer.student.chatml import ChatML
from safer_steer.student.families import FAMILIES, Family, check_rendering, load_renderer, modules_of
from safer_steer.student.load import load_processor
from safer_steer.student.policy import Sampling
from safer_steer.student.renderer import Modules, Pictures, joined, padded
from safer_steer.student.training import freeze_vision, lora
from safer_steer.student.transcript import Transcript, model_inputs
from safer_steer.student.transformers_policy import TransformersPolicy
from student_parts import tiny_config

SYSTEM = "You are a helpful assistant."
QWEN = [family for family in FAMILIES if family.renderer is ChatML]


class InternVL(ChatML):
    """A family of its own, as a newcomer would write it: ChatML, but other pictures and other names of
    modules."""

    modules: ClassVar[Modules] = Modules(
        "language_model", ChatML.modules.adapted, "vision_tower", "multi_modal_projector"
    )
    picture_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    """[tiles, channels, height, width]"""

    def pictures(self, images: list[Image.Image]) -> Pictures | None:
        if not images:
            return None
        made = self.processor.image_processor(images=images, return_tensors="pt")
        ids = []
        for tiles in made["num_patches"]:
            tokens = "<IMG_CONTEXT>" * (int(tiles) * self.processor.image_seq_length)
            ids += self._markup(f"<img>{tokens}</img>\n")
        return Pictures({"pixel_values": made["pixel_values"]}, ids)

    def inputs(self, rows: list[list[int]], pictures: list[Pictures], side: str) -> dict[str, torch.Tensor]:
        return padded(rows, self.pad, side) | joined(pictures)


def tokenizer(**more: str) -> PreTrainedTokenizerFast:
    """The shipped student's, with a family's own markers; as InternVL's, it still has Qwen's."""
    backend = load_processor(str(SHIPPED)).tokenizer.backend_tokenizer
    backend.add_special_tokens(list(more.values()))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS[1:],
        extra_special_tokens=more,
        padding_side="left",
    )


def qwen_processor(name: str) -> Any:
    video = {"Qwen3VLProcessor": transformers.Qwen3VLVideoProcessor}.get(name, Qwen2VLVideoProcessor)
    pixels = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
    return getattr(transformers, name)(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=tokenizer(),
        video_processor=video(),
        chat_template=TEMPLATE,
    )


def internvl_processor() -> Any:
    """ChatML word for word, on a tokenizer that knows Qwen's markers; pictures are tiles, not patches with a
    grid."""
    markers = {
        "start_image": "<img>",
        "end_image": "</img>",
        "context_image": "<IMG_CONTEXT>",
        "video": "<video>",
    }
    template = TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
    size = {"height": 56, "width": 56}
    return transformers.InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer(**{f"{name}_token": marker for name, marker in markers.items()}),
        video_processor=transformers.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=template,
    )


def model_of(family: str, processor: Any) -> Any:
    """A tiny random model with logits that differ from one another."""
    set_seed(0)
    number = processor.tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(processor.tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0},
    }
    vision: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128}
    ids = {"image_token_id": number("<|image_pad|>"), "video_token_id": number("<|video_pad|>")}
    ids |= {
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
    }
    patches = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2}
    if family == "qwen2_vl":
        vision = {**patches, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2}
        config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
    elif family == "qwen2_5_vl":
        vision |= {**patches, "out_hidden_size": 64, "window_size": 112, "fullatt_block_indexes": [1]}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    elif family == "qwen3_vl":
        vision |= {
            **patches,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        }
        config = transformers.Qwen3VLConfig(text_config=text | {"head_dim": 16}, vision_config=vision, **ids)
    else:
        vision |= {
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [56, 56],
            "patch_size": [14, 14],
        }
        text |= {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
        context = number("<IMG_CONTEXT>")
        config = transformers.InternVLConfig(text_config=text, vision_config=vision, image_token_id=context)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


@pytest.fixture
def internvl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line that makes the new family known."""
    monkeypatch.setattr(families, "FAMILIES", [*FAMILIES, Family("internvl", "InternVLProcessor", InternVL)])


KNOWN = [(family.model_type, family.processor) for family in QWEN] + [("internvl", "InternVLProcessor")]


def begun(renderer: Any, text: str, *images: Image.Image) -> Transcript:
    transcript = Transcript(renderer, renderer.pictures(list(images)))
    transcript.add_user(text)
    return transcript


@pytest.mark.parametrize(("family", "processor"), KNOWN)
def test_a_family_is_rendered_sampled_and_trained(family: str, processor: str, internvl: None) -> None:
    """Ids and inputs are those of the processor, rollout and training agree, and modules are named right."""
    made = internvl_processor() if family == "internvl" else qwen_processor(processor)
    renderer = load_renderer(made, SYSTEM)
    images = [Image.new("RGB", (84, 112), "red"), Image.new("RGB", (56, 56), "blue")]
    question = "what colour is it?"
    seeing, blind = begun(renderer, question, *images), begun(renderer, "where is it kept?")
    user = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
    talk = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": user},
    ]
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    wanted = made.apply_chat_template(talk, **options)
    inputs = model_inputs([seeing], "left")
    assert set(inputs) == set(wanted)
    assert all(torch.equal(inputs[name], wanted[name]) for name in wanted)

    model = model_of(family, made)
    completion = TransformersPolicy(model, Sampling(12, 1.0)).generate([blind, seeing], ["a", "b"])[1]
    seeing.add_assistant(completion.token_ids, completion.logprobs)
    rollout = [logprob for logprob, kept in zip(seeing.logprobs, seeing.mask, strict=True) if kept]
    assert rollout == pytest.approx(scored(model, seeing), abs=1e-4)
    seeing.pictures = renderer.pictures([Image.new("RGB", image.size, "white") for image in images])
    assert rollout != pytest.approx(scored(model, seeing), abs=1e-3)

    modules = modules_of(family)
    freeze_vision(model, modules)
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    still = {name for name, _ in model.named_parameters()} - moving
    assert moving == {name for name in moving | still if "language_model" in name or "lm_head" in name}
    student = tiny_config(student={"lora_rank": 2}).student
    adapted = get_peft_model(model, lora(student, modules))
    where = {name.partition(".lora_")[0] for name, _ in adapted.named_parameters() if ".lora_" in name}
    assert len(where) == 2 * len(modules.adapted) and all(".language_model." in name for name in where)


def scored(model: Any, transcript: Transcript) -> list[float]:
    with torch.no_grad():
        logits = model(**model_inputs([transcript], "right")).logits[0]
    logprobs = torch.log_softmax(logits.float(), -1)
    ids = enumerate(zip(transcript.ids, transcript.mask, strict=True))
    return [logprobs[place - 1, token].item() for place, (token, kept) in ids if kept]


def test_a_processor_of_an_unknown_family_is_refused() -> None:
    shipped = load_processor(str(SHIPPED))
    with pytest.raises(
        UserError, match=r"^student .*: InternVLProcessor is not supported; choose a model of type qwen2_vl"
    ):
        load_renderer(internvl_processor(), SYSTEM)
    with pytest.raises(UserError, match=r"^student .*: TokenizersBackend is not supported"):
        load_renderer(shipped.tokenizer, SYSTEM)  # what `AutoProcessor` gives for a model of text alone
    with pytest.raises(UserError, match=r"models of type internvl are not supported"):
        modules_of("internvl")


def test_chatml_of_another_family_is_refused_before_its_first_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its text is ChatML and its tokenizer has every marker: only a picture tells."""
    monkeypatch.setattr(families, "FAMILIES", [Family("internvl", "InternVLProcessor", ChatML), *FAMILIES])
    with pytest.raises(UserError, match="InternVLProcessor makes no image_grid_thw of a picture") as refused:
        load_renderer(internvl_processor(), SYSTEM)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_without_the_markers_is_refused() -> None:
    processor = qwen_processor("Qwen2_5_VLProcessor")
    processor.tokenizer = PreTrainedTokenizerFast(tokenizer_object=other_tokenizer(), unk_token="<unk>")
    with pytest.raises(UserError, match=r"its tokenizer has no <\|im_end\|>"):
        load_renderer(processor, SYSTEM)


def other_tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}",
            "does not match ChatML: a dialogue without",
        ),
        (
            TEMPLATE.replace("<|vision_start|><|image_pad|>", "<|image_pad|>"),
            "does not match ChatML: a dialogue with a picture",
        ),
        (TEMPLATE.replace("part['type'] == 'image'", "false"), "cannot render a dialogue with a picture"),
        (
            "{% for m in messages %}{{ '<|im_start|>' + m['content'] }}{% endfor %}",
            "cannot render a dialogue",
        ),
        (
            "{{ raise_exception('no system message') }}",
            r"cannot render a dialogue without pictures \(no system message\)",
        ),
    ],
)
def test_a_template_that_is_no_chatml_is_refused(template: str, told: str) -> None:
    processor = load_processor(str(SHIPPED))
    processor.chat_template = template
    with pytest.raises(UserError, match=told) as refused:
        load_renderer(processor, SYSTEM)
    assert str(SHIPPED) in str(refused.value) and "\n" not in str(refused.value)


class Darker(ChatML):
    """A renderer with a fault that ids do not show."""

    def pictures(self, images: list[Image.Image]) -> Pictures | None:
        return super().pictures([image.point(lambda value: value // 2) for image in images])


def test_a_renderer_that_prepares_pictures_otherwise_is_refused() -> None:
    with pytest.raises(UserError, match="its processor prepares pictures differently"):
        check_rendering(Darker(load_processor(str(SHIPPED)), SYSTEM), SYSTEM)


def test_the_check_holds_for_any_system_message() -> None:
    processor = load_processor(str(SHIPPED))
    for system in ("", SYSTEM, "Two\n\nlines."):
        assert isinstance(load_renderer(processor, system), ChatML)
    own = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    processor.chat_template = own + TEMPLATE
    load_renderer(processor, SYSTEM)
    with pytest.raises(UserError, match=r"gives other tokens; set student\.system or choose"):
        load_renderer(processor, "")


def test_lora_goes_where_it_always_went(student: Any) -> None:
    """Every linear layer of the language model's blocks; none of the vision tower, which has projections of
    such names too."""
    adapters = lora(tiny_config(student={"lora_rank": 2}).student, student.renderer.modules)
    found = {name for name, _ in student.model.named_modules() if re.fullmatch(adapters.target_modules, name)}
    names = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    before = {
        name for name, _ in student.model.named_modules() if re.fullmatch(rf"(?!.*visual).*\.({names})", name)
    }
    assert found == before and len(found) == 6 * 7
    assert any("visual" in name and name.endswith("gate_proj") for name, _ in student.model.named_modules())


def test_the_shipped_student_is_of_a_known_family(student: Any) -> None:
    assert student.renderer.modules == modules_of(student.model.config.model_type)
    assert Path(student.renderer.tokenizer.name_or_path) == SHIPPED
