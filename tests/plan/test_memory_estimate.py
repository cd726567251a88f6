"""GPU memory: known numbers of Qwen2.5-VL, real bytes of the shipped student, and the shipped configs on one
card."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen3_5Config, Qwen3VLConfig

from places import ROOT
from safer_steer.config import SHIPPED, Config
from safer_steer.config.file import load_config
from safer_steer.errors import UserError
from safer_steer.plan.memory import GB, Memory, estimate, too_large
from safer_steer.plan.model_shape import Shape, shape_of, shape_of_config
from safer_steer.student.load import load_student
from safer_steer.student.modules import freeze_vision
from safer_steer.student.training import lora, training_dtype
from student_parts import tiny_config
from tiny_families import FAMILIES, built

TEXT = {
    "3b": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
           "intermediate_size": 11008, "vocab_size": 151936},
    "7b": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
           "intermediate_size": 18944, "vocab_size": 152064},
    "32b": {"hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8,
            "intermediate_size": 27648, "vocab_size": 152064},
}  # fmt: skip
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}


def published(size: str) -> Qwen2_5_VLConfig:
    """The sizes that Qwen2.5-VL was published with."""
    tied = size == "3b"
    vision = VISION | {"out_hidden_size": TEXT[size]["hidden_size"]}
    vision |= {"intermediate_size": 3456} if size == "32b" else {}
    text = TEXT[size] | {"model_type": "qwen2_5_vl_text", "tie_word_embeddings": tied}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


@cache
def shape(size: str, rank: int) -> Shape:
    """Building a model of this size takes seconds, even without its weights."""
    config = load_config(ROOT / "configs" / f"qwen2.5-vl-{'3b' if size == '3b' else '7b'}.yaml")
    config.student.lora_rank = rank
    return shape_of_config(published(size), config.student)


def config_and_shape(name: str) -> tuple[Config, Shape]:
    config = load_config(ROOT / "configs" / f"qwen2.5-vl-{name}.yaml")
    return config, shape(name[:2], config.student.lora_rank)


def peaks(config: Config, shape: Shape, processes: int = 1) -> dict[str, Memory]:
    return {peak.peak: peak for peak in estimate(config, shape, processes)}


@pytest.mark.parametrize(
    ("name", "parameters", "held"), [("3b-full", 3_754_622_976, 67.1), ("7b", 8_292_166_656, 157.7)]
)
def test_full_fine_tuning_holds_what_is_known(name: str, parameters: int, held: float) -> None:
    config, shape = config_and_shape(name)
    assert shape.parameters == parameters
    training = peaks(config, shape)["rl training"]
    assert training.held / GB == pytest.approx(held, abs=0.05)
    assert training.weights == training.reference == 4 * parameters
    without = config.model_copy(update={"rl": config.rl.model_copy(update={"beta": 0.0})})
    assert peaks(without, shape)["rl training"].reference == 0, "TRL loads no reference then"
    assert "rl reference" not in peaks(without, shape)


def test_an_adapter_is_not_merged_and_has_a_copy_as_its_reference() -> None:
    config, shape = config_and_shape("3b")
    found, size = peaks(config, shape), 4 * shape.adapters
    assert found["bench generation"].weights == 2 * shape.parameters + size
    assert found["seeds generation"].weights == 2 * shape.parameters, "the target is the base"
    assert {found[f"rl {peak}"].reference for peak in ("rollouts", "reference", "training")} == {size}
    from_base = config.model_copy(update={"rl": config.rl.model_copy(update={"start_from": "base"})})
    assert peaks(from_base, shape)["rl training"].reference == 0, "it is switched off"


def test_the_cache_is_half_in_float32_where_autocast_meets_float32_weights() -> None:
    """In float32: 36 layers x 2 x 256 x 4 bytes of cache a token, and 5 x 2,048 + 3 x 11,008 numbers of one
    layer's prefill."""
    single, shape = config_and_shape("3b-full")
    single.student.dtype, single.student.generation_tokens = "float32", 64 * 2_000
    rollouts = peaks(single, shape)["rl rollouts"]
    assert rollouts.cache == 64 * 2_000 * 36 * 2 * 256 * 4
    assert rollouts.activations / GB == pytest.approx(22.2, abs=0.05)
    full, shape = config_and_shape("3b-full")
    assert peaks(full, shape)["rl rollouts"].cache == 65_536 * 36 * 256 * (4 + 2)
    assert peaks(full, shape)["bench generation"].cache == 65_536 * 36 * 256 * (2 + 2)
    adapters, small = config_and_shape("3b")
    assert peaks(adapters, small)["rl rollouts"].cache == 65_536 * 36 * 256 * (2 + 2)


@pytest.mark.parametrize(("rank", "frozen"), [(0, True), (0, False), (4, False)])
def test_bytes_of_the_shipped_student_are_those_of_the_real_tensors(rank: int, frozen: bool) -> None:
    wanted = {"lora_rank": rank, "freeze_vision": frozen, "dtype": "bfloat16"}
    config = tiny_config(student=tiny_config().student.model_dump(mode="json") | wanted)
    student = config.student
    loaded = load_student(student, dtype=training_dtype(student))
    model = loaded.model
    if adapters := lora(student, model):
        model = get_peft_model(model, adapters)
    if frozen:
        freeze_vision(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    moments = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    peak = peaks(config, shape_of(str(SHIPPED), student))["sft training"]

    def size(tensors: list[torch.Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    assert peak.weights == size(list(model.parameters()))
    assert peak.gradients == size([parameter.grad for parameter in trained if parameter.grad is not None])
    assert peak.optimiser == size(moments)


def test_the_cache_of_the_shipped_student_is_that_of_the_real_tensors(student) -> None:
    shape = shape_of(str(SHIPPED), tiny_config().student)
    ids = torch.randint(0, 100, (3, 17))
    with torch.no_grad():
        cache = student.model(input_ids=ids, attention_mask=torch.ones_like(ids)).past_key_values
    real = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    config = tiny_config()
    config.student.generation_tokens = 3 * 17
    assert peaks(config, shape)["rl rollouts"].cache == real


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that was allocated at once, beyond what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    assert watched.profiler is not None and watched.profiler.kineto_results is not None
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "rank", "device"),
    [("float32", 0, "cpu"), ("float32", 0, "cuda"), ("bfloat16", 0, "cuda"), ("bfloat16", 8, "cuda")],
)
def test_the_estimate_is_close_to_what_is_allocated(dtype: str, rank: int, device: str) -> None:
    """A real model on the CPU with the proportions of Qwen2.5-VL: prefill, and a forward and backward pass
    without the head, with gradient checkpointing as on a GPU and without."""
    tokens = 512
    rope = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6}
    text = {
        "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 1,
        "intermediate_size": 1376, "vocab_size": 512, "model_type": "qwen2_5_vl_text",
        "rope_parameters": rope,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 256}
    model_config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    student = {"dtype": dtype, "lora_rank": rank, "max_length": tokens, "generation_tokens": tokens}
    config = Config.model_validate({"student": student | {"max_pixels": 784, "device": device}})
    found = peaks(config, shape_of_config(model_config, config.student))
    weights = getattr(torch, training_dtype(config.student))
    whole = AutoModelForImageTextToText.from_config(model_config, dtype=weights)
    adapters = lora(config.student, whole)
    model = get_peft_model(whole, adapters) if adapters else whole
    freeze_vision(model)
    ids = torch.randint(0, 500, (1, tokens))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    half = dtype == "bfloat16"

    def prefill() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            model(**inputs, use_cache=True, logits_to_keep=1)

    def learn() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            hidden = whole.model(**inputs, use_cache=False).last_hidden_state
        hidden.float().pow(2).mean().backward()

    model.eval()
    rollouts = found["rl rollouts"]
    estimated = rollouts.cache + rollouts.activations + rollouts.casts
    assert 0.95 < estimated / peak_bytes(prefill) < 1.3
    model.train()
    if device == "cuda":
        whole.activation_checkpointing_enable()
        whole.enable_input_require_grads()
    learn()  # from the second micro-batch on the gradients are there
    training = found["sft training"]
    assert 0.95 < (training.activations + training.casts) / peak_bytes(learn) < 1.3


def test_processes_hold_everything_and_share_the_trajectories() -> None:
    config, shape = config_and_shape("3b-full")
    one, eight = peaks(config, shape), peaks(config, shape, 8)
    assert eight["rl training"].weights == one["rl training"].weights
    assert eight["rl training"].gradients == 2 * one["rl training"].gradients, (
        "DDP keeps buckets beside the gradients"
    )
    rows = config.rl.prompts_per_step * config.rl.group_size
    more = 3 * config.rl.micro_batch_size  # in every process
    assert one["rl training"].pictures / eight["rl training"].pictures == (rows + more) / (rows / 8 + more)
    assert eight["bench generation"] == one["bench generation"]


def test_processes_that_shard_hold_a_share_and_gather_the_rest() -> None:
    config, shape = config_and_shape("7b")
    one, split = peaks(config, shape), config.model_copy(deep=True)
    split.student.sharding = "full"
    assert peaks(split, shape) == one, "one process has nothing to share"
    eight = peaks(split, shape, 8)
    for name in ("sft training", "rl training"):
        assert eight[name].held == pytest.approx(one[name].held / 8), "no buckets"
    assert eight["rl rollouts"].casts == 2 * shape.parameters, "whole weights in bfloat16"
    assert eight["rl rollouts"].cache == one["rl rollouts"].cache
    layers = 28 * shape.layer
    assert 0.99 < layers / (6.53e9) < 1.01, "Qwen2.5-7B has 6.53 B parameters outside its embeddings"
    assert eight["rl training"].casts == 2 * (shape.parameters - layers + 3 * shape.layer)
    assert eight["rl reference"].reference * 8 == one["rl reference"].reference
    assert eight["rl reference"].casts == 2 * shape.parameters, "TRL splits a reference in one piece"
    assert not too_large(list(eight.values()), 80 * GB), "full fine-tuning of a 7B fits eight cards"
    assert [peak.stage for peak in too_large(estimate(config, shape, 8), 80 * GB)] == ["sft", "rl"]


def test_rollouts_on_servers_take_no_memory_for_generation() -> None:
    config, shape = config_and_shape("7b")
    rollouts = config.rl.rollouts.model_copy(update={"engine": "vllm"})
    served = config.model_copy(update={"rl": config.rl.model_copy(update={"rollouts": rollouts})})
    for processes in (1, 8):
        here, there = (peaks(each, shape, processes) for each in (config, served))
        assert there["rl rollouts"].total == there["rl rollouts"].held
        assert there["rl rollouts"].total < here["rl rollouts"].total
        assert there["bench generation"].total == 2 * shape.parameters
        assert there["rl training"] == here["rl training"]


def in_the_table(name: str, found: dict[str, Memory]) -> bool:
    """Whether the table of docs/how-to/memory.md has these peaks for a config."""
    generation = max(found[f"{stage} generation"].total for stage in ("seeds", "bench"))
    rl = max((found[name] for name in found if name.startswith("rl")), key=lambda peak: peak.total)
    training = f"{found['sft training'].total / GB:.1f} | {rl.total / GB:.1f} ({rl.peak.split()[1]})"
    row = rf"^\| `{name}`.*? \| {generation / GB:.1f} \| {re.escape(training)} \| {rl.held / GB:.1f} \|"
    return re.search(row, (ROOT / "docs/how-to/memory.md").read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize(
    ("name", "stages"), [("3b", []), ("3b-full", ["rl"]), ("7b", ["sft", "rl"]), ("7b-lora", [])]
)
def test_what_of_the_shipped_configs_fits_one_card_of_80_gb(name: str, stages: list[str]) -> None:
    config, shape = config_and_shape(name)
    assert [peak.stage for peak in too_large(estimate(config, shape), 80 * GB)] == stages
    assert in_the_table(f"qwen2.5-vl-{name}", peaks(config, shape))


PATCHES = {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
    "out_hidden_size": 2560, "num_position_embeddings": 2304,
}  # fmt: skip
OTHERS = {
    "qwen3-vl-4b": (
        Qwen3VLConfig,
        {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
         "intermediate_size": 9728, "vocab_size": 151936},
        4.44,
    ),
    "qwen3.5-4b": (
        Qwen3_5Config,
        {"num_hidden_layers": 32, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256,
         "intermediate_size": 9216, "vocab_size": 248320},
        4.54,
    ),
}  # fmt: skip
"""The sizes that they were published with, and their parameters in billions."""


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_shipped_configs_fit_one_card_of_80_gb(name: str) -> None:
    kind, text, billions = OTHERS[name]
    text = text | {"hidden_size": 2560, "tie_word_embeddings": True}
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    shape = shape_of_config(
        kind(text_config=text, vision_config=PATCHES, tie_word_embeddings=True), config.student
    )
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=0.005)
    assert not too_large(estimate(config, shape), 80 * GB)
    assert in_the_table(name, peaks(config, shape))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_an_estimate(family: str) -> None:
    model, _ = built(family)
    config = tiny_config(student=tiny_config().student.model_dump(mode="json") | {"lora_rank": 2})
    shape = shape_of_config(model.config, config.student)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    assert 0 < shape.adapters == shape.trained
    few = {"llava_next": 1, "idefics2": 1, "gemma4": 9, "fast_vlm": 1}
    assert shape.patches_a_token == few.get(family, 4)
    assert bool(shape.vision_layers) == (family != "fast_vlm"), "a convolutional tower says no sizes"
    assert all(peak.total > 0 for peak in estimate(config, shape))


def test_a_model_whose_config_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its config cannot be loaded"):
        shape_of(str(tmp_path / "none"), tiny_config().student)


PEAKS = ("bench generation", "sft training", "rl rollouts", "rl reference", "rl training")


def test_the_tables_of_the_page_about_scaling_are_what_the_plan_says() -> None:
    """Each row of docs/how-to/scaling.md, computed again."""
    text = (ROOT / "docs/how-to/scaling.md").read_text()
    row = r"^\| (\d+B) \| (LoRA|all) \| (\d+)(?: (DDP|FSDP2))? \| (transformers|vllm) \| (.*) \|$"
    rows = re.findall(row, text, re.MULTILINE)
    assert {row[0] for row in rows} == {"3B", "7B", "32B"} and len(rows) >= 10
    for size, trained, processes, kind, engine, cells in rows:
        config = load_config(ROOT / "configs" / f"qwen2.5-vl-{'3b' if size == '3B' else '7b'}.yaml")
        config.student.lora_rank = 64 if trained == "LoRA" else 0
        config.rl.rollouts.engine = engine
        config.student.sharding = "full" if kind == "FSDP2" else "none"
        found = peaks(config, shape(size.lower(), config.student.lora_rank), int(processes))
        large = 80 * GB * 0.95
        totals = [found[peak].total for peak in PEAKS]
        wanted = [f"**{total / GB:.1f}**" if total > large else f"{total / GB:.1f}" for total in totals]
        assert cells.split(" | ") == wanted, f"{size} {trained} {processes} {kind} {engine}"
