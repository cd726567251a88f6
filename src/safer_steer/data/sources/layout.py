"""How a set is published, and what its rows mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from safer_steer.data.sources.sample import Sample
from safer_steer.data.sources.set_row import SetRow


@dataclass(frozen=True)
class Layout:
    """Where the rows of a set are, and the function that reads one."""

    samples: Callable[[SetRow], Iterator[Sample]]
    """Raises `BadRow`."""
    about: str = ""
    hub: str | None = None
    """The set's id on the hub."""
    subset: str | None = None
    """The default configuration. If None: all configurations, if `every`."""
    split: str | None = None
    every: bool = False
    """Configurations and splits are parts of one set: by default all of them are read."""
    files: tuple[str, ...] = ()
    """Patterns of the JSON or CSV files in a downloaded folder, or up to three levels below. A file's stem is
    its split."""
    folders: tuple[str, ...] = ()
    """Folders above the files that are configurations. Each has a file of one name, so the split's name is no
    part of an id."""
    beside: str = ""
    """A folder of files whose picture paths are relative to the folder that it lies in."""
    split_column: str = ""
    """A column of `files` that says of which split a row is."""
    row_splits: tuple[str, ...] = ()
    """The values in `split_column`."""
    parts: str = ""
    """Configurations and splits, as text for the user."""
    intents: str | None = None
    """A split that holds the true intents, by id."""
    pictureless: bool = False
    """Some rows have no picture by design."""
    stage_1: bool = True
    """Whether the set can be a source of Stage I."""
