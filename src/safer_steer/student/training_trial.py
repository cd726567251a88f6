"""Tries a student in training: one forward and backward pass with a picture, before anything is paid.

A vision-language model may generate and yet not be trainable: in another number type, with TRL's head, with
adapters, in training mode. This loads its weights once more than the run needs, on the run's device, and
takes the memory of its weights and gradients for a moment: less than a second for the shipped student, and
otherwise about as long as loading the weights.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from safer_steer.config import Student
from safer_steer.errors import UserError, shortened
from safer_steer.student import processes
from safer_steer.student.checks import fault
from safer_steer.student.findings import Finding, Step
from safer_steer.student.load import load_student
from safer_steer.student.looking import evaluating, gaps_of, head_gaps
from safer_steer.student.modules import freeze_vision, hold_modes, inside, parts_of
from safer_steer.student.renderer import ANSWER, QUESTION, Renderer
from safer_steer.student.training import lora, on_gpu, training_dtype
from safer_steer.student.transcript import Transcript, labels, model_inputs

SLOW_S = 5
"""Seconds after which the trial is mentioned."""
_passed: set[str] = set()
"""Settings of students that have passed in this process."""


def try_training(
    student: Student, renderer: Renderer, say: Callable[[str], None] = lambda line: None
) -> None:
    """Train the base student on two made-up dialogues, one with a picture, up to the gradients: once in a
    process for the same settings. A student that is split over several GPUs need not fit on one, and is not
    tried. Raises `UserError` if it fails, or the trainer computes other log-probabilities than the model
    does, or a dialogue's positions depend on its batch.

    Args:
        say: told how long it took, if that was long.
    """
    key, begun = student.model_dump_json(), time.monotonic()
    if key in _passed or (student.sharding == "full" and processes.count() > 1):
        return
    model: Any = load_student(student, dtype=training_dtype(student)).model
    try:
        finding = _tried(model, student, renderer)
    except UserError:
        raise
    except torch.OutOfMemoryError:
        raise UserError(
            f"student {student.model}: weights and gradients do not fit in memory; set student.lora_rank, or"
            " use a larger GPU, or several with student.sharding: full"
        ) from None
    except Exception as error:  # models raise errors of many kinds
        raise UserError(
            f"student {student.model}: cannot be trained here: one forward and backward pass with a picture,"
            f" in {student.dtype}, fails ({type(error).__name__}: {shortened(str(error))}); choose another"
            " model"
        ) from error
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if failed := fault(Step([finding], number_type=student.dtype)):
        raise UserError(f"student {student.model}: {failed[1]}")
    _passed.add(key)
    if (seconds := time.monotonic() - begun) > SLOW_S:
        say(f"student: its weights were loaded and tried in one step of training, in {seconds:.0f} s")


def _tried(model: Any, student: Student, renderer: Renderer) -> Finding:
    """The numbers of the two dialogues as one."""
    from trl.trainer.utils import add_fused_lm_head

    if student.freeze_vision:
        freeze_vision(model)
    if model.base_model is model:
        raise UserError(
            f"student {student.model}: cannot be trained: TRL needs the model without its head, and"
            f" {type(model).__name__} has none inside; choose another model"
        )
    add_fused_lm_head(model)
    if adapters := lora(student, model):
        from peft import get_peft_model

        model = get_peft_model(model, adapters)
    hold_modes(model)
    half = student.dtype == "bfloat16"
    if on_gpu(student):  # as `training.common_arguments`
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    picture = Image.new("RGB", (112, 84), "red")
    transcripts = [Transcript.of(renderer, [QUESTION, ANSWER], [images]) for images in ([picture], [])]
    inputs: dict[str, Any] = dict(model_inputs(transcripts, "right", model.device))
    inputs["labels"] = labels(transcripts, inputs["input_ids"].shape[1]).to(model.device)
    inputs |= {"fused_lm_head": True, "use_cache": False}
    model.train()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
        trained = model(**inputs)
        trained.loss.backward()
        with evaluating(model):
            seeing = model(**inputs).log_probs
            heads = head_gaps(model, inputs, seeing, temperature=1.0)
            twins = _positions(model, 2 * transcripts[:1])
    if twins is not None and not torch.equal(twins, twins[..., :1, :].expand_as(twins)):
        raise UserError(
            f"student {student.model}: cannot be trained in batches: {type(inside(model)).__name__} places a"
            " dialogue's pictures otherwise beside pictures of another dialogue of the batch, so another loss"
            " would be trained on than the dialogue's own; choose another model"
        )
    return Finding(
        "made up for a trial",
        tokens=int((inputs["labels"] != -100).sum()),
        looked=True,
        mode_gap=_largest(gaps_of(trained.log_probs.detach(), seeing)),
        head_gap=_largest(heads),
    )


def _positions(model: Any, transcripts: list[Transcript]) -> torch.Tensor | None:
    """The positions that the language model is given for a batch, [rows, tokens] or [axes, rows, tokens];
    None if it counts the tokens itself, or is not found."""
    positions: list[torch.Tensor | None] = []

    def entered(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        positions.append(arguments.get("position_ids"))

    try:
        hook = parts_of(model).language.register_forward_pre_hook(entered, with_kwargs=True)
    except UserError:
        return None
    try:
        inside(model).base_model(**model_inputs(transcripts, "right", model.device), use_cache=False)
    finally:
        hook.remove()
    return next(iter(positions), None)


def _largest(gaps: list[float | None]) -> float | None:
    return max((gap for gap in gaps if gap is not None), default=None)
