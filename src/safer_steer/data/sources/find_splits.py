"""Finds the splits of a set to read. A split is one file, or one split of a configuration, local or on
the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from safer_steer.config import Source
from safer_steer.data.sources import arrow, text_files
from safer_steer.data.sources.set_row import Layout
from safer_steer.errors import UserError

Place = str
"""Suffix to a split's title that names one row: ":12", or ": row 12"."""
Rows = Callable[[], Iterator[tuple[Place, Any]]]
"""Reads rows from the beginning. A row that cannot be read is a `text_files.Unreadable`."""

READERS: dict[str, Callable[[Path], Iterator[tuple[Place, Any]]]] = {
    ".parquet": arrow.parquet_rows,
    ".jsonl": text_files.jsonl_rows,
    ".ndjson": text_files.jsonl_rows,
    ".json": text_files.json_rows,
    ".csv": text_files.csv_rows,
}
"""By the suffix of a file's name."""

GENERIC = ("*.jsonl", "*.json", "*.csv")


@dataclass(frozen=True)
class SetSplit:
    """Rows to read, and where they are from."""

    title: str
    """File, or hub id with configuration and split."""
    rows: Rows
    files: tuple[Path, ...] = ()
    """What the rows are read from, if that is here."""
    subset: str = ""
    name: str = ""
    """The split's name."""
    folder: Path | None = None
    """The folder that picture paths are relative to, if the source does not set one. None if pictures are
    embedded or in the hub's cache."""


def find_splits(source: Source, layout: Layout, split: str | None = None) -> list[SetSplit]:
    """The splits requested by the source, in order. `split` overrides the source's split. Raises `UserError`:
    the path does not exist, its format is not supported, or there is no such subset or split (the message
    lists the available ones)."""
    selection = (source.subset, split or source.split)
    if source.hub:
        return _on_hub(source, layout, *selection)
    if not source.path:
        raise UserError(
            f"seeds.sources: {source.name} is not a built-in set; give its `path`,"
            " or its id on the hub as `hub`"
        )
    path = Path(source.path)
    where = f"{path}: source {source.name}"
    if path.is_file():
        published = _published([path], layout)
        splits = published or [_file(path)]
        if not layout.one_table and not (published and layout.split_column):
            subset = source.subset or _subset_of(path.absolute(), layout)
            return [_file(path, subset, split or source.split, _pictures_folder(path, layout))]
    elif path.is_dir():
        saved = _saved(path)
        published = [] if saved else _published(_matching(path, layout.files, 3), layout)
        splits = saved or published or _parquet(path) or [_file(file) for file in _matching(path, GENERIC, 1)]
    else:
        raise UserError(f"{path}: no such file or folder; see `path` of source {source.name}")
    if not splits:
        raise UserError(
            f"{path}: has no JSONL, JSON, CSV or Parquet file, and is not a `save_to_disk` folder;"
            f" see `path` of source {source.name}"
        )
    if layout.one_table or (published and layout.split_column):
        splits = _by_row(splits, layout)
    return _picked(splits, where, layout, *selection)


def _picked(
    splits: list[SetSplit], where: str, layout: Layout, subset: str | None, name: str | None
) -> list[SetSplit]:
    subsets = _pick([one.subset for one in splits], subset, layout.subset, layout.every, where, "subset")
    splits = [one for one in splits if one.subset in subsets]
    names = _pick([one.name for one in splits], name, layout.split, layout.every, where, "split")
    return [one for one in splits if one.name in names]


def _pick(
    names: Sequence[str], choice: str | None, default: str | None, every: bool, where: str, what: str
) -> list[str]:
    """The selected names: the choice; else the set's default, the only one, all of them (`every`), or
    `train`."""
    names = list(dict.fromkeys(names))
    if "default" not in names and "" in names:  # files next to the folders of other configurations
        choice, default = ("" if name == "default" else name for name in (choice, default))
    if choice is not None:
        if choice not in names:
            raise UserError(
                f"{where}: no {what} {choice}; there are: {', '.join(filter(None, names)) or 'none'}"
            )
        return [choice]
    if default in names:
        return [str(default)]
    if len(names) == 1 or every:
        return names
    if what == "split" and "train" in names:
        return ["train"]
    raise UserError(f"{where}: several {what}s; set `{what}` to one of: {', '.join(filter(None, names))}")


def _file(path: Path, subset: str = "", split: str | None = None, folder: Path | None = None) -> SetSplit:
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise UserError(
            f"{path}: give a file whose name ends in .jsonl, .json, .csv or .parquet, or a folder"
        )
    if split is None:
        split = _SHARD.sub("", path.stem) if suffix == ".parquet" else path.stem
    return SetSplit(str(path), partial(READERS[suffix], path), (path,), subset, split, folder or path.parent)


def _matching(path: Path, patterns: Sequence[str], deep: int) -> list[Path]:
    """JSON and CSV files in the folder, or else up to `deep` levels below: those of the highest level that
    has some."""
    for level in range(deep + 1):
        under = "*/" * level
        files: set[Path] = set()
        for pattern in patterns:
            files.update(file for file in path.glob(under + pattern) if file.is_file())
        if files:
            return sorted(files)
    return []


def _published(files: Sequence[Path], layout: Layout) -> list[SetSplit]:
    """The splits of those files that the set is published as."""
    splits = []
    for file in files:
        if any(fnmatch(file.name, pattern) for pattern in layout.files):
            subset = _subset_of(file.absolute(), layout)
            splits.append(_file(file, subset, "" if layout.folders else None, _pictures_folder(file, layout)))
    return splits


def _subset_of(file: Path, layout: Layout) -> str:
    if file.parent.name == layout.subset:
        return file.parent.name
    return next((folder.name for folder in file.parents if folder.name in layout.folders), "")


def _pictures_folder(file: Path, layout: Layout) -> Path:
    return file.parent.parent if file.parent.name == layout.beside else file.parent


def _by_row(tables: Sequence[SetSplit], layout: Layout) -> list[SetSplit]:
    """The splits of tables whose rows say of which they are. A row that does not say is in each of them."""

    def read(table: SetSplit, name: str) -> Iterator[tuple[Place, Any]]:
        for place, row in table.rows():
            split = row.get(layout.split_column, name) if isinstance(row, dict) else name
            if str(split).strip().lower() == name.lower():
                yield place, row

    return [
        replace(table, name=name, rows=partial(read, table, name))
        for table in tables
        for name in layout.row_splits
    ]


def _saved(path: Path) -> list[SetSplit]:
    """Output of `save_to_disk` of `datasets`: a data set, several splits, or one folder of either kind per
    configuration."""
    if (path / "state.json").is_file():
        return [_saved_one(path, "", "")]
    folders = sorted(path.iterdir())
    if (path / "dataset_dict.json").is_file():
        return [_saved_one(one, "", one.name) for one in folders if (one / "state.json").is_file()]
    splits = []
    for folder in folders:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            splits += [_saved_one(Path(one.title), folder.name, one.name) for one in _saved(folder)]
    return splits


def _saved_one(path: Path, subset: str, split: str) -> SetSplit:
    files = sorted(file for ends in ("*.arrow", "*.json") for file in path.glob(ends))
    return SetSplit(str(path), partial(arrow.saved_rows, path), tuple(files), subset, split, path)


_SHARD = re.compile(r"(?:-\d+-of-\d+(?:-[0-9a-f]{16})?|[-_.]?\d+)$|^part-.*$")
"""What follows the split's name in a file's name. In older uploads to the hub (ScienceQA's),
it includes a hash."""


def _parquet(path: Path) -> list[SetSplit]:
    """Parquet files in a folder, in the hub's layout: `data/train-00000-of-00001.parquet`,
    `CONFIG/SPLIT-0....parquet`, `CONFIG/SPLIT/0000.parquet`."""
    shards: dict[tuple[str, str], list[Path]] = {}
    for file in sorted(path.rglob("*.parquet")):
        folders = [name for name in file.relative_to(path).parts[:-1] if name != "data"]
        split = _SHARD.sub("", file.stem) or (folders.pop() if folders else "")
        shards.setdefault(("/".join(folders), split), []).append(file)
    return [_shards(files, subset, split, path) for (subset, split), files in shards.items()]


def _shards(files: list[Path], subset: str, split: str, folder: Path) -> SetSplit:
    if len(files) == 1:
        return _file(files[0], subset, split, folder)

    def read() -> Iterator[tuple[Place, Any]]:
        for file in files:
            for place, row in arrow.parquet_rows(file):
                yield f"/{file.relative_to(folder)}{place}", row

    return SetSplit(str(folder), read, tuple(files), subset, split, folder)


def more_shards(file: Path) -> str:
    """The names, as a pattern, by which other files in a Parquet file's folder are shards of its split."""
    split = _SHARD.sub("", file.stem)
    return f"{split}[-_.0-9]*.parquet" if split else "*.parquet"


def _on_hub(source: Source, layout: Layout, subset: str | None, split: str | None) -> list[SetSplit]:
    id = str(layout.hub if source.hub == "default" else source.hub)
    if source.hub == "default" and layout.hub is None:
        raise UserError(
            f"seeds.sources: the hub id of {source.name} is not known; give its id as `hub`, or its `path`"
        )
    if Path(id).exists():
        raise UserError(
            f"seeds.sources: {source.name}: {id} is a folder here; give it as `path`,"
            f" or run from elsewhere to load {id} from the hub"
        )
    return hub_splits(source.name, id, layout, subset, split)


def hub_splits(name: str, id: str, layout: Layout, subset: str | None, split: str | None) -> list[SetSplit]:
    """The splits of the data set that `datasets` finds as `id`. Each is downloaded on first read."""
    where = f"source {name}: {id}"
    if layout.one_table:
        table = hub_splits(name, id, replace(layout, split=None, one_table=False), subset, None)
        return _picked(_by_row(table, layout), where, layout, subset, split)
    splits = []
    subsets = arrow.ask_hub("get_dataset_config_names", where, id)
    for config in _pick(subsets, subset, layout.subset, layout.every, where, "subset"):
        names = arrow.ask_hub("get_dataset_split_names", where, id, config)
        for one in _pick(names, split, layout.split, layout.every, f"{where}/{config}", "split"):
            rows = partial(arrow.hub_rows, id, config, one, where)
            label = "" if config == "default" else config
            splits.append(SetSplit(f"{id}/{config}/{one}", rows, subset=label, name=one))
    return splits
