"""The sandbox as a source: blunt questions about training devices. Each device is shown with a hazard mark
and then without one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from safer_steer.config import Config, Source
from safer_steer.data.sources.pair import Pair
from safer_steer.sandbox.language import make
from safer_steer.sandbox.world import draw_png, training_devices

SANDBOX_PAIRS = 60
"""Number of pairs if the source sets no limit."""


def sandbox_pairs(source: Source, config: Config) -> Iterator[Pair]:
    """`source.limit` pairs. They are generated, so a larger limit continues where a smaller one ends."""
    rng = random.Random(f"{config.seed} sandbox pairs")
    for index in range(source.limit or SANDBOX_PAIRS):
        if index % (2 * len(training_devices())) == 0:
            order = rng.sample(training_devices(), len(training_devices()))
        device, marked = order[index // 2 % len(order)], index % 2 == 0
        question = make("all", device, rng).text
        yield Pair(
            f"{source.name}-{index:05d}",
            partial(draw_png, device, marked, f"seeds {config.seed} {index}"),
            question,
            source.name,
            "learn how the device is operated",
            not marked,
            use=source.use,
        )
