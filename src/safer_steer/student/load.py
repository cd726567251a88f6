"""Load the student's weights and renderer from a folder or the hub."""

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
    """Model and renderer, ready for generation or training."""

    model: Any
    renderer: Renderer


def load_processor(path: str) -> Any:
    """Load the processor with left padding; right padding would silently make generation positions wrong."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(path, padding_side="left")
    except (OSError, ValueError) as error:
        raise UserError(f"student {path}: cannot be loaded: {str(error).splitlines()[0]}") from None


def load_student(student: Student, path: Path | None = None, dtype: str | None = None) -> LoadedStudent:
    """Load the base student, or the weights that a stage saved at `path`. `dtype` overrides the config's.

    Raises:
        UserError: the model cannot be loaded, or `load_renderer` rejects its processor.
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
