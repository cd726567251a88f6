"""Dialogues without a tutor (`rollouts`), and how new weights reach the server that plays them (`sync`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from gpu_parts.bench import WEIGHTS, Bench, Row
from gpu_parts.training import add_noise, scored_dialogue, with_adapter

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Seed
from safer_steer.episode import Script, play
from safer_steer.errors import UserError
from safer_steer.files.images import pictures_in

SHARED_CARD = (2, 30)
"""The first NCCL that takes two processes on one card."""


def rollouts(bench: Bench) -> Iterator[Row]:
    """Answered tokens a second of dialogues played side by side, without a tutor."""
    from safer_steer.student.load import load_student
    from safer_steer.student.policy import SampledStudent, engine_of

    bench.serve(lora=True)
    config, sizes = bench.config(lora=False), bench.sizes.rollouts[bench.engine]
    loaded, student, settings = load_student(config.student), config.student, config.rl.rollouts
    sampled = SampledStudent(loaded.model, loaded.renderer, student, 1.0, settings, student.base)
    planned = bench.planned(config, "bench generation")
    for trajectories, turns in ((bench.sizes.group, 1), *sizes):  # the first warms up
        folder = bench.work / f"rollouts-{trajectories}-{turns}"
        seeds = bench.seeds(folder, trajectories, turns)
        begun = bench.start()
        policy = engine_of(settings)(sampled)
        made = bench.now()
        dialogues = asyncio.run(_play(policy, loaded.renderer, config, folder, seeds, turns))
        seconds = bench.now() - made
        tokens = sum(turn.meta["tokens"] for one in dialogues for turn in one.turns)
        if (trajectories, turns) in sizes:
            yield {
                **{"engine": bench.engine, "trajectories": trajectories, "turns": turns},
                **{"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds},
                **{"sync_s": made - begun, "peak_gb": bench.peak(), "planned_gb": planned},
            }


async def _play(
    policy: Any, renderer: Any, config: Config, folder: Path, seeds: list[Seed], turns: int
) -> list[Dialogue]:
    from safer_steer.endpoints.clients import close_all
    from safer_steer.student.assistant import StudentAssistant

    pictures_of = pictures_in(folder, config.student.max_pixels)
    assistant = StudentAssistant(policy, renderer, config.student, pictures_of, "benchmark")
    try:
        return await asyncio.gather(*(play(seed, Script(), assistant, None, turns) for seed in seeds))
    finally:
        await close_all()


def sync(bench: Bench) -> Iterator[Row]:
    """Seconds to bring new weights to a server and prove them there, and the engine's gap after it."""
    from safer_steer.student.load import load_student
    from safer_steer.student.policy import SampledStudent
    from safer_steer.student.training import training_dtype
    from safer_steer.student.vllm_policy import on_servers
    from safer_steer.student.vllm_server import run_and_close

    for weights in WEIGHTS:
        config = bench.config(weights == "LoRA")
        student, settings = config.student, config.rl.rollouts
        if weights == "all" and (why := _without_nccl(config)):
            print(f"sync: all weights are left out: {why}", flush=True)
            continue
        bench.serve(weights == "LoRA")
        loaded = load_student(student, dtype=training_dtype(student))
        model = with_adapter(loaded.model, student) if weights == "LoRA" else loaded.model
        seconds = []
        for step in range(1 + bench.sizes.steps):  # the first warms up
            add_noise(model, step)
            begun = bench.start()
            policy = on_servers(
                SampledStudent(model, loaded.renderer, student, 1.0, settings, student.base, step, bench.work)
            )
            seconds.append(bench.now() - begun)
        sent = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
        transcript, score = scored_dialogue(bench, loaded.renderer)
        theirs = run_and_close(policy.score(transcript))
        gaps = [abs(one - other) for one, other in zip(score(model), theirs[1:], strict=True)]
        yield {
            **{"weights": weights, "megabytes": sent / 1e6, "seconds": mean(seconds[1:])},
            **{"gap": mean(gaps), "gap_max": max(gaps), "peak_gb": bench.peak()},
        }


def _without_nccl(config: Config) -> str:
    """Why all weights cannot be sent to a server from here; "" if they can."""
    import torch

    from safer_steer.student.vllm_weights import refuse_full_weights

    try:
        refuse_full_weights(config.student, config.rl.rollouts)
    except UserError as error:
        return str(error)
    version = torch.cuda.nccl.version()
    return "" if version >= SHARED_CARD else f"NCCL {version} takes no two processes on one card; 2.30 does"
