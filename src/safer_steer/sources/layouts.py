"""The sets whose layout is known, by name. Any other name is the user's own set, read by its column names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from safer_steer.sources import multi_turn, single_turn
from safer_steer.sources.rows import Row
from safer_steer.sources.sample import Sample


@dataclass(frozen=True)
class Layout:
    """How a set is published, and what its rows mean."""

    samples: Callable[[Row], Iterator[Sample]]
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
    """Patterns of the JSON or CSV files in a downloaded folder. A file's stem is its split."""
    parts: str = ""
    """Configurations and splits, as text for the user."""
    intents: str | None = None
    """A split that holds the true intents, by id."""
    pictureless: bool = False
    """Some rows have no picture by design."""
    stage_1: bool = True
    """Whether the set can be a source of Stage I."""


OWN = Layout(
    single_turn.own, "columns id, image, question; optionally intent, safe, answer, source, category"
)

LAYOUTS: dict[str, Layout] = {
    "beavertails_v": Layout(
        single_turn.beavertails_v,
        "harmful questions in 20 categories",
        "PKU-Alignment/BeaverTails-V",
        split="train",
        every=True,
        parts="20 configurations, one a category: train, evaluation",
    ),
    "mm_safetybench": Layout(
        single_turn.mm_safetybench,
        "harmful requests carried by the picture",
        "PKU-Alignment/MM-SafetyBench",
        split="SD_TYPO",
        every=True,
        parts="13 configurations: SD, SD_TYPO, TYPO, Text_only",
        intents="Text_only",
    ),
    "spa_vl": Layout(
        single_turn.spa_vl,
        "preference data on harmful questions, and a test of help",
        "sqrti/SPA-VL",
        subset="default",
        split="train",
        parts="default: train, validation; test: harm, help",
    ),
    "vlguard": Layout(
        single_turn.vlguard,
        "safe and unsafe instructions on safe and unsafe pictures",
        "ys-zong/VLGuard",
        split="train",
        files=("train.json", "test.json"),
        parts="train.json, test.json",
    ),
    "vlsbench": Layout(
        single_turn.vlsbench,
        "harm that only the picture shows",
        "Foreshhh/vlsbench",
        split="train",
        files=("data.json",),
        parts="data.json, or train",
    ),
    "jailbreakv_28k": Layout(
        single_turn.jailbreakv_28k,
        "jailbreaks with text and picture",
        "JailbreakV-28K/JailBreakV-28k",
        subset="JailBreakV_28K",
        split="JailBreakV_28K",
        files=("JailBreakV_28K.csv", "mini_JailBreakV_28K.csv"),
        parts="JailBreakV_28K: JailBreakV_28K, mini_JailBreakV_28K",
    ),
    "geometry3k": Layout(
        single_turn.geometry3k,
        "geometry problems with answers",
        "hiyouga/geometry3k",
        split="train",
        parts="train, test",
    ),
    "align_anything": Layout(
        single_turn.align_anything,
        "everyday questions about pictures",
        "PKU-Alignment/align-anything",
        subset="text-image-to-text",
        split="train",
        parts="text-image-to-text: train, val",
    ),
    "scienceqa": Layout(
        single_turn.scienceqa,
        "school science with answers; about half of the rows have no picture",
        "derek-thomas/ScienceQA",
        split="train",
        parts="train, validation, test",
        pictureless=True,
    ),
    "safemt": Layout(
        multi_turn.safemt,
        "attack dialogues of 1, 2 and 4 turns",
        "HappyCorpse/SafeMT",
        every=True,
        files=("*_turn.json",),
        parts="Data/{1,2,4}_turn.json",
        stage_1=False,
    ),
    "mtmcs_bench": Layout(
        multi_turn.mtmcs_bench,
        "three-turn attacks and their safe twins",
        "ND-25/MCS-bench",
        every=True,
        parts="type_a, type_b",
        stage_1=False,
    ),
    "mossbench": Layout(
        single_turn.mossbench,
        "over-refusal: harmless questions that look harmful",
        files=("information.json",),
        parts="information.json",
    ),
    "xstest": Layout(
        single_turn.xstest,
        "over-refusal in text, without pictures",
        "walledai/XSTest",
        parts="one split",
        pictureless=True,
        stage_1=False,
    ),
}


def layout_of(name: str) -> Layout:
    """The layout of a known set, or `OWN` for any other name."""
    return LAYOUTS.get(name, OWN)
