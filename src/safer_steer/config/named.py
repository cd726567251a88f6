"""Functions and classes of the user's own, which the config names as `package.module:Name`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from safer_steer.errors import UserError


def load_named(key: str, name: str) -> Any:
    """The object named by `package.module:Name` in the config. Raises `UserError` that names the key if it
    cannot be imported."""
    module, _, attribute = name.partition(":")
    search_working_folder()
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{key}: {name}: {error}; give package.module:Name of something that can be imported here"
        ) from None


def search_working_folder() -> None:
    """Let modules of the working folder be found, too."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
