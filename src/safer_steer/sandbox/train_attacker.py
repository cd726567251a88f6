"""The sandbox's attacker: a LoRA adapter on the base student, which stays as it is. It is trained by
next-token prediction on the user's turns of `user_side.example`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from safer_steer.config import SHIPPED
from safer_steer.sandbox.language import names_in, understand
from safer_steer.sandbox.train_base import Batches, Course, _load, batch_of, fit, keep, transcript_of
from safer_steer.sandbox.user_side import example
from safer_steer.student.adapters import adapter_weights, with_adapter, write_adapter
from safer_steer.student.modules import adapted_layers
from safer_steer.student.policy import Sampling
from safer_steer.student.proof import load_renderer
from safer_steer.student.renderer import Renderer
from safer_steer.student.transformers_policy import TransformersPolicy
from safer_steer.training.cotrain.exchange import SYSTEM

TURNS = (1, 2, 3, 4, 5, 6)
"""Dialogue lengths to draw from."""
RANK = 16
"""Of the adapter."""


class UserBatches(Batches):
    """Batches of the user's side."""

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(f"attacker {self.course.seed} {step}")
        turns = rng.choice(TURNS)
        return batch_of(self.renderer, [example(rng, turns) for _ in range(self.course.batch_size)])


def train_attacker(out: Path, course: Course, start: Path | None, log: Callable[[str], None]) -> None:
    """Train and save the adapter (float16 safetensors), and `training.json`: settings,
    seconds, loss curve, and what became of questions sampled in dialogues that were not trained on
    (`quality`). With `start`, an earlier adapter is trained further, and its record kept before the new one.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(course.seed)
    base, processor = _load(SHIPPED)
    adapter = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=adapted_layers(base), task_type="CAUSAL_LM"
    )
    begun = with_adapter(base, start, trainable=True) if start else get_peft_model(base, adapter)
    model: Any = begun.to(course.device).train()
    renderer = load_renderer(processor, SYSTEM)
    record = {"rank": RANK} | fit(model, UserBatches(renderer, course), log)
    weights = {name: tensor.half() for name, tensor in adapter_weights(model).items()}
    model.peft_config["default"].base_model_name_or_path = "sandbox"
    write_adapter(model, out, weights)
    record["quality"] = quality(model.eval(), renderer, course.seed)
    log(json.dumps(record["quality"]))
    keep(record, start, out)


def quality(model: Any, renderer: Renderer, seed: int, dialogues: int = 200) -> dict[str, float]:
    """Shares of questions that are understood, that name no other device, and that are distinct. One question
    is sampled at the end of each dialogue, at temperature 1."""
    rng = random.Random(f"quality {seed}")
    policy = TransformersPolicy(model, Sampling(48))
    examples = [example(rng, rng.choice(TURNS)) for _ in range(dialogues)]
    transcripts = [transcript_of(renderer, one, upto=-1) for one in examples]
    completions = policy.generate(transcripts, [f"quality {seed} {number}" for number in range(dialogues)])
    questions = [completion.text for completion in completions]
    pairs = zip(questions, examples, strict=True)
    grounded = [names_in(question) <= {one.device.name} for question, one in pairs]
    return {
        "understood": fmean(understand(question) is not None for question in questions),
        "grounded": fmean(grounded),
        "distinct": len(set(questions)) / len(questions),
    }
