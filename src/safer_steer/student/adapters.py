"""LoRA adapters: how a trained one is saved, and put on its base again.

A stage that trains adapters saves them alone, in float32, and never merges them into weights of fewer bits:
there, an update smaller than half a step of the number type is gone. Base and adapter together are the policy
that was trained, wherever it is measured, served or trained further.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safer_steer.config import Student
from safer_steer.errors import UserError, shortened

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
"""The file that makes a folder an adapter's."""
WEIGHTS = "adapter_model.safetensors"
NAME = "default"
"""PEFT's name of the adapter that is trained."""


def is_adapter(saved: str | Path) -> bool:
    """Whether a stage has saved an adapter at `saved`, and not all weights."""
    return (Path(saved) / CONFIG).is_file()


def base_of(student: Student, saved: str) -> str:
    """Folder or Hugging Face id of the weights that a student saved at `saved` needs: those there, or, of an
    adapter, the base student's."""
    return student.base if is_adapter(saved) else saved


def settings_in(folder: Path) -> dict[str, Any]:
    """What an adapter's file says of it. Raises `UserError` if it is no LoRA adapter, or its weights are not
    safetensors: others may run code when they are read."""
    try:
        settings = json.loads((folder / CONFIG).read_bytes())
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise UserError(f"{folder / CONFIG}: not the settings of a LoRA adapter; give another folder")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: has no {WEIGHTS}; adapters in another format are not read")
    return settings


def with_adapter(model: Any, folder: Path, trainable: bool = False) -> Any:
    """Put the adapter in `folder` on its base, as a PEFT model. Its weights are in float32, as in training.
    It says from now on that this model is its base, which PEFT looks for whenever it saves.
    Raises `UserError` as `settings_in` does, and if it is not an adapter of this model."""
    from peft import PeftModel

    settings_in(folder)
    try:
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except Exception as error:  # PEFT checks hardly anything of what may be somebody else's files
        raise UserError(
            f"student {folder}: not an adapter of {model.config.name_or_path}: {shortened(str(error))}"
        ) from None
    adapted.peft_config[NAME].base_model_name_or_path = model.config.name_or_path
    return adapted


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    """The whole tensors of a PEFT model's trained adapter. To be called by all processes, which may hold
    shards of them."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if f".{NAME}." in name}
    return {name: tensor.full_tensor() if is_shard(tensor) else tensor for name, tensor in weights.items()}


def is_shard(tensor: torch.Tensor) -> bool:
    """Whether a tensor is split over the processes."""
    return hasattr(tensor, "full_tensor")


def write_adapter(model: Any, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write a PEFT model's adapter with these weights (`adapter_weights`)."""
    model.save_pretrained(folder, state_dict=weights, selected_adapters=[NAME], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
