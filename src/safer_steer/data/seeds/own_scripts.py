"""Scripts of one's own in place of Stage I (`seeds.scripts`): they are read and checked, and nobody is
asked."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from pathlib import Path

from safer_steer.config import Config
from safer_steer.data.seeds.pools import DROPPED
from safer_steer.data.sources.load import draw
from safer_steer.dialogue import Seed, Turn, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.images import Picture, Trial, check_header, load_picture
from safer_steer.files.meta import PLAYED, PLAYED_TURN, without
from safer_steer.files.script_file import read_scripts
from safer_steer.files.store import PathError, inside, write_atomic


def own_scripts(config: Config) -> list[Seed]:
    """The scripts of the file, or a draw of `config.limit` of each kind; their pictures lie beside it. Raises
    `UserError`: see `read_scripts`; or a script is of a kind that `seeds.kinds` leaves out, or for the bench
    without `assembly`; or has no question, or no picture to ask it with, for the single-turn ablation."""
    path = _path(config)
    by_question = config.rl.single_turn or config.bootstrap.sft.single_turn
    seeds = read_scripts(path)
    for seed in seeds:
        if seed.kind not in config.seeds.kinds:
            raise UserError(f"{path}: {seed.id} is {seed.kind}, which seeds.kinds leaves out; add it there")
        if config.assembly is None and seed.meta.get("use") == "bench":
            raise UserError(
                f"{path}: {seed.id} is for the bench (`use`); add `assembly: {{}}` or leave it out"
            )
        if by_question and not (seed.meta.get("pair") and seed.meta.get("question", "").strip()):
            raise UserError(f"{path}: {seed.id}: single_turn needs `pair` and `question` in its meta")
        if by_question and seed.turns[0].meta.get("in_picture") and not _original(path, seed):
            what = "the picture without the first turn's words, beside the file and as `original` in its meta"
            raise UserError(f"{path}: {seed.id}: single_turn needs {what}")
    sample: set[str] = set()
    for kind in config.seeds.kinds:
        ids = [seed.id for seed in seeds if seed.kind is kind]
        sample.update(draw(ids, str, config.limit, config.seed))
    return [seed for seed in seeds if seed.id in sample]


def script_pictures(config: Config, seed: Seed, trial: Trial | None = None) -> list[Picture]:
    """A script's pictures, decoded and tried on the student. Raises `UserError`; names file and
    script."""
    path = _path(config)
    try:
        images = [*seed.all_images, *_original(path, seed)]
        pictures = [load_picture(path.parent, image, config.student.max_pixels) for image in images]
        if trial:
            for picture in pictures:
                trial(check_header(BytesIO(picture.data)), picture.name)
        return pictures
    except UserError as error:
        raise UserError(f"{path}: {seed.id}: {error}") from None


def brought_in(config: Config, folder: Path, seed: Seed) -> Seed:
    """A script as a run holds it: its pictures under `folder/images/`, and nothing of an earlier dialogue.
    Raises `UserError`: see `script_pictures`."""
    names = {}
    for picture in script_pictures(config, seed):
        names[picture.name] = name = f"images/{picture.original[:16]}{picture.suffix}"
        if not (folder / name).exists():  # an existing file is complete: writes are atomic
            write_atomic(folder / name, picture.data)
    turns = []
    for turn in seed.turns:
        turns.append(Turn(user=turn.user, images=turn.images, meta=without(turn.meta, *PLAYED_TURN)))
    meta = without(seed.meta, *PLAYED, "original")
    for original in _original(_path(config), seed):
        meta["original"] = names[original]
    facts = {"source": seed.source or _path(config).stem, "meta": meta}
    script = seed.model_copy(update={**facts, "turns": turns})
    return script.with_images(names.__getitem__)


def take_own_scripts(config: Config, folder: Path) -> None:
    """Write `folder/seeds/<kind>.jsonl` and an empty `dropped.jsonl` from the scripts, and their pictures.
    Raises `UserError`: see `own_scripts` and `script_pictures`."""
    pools: dict[str, list[Seed]] = {kind: [] for kind in config.seeds.kinds}
    for seed in own_scripts(config):
        pools[seed.kind].append(brought_in(config, folder, seed))
    for kind, seeds in pools.items():
        write_atomic(folder / "seeds" / f"{kind}.jsonl", to_jsonl(seeds))
    write_atomic(folder / "seeds" / f"{DROPPED}.jsonl", "")


def _original(path: Path, seed: Seed) -> list[str]:
    """The picture that a run changed for this script (`meta.original`), if it lies beside the file."""
    original = seed.meta.get("original")
    with suppress(PathError):
        if original and inside(path.parent, original).is_file():
            return [original]
    return []


def _path(config: Config) -> Path:
    assert config.seeds.scripts
    return Path(config.seeds.scripts)
