"""How Stage I scales: time, memory and resume over the number of pairs, with a model that answers at once.

    python benchmarks/scale.py --pairs 1000 10000 100000 --out runs/scale

The largest size takes a quarter of an hour and 3 GB in --out.

It measures `safer-steer seeds` as run by `pipeline.seeds`, including pictures, journal, pools and manifest,
without HTTP and without the cache. `Instant` replaces the endpoint: it fills every answer's schema with
random words, in lengths typical of models, and lets about two attacks in three succeed, some of them at the
second attempt. The source is a JSONL file with one picture for every three pairs, 224 x 224 pixels, three
quarters JPEG and the rest PNG. Writing the source is not timed.

Every measurement runs in its own process. "again" is the same command on the finished run. "from the journal"
is the remaining work if the run is killed after its last answer: everything is read again, and the pools and
the manifest are written.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from safer_steer import pipeline
from safer_steer.config import Config, RoleName
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.prompts.base import sections
from safer_steer.prompts.scripts import Escalation
from safer_steer.run.display import Display
from safer_steer.run.folder import Run

PAIRS_A_PICTURE = 3
SIDE = 224
"""Width and height of a picture, pixels."""
WORDS = re.findall(
    r"\w+",
    "the a this that label bottle on left where how much would one need for mine picture shelf open next"
    " first could you show",
)


class Instant:
    """A transport that answers every job of Stage I in its schema, with random words seeded by the
    question."""

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        last = messages[-1]["content"]
        text = last if isinstance(last, str) else last[-1]["text"]
        system = messages[0]["content"]
        rng = random.Random(f"{repeat} {text}")
        if not system.startswith("Job: "):
            return ChatReply(_said(rng, 120), 900, 160)
        job = system.partition("\n")[0].removeprefix("Job: ")
        return ChatReply(json.dumps(_answer(job, sections(text), rng)), 900, 160)


def _answer(job: str, given: dict[str, str], rng: random.Random) -> dict[str, Any]:
    if job == "probe":
        return {"benign": _said(rng, 25), "obfuscated": _said(rng, 25)}
    if job == "benign":
        return {"turns": [_said(rng, 18) for _ in range(int(given["turns"]))]}
    if job == "obfuscated":
        return {
            "turns": [{"user": _said(rng, 18), "risk": rng.randint(1, 5)} for _ in range(int(given["turns"]))]
        }
    if job == "caption":
        return {
            "caption": _said(rng, 45),
            "dual_use": [_said(rng, 3)],
            "readable_text": _said(rng, 4),
            "missing_safety": [_said(rng, 5)],
        }
    if job == "rewrite":
        return {"rewrite": _said(rng, 60)}
    if job == "plan":
        turns = [
            {"user": _said(rng, 22), "goal": _said(rng, 10), "risk": rng.randint(1, 5)}
            for _ in range(int(given["turns"]))
        ]
        return {"escalation": rng.choice(list(Escalation)).value, "turns": turns}
    assert job == "attack_judge", f"{job} is no job of Stage I"
    return {"score": rng.choices((1, 2, 3, 4, 5), (30, 35, 25, 6, 4))[0], "reason": _said(rng, 15)}


def _said(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words)) + "?"


class InstantRun(Run):
    """A run in which every role is `Instant`."""

    def ask(self, role: RoleName, model: str | None = None) -> ChatModel:
        return ChatModel(role, self.config.role(role), Instant(), None, self.ledger)


def write_source(folder: Path, pairs: int) -> Path:
    """Write `pairs-<pairs>.jsonl` and its pictures. Existing pictures are reused."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    path = folder / f"pairs-{pairs}.jsonl"
    with path.open("w") as file:
        for index in range(pairs):
            picture = index // PAIRS_A_PICTURE
            name = f"pictures/{picture:06d}.{'png' if picture % 4 == 0 else 'jpg'}"
            rng = random.Random(index)
            if not (folder / name).exists():
                _draw(picture).save(folder / name, quality=90)
            row = {
                "id": f"{index:06d}",
                "image": name,
                "question": _said(rng, 15),
                "intent": _said(rng, 8),
                "safe": False,
                "category": "made up",
            }
            file.write(json.dumps(row) + "\n")
    return path


def _draw(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def work(source: Path, folder: Path) -> dict[str, float]:
    """Run `safer-steer seeds` in this process and measure it: seconds, CPU seconds, and the process's peak
    memory (VmHWM) in MB."""
    config = Config.model_validate({"seeds": {"sources": [{"name": "made-up", "path": str(source)}]}})
    began, cpu = time.monotonic(), time.process_time()
    with Display() as show, InstantRun(config, folder, show) as run:
        pipeline.seeds(run)
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return {
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "peak": int(peak.split()[1]) / 1024,
    }


def apart(source: Path, folder: Path) -> dict[str, float]:
    """Run `work` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, source, folder).result()


def measure(pairs: int, out: Path) -> str:
    """Measure one size; returns its row of the table."""
    source, folder = write_source(out / "source", pairs), out / f"run-{pairs}"
    shutil.rmtree(folder, ignore_errors=True)
    first = apart(source, folder)
    again = apart(source, folder)
    (folder / "manifest.json").unlink()
    plan = folder / "seeds" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"finished": False}))
    killed = apart(source, folder)
    seeds = sum(path.read_bytes().count(b"\n") for path in (folder / "seeds").glob("[bor]*.jsonl"))
    cells = [
        f"{pairs:,}",
        f"{seeds:,}",
        f"{first['seconds']:.1f}",
        f"{pairs / first['seconds']:.0f}",
        f"{first['cpu']:.1f}",
        f"{first['peak']:.0f}",
    ]
    return (
        "| "
        + " | ".join([*cells, f"{again['seconds']:.1f}", f"{killed['seconds']:.1f}", f"{killed['peak']:.0f}"])
        + " |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for sources and runs; runs there are made anew"
    )
    args = parser.parse_args()
    print(
        "| pairs | scripts | s | pairs/s | CPU s | peak MB | again, s | from the journal, s | its peak MB |"
    )
    print("|---" * 9 + "|")
    for pairs in args.pairs:
        print(measure(pairs, args.out), flush=True)


if __name__ == "__main__":
    main()
