"""Chat and picture markers in text that models wrote.

A server builds the prompt from a chat template and reads markers such as `<|im_end|>` as special tokens,
wherever they occur. Text from models must stay text (docs/explanation/method.md, "What the published code
gets wrong", 6).
"""

import re

_MARKER = re.compile(
    r"([<\[])(?=\|[^<>|\s]{1,40}\|>"
    r"|(?:/?s|[be]os|(?:start|end)_of_(?:turn|image)|image|video|audio|image_soft_token|IMG_CONTEXT|/?img)>"
    r"|(?:/?INST|IMG)\])"
)


def split_markers(text: str) -> str:
    """Turn `<|im_end|>` into `< |im_end|>`, and likewise for the markers of common model families, so that
    none becomes a special token."""
    return _MARKER.sub(r"\1 ", text)
