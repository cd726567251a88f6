"""Chat and picture markers in text that models wrote.

A server builds the prompt from a chat template and reads markers such as `<|im_end|>` as special tokens,
wherever they stand. Text from models must always stay text (docs/method.md, "What the published code gets
wrong", 6).
"""

import re

_MARKER = re.compile(
    r"([<\[])(?=\|[^<>|\s]{1,40}\|>"
    r"|(?:/?s|[be]os|(?:start|end)_of_(?:turn|image)|image|video|audio|image_soft_token|IMG_CONTEXT|/?img)>"
    r"|(?:/?INST|IMG)\])"
)


def split_markers(text: str) -> str:
    """`<|im_end|>` becomes `< |im_end|>`, and likewise the markers of the common model families, so that none
    is a token."""
    return _MARKER.sub(r"\1 ", text)
