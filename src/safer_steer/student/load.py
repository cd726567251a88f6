"""Load the student's weights and renderer from a folder or the hub."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError

from safer_steer.config import Student
from safer_steer.errors import UserError
from safer_steer.files.images import PictureError
from safer_steer.files.store import TEXT
from safer_steer.student.adapters import base_of, is_adapter, with_adapter
from safer_steer.student.proof import load_renderer
from safer_steer.student.renderer import QUESTION, Renderer, reason_of


@dataclass
class LoadedStudent:
    """Model and renderer, ready for generation or training."""

    model: Any
    renderer: Renderer


def cannot_load(path: str, error: Exception, what: str = "") -> UserError:
    """The error for a student that `transformers` cannot load; names a library that is missing."""
    reason = reason_of(error)
    missing = re.search(r"requires the (\w+) library|No module named '(\w+)'", reason)
    if missing and isinstance(error, ImportError):
        name = missing[1] or missing[2]
        reason = f"it needs {name}, which is not installed; `pip install {name}`, or choose another model"
    return UserError(f"student {path}: {what}cannot be loaded: {reason}")


def refuse_no_folder(path: str) -> None:
    """Raises `UserError` if a model's folder is not there; an id of the hub is none."""
    if path.startswith(("/", ".", "~")) and not Path(path).is_dir():
        raise UserError(f"student {path}: no such folder; give a model's folder or its Hugging Face id")


def load_processor(path: str, chat_template: str | None = None) -> Any:
    """Load the processor with left padding; right padding would silently make generation positions wrong.
    Raises `UserError` if the processor cannot be loaded or the file cannot be read.

    Args:
        chat_template: a file with a Jinja template to use instead of the processor's own.
    """
    from transformers import AutoProcessor

    refuse_no_folder(path)
    try:
        processor = AutoProcessor.from_pretrained(path, padding_side="left")
    except (OSError, ValueError, ImportError) as error:
        raise cannot_load(path, error) from None
    if chat_template:
        try:
            processor.chat_template = Path(chat_template).read_text(encoding=TEXT)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"student.chat_template: {chat_template} cannot be read: {error}") from None
    return processor


def renderer_of(student: Student, path: str | None = None) -> Renderer:
    """The renderer of the base student, or of what a stage saved at `path`; an adapter reads and writes as
    its base does. Raises `UserError` if the processor cannot be loaded, or `load_renderer` rejects it."""
    saved = base_of(student, path or student.base)
    return load_renderer(load_processor(saved, student.chat_template), student.system)


def load_model_config(path: str) -> Any:
    """The model's `transformers` config. Raises `UserError` if it cannot be loaded."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, ImportError) as error:
        raise cannot_load(path, error, "its config ") from None


def empty_model(config: Any) -> Any:
    """The model of a `transformers` config on the meta device: modules and shapes, but no weights. Raises
    `UserError` if `transformers` has no vision-language model for the config, or that needs a library that is
    not installed, or it does not go on with the tokens that it reads."""
    from transformers import AutoModelForImageTextToText

    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise UserError(
            f"student {config.name_or_path}: {config.model_type} is not a vision-language model of this"
            " version of transformers; choose another model"
        )
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    except ImportError as error:
        raise cannot_load(config.name_or_path, error) from None
    if "decoder_input_ids" in inspect.signature(type(model).forward).parameters:
        raise UserError(
            f"student {config.name_or_path}: {config.model_type} writes with a decoder of its own what its"
            " encoder has read, and does not go on with a dialogue token by token; choose another model"
        )
    return model


def load_student(
    student: Student, path: Path | None = None, dtype: str | None = None, trainable: bool = False
) -> LoadedStudent:
    """Load the base student, or what a stage saved at `path`: all weights, or the base with its adapter.
    Raises `UserError` if the model cannot be loaded, or `load_renderer` rejects its processor.

    Args:
        dtype: overrides the config's.
        trainable: whether the adapter is to be trained further.
    """
    from transformers import AutoModelForImageTextToText

    where = str(path) if path else student.base
    renderer = renderer_of(student, where)
    there = "cuda" if torch.cuda.is_available() else "cpu"
    device = there if student.device == "auto" else student.device
    number_type = getattr(torch, dtype or student.dtype)
    weights = base_of(student, where)
    try:
        model = AutoModelForImageTextToText.from_pretrained(weights, dtype=number_type, use_safetensors=True)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise cannot_load(weights, error) from None
    if path and is_adapter(path):
        model = with_adapter(model, path, trainable)
    return LoadedStudent(model.to(device).eval(), renderer)


class PictureTrial:
    """A `files.images.Trial`: tries pictures on the student's own processor, once a size, so that one that it
    does not take costs a line and no work. Qwen2.5-VL's takes no picture with one side over 200 times the
    other. The processor is loaded with the first picture."""

    def __init__(self, student: Student) -> None:
        self.student, self.max_pixels = student, student.max_pixels
        self._refusals: dict[tuple[int, int], str] = {}

    @cached_property
    def renderer(self) -> Renderer:
        """The student's renderer. Raises `UserError` if its processor cannot be used at all."""
        return renderer_of(self.student)

    def __call__(self, size: tuple[int, int], called: str) -> None:
        """Try a picture of this width and height in pixels.

        Raises:
            PictureError: the processor does not take it. `called` is the picture's name in the message.
        """
        if size not in self._refusals:
            self._refusals[size] = self._refusal(size)
        if refusal := self._refusals[size]:
            width, height = size
            raise PictureError(
                f"{called}: the student's processor does not take a picture of {width} x {height} pixels"
                f" ({refusal}); leave it out, or crop it",
                "picture the student does not take",
            )

    def _refusal(self, size: tuple[int, int]) -> str:
        """Why the processor does not take a picture of this size; "" if it does."""
        renderer = self.renderer  # a student that cannot be loaded is no fault of the picture
        try:
            renderer.user_turn(QUESTION, [Image.new("RGB", size)], first=True)
        except Exception as error:  # processors raise errors of many kinds
            return reason_of(error)
        return ""
