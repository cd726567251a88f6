"""Tries pictures on the student's own processor, so that one that it does not take costs a line and no work.

Processors have bounds of their own: Qwen2.5-VL's takes no picture with one side over 200 times the other.
"""

from __future__ import annotations

from functools import cached_property

from PIL import Image

from safer_steer.config import Student
from safer_steer.files.images import PictureError
from safer_steer.student.renderer import QUESTION, Renderer


class PictureTrial:
    """A `Trial` on this student. The processor is loaded with the first picture, and asked once a size."""

    def __init__(self, student: Student) -> None:
        self.student, self.max_pixels = student, student.max_pixels
        self._refusals: dict[tuple[int, int], str] = {}

    @cached_property
    def renderer(self) -> Renderer:
        """The student's renderer. Raises `UserError` if its processor cannot be used at all."""
        from safer_steer.student.load import renderer_of

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
            return str(error).partition("\n")[0] or type(error).__name__
        return ""
