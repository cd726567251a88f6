"""Both protocols over all suites: the suites brought into the run's folder, and one model measured on them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path

from safer_steer.assembly.candidates import SCALED_FROM, picture_id, scaled_from
from safer_steer.assembly.splits import FOLDER
from safer_steer.bench.suites import Suite, read_suite
from safer_steer.dialogue import Dialogue, Seed, read_dialogues, read_seeds, to_jsonl
from safer_steer.episode import Assistant, Critic
from safer_steer.episodes import play_all
from safer_steer.errors import UserError
from safer_steer.metrics import ProtocolName, state
from safer_steer.models.images import check_whole, load_picture
from safer_steer.store import inside, write_atomic

Results = dict[ProtocolName, dict[str, list[Dialogue]]]

SANDBOX = "sandbox"
"""The name in `bench.suites` that stands for the embedded suites."""
STEER = "steer"
"""The name in `bench.suites` that stands for the suites the run assembles: `splits/bench/*.jsonl`."""
SANDBOX_DIALOGUES = 60
"""So many of them are marked, and so many unmarked, where the config says nothing."""


def suite_files(names: Sequence[str]) -> list[Path]:
    """Those of `bench.suites` that are files."""
    return [Path(name) for name in names if name not in (SANDBOX, STEER)]


def taken_names(names: Sequence[str]) -> set[str]:
    """What the suites are called, the run's own apart."""
    taken = {path.stem for path in suite_files(names)}
    if SANDBOX in names:
        from safer_steer.sandbox.suites import SUITES

        taken |= set(SUITES)
    return taken


def read_suites(names: Sequence[str]) -> list[Suite]:
    """The suites that are files, every picture decoded once. Nothing is written.

    Raises:
        UserError: see `read_suite`; or two suites have one name, or a picture cannot be used.
    """
    suites = _suites(names)
    for suite in suites:
        seen = set[str]()
        for seed in suite.seeds:
            for image in seed.images:
                if image not in seen:
                    seen.add(image)
                    with _named(suite, seed):
                        path = inside(suite.folder, image)
                        check_whole(path.read_bytes(), str(path))
    return suites


@contextmanager
def _named(suite: Suite, seed: Seed) -> Iterator[None]:
    """Puts the suite's file and the script before what is wrong with a picture."""
    try:
        yield
    except (UserError, OSError) as error:
        raise UserError(f"{suite.folder / suite.name}.jsonl: {seed.id}: {error}") from None


def _suites(names: Sequence[str]) -> list[Suite]:
    """The suites that are files, each with a name of its own."""
    suites = [read_suite(path) for path in suite_files(names)]
    taken = Counter(suite.name for suite in suites)
    if SANDBOX in names:
        from safer_steer.sandbox.suites import SUITES

        taken.update(SUITES)
    for suite in suites:
        path = suite.folder / f"{suite.name}.jsonl"
        if taken[suite.name] > 1:
            raise UserError(f"{path}: another suite is called {suite.name!r} too; rename the file")
    return suites


def bring_in(names: Sequence[str], folder: Path, dialogues: int | None, max_pixels: int) -> list[Suite]:
    """Copy the suites into `folder/suites`, so that the run holds all it was measured on; image paths become relative to `folder`.

    Pictures with more than `max_pixels` pixels are scaled down; their scripts say from what (`SCALED_FROM`).

    Args:
        dialogues: at most so many of each group, a group being the attacks, or the safe twins, of one protocol: an equal share of
            every suite in it, from its beginning. The embedded suites are written in that size. They are the same for every run, whatever its seed.
    """
    assembled = sorted((folder / FOLDER / "bench").glob("*.jsonl")) if STEER in names else []
    if STEER in names and not assembled:
        raise UserError(f"{folder / FOLDER / 'bench'}: no suites in it for `{STEER}`; {FOLDER}/balance.md says what became of the candidates")
    suites = _suites([*names, *map(str, assembled)])
    groups = Counter((suite.protocol, suite.safe_twins) for suite in suites)
    if dialogues:
        suites = [replace(suite, seeds=suite.seeds[: ceil(dialogues / groups[suite.protocol, suite.safe_twins])]) for suite in suites]
    suites = [_copied(suite, folder / "suites" / suite.name, max_pixels) for suite in suites]
    brought = [_moved(suite, folder, f"suites/{suite.name}") for suite in suites]
    if SANDBOX in names:
        from safer_steer.sandbox.suites import write_suites

        size = dialogues or SANDBOX_DIALOGUES
        files = write_suites(folder / "suites" / SANDBOX, size, size)
        brought += [_moved(read_suite(path), folder, f"suites/{SANDBOX}") for paths in files.values() for path in paths]
    for suite in suites:
        write_atomic(folder / "suites" / suite.name / f"{suite.name}.jsonl", to_jsonl(suite.seeds))
    return brought


def _copied(suite: Suite, to: Path, max_pixels: int) -> Suite:
    """The suite as it is in the run, its pictures put there."""
    before, known = to / f"{suite.name}.jsonl", dict[str, str]()
    for seed in read_seeds(before) if before.is_file() else ():
        known |= scaled_from(seed)
    scaled, copied = dict[str, str](), set[str]()
    for seed in suite.seeds:
        for image in seed.images:
            if image not in copied:
                with _named(suite, seed):
                    original = _copy_picture(suite.folder, image, to, max_pixels, known)
                copied.add(image)
                if original:
                    scaled[image] = original
    seeds = [_with_originals(seed, scaled) for seed in suite.seeds]
    return replace(suite, seeds=seeds, scaled=len(scaled))


def _copy_picture(
    folder: Path,
    image: str,
    to: Path,
    max_pixels: int,
    known: Mapping[str, str],
) -> str | None:
    """Copy a picture, scaled down if it is too large; returns the original's id if it is.

    `known` holds the ids of what an earlier process scaled: unless the original has changed, that copy stays.
    """
    path, copy = inside(folder, image), inside(to, image)
    if image in known and copy.is_file() and known[image] == picture_id(path):
        return known[image]
    picture = load_picture(folder, image, max_pixels)
    if not copy.is_file() or copy.stat().st_size != len(picture.data):
        write_atomic(copy, picture.data)
    return picture.original[:16] if picture.scaled_from else None


def _with_originals(seed: Seed, scaled: Mapping[str, str]) -> Seed:
    own = {image: scaled[image] for image in seed.images if image in scaled}
    return seed.model_copy(update={"meta": seed.meta | {SCALED_FROM: own}}) if own else seed


def _moved(suite: Suite, folder: Path, prefix: str) -> Suite:
    seeds = [seed.model_copy(update={"images": [f"{prefix}/{image}" for image in seed.images]}) for seed in suite.seeds]
    return replace(suite, seeds=seeds, folder=folder)


async def measure(suites: Sequence[Suite], assistant: Assistant, critic: Critic, out: Path, progress: Callable[[int, int], None] | None = None) -> Results:
    """Play all suites with one model, side by side so that its batches are full. Finished dialogues are in `out` at once and not played again.

    Args:
        out: `bench/<model>`; a suite's journal is `<suite>.jsonl`, with `single_turn_` before it where the protocol is single-turn.
        progress: called with dialogues (finished, all), over all suites.
    """
    finished = dict.fromkeys((suite.name for suite in suites), 0)
    total = sum(len(suite.seeds) for suite in suites)

    def report(name: str) -> Callable[[int, int], None]:
        def of_suite(done: int, _: int) -> None:
            finished[name] = done
            if progress:
                progress(sum(finished.values()), total)

        return of_suite

    tasks = [asyncio.ensure_future(play_all(suite.seeds, assistant, critic, journal(out, suite), progress=report(suite.name))) for suite in suites]
    try:
        played = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    results: Results = {}
    for suite, dialogues in zip(suites, played, strict=True):
        results.setdefault(suite.protocol, {})[suite.name] = list(dialogues)
    return results


def journal(out: Path, suite: Suite) -> Path:
    """Where a model's dialogues on a suite are kept."""
    return out / f"{'single_turn_' if suite.protocol == 'single_turn' else ''}{suite.name}.jsonl"


def forget_unscored(bench: Path) -> None:
    """Drop unscored and failed dialogues from a bench's journals: they are to be played again.

    Incomplete ones stay, for they would end alike.
    """
    for path in sorted(bench.glob("*/*.jsonl")):
        dialogues = read_dialogues(path)
        stay = [dialogue for dialogue in dialogues if state(dialogue) in ("scored", "incomplete")]
        if len(stay) < len(dialogues):
            write_atomic(path, to_jsonl(stay))
