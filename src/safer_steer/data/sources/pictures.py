"""Finds and measures the picture of a row's cell (a path or embedded bytes), without decoding it."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from safer_steer.data.sources.set_row import BadRow, excerpt
from safer_steer.errors import UserError
from safer_steer.files.images import PictureError, check_header
from safer_steer.files.store import PathError, inside, refuse_address

FOLDERS = ("", "images", "imgs", "image")
"""Subfolders searched for pictures, besides one named after the split."""


class SetPictures:
    """Finds the pictures of one split of a set."""

    def __init__(self, folder: Path | None, images: str | None, split: str) -> None:
        """`folder` is the split's own folder, `images` the source's. Without either, paths point into the
        cache of `datasets`."""
        if images is not None and not Path(images).is_dir():
            raise UserError(f"{images}: no such folder; see `images` of the source")
        base = Path(images) if images else folder
        self.folders = [base / name for name in dict.fromkeys((*FOLDERS, split))] if base else []
        self.cached = folder is None
        self._resolved: dict[Path, str] = {}

    def find(self, cell: Any, where: str) -> Path | bytes:
        """The picture's file or bytes, after a check of its header. Raises `BadRow`: neither path nor bytes;
        no such file; outside the folder; not a picture; too many pixels."""
        path = cell.get("path") if isinstance(cell, dict) else cell
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        try:
            if isinstance(data, bytes) and data:
                check_header(BytesIO(data))
                return data
            if not isinstance(path, str) or not path.strip():
                raise BadRow(where, f"image: is {excerpt(cell)}; give a path", "image of a wrong type")
            file = self._file(path, where)
            check_header(file, str(file))
            return file
        except PictureError as error:
            raise BadRow(where, f"image: {error}", error.reason) from None

    def _file(self, path: str, where: str) -> Path:
        folders = self.folders
        if self.cached and os.path.isabs(path):
            for cache in _caches():
                if Path(path).is_relative_to(cache):
                    folders, path = [cache], str(Path(path).relative_to(cache))
                    break
        try:
            for folder in folders:
                file = os.path.join(folder, path)
                if os.path.isfile(file):
                    return self._inside(folder, path, file)
            refuse_address(path)
            near = inside(folders[0], path) if folders else path
        except PathError as error:
            raise BadRow(where, f"image: {error}", error.reason) from None
        raise BadRow(
            where,
            f"image: {near}: no such picture; paths are relative to `images` of the source, or to the file's"
            " own folder",
            "no such picture",
        )

    def _inside(self, folder: Path, path: str, file: str) -> Path:
        """Like `inside`, but resolves the folder once, not for each of 100,000 pictures. Falls back to
        `inside` in all unclear cases."""
        if folder not in self._resolved:
            self._resolved[folder] = os.path.realpath(folder) + os.sep
        real = os.path.realpath(file)
        if ".." not in path and not os.path.isabs(path) and real.startswith(self._resolved[folder]):
            return Path(real)
        return inside(folder, path)


def _caches() -> list[Path]:
    """The caches of `datasets` and the hub's client. Each may be configured separately."""
    from datasets.config import DOWNLOADED_DATASETS_PATH, HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    return [Path(folder) for folder in (HF_HOME, HF_HUB_CACHE, HF_DATASETS_CACHE, DOWNLOADED_DATASETS_PATH)]
