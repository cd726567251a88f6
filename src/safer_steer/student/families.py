"""Supported model families, and the check that a renderer matches the processor's own chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image

from safer_steer.errors import UserError
from safer_steer.student.chatml import ChatML
from safer_steer.student.renderer import Modules, Renderer, name_of
from safer_steer.student.transcript import Transcript


@dataclass(frozen=True)
class Family:
    """One family: `model_type` from its config.json, class name of its processor, and its renderer."""

    model_type: str
    processor: str
    renderer: type[Renderer]


FAMILIES = [
    Family("qwen2_vl", "Qwen2VLProcessor", ChatML),
    Family("qwen2_5_vl", "Qwen2_5_VLProcessor", ChatML),
    Family("qwen3_vl", "Qwen3VLProcessor", ChatML),
]


def load_renderer(processor: Any, system: str) -> Renderer:
    """Make and check the renderer for a processor. `system` is the system message's text, empty for none.

    Raises:
        UserError: the family is unknown, or the processor's rendering differs from the renderer's.
    """
    kind = type(processor).__name__
    for family in FAMILIES:
        if family.processor == kind:
            renderer = family.renderer(processor, system)
            check_rendering(renderer, system)
            return renderer
    raise UserError(f"student {name_of(processor)}: {kind} is not supported; {_choose()}")


def modules_of(model_type: str) -> Modules:
    """Module names for a `model_type` from config.json. Raises `UserError` if the family is unknown."""
    for family in FAMILIES:
        if family.model_type == model_type:
            return family.renderer.modules
    raise UserError(f"student: models of type {model_type} are not supported; {_choose()}")


def check_rendering(renderer: Renderer, system: str) -> None:
    """Compare the renderer with the processor on two dialogues, one without and one with a picture.

    Raises:
        UserError: token ids or picture tensors differ, or the chat template cannot render a dialogue.
    """
    where = f"student {name_of(renderer.processor)}"
    for images in ([], [Image.new("RGB", (112, 84), "grey")]):
        dialogue = "a dialogue with a picture" if images else "a dialogue without pictures"
        ours = _written(renderer, images)
        try:
            wanted = _rendered(renderer.processor, system, images)
        except (TemplateError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{where}: its chat template cannot render {dialogue} ({reason}); {_choose()}"
            ) from None
        features = ours.pictures.features if ours.pictures else {}
        if wanted["input_ids"][0].tolist() != ours.ids:
            family = type(renderer).__name__
            hint = "" if system else "set student.system or "  # some templates add a default one
            raise UserError(
                f"{where}: its chat template does not match {family}: {dialogue} gives other tokens;"
                f" {hint}{_choose()}"
            )
        if not all(name in wanted and torch.equal(wanted[name], features[name]) for name in features):
            raise UserError(f"{where}: its processor prepares pictures differently; {_choose()}")


def _written(renderer: Renderer, images: list[Image.Image]) -> Transcript:
    """The probe dialogue as the renderer writes it."""
    transcript = Transcript(renderer, renderer.pictures(images))
    answer = [*renderer.plain("b"), renderer.end]
    transcript.add_user("a")
    transcript.add_assistant(answer, [0.0] * len(answer))
    transcript.add_user("c")
    return transcript


def _rendered(processor: Any, system: str, images: list[Image.Image]) -> Any:
    """The probe dialogue as the processor renders it: `input_ids` [1, tokens] and picture tensors."""

    def says(role: str, text: str, *pictures: Image.Image) -> dict[str, Any]:
        shown = [{"type": "image", "image": picture} for picture in pictures]
        return {"role": role, "content": [*shown, {"type": "text", "text": text}]}

    first = [says("system", system)] if system else []
    talk = [*first, says("user", "a", *images), says("assistant", "b"), says("user", "c")]
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(talk, **options)


def _choose() -> str:
    names = [family.model_type for family in FAMILIES]
    return f"choose a model of type {', '.join(names[:-1])} or {names[-1]}"
