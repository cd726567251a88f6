"""Families outside those of `test_families.py`: each is trained rightly in one step, or refused with one line
that names the cause. docs/explanation/students.md has a row for each."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image

import safer_steer.student.training_trial as trial
from family_run import Scoring, config_of, write_seeds
from places import ROOT
from safer_steer.config import Config
from safer_steer.errors import UserError
from safer_steer.run.preflight import check_student
from safer_steer.student.load import LoadedStudent, empty_model, load_model_config, load_student
from safer_steer.student.modules import adapted_layers, freeze_vision
from safer_steer.student.proof import _prove, load_renderer
from safer_steer.student.training_trial import try_training
from safer_steer.student.transcript import Transcript, model_inputs
from safer_steer.training.grpo import reinforce
from safer_steer.training.refusals import refuse_lost_inputs
from safer_steer.training.sft import fine_tune
from sft_run import checks, loss_of_the_base, losses, prepared
from tiny_families import FAMILIES, OTHERS, built
from tiny_newer import NEWER
from tiny_tried import TRIED

SYSTEM = "You are a helpful assistant."
TRAINED = ["pixtral", "ovis2", "granite4_vision", "qwen3_vl_moe", "qwen3_5_moe", *TRIED, *NEWER]


def settings(family: str, config: Config) -> Config:
    """As its row in the docs says that the family is to be set."""
    if family == "pixtral":
        config.student.system = ""
    if family == "qwen3_vl_moe":
        config.student.lora_rank = 2
    return config


@pytest.mark.slow
@pytest.mark.parametrize("family", TRAINED)
def test_a_step_of_sft_and_of_grpo(family: str, tmp_path: Path) -> None:
    config = settings(family, prepared(family, tmp_path, 1, 2))
    wanted = loss_of_the_base(config, tmp_path)
    fine_tune(config, tmp_path)
    assert losses(tmp_path) == [pytest.approx(wanted, abs=1e-4)], "the loss that the config asks for alone"
    (numbers,) = checks(tmp_path)
    write_seeds(tmp_path, 1, 2)
    config = settings(family, config_of(family, tmp_path))
    reinforce(config, tmp_path, Scoring(), value=lambda dialogue: float(dialogue.id[-1]))
    rl = json.loads((tmp_path / "rl/metrics.jsonl").read_text())["checks"]
    for row in (numbers, rl):
        assert row["picture_tokens"] == row["picture_features"] > 0 and row["blank_shift"] > 0.001
        assert row["head_gap"] < 1e-5 and row["mode_gap"] < 1e-5 and row["rendered_again"] > 0
    assert rl["engine_gap"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ovis2", "internvl"])
def test_a_picture_that_is_cut_into_tiles(family: str, tmp_path: Path) -> None:
    write_seeds(tmp_path, 1, 2)
    Image.new("RGB", (130, 56), "teal").save(tmp_path / "images/1.png")
    reinforce(config_of(family, tmp_path), tmp_path, Scoring(), value=lambda each: float(each.id[-1]))
    rl = json.loads((tmp_path / "rl/metrics.jsonl").read_text())["checks"]
    assert rl["engine_gap"] < 1e-5 and rl["picture_tokens"] == rl["picture_features"]


@pytest.mark.slow
def test_experts_are_not_taught_to_be_used_alike(tmp_path: Path) -> None:
    """TRL adds the router's loss by itself. Where no trajectory is better, nothing is learned."""
    config = prepared("qwen3_vl_moe", tmp_path / "sft", 1, 1)
    fine_tune(config, tmp_path / "sft")
    was, now = (
        json.loads((tmp_path / "sft" / name / "config.json").read_text())["text_config"]
        for name in ("base", "sft/model")
    )
    keys = ("output_router_logits", "router_aux_loss_coef")
    assert [now.get(key) for key in keys] == [was.get(key) for key in keys]
    write_seeds(tmp_path, 1, 2)
    config = config_of("qwen3_vl_moe", tmp_path)
    config.rl.beta = 0.0
    reinforce(config, tmp_path, Scoring(), value=lambda dialogue: 1.0)
    row = json.loads((tmp_path / "rl/metrics.jsonl").read_text())
    assert row["loss"] == row["grad_norm"] == 0


NUMBERED = (
    "its processor writes a dialogue with pictures in every turn otherwise in one go than turn by turn: it"
    " numbers them, or gives a picture other tokens where a dialogue shows several; its chat template is not"
    " the cause; choose another model"
)


@pytest.mark.parametrize(
    ("family", "cause"),
    [
        ("llava_onevision", NUMBERED),
        ("minicpmv", NUMBERED),
        (
            "mllama",
            "its processor writes a dialogue without pictures otherwise in one go than turn by turn: it"
            " begins every turn with the token that begins a text; its chat template is not the cause; choose"
            " another model",
        ),
        (
            "paligemma",
            "its processor takes no dialogue without pictures (`images` are expected as arguments to a"
            " `PaliGemmaProcessor` instance.); choose another model",
        ),
        (
            "chameleon",
            "its processor writes a dialogue without pictures otherwise in one go than turn by turn: it adds"
            " tokens to every turn; its chat template is not the cause; choose another model",
        ),
        (
            "pixtral",
            "its chat template leaves the system message out, or writes it into the last user turn, so that"
            ' every turn changes those before it; set student.system: "", or give another one in'
            " student.chat_template: FILE",
        ),
        (
            "gemma4",
            "its chat template renders past answers otherwise than they were sampled (it drops <channel|> and"
            " <|channel>, for instance); give one that keeps them in student.chat_template: FILE",
        ),
    ],
)
def test_a_dialogue_that_cannot_be_written_turn_by_turn_is_refused(family: str, cause: str) -> None:
    _, processor = built(family)
    with pytest.raises(UserError) as refused:
        load_renderer(processor, SYSTEM)
    assert str(refused.value) == f"student {type(processor).__name__}: {cause}"


@pytest.mark.parametrize(
    ("family", "ours", "own", "told"),
    [
        (
            "llava",
            "</s>",
            "{{ ' ' }}",
            "closes an answer with ' USER: Qprobe ASSIST', which is no special token",
        ),
        (
            "glm4v_moe",
            "{{ part['text'] }}",
            "{{ part['text'].split('</think>')[-1] }}",
            r"renders past answers otherwise than they were sampled \(it drops </think>, for instance\)",
        ),
    ],
)
def test_a_template_as_published_is_refused(family: str, ours: str, own: str, told: str) -> None:
    _, processor = built.__wrapped__(family)
    load_renderer(processor, SYSTEM)
    processor.chat_template = processor.chat_template.replace(ours, own)
    with pytest.raises(UserError, match=f"its chat template {told}"):
        load_renderer(processor, SYSTEM)


@pytest.mark.parametrize(
    ("cuts", "named"),
    [
        ("text.split('<a>')[0]", "<a>"),
        ("text.split('<a>')[0] if '<b>' in text.split('<a>')[-1] and '<a>' in text else text", "<a>...<b>"),
        ("text.replace('<b>', '') if '<c>' in text else text", "<b>...<c>"),
    ],
)
def test_every_pair_of_marks_is_tried(cuts: str, named: str) -> None:
    """Special tokens or not; those that the tokenizer does not know cannot be sampled."""
    _, processor = built.__wrapped__("fast_vlm")
    cut = "{% set text = part['text'] %}{{ (" + cuts + ") if message['role'] == 'assistant' else text }}"
    processor.chat_template = processor.chat_template.replace("{{ part['text'] }}", cut)
    load_renderer(processor, SYSTEM)
    processor.tokenizer.add_tokens(["<b>", "<c>"])
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<a>"]})
    with pytest.raises(UserError, match=rf"\(it drops {re.escape(named)}, for instance\)"):
        load_renderer(processor, SYSTEM)


def test_a_processor_that_fails_is_not_taken_for_its_template() -> None:
    _, processor = built.__wrapped__("llava_next")

    def fails(*args: Any, **options: Any) -> Any:
        raise IndexError("too many pictures")

    renderer = load_renderer(processor, SYSTEM)
    renderer.user_turn = fails
    with pytest.raises(
        UserError, match=r"its processor cannot take a dialogue \(too many pictures\); choose another model$"
    ):
        _prove(renderer, "a dialogue", [[], [], []])


def test_a_system_message_that_is_taken_as_a_string_alone_is_refused() -> None:
    """TRL gives parts. The answers are no parts either."""
    _, processor = built.__wrapped__("glm4v")
    strings = "{% if messages[0]['role'] == 'system' %}{{ '[gMASK]' + messages[0]['content'] }}"
    strings += "{% set messages = messages[1:] %}{% endif %}"
    processor.chat_template = strings + processor.chat_template
    with pytest.raises(
        UserError, match=r'takes no parts of a system message; set student\.system: "", or give'
    ):
        load_renderer(processor, SYSTEM)
    load_renderer(processor, "")


def test_a_template_that_takes_no_system_message_serves_without() -> None:
    _, processor = built.__wrapped__("fast_vlm")
    no_system = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    processor.chat_template = no_system + processor.chat_template
    with pytest.raises(
        UserError,
        match=r'takes no system message \(no system role\); set student\.system: "", or give another',
    ):
        load_renderer(processor, SYSTEM)
    load_renderer(processor, "")


def test_answers_that_join_what_the_template_writes_before_them_are_refused() -> None:
    _, processor = built.__wrapped__("fast_vlm")
    processor.chat_template = processor.chat_template.replace("assistant\n", "assistant ").replace(
        "{{ message['role'] }}\n", "{{ message['role'] }} "
    )
    with pytest.raises(
        UserError, match=r"its tokenizer joins what its chat template writes before an answer"
    ):
        load_renderer(processor, SYSTEM)


HEAD = r"own forward pass: the trainer's log-probabilities of .* nats from it .* \(logit_scale, .* choose"


def test_a_head_that_scales_otherwise_than_the_model_stops_sft(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^sft: step 1: {HEAD}") as stopped:
        fine_tune(prepared("aya_vision", tmp_path, 1, 1), tmp_path)
    assert "\n" not in str(stopped.value) and not (tmp_path / "sft/model").exists()


def test_a_head_that_scales_otherwise_than_the_model_stops_grpo(tmp_path: Path) -> None:
    write_seeds(tmp_path, 1, 1)
    with pytest.raises(UserError, match=rf"^rl: step 1: {HEAD}"):
        reinforce(
            config_of("aya_vision", tmp_path), tmp_path, Scoring(), value=lambda each: float(each.id[-1])
        )


def tried(family: str, folder: Path, **student: Any) -> None:
    """The trial before a run, with these settings."""
    config = config_of(family, folder)
    settings = config.student.model_copy(update=student)
    try_training(settings, load_student(settings).renderer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trial_finds_a_head_that_scales_otherwise(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^student .*: {HEAD}"):
        tried("cohere2_vision", tmp_path, dtype=dtype)


@pytest.mark.parametrize("student", [{}, {"dtype": "bfloat16", "lora_rank": 2}])
def test_the_trial_finds_a_model_that_trl_cannot_split(student: dict[str, Any], tmp_path: Path) -> None:
    """Llama 4, which would fail by its pixels' number type, or by its output."""
    with pytest.raises(
        UserError,
        match=r"^student .*: cannot be trained: TRL needs .* its head, and Llama4For\w+ has none",
    ):
        tried("llama4", tmp_path, **student)


@pytest.mark.parametrize("student", [{}, {"dtype": "bfloat16", "lora_rank": 2}])
def test_the_trial_finds_pictures_that_are_placed_by_those_of_other_dialogues(
    student: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=r"^student .*: cannot be trained in batches: HunYuanVLFor\w+ places a dialogue's pictures"
        r" otherwise beside pictures of another dialogue of the batch.*; choose another model$",
    ):
        tried("hunyuan_vl", tmp_path, **student)


@pytest.mark.parametrize(
    "student",
    [{"dtype": "bfloat16"}, {"dtype": "bfloat16", "lora_rank": 2}, {"freeze_vision": False}],
    ids=lambda student: " ".join(map(str, student.values())) or "all",
)
def test_a_student_that_can_be_trained_passes_the_trial_once(
    student: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(*args: Any, **options: Any) -> LoadedStudent:
        loaded.append(options["dtype"])
        return load_student(*args, **options)

    monkeypatch.setattr(trial, "load_student", load)
    monkeypatch.setattr(trial, "SLOW_S", 0)
    lines: list[str] = []
    config = config_of("fast_vlm", tmp_path)
    settings = config.student.model_copy(update=student)
    renderer = load_student(settings).renderer
    for _ in range(2):
        try_training(settings, renderer, lines.append)
    assert loaded == ["bfloat16" if "lora_rank" in student else "float32"]
    [line] = lines
    assert re.fullmatch("student: its weights were loaded and tried in one step of training, in .* s", line)


def test_the_trial_finds_a_pass_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **options: Any) -> LoadedStudent:
        student = load_student(*args, **options)
        student.model.get_encoder(modality="image").double()
        return student

    monkeypatch.setattr(trial, "load_student", load)
    with pytest.raises(
        UserError,
        match=r"cannot be trained here: one forward and backward pass with a picture, in float32, fails"
        r" \(RuntimeError: .*\); choose another model$",
    ) as refused:
        tried("llava_next", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_router_of_experts_gets_no_adapter() -> None:
    model, _ = built("llama4")
    names = adapted_layers(model)
    routers = [name for name, part in model.named_modules() if type(part).__name__ == "Llama4Router"]
    assert routers and not set(routers) & set(names)
    assert any(name.endswith("q_proj") for name in names)


def test_a_projector_of_pixels_is_told_apart_as_a_tower_is() -> None:
    model, _ = built.__wrapped__("gemma4_unified")
    names = adapted_layers(model)
    assert names and all(name.startswith("model.language_model.") for name in names)
    freeze_vision(model)
    still = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert len(still) > 5 and all(name.startswith("model.embed_vision.") for name in still)


def test_experts_that_get_no_adapter_are_named(tmp_path: Path) -> None:
    lines: list[str] = []
    config = config_of("qwen3_vl_moe", tmp_path)
    check_student(config, say=lines.append)
    assert not lines, "all weights are trained"
    config.student.lora_rank = 2
    check_student(config, say=lines.append)
    (line,) = lines
    assert line.startswith("student.lora_rank: the experts (layers.0.mlp.experts.gate_up_proj and others, ")
    assert line.endswith("are stacked parameters and get no adapter; they stay as they are")
    dense = config_of("qwen3_5", tmp_path)  # has convolutions
    dense.student.lora_rank = 2
    check_student(dense, say=lines.append)
    assert len(lines) == 1


NEEDS_TIMM = ["FastVlmConfig", "Gemma3nConfig", "PerceptionLMConfig"]


@pytest.mark.parametrize("kind", NEEDS_TIMM)
def test_a_library_that_is_missing_is_named(kind: str, tmp_path: Path) -> None:
    getattr(hf, kind)().save_pretrained(tmp_path)
    with pytest.raises(UserError) as refused:
        empty_model(load_model_config(str(tmp_path)))
    assert str(refused.value) == (
        f"student {tmp_path}: cannot be loaded: it needs timm, which is not installed; `pip install timm`, or"
        " choose another model"
    )


def test_a_model_of_more_than_language_and_pictures_is_refused(tmp_path: Path) -> None:
    hf.Qwen2_5OmniConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="qwen2_5_omni is not a vision-language model of this version of"):
        empty_model(load_model_config(str(tmp_path)))


ENCODER_DECODERS = ["Florence2Config", "T5Gemma2Config"]


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_a_model_that_writes_with_a_decoder_of_its_own_is_refused(kind: str, tmp_path: Path) -> None:
    getattr(hf, kind)().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="2 writes with a decoder of its own what its encoder has read, and"):
        empty_model(load_model_config(str(tmp_path)))


@pytest.mark.slow
def test_types_of_tokens_that_grpo_would_lose_are_refused(tmp_path: Path) -> None:
    """Its experts are chosen by them. SFT trains it."""
    config = prepared("ernie4_5_vl_moe", tmp_path, 1, 2)
    wanted = loss_of_the_base(config, tmp_path)
    fine_tune(config, tmp_path)
    assert losses(tmp_path) == [pytest.approx(wanted, abs=1e-4)]
    with pytest.raises(UserError, match=r"TRL's GRPO hands moe_mm_token_type_ids not on to .*: dpo$"):
        check_student(config, ("rl",))


def test_inputs_that_grpo_would_lose_are_refused() -> None:
    _, processor = built("fast_vlm")
    renderer = load_renderer(processor, SYSTEM)
    refuse_lost_inputs(renderer)
    renderer.picture_inputs = ("pixel_values", "target_sizes")
    with pytest.raises(
        UserError,
        match=r"^student .*: TRL's GRPO hands target_sizes not on to the model.* rl\.algorithm: dpo$",
    ):
        refuse_lost_inputs(renderer)


WIDE, TALL = Image.new("RGB", (112, 56), "blue"), Image.new("RGB", (84, 112), "red")


@pytest.mark.parametrize("shown", [[[WIDE], [TALL]], [[TALL], [WIDE]], [[TALL, WIDE], [], [WIDE]]])
def test_inputs_that_some_pictures_have_are_given_with_those(shown: list[list[Image.Image]]) -> None:
    _, processor = built("step3p7")
    renderer = load_renderer(processor, SYSTEM)
    assert renderer.picture_inputs == ("pixel_values", "num_local_patches", "pixel_values_local")
    talk = ["What is it?", "A box.", "And that?", "No.", "Why?"]
    whole = renderer.rendered(talk, shown)
    ours = model_inputs([Transcript.of(renderer, talk, shown)], "right")
    assert all(torch.equal(ours[name], whole[name]) for name in renderer.picture_inputs)
    with pytest.raises(UserError, match=r"hands num_local_patches, pixel_values_local not on.*: dpo$"):
        refuse_lost_inputs(renderer)


@pytest.mark.slow
def test_a_step_of_sft_on_pictures_of_which_some_have_further_inputs(tmp_path: Path) -> None:
    config = prepared("step3p7", tmp_path, 1, 2)
    WIDE.save(tmp_path / "images/2.png")
    wanted = loss_of_the_base(config, tmp_path)
    fine_tune(config, tmp_path)
    assert losses(tmp_path) == [pytest.approx(wanted, abs=1e-4)]
    (row,) = checks(tmp_path)
    assert row["picture_tokens"] == row["picture_features"] > 0 and row["pixel_gap"] == 0


def test_statistics_of_a_frozen_tower_stay(tmp_path: Path) -> None:
    config = prepared("fast_vlm", tmp_path, 1, 2)
    base = load_student(config.student).model
    trained = load_student(config.student, fine_tune(config, tmp_path)).model
    kept = dict(base.named_buffers())
    moved = [name for name, tensor in trained.named_buffers() if not torch.equal(tensor, kept[name])]
    assert any("running_mean" in name for name in kept) and not moved


def test_the_page_has_a_row_for_each_family() -> None:
    page = (ROOT / "docs/explanation/students.md").read_text()
    rows = dict(
        re.findall(r"^\| [\w .-]+ \(`(\w+)`\) \| .* \| (trained|refused)\b.* \|$", page, re.MULTILINE)
    )
    assert rows == dict.fromkeys([*FAMILIES, *TRAINED], "trained") | dict.fromkeys(
        [
            *(family for family in OTHERS if family not in TRAINED),
            *NEEDS_TIMM[1:],
            *ENCODER_DECODERS,
            "Qwen2_5OmniConfig",
        ],
        "refused",
    )
    told = re.search(
        r"(\d+) pass every test as tiny models, (\d+) more\n  a step of training, and (\d+) are refused",
        (ROOT / "README.md").read_text(),
    )
    assert told and [int(number) for number in told.groups()] == [
        len(FAMILIES),
        len(TRAINED),
        len(rows) - len(FAMILIES) - len(TRAINED),
    ]
