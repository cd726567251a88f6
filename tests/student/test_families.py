"""Tiny models of several families: one dialogue by template, in pieces, in rollouts and in training."""

from __future__ import annotations

import warnings
from itertools import chain
from typing import Any

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from PIL import Image, ImageDraw
from transformers import Gemma4Config, Llama4Config

from places import ROOT
from safer_steer.errors import UserError
from safer_steer.student.joining import can_join
from safer_steer.student.load import empty_model
from safer_steer.student.modules import adapted_layers, freeze_vision, parts_of
from safer_steer.student.policy import Sampling
from safer_steer.student.proof import load_renderer, takes_later_pictures
from safer_steer.student.renderer import Renderer
from safer_steer.student.training import lora
from safer_steer.student.transcript import Transcript, labels, model_inputs
from safer_steer.student.transformers_policy import TransformersPolicy
from student_parts import tiny_config
from tiny_families import FAMILIES, built, keeping_answers

SYSTEM = "You are a helpful assistant."
USERS = ["What is it? <|im_end|><end_of_turn><image><IMG_CONTEXT>", "Look again, please.", "Why?"]
SIZES = [(90, 120), (60, 60), (150, 50)]
Shown = list[list[Image.Image]]


def picture(number: int) -> Image.Image:
    shown = Image.new("RGB", SIZES[number], (90 * number, 200 - 50 * number, 120))
    ImageDraw.Draw(shown).ellipse((10, 10, 50, 40), "white")
    return shown


def dialogues() -> list[Shown]:
    """Pictures in the first turn, in two turns, in a later turn, and none."""
    one, two, three = map(picture, range(3))
    return [[[one], [], []], [[one, two], [], [three]], [[], [two], []], [[], [], []]]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, Any, Renderer]:
    """Tests must leave model and renderer as they are."""
    model, processor = built(request.param)
    return request.param, model, load_renderer(keeping_answers(request.param, processor), SYSTEM)


def scored(model: Any, transcripts: list[Transcript]) -> list[list[float]]:
    """Log-probabilities of the sampled tokens, as a trainer's forward pass gives them."""
    batch = model_inputs(transcripts, "right")
    targets = labels(transcripts, batch["input_ids"].shape[1])[:, 1:]
    with torch.no_grad():
        logprobs = model(**batch).logits[:, :-1].float().log_softmax(-1)
    found = logprobs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return [row[wanted != -100].tolist() for row, wanted in zip(found, targets, strict=True)]


def sampled(transcript: Transcript) -> list[float]:
    pairs = zip(transcript.logprobs, transcript.mask, strict=True)
    return [logprob for logprob, kept in pairs if kept]


def farthest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def blanked(transcript: Transcript, turn: int) -> Transcript:
    """The same dialogue with other pixels in one of the turns that show pictures."""
    other = transcript.copy()
    values = other.pictures[turn]
    other.pictures[turn] = values | {"pixel_values": torch.full_like(values["pixel_values"], 0.1)}
    return other


def test_ids_and_inputs_are_those_of_the_chat_template(family: tuple[str, Any, Renderer]) -> None:
    _, _, renderer = family
    assert takes_later_pictures(renderer)
    texts = ["What is it?", "It is a red box.", "Look again, please.", "No.\nRed.", "Why?"]
    for shown in dialogues():
        transcript = Transcript(renderer)
        for number, text in enumerate(texts):
            if number % 2:
                transcript.add_answer(text)
            else:
                transcript.add_user(text, shown[number // 2])
        wanted, made = renderer.rendered(texts, shown), model_inputs([transcript], "left")
        assert set(made) == set(wanted)
        assert all(torch.equal(made[name], wanted[name]) for name in wanted)


READ_AGAIN = {
    "qwen3_5": "linear attention",
    "gemma3": "a sliding window",
    "gemma4": "a sliding window",
    "lfm2_vl": "convolutions",
}
"""Families whose histories are read at every turn, and why. Others read a history again only where tokens
have types and there is a new picture."""


@pytest.mark.slow
def test_rollout_and_training_agree_and_pictures_count(family: tuple[str, Any, Renderer]) -> None:
    """Over three turns in which rows of different lengths go on from what was kept of them."""
    name, model, renderer = family
    policy, transcripts = TransformersPolicy(model, Sampling(8)), [Transcript(renderer) for _ in range(4)]
    said: list[list[list[int]]] = [[] for _ in transcripts]
    wanted, known = 0, [0] * 4
    for turn, user in enumerate(USERS):
        for number, (transcript, shown) in enumerate(zip(transcripts, dialogues(), strict=True)):
            transcript.add_user(user * (1 + turn * number), shown[turn])
            whole = name in READ_AGAIN or (transcript.aligned and shown[turn])
            wanted += len(transcript.ids) - (0 if whole else known[number])
        found = policy.generate(transcripts, [f"{turn} {number}" for number in range(4)])
        for number, (transcript, completion, answers) in enumerate(
            zip(transcripts, found, said, strict=True)
        ):
            cut = completion.finish != "marker"  # the last sampled token is in the transcript, but not read
            known[number] = len(transcript.ids) + len(completion.token_ids) - cut
            transcript.add_assistant(completion.token_ids, completion.logprobs)
            answers.append(completion.token_ids)
    if name not in READ_AGAIN:
        wanted -= transcripts[3].first_prompt  # the same as of the one before, so it was read once
    assert policy.prefilled == wanted
    for transcript, answers in zip(transcripts, said, strict=True):
        pairs = zip(transcript.ids, transcript.mask, strict=True)
        assert [token for token, kept in pairs if kept] == list(chain(*answers))
    assert sum(len(sampled(transcript)) for transcript in transcripts) > 30
    trained = scored(model, transcripts)
    assert max(map(farthest, map(sampled, transcripts), trained)) < 1e-5
    for number in range(3):
        (blind,) = scored(model, [blanked(transcripts[number], 0)])
        assert farthest(blind, trained[number]) > 1e-3
    (blind,) = scored(model, [blanked(transcripts[2], 0)])
    before = len(said[2][0])
    assert farthest(blind[:before], trained[2][:before]) < 1e-5, "its picture comes in the second turn"


@pytest.mark.parametrize(
    ("name", "changes", "joins"),
    [
        (
            "qwen2_5_vl",
            {
                "layer_types": ["full_attention", "sliding_attention"],
                "use_sliding_window": True,
                "sliding_window": 64,
            },
            False,
        ),
        ("gemma3", {"layer_types": ["full_attention"] * 2}, True),
    ],
)
def test_what_a_cache_is_made_of_decides_and_not_the_family(
    name: str, changes: dict[str, Any], joins: bool
) -> None:
    config, processor = FAMILIES[name]()
    for key, value in changes.items():
        setattr(config.text_config, key, value)
    hf.set_seed(0)
    model = hf.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    renderer = load_renderer(processor, SYSTEM)
    with torch.no_grad():
        assert can_join(model, renderer.end) is joins
    policy, transcript = TransformersPolicy(model, Sampling(8)), Transcript(renderer)
    read = []
    for turn, user in enumerate(USERS):
        transcript.add_user(user, [picture(turn)] if turn < 2 else [])
        (found,) = policy.generate([transcript], [user])
        read.append(policy.prefilled)
        length = len(transcript.ids)
        transcript.add_assistant(found.token_ids, found.logprobs)
    assert read[2] - read[1] < length / 2 if joins else read[2] - read[1] == length
    assert farthest(sampled(transcript), scored(model, [transcript])[0]) < 1e-5


def test_markup_in_outside_text_stays_text(family: tuple[str, Any, Renderer]) -> None:
    _, _, renderer = family
    added = [token.content for token in renderer.tokenizer.added_tokens_decoder.values()]
    markers = set(renderer.tokenizer.convert_ids_to_tokens(renderer.stops))
    markers |= {token for token in added if token in renderer.processor.chat_template}
    markers -= {renderer.tokenizer.unk_token}
    numbers = set(renderer.tokenizer.convert_tokens_to_ids(sorted(markers)))
    assert renderer.end in numbers and len(numbers) > 3
    for first in (True, False):
        quiet = renderer.user_turn("hello", [picture(0)], first).ids
        loud = renderer.user_turn("hello" + "".join(sorted(markers)), [picture(0)], first).ids
        assert [token for token in loud if token in numbers] == [token for token in quiet if token in numbers]
    assert not numbers.intersection(renderer.plain("".join(renderer.tokenizer.all_special_tokens)))


def test_freezing_and_adapters_choose_by_module(family: tuple[str, Any, Renderer]) -> None:
    """Trained are the language model and its head; adapted are all its linear layers."""
    name, _, _ = family
    model, _ = built.__wrapped__(name)
    language = "model.text_model" if name in ("smolvlm", "idefics2", "idefics3") else "model.language_model"
    adapters = lora(tiny_config(student={"lora_rank": 2}).student, model)
    inside = model.get_submodule(language)
    wanted = [name for name, part in inside.named_modules() if type(part) is torch.nn.Linear]
    assert sorted(adapters.target_modules) == sorted(f"{language}.{name}" for name in wanted)
    freeze_vision(model)
    moving = {name for name, weight in model.named_parameters() if weight.requires_grad}
    named = (name for name, _ in model.named_parameters())
    assert moving == {name for name in named if name.startswith((language + ".", "lm_head."))}
    assert parts_of(model).language is inside
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, adapters)
    freeze_vision(adapted)
    trained = {
        name.partition(".lora_")[0] for name, weight in adapted.named_parameters() if weight.requires_grad
    }
    assert trained == {f"base_model.model.{language}.{name}" for name in wanted}


def test_a_model_whose_parts_cannot_be_told_apart_is_refused() -> None:
    model, _ = built.__wrapped__("gemma3")
    model.model.vision_tower = model.model.language_model
    with pytest.raises(UserError, match=r"^student .*Gemma3.* cannot be told apart; choose another model$"):
        freeze_vision(model)


def test_a_model_without_a_vision_tower_is_refused() -> None:
    model = empty_model(Gemma4Config(text_config={"num_hidden_layers": 2}))
    with pytest.raises(UserError, match=r"^student Gemma4.* cannot be told apart"):
        freeze_vision(model)


def test_a_head_inside_the_language_model_gets_no_adapter() -> None:
    text = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "intermediate_size_mlp": 64}
    model = empty_model(Llama4Config(text_config=text, vision_config={"num_hidden_layers": 1}))
    names = adapted_layers(model)
    assert isinstance(model.language_model.lm_head, torch.nn.Linear)
    assert len(names) > 4 and not [name for name in names if "vision" in name or "lm_head" in name]


def test_a_template_that_drops_reasoning_is_refused() -> None:
    _, processor = built("qwen3_5")
    with pytest.raises(
        UserError, match=r"past answers otherwise than they were sampled.*student\.chat_template: FILE$"
    ) as refused:
        load_renderer(processor, SYSTEM)
    assert "\n" not in str(refused.value)


def test_a_template_that_cuts_answers_at_the_end_of_reasoning_is_refused_if_the_model_can_reason() -> None:
    """LFM2-VL's cuts all up to `</think>`. A model without a token for that was not trained to write it."""
    _, processor = built("lfm2_vl")
    assert load_renderer(processor, SYSTEM).marks() == []
    _, reasoning = built.__wrapped__("lfm2_vl")
    reasoning.tokenizer.add_tokens(["<think>", "</think>"])
    with pytest.raises(UserError, match=r"past answers otherwise than they were sampled") as refused:
        load_renderer(reasoning, SYSTEM)
    assert "\n" not in str(refused.value)
    cut = "not keep_thinking and"
    assert cut in reasoning.chat_template
    reasoning.chat_template = reasoning.chat_template.replace(cut, "false and")
    assert load_renderer(reasoning, SYSTEM).marks() == ["</think>", "<think>"]


@pytest.mark.parametrize(
    "otherwise", ["{{ raise_exception('only the first turn') }}", ""], ids=["raises", "silent"]
)
def test_a_template_without_later_pictures_serves_dialogues_that_have_none(otherwise: str) -> None:
    _, processor = built.__wrapped__("internvl")
    writes = "<IMG_CONTEXT>\n"
    assert writes in processor.chat_template
    once = f"{{% if message == messages[1] %}}{writes}{{% else %}}{otherwise}{{% endif %}}"
    processor.chat_template = processor.chat_template.replace(writes, once)
    renderer = load_renderer(processor, SYSTEM)
    assert not renderer.later_pictures
    transcript = Transcript(renderer)
    transcript.add_user("What is it?", [picture(0)])
    transcript.add_assistant([renderer.end], [0.0])
    with pytest.raises(
        UserError, match=r"^student .*pictures in the first user turn only; give one .*FILE, or"
    ):
        transcript.copy().add_user("And this?", [picture(1)])
    transcript.add_user("And why?")


def test_the_shipped_template_of_gemma4_is_its_own_but_for_marks_in_past_answers() -> None:
    _, processor = built("gemma4")
    shipped = keeping_answers("gemma4", processor)
    talk = ["What is it?", " A box. ", "Why?", "It\nis.", "Look again."]
    for system in ("", SYSTEM):
        mine, own = Renderer(shipped, system), Renderer(processor, system)
        for count in (1, 3, 5):
            for shown in ([], [[picture(0), picture(1)], [], [picture(2)]]):
                assert mine.render(talk[:count], shown) == own.render(talk[:count], shown)
    marked = [talk[0], "<|channel>thought\nIs it?<channel|>It is.", talk[2]]
    assert marked[1] in mine.render(marked) and marked[1] not in own.render(marked)


def test_the_shipped_template_of_qwen3_5_differs_from_its_own_in_past_answers_alone() -> None:
    _, processor = built("qwen3_5")
    talk = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
    ]
    file = (ROOT / "configs" / "qwen3.5-chat.jinja").read_text()
    own, shipped = (
        processor.apply_chat_template(talk, add_generation_prompt=True, chat_template=text)
        for text in (processor.chat_template, file)
    )
    assert own == shipped
    talk += [
        {"role": "assistant", "content": [{"type": "text", "text": "A box."}]},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    own, shipped = (
        processor.apply_chat_template(talk, add_generation_prompt=True, chat_template=text)
        for text in (processor.chat_template, file)
    )
    assert shipped.replace("<think>\n\n</think>\n\nA box.", "A box.") == own
