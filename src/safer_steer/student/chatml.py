"""Renderer for Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

All three use ChatML, pass pictures as patches with a grid, and name the model's parts alike.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from PIL import Image

from safer_steer.errors import UserError
from safer_steer.student.renderer import Modules, Pictures, joined, name_of, padded


class ChatML:
    """A `Renderer` that writes the ChatML tokens of one Qwen-VL processor.

    Raises:
        UserError: a marker is missing from the tokenizer.
    """

    modules: ClassVar[Modules] = Modules(
        language="language_model",
        adapted=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        vision="visual",
        projector="visual.merger",
    )
    picture_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw")
    """[patches, channels * temporal * patch * patch], and [pictures, 3]: patches in time, height, width."""

    def __init__(self, processor: Any, system: str) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.end = self._marker("<|im_end|>")
        self.pad: int = self.tokenizer.pad_token_id
        self.image_token = self._marker("<|image_pad|>")
        self.vision_start, self.vision_end = self._marker("<|vision_start|>"), self._marker("<|vision_end|>")
        self.stops = sorted({self.end, *self.tokenizer.all_special_ids})
        system_message = self._markup(f"<|im_start|>system\n{system}<|im_end|>\n") if system else []
        user = self._markup("<|im_start|>user\n")
        self.opening = system_message + user
        self.user_start = self._markup("\n") + user
        self.user_end = self._markup("<|im_end|>\n<|im_start|>assistant\n")

    def _marker(self, text: str) -> int:
        number = self.tokenizer.convert_tokens_to_ids(text)
        if number is None or number == self.tokenizer.unk_token_id:
            raise self._foreign(f"its tokenizer has no {text}")
        return int(number)

    def _foreign(self, why: str) -> UserError:
        return UserError(f"student {name_of(self.processor)}: {why}, so it is not of the Qwen-VL family")

    def _markup(self, text: str) -> list[int]:
        """Ids of our own chat markup, with special tokens parsed as such."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def plain(self, text: str) -> list[int]:
        """Ids of external text. Special tokens such as `<|im_end|>` are encoded as ordinary characters."""
        split = self.tokenizer(text.strip(), add_special_tokens=False, split_special_tokens=True)
        return list(split["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """The text of sampled tokens, without the end token."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def pictures(self, images: list[Image.Image]) -> Pictures | None:
        """Preprocess a dialogue's pictures; None if it has none.

        Raises:
            UserError: the processor prepares pictures for another family's vision tower.
        """
        if not images:
            return None
        rgb = [image.convert("RGB") for image in images]
        made = self.processor.image_processor(images=rgb, return_tensors="pt")
        for name in self.picture_inputs:
            if name not in made:
                raise self._foreign(f"{type(self.processor).__name__} makes no {name} of a picture")
        ids = []
        for grid in made["image_grid_thw"]:
            tokens = int(grid.prod()) // self.processor.image_processor.merge_size**2
            ids += [self.vision_start, *[self.image_token] * tokens, self.vision_end]
        return Pictures({name: made[name] for name in self.picture_inputs}, ids)

    def inputs(self, rows: list[list[int]], pictures: list[Pictures], side: str) -> dict[str, torch.Tensor]:
        """A batch for the model.

        It holds the `padded` ids and mask, `mm_token_type_ids` [batch, tokens] (1 on picture tokens), and the
        features of all pictures.
        """
        batch = padded(rows, self.pad, side)
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token).long()
        return batch | joined(pictures)
