"""The student's weights and its renderer, from a folder or from the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safer_steer.config import Student
from safer_steer.errors import UserError
from safer_steer.student.families import load_renderer
from safer_steer.student.renderer import Renderer


@dataclass
class LoadedStudent:
    """Weights and renderer, ready to generate or to train."""

    model: Any
    renderer: Renderer


def load_processor(path: str) -> Any:
    """The processor, padding on the left: on the right, positions in generation would be silently wrong."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(path, padding_side="left")
    except (OSError, ValueError) as error:
        raise UserError(f"student {path}: cannot be loaded: {str(error).splitlines()[0]}") from None


def load_student(student: Student, path: Path | None = None, dtype: str | None = None) -> LoadedStudent:
    """Load the base student, or the weights a stage left at `path`; `dtype` replaces the config's.

    Raises:
        UserError: there is no such model, or `load_renderer` refuses its processor.
    """
    from transformers import AutoModelForImageTextToText

    where = str(path) if path else student.base
    renderer = load_renderer(load_processor(where), student.system)
    device = student.device if student.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    number_type = getattr(torch, dtype or student.dtype)
    try:
        model = AutoModelForImageTextToText.from_pretrained(where, dtype=number_type, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"student {where}: cannot be loaded: {str(error).splitlines()[0]}") from None
    return LoadedStudent(model.to(device).eval(), renderer)
