"""Steps of SFT: `training`, `sharding` and `guard`; and `adapters` in fewer bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_parts.bench import WEIGHTS, Bench, Row
from PIL import Image

from safer_steer.dialogue import Dialogue, StopReason, Turn, to_jsonl
from safer_steer.files.store import read_rows, write_atomic

CHECKS = {"none": 0, "at every step": 1000, "a look at every step": 1}
"""`student.check_every` of the rows of `guard`. The first step takes a look anyway, and is not measured."""
ACCUMULATED = 4
"""Micro-batches of a step of `guard`; a look is taken at one."""
NOISE = 1e-3
"""Deviation of what is added to weights in place of training."""


class Enough(Exception):
    """Ends a training once its measured steps are done."""


def training(bench: Bench) -> Iterator[Row]:
    """Tokens a second of SFT steps with one dialogue each, and the memory they take."""
    for weights in WEIGHTS:
        for length in bench.sizes.lengths:
            row = {"weights": weights, "length": length}
            try:
                yield row | sft_steps(bench, weights, length)
            except RuntimeError as error:
                if "out of memory" not in str(error).lower():
                    raise
                yield row | {"tokens_per_s": None, "failed": "out of memory"}


def sft_steps(bench: Bench, weights: str, length: int, rows: int = 1, **student: Any) -> Row:
    """Steps with `rows` dialogues of that many tokens, in micro-batches of one. Every process of a launch has
    its share of them, and calls this.

    Args:
        student: keys of the config's section.
    """
    from safer_steer.plan.model_shape import shape_of
    from safer_steer.student import processes
    from safer_steer.student.load import renderer_of
    from safer_steer.training.sft import Collator, fine_tune

    sizes, folder = bench.sizes, bench.work / "training"
    sft = {"batch_size": rows, "micro_batch_size": 1, "max_steps": 1000, "save_steps": 1000}
    config = bench.config(weights == "LoRA", student | {"max_length": length}, bootstrap={"sft": sft})
    renderer = renderer_of(config.student)

    def material() -> int:
        """Write the dialogues, of four turns; a byte is a token. Returns the tokens of one."""
        shutil.rmtree(folder, ignore_errors=True)
        [seed] = bench.seeds(folder, 1, 4)

        def dialogue(answer: int) -> Dialogue:
            turns = [Turn(user=turn.user, assistant="x" * answer) for turn in seed.turns]
            return Dialogue(**{**seed.model_dump(), "turns": turns, "stop": StopReason.COMPLETED})

        def tokens(one: Dialogue) -> int:
            return len(Collator([one], renderer, folder, config).transcript(one).ids)

        fitting = dialogue(1 + (length - tokens(dialogue(1))) // 4)
        write_atomic(folder / "bootstrap" / "kept.jsonl", to_jsonl([fitting] * rows))
        return tokens(fitting)

    tokens = processes.decided(material)
    times: list[float] = []

    def progress(step: int, _: int) -> None:
        times.append(bench.now())
        if len(times) == sizes.steps + 2:
            raise Enough

    bench.start()
    with suppress(Enough):
        fine_tune(config, folder, progress)
    seconds = (times[-1] - times[1]) / sizes.steps
    rate = rows * tokens / seconds
    shape = shape_of(config.student.base, config.student)
    spoken = shape.layers * shape.layer + shape.vocabulary * shape.hidden
    return {
        **{"tokens": rows * tokens, "seconds": seconds, "tokens_per_s": rate},
        "model_tflops": rate * (4 if weights == "LoRA" else 6) * spoken / 1e12,
        "peak_gb": max(filter(None, processes.gathered(bench.peak())), default=None),
        "planned_gb": bench.planned(config, "sft training", processes=processes.count()),
    }


def guard(bench: Bench) -> Iterator[Row]:
    """What the guard's checks add to a LoRA step."""
    alone = None
    for name, every in CHECKS.items():
        seconds = sft_steps(bench, "LoRA", bench.sizes.lengths[0], ACCUMULATED, check_every=every)["seconds"]
        alone = alone or seconds
        yield {"checks": name, "seconds": seconds, "share": seconds / alone - 1}


def sharding(bench: Bench) -> Iterator[Row]:
    """The steps of `training` with FSDP2, under torchrun; two micro-batches of a dialogue in each process."""
    import torch

    out, worker = bench.student().with_name("sharded.jsonl"), str(Path(__file__).with_name("sharded.py"))
    for count in bench.sizes.processes:
        if bench.gpu and count > torch.cuda.device_count():
            print(f"sharding: {count} processes are left out; they need as many GPUs", flush=True)
            continue
        bench.start()  # what this process keeps is not free for the others
        out.unlink(missing_ok=True)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        done = subprocess.run([*launch, str(count), worker, str(out.parent), str(bench.tiny), str(out)])
        yield from read_rows(out)
        if done.returncode:
            raise RuntimeError(f"{count} processes ended with code {done.returncode}; see above")


def adapters(bench: Bench) -> Iterator[Row]:
    """How far log-probabilities move if an adapter, which the package holds in float32, is rounded.

    A server in bfloat16 holds it in bfloat16."""
    import torch

    from safer_steer.student.load import load_student

    config = bench.config(lora=True)
    loaded = load_student(config.student)
    model = with_adapter(loaded.model, config.student)
    _, score = scored_dialogue(bench, loaded.renderer)
    with model.disable_adapter():
        base = torch.tensor(score(model))
    exact = None
    for number_type in ("float32", "bfloat16"):
        held = [weight for weight in model.parameters() if weight.requires_grad]
        for weight in held:
            weight.data = weight.data.to(getattr(torch, number_type))
        score(model)
        begun = bench.start()
        scores = torch.tensor(score(model))
        seconds = bench.now() - begun
        exact = scores if exact is None else exact
        gap = (scores - exact).abs()
        yield {
            **{"adapter": number_type, "megabytes": sum(weight.nbytes for weight in held) / 1e6},
            **{"seconds": seconds, "peak_gb": bench.peak(), "shift": float((scores - base).abs().mean())},
            **{"gap": float(gap.mean()), "gap_max": float(gap.max())},
        }


def scored_dialogue(bench: Bench, renderer: Any) -> tuple[Any, Callable[[Any], list[float]]]:
    """A dialogue with a picture, and what gives the log-probability of each of its tokens but the first."""
    from safer_steer.student.transcript import Transcript
    from safer_steer.student.vllm_policy import logprobs_at, trainer_logits

    transcript, side = Transcript(renderer), bench.sizes.picture
    transcript.add_user("x" * 120, [Image.radial_gradient("L").resize((side, side)).convert("RGB")])
    transcript.add_answer("y" * bench.sizes.lengths[0])
    ids = transcript.ids
    return transcript, lambda model: logprobs_at(trainer_logits(model, transcript), ids, 1, len(ids), 1.0)


def with_adapter(model: Any, student: Any) -> Any:
    """The model with a new adapter, as training begins, and with noise for what it learns."""
    from peft import get_peft_model

    from safer_steer.student.training import lora

    adapted = get_peft_model(model, lora(student, model))
    add_noise(adapted, 0)
    return adapted


def add_noise(model: Any, seed: int) -> None:
    """Move the weights that are trained."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=NOISE)
