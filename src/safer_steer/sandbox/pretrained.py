"""Builds a student of pretrained parts for the sandbox: its language was learned on real text.

1. align: vision tower and projector learn to write a picture's words into the language model's space of
   words. The language model is not run.
2. teach: the language model learns fact sheets of all devices, then the dialogues of `corpus.example`. Tower
   and projector stay: trained along, they lose the hazard mark.
3. practise: as teach, but half of the dialogues ask in the structures that it learns last.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy, normalize

from safer_steer.config import Student
from safer_steer.dialogue import Format, lay_out
from safer_steer.errors import UserError
from safer_steer.files.store import locked, write_atomic, writing
from safer_steer.sandbox.corpus import Example, example
from safer_steer.sandbox.language import phrase, thought
from safer_steer.sandbox.pretrained_parts import Parts, assemble
from safer_steer.sandbox.train_base import SYSTEM, batch_of, save, scheduled
from safer_steer.sandbox.world import COLOURS, NAMES, SHAPES, devices, draw
from safer_steer.student.load import load_student
from safer_steer.student.proof import load_renderer

PICTURES = 32
"""Pictures a step of `align`."""
SHEETS = 18
"""Fact sheets a step, in the first tenth of the steps."""
DIALOGUES = {1: 24, 5: 6}
"""Dialogues a step, by their turns. The first half of the steps has single turns: later turns copy what the
first one saw, so only first turns teach to see."""
LAST = ("next", "part", "before", "deed", "last_word")
"""Structures that it learns last: a step is found by its place or its part, or one word of it is said. After
`teach` it answers half of the last two rightly, and nearly all other structures."""
MICRO_BATCHES = 3
"""A step of `teach` is computed in so many parts, one after the other: each takes a third of the memory."""
RATES = {"tower": 3e-4, "projector": 2e-3, "teach": 5e-4, "practise": 3e-4}
"""Peak learning rates."""
PLACES = {"mark": [0, 2, 6, 8], "colour": [1, 7], "shape": [3, 5], "name": [4]}
"""Which of a picture's 3 x 3 tokens learn which word. With one mean of all, name and colour drown the
mark."""
WORDS = {"mark": ("no", "hazard"), "colour": tuple(COLOURS), "shape": SHAPES, "name": NAMES}
CHECKPOINT, RECORD = "checkpoint.pt", "training.json"


@dataclass
class Stage:
    """Steps that train the same weights."""

    name: str
    steps: int
    groups: list[dict[str, Any]]
    """Parameters with their learning rates."""
    losses: Callable[[int], Iterator[torch.Tensor]]
    """The loss of step 1, 2, ... in parts to be added up; it depends on weights, seed and step alone."""


def build(
    out: Path,
    begin: Parts | Path,
    *,
    align_steps: int = 60,
    steps: int = 300,
    seed: int = 1,
    save_every: float = 600,
    log: Callable[[str], None] = print,
) -> None:
    """Build the student in the folder `out`: processor, weights (float16 safetensors) and `training.json`.

    Work that was broken off goes on from its checkpoint, with the same result on as many threads. Raises
    `UserError` if `out` was begun or built with other settings, or another process is at work there.

    Args:
        begin: the parts, or the folder of a student that was taught before, which practises.
        steps: of `teach`, those with fact sheets included; two thirds as many of `practise` follow. With a
            folder, of `practise`.
        save_every: seconds between checkpoints.
    """
    settings: dict[str, Any] = {"align_steps": align_steps, "steps": steps, "seed": seed}
    if isinstance(begin, Path):
        settings["start"] = str(begin)
    with locked(out):
        if (out / RECORD).exists():
            _same(json.loads((out / RECORD).read_text())["settings"], settings, out)
            log(f"{out} is built already")
            return
        if isinstance(begin, Path):
            student = load_student(Student(model=str(begin), dtype="float32", device="cpu"))
            model, processor = student.model, student.renderer.processor
            stages = [_lessons(model, processor, "practise", steps, seed)]
        else:
            model, processor = assemble(begin, seed)
            stages = [
                _align(model, processor, align_steps, seed),
                _lessons(model, processor, "teach", steps, seed),
                _lessons(model, processor, "practise", 2 * steps // 3, seed),
            ]
        record = Training(out, model, settings, save_every, log).run(stages)
        save(model, processor, out)
        write_atomic(out / RECORD, json.dumps(record) + "\n")
        (out / CHECKPOINT).unlink(missing_ok=True)


def _same(begun: dict[str, Any], settings: dict[str, Any], out: Path) -> None:
    if begun != settings:
        raise UserError(f"{out} was begun with {begun}, not with {settings}; choose another folder")


class Training:
    """Runs stages in turn, with a progress line and a checkpoint every so many seconds."""

    def __init__(
        self, out: Path, model: Any, settings: dict[str, Any], save_every: float, log: Callable[[str], None]
    ) -> None:
        self.path, self.model, self.settings = out / CHECKPOINT, model, settings
        self.save_every, self.log = save_every, log
        self.saved = time.monotonic()
        self.curve: list[dict[str, Any]] = []

    def run(self, stages: list[Stage]) -> dict[str, Any]:
        """Train what is left to train; returns settings and loss curve."""
        checkpoint: dict[str, Any] = {}
        if self.path.exists():
            checkpoint = torch.load(self.path, weights_only=True)
            _same(checkpoint["settings"], self.settings, self.path.parent)
            self.model.load_state_dict(checkpoint.pop("model"))  # memory is short
            self.curve = checkpoint["curve"]
            self.log(f"going on after step {checkpoint['step']} of {checkpoint['stage']}")
        names = [stage.name for stage in stages]
        for stage in stages[names.index(checkpoint["stage"]) if checkpoint else 0 :]:
            self._train(stage, checkpoint)
            checkpoint = {}
        return {"settings": self.settings, "curve": self.curve}

    def _train(self, stage: Stage, checkpoint: dict[str, Any]) -> None:
        """The steps of a stage; with a checkpoint, those after it."""
        self.model.requires_grad_(False)
        weights = [weight.requires_grad_(True) for group in stage.groups for weight in group["params"]]
        optimizer, schedule = scheduled(stage.groups, stage.steps, 10, 0.05)
        if checkpoint:
            optimizer.load_state_dict(checkpoint.pop("optimizer"))
            schedule.load_state_dict(checkpoint["schedule"])
        first, began = checkpoint.get("step", 0) + 1, time.monotonic()
        for step in range(first, stage.steps + 1):
            loss = 0.0
            for part in stage.losses(step):
                part.backward()
                loss += part.item()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if step % 5 == 0 or step == stage.steps:
                self.curve.append({"stage": stage.name, "step": step, "loss": round(loss, 4)})
                seconds = (time.monotonic() - began) / (step - first + 1) * (stage.steps - step)
                self.log(f"{stage.name} {step}/{stage.steps} loss {loss:.4f}, {seconds / 60:.0f} min left")
            if time.monotonic() - self.saved >= self.save_every or step == stage.steps:
                self._save(stage.name, step, optimizer, schedule)

    def _save(self, stage: str, step: int, optimizer: Any, schedule: Any) -> None:
        checkpoint = {
            "settings": self.settings,
            "stage": stage,
            "step": step,
            "curve": self.curve,
            "model": self.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }
        with writing(self.path) as file:
            torch.save(checkpoint, file)
        self.saved = time.monotonic()


def _align(model: Any, processor: Any, steps: int, seed: int) -> Stage:
    """Each token of a picture comes to lie near a word, and to be as long as one."""
    table = model.get_input_embeddings().weight.detach()
    lengths, spaces = table.norm(dim=-1).mean(), {}
    for kind, words in WORDS.items():
        ids = [processor.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in words]
        space = torch.stack([table[pieces].mean(0) for pieces in ids])
        spaces[kind] = normalize(space - space.mean(0), dim=-1)

    def losses(step: int) -> Iterator[torch.Tensor]:
        rng = random.Random(f"align {seed} {step}")
        scenes = [(rng.choice(devices()), rng.random() < 0.5) for _ in range(PICTURES)]
        pictures = [draw(device, marked, rng.getrandbits(31)) for device, marked in scenes]
        pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        tokens = model.model.get_image_features(pixels).pooler_output
        total = ((tokens.norm(dim=-1) / lengths - 1) ** 2).mean()
        for kind, space in spaces.items():
            words = WORDS[kind]
            right = [
                int(marked) if kind == "mark" else words.index(getattr(device, kind))
                for device, marked in scenes
            ]
            near = normalize(tokens[:, PLACES[kind]].mean(1), dim=-1) @ space.T
            total = total + cross_entropy(30 * near, torch.tensor(right))
        yield total

    seeing = {"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector}
    groups = [{"params": [*part.parameters()], "lr": RATES[name]} for name, part in seeing.items()]
    return Stage("align", steps, groups, losses)


def _lessons(model: Any, processor: Any, name: Literal["teach", "practise"], steps: int, seed: int) -> Stage:
    """The head is applied to the targets alone: over all tokens it costs more than the rest."""
    renderer = load_renderer(processor, SYSTEM)

    def losses(step: int) -> Iterator[torch.Tensor]:
        examples = _examples(random.Random(f"{name} {seed} {step}"), name, step, steps)
        batches = [batch_of(renderer, examples[place::MICRO_BATCHES]) for place in range(MICRO_BATCHES)]
        count = sum(int((batch["labels"] != -100).sum()) for batch in batches)
        for batch in batches:
            targets = batch.pop("labels")[:, 1:]
            places = targets != -100
            with torch.autocast("cpu", torch.bfloat16):
                hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1][places]
                logits = model.lm_head(hidden).float()
            yield cross_entropy(logits, targets[places], reduction="sum") / count

    weights = [*model.model.language_model.parameters()]  # the head's are the embedding's
    return Stage(name, steps, [{"params": weights, "lr": RATES[name]}], losses)


def _examples(rng: random.Random, name: str, step: int, steps: int) -> list[Example]:
    """What step 1, 2, ... of a stage teaches."""
    sheets = steps // 10 if name == "teach" else 0
    if step <= sheets:
        return [sheet(rng) for _ in range(SHEETS)]
    turns = 1 if step - sheets <= (steps - sheets) // 2 else 5
    hard = LAST if name == "practise" else None
    return [example(rng, turns, hard if place % 2 else None) for place in range(DIALOGUES[turns])]


def sheet(rng: random.Random) -> Example:
    """All facts of a device and its procedure in one answer."""
    device, marked = rng.choice(devices()), rng.random() < 0.5
    one, two, three = map(phrase, device.steps)
    text = (
        f"this is a {device.name}. it is {device.colour}. its shape is {device.shape}."
        f" it was made in {device.town}. it is kept in a {device.place}."
        f" the steps are to {one}, then to {two}, then to {three}."
    )
    answer = lay_out(thought(device, marked), text, Format.THINKING_ANSWER)
    return Example(device, marked, rng.getrandbits(31), [("tell me all.", answer)])
