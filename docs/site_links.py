"""For `mkdocs build`: a link to a file of the repository outside docs/ becomes the file's name, since the
site does not have it. A link that leads to no file at all stays, and ends the build."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
_LINK = re.compile(r"\[([^\]]*)\]\((\.\.[^)#\s]*)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page's text with such links replaced."""
    folder = (DOCS / page.file.src_uri).parent

    def replaced(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / link[2]))
        outside = target.exists() and not target.is_relative_to(DOCS)
        return f"`{target.relative_to(DOCS.parent)}`" if outside else link[0]

    return _LINK.sub(replaced, markdown)
