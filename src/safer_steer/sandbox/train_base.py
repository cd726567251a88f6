"""The sandbox's student, a Qwen2.5-VL of a few million parameters with its own tokenizer: built from scratch,
and trained by next-token prediction on the assistant's turns of `corpus.example`."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from safer_steer.sandbox.corpus import TURNS, Example, drill, example
from safer_steer.sandbox.world import SIZE, draw
from safer_steer.student.proof import load_renderer
from safer_steer.student.renderer import Renderer
from safer_steer.student.transcript import Transcript, labels, model_inputs

SYSTEM = "You are a helpful assistant."
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIALS += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
BLOCKS = ["<thinking>", "</thinking>", "<answer>", "</answer>"]
"""Single tokens, but not special ones: users may write them too."""
VOCABULARY = 900

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML in Qwen2.5-VL's layout."""


def transcript_of(renderer: Renderer, dialogue: Example, upto: int | None = None) -> Transcript:
    """A dialogue, or its first `upto` texts, as token ids; every answer is a target."""
    texts = [*chain(*dialogue.turns)][:upto]
    picture = draw(dialogue.device, dialogue.marked, dialogue.picture_seed)
    return Transcript.of(renderer, texts, [[picture]])


def batch_of(renderer: Renderer, examples: list[Example]) -> dict[str, torch.Tensor]:
    """Dialogues as one batch of model inputs, filled up on the right, with `labels` [dialogues, tokens]."""
    transcripts = [transcript_of(renderer, one) for one in examples]
    batch = model_inputs(transcripts, "right")
    return batch | {"labels": labels(transcripts, batch["input_ids"].shape[1])}


class Batches(Dataset):
    """Training batches. Batch i depends only on the seed and i, not on the number of workers."""

    def __init__(self, renderer: Renderer, course: Course) -> None:
        self.renderer, self.course = renderer, course

    def __len__(self) -> int:
        return self.course.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"{self.course.seed} {step}")
        turns = rng.choice(TURNS)  # one length per batch, so little time is spent on padding
        return batch_of(self.renderer, [example(rng, turns) for _ in range(self.course.batch_size)])


class Drills(Batches):
    """Batches of `corpus.drill`. `deciding` marks the deciding word's token, (dialogues, tokens), true or
    false."""

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"{self.course.seed} {step}")
        drills = [drill(rng, skew_at(step / len(self))) for _ in range(self.course.batch_size)]
        batch = batch_of(self.renderer, [one for one, _ in drills])
        deciding = torch.zeros_like(batch["labels"], dtype=torch.bool)
        for row, (_, word) in enumerate(drills):
            token = self.renderer.plain(f"so {word}")[-1]  # as it stands within a sentence
            deciding[row, (batch["labels"][row] == token).nonzero()[-1]] = True
        return batch | {"deciding": deciding}


def skew_at(done: float) -> float:
    """The skew of drills after a share `done` of the steps: 0.9 for a seventh, then down to 0.5, where it
    stays from five fourteenths on."""
    return min(0.9, max(0.5, 0.9 - 0.4 * (done - 1 / 7) / (3 / 14)))


@dataclass(frozen=True)
class Course:
    """How a model is trained."""

    steps: int
    batch_size: int
    learning_rate: float
    """The peak of a cosine with warm-up."""
    seed: int
    device: str


def train_base(
    out: Path, course: Course, start: Path | None, drills: bool, log: Callable[[str], None]
) -> None:
    """Train and save processor, weights (float16 safetensors) and `training.json` (settings, seconds, loss
    curve) to `out`.

    With `start`, training continues from an earlier student and its tokenizer, instead of from scratch; the
    earlier record is kept before the new one.

    Args:
        drills: train on `Drills`. The loss is then the mean over the deciding words plus the mean over all
            target tokens.
    """
    torch.set_float32_matmul_precision("high")
    model, processor = _load(start) if start else _new(course.seed)
    model = model.to(course.device).train()
    batches = (Drills if drills else Batches)(load_renderer(processor, SYSTEM), course)
    record = {"drills": drills} | fit(model, batches, log)
    save(model, processor, out)
    keep(record, start, out)


def keep(record: dict[str, Any], start: Path | None, out: Path) -> None:
    """Write `training.json`: the record of a training after those of the model it started from."""
    earlier = json.loads((start / "training.json").read_text())["runs"] if start else []
    (out / "training.json").write_text(json.dumps({"runs": [*earlier, record]}) + "\n")


def scheduled(groups: list[dict[str, Any]], steps: int, warmup: int, least: float) -> tuple[Any, Any]:
    """AdamW for groups of parameters, and the schedule of their learning rates: a warm-up over so many
    steps, then a cosine down to the share `least` of the peak."""
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def share(done: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1, done / steps)))
        return min(1, (done + 1) / warmup) * (least + (1 - least) * cosine)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def fit(model: Any, batches: Batches, log: Callable[[str], None]) -> dict[str, Any]:
    """Train the weights of a model that may be trained, one step a batch. Returns the settings, the seconds
    that it took and the loss curve."""
    steps, device = batches.course.steps, batches.course.device
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [{"params": weights, "lr": batches.course.learning_rate}]
    optimizer, schedule = scheduled(groups, steps, min(200, max(1, steps // 10)), 0.02)
    workers = min(12, max(0, (os.cpu_count() or 1) - 2))
    loader = DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=8 if workers else None)
    started, curve = time.monotonic(), list[dict[str, Any]]()
    running = torch.zeros((), device=device)
    for step, batch in enumerate(loader, 1):
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        targets, deciding = batch.pop("labels"), batch.pop("deciding", None)
        with torch.autocast(device, torch.bfloat16):
            logits = model(**batch, use_cache=False).logits
        loss = mean_loss(logits, targets, targets != -100)
        whole = loss if deciding is None else loss + mean_loss(logits, targets, deciding)
        whole.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        running += loss.detach()
        if step % 50 == 0 or step == steps:
            mean = running.item() / (step % 50 or 50)
            running.zero_()
            seconds = time.monotonic() - started
            curve.append({"step": step, "loss": round(mean, 4), "seconds": round(seconds)})
            log(f"step {step}/{steps} loss {mean:.4f} {seconds:.0f} s")
    seconds = time.monotonic() - started
    return {**asdict(batches.course), "seconds": round(seconds), "curve": curve}


def mean_loss(logits: torch.Tensor, targets: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy over the tokens that `which` marks.

    Args:
        logits: (dialogues, tokens, vocabulary).
        targets: (dialogues, tokens), token ids.
        which: (dialogues, tokens), true or false.
    """
    places = which[:, 1:]
    return torch.nn.functional.cross_entropy(logits[:, :-1][places].float(), targets[:, 1:][places])


def _new(seed: int) -> tuple[Any, Any]:
    rng = random.Random(f"tokenizer {seed}")
    texts = [text for _ in range(4000) for turn in example(rng).turns for text in turn]
    processor = build_processor(texts + [f"system\n{SYSTEM}", "user\n", "assistant\n"] * 2000)
    return build_model(processor, seed), processor


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    ), AutoProcessor.from_pretrained(folder)


def save(model: Any, processor: Any, out: Path) -> None:
    """Save the weights as float16 safetensors, and the processor."""
    out.mkdir(parents=True, exist_ok=True)
    model.to("cpu", torch.float16).save_pretrained(out)
    processor.save_pretrained(out)


def build_processor(texts: Iterable[str]) -> Any:
    """A processor whose byte-level BPE is trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS[1:],
        padding_side="left",
    )
    fast.add_tokens(BLOCKS)
    pixels = {"shortest_edge": 28 * 28, "longest_edge": SIZE * SIZE}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )


def build_model(processor: Any, seed: int) -> Any:
    """A randomly initialised model of 3.3 M parameters for that processor."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, set_seed

    number = processor.tokenizer.convert_tokens_to_ids
    set_seed(seed)
    ends = {
        "bos_token_id": number("<|endoftext|>"),
        "eos_token_id": number("<|im_end|>"),
        "pad_token_id": number("<|endoftext|>"),
    }
    width = 192
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": width,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10_000.0},
            **ends,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1, 2],
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    for name, token in ends.items():
        setattr(model.generation_config, name, token)
    return model
