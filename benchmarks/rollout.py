"""Compares rollouts whose trajectories never wait for one another with lock-step, side by side.

    python benchmarks/rollout.py             # 40 trajectories of 8 turns, 3 pairs; about four minutes
    python benchmarks/rollout.py --json

The student is the shipped one, in float32 on the CPU; each of 8 seeds is played 5 times. The tutor is the
sandbox's agent behind `TutorCritic`. Before each verdict it waits for a latency drawn from a lognormal
distribution (mean 1 s, sigma 0.8, seeded by pair, trajectory and turn), so both ways of playing wait for the
same latencies.

*Coroutines* is what RL does: each trajectory goes on as soon as its verdict is there, and joins the answers
being decoded. In *lock-step*, as in most trainers, all trajectories begin a turn together. Student and engine
are the same. *Student alone* has a tutor without latency; *nothing kept* also reads every history again.

The bound is the time of the busier of the two: the student alone, or the longest trajectory's latencies. All
ways of playing must give the same tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import random
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
import transformers

from safer_steer.config import Role, Student
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, Turn
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Reply, Script, Verdict, play
from safer_steer.files.images import Picture, picture_from
from safer_steer.sandbox import scripts
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.sandbox.world import draw_png, training_devices
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.load import LoadedStudent, load_student
from safer_steer.student.policy import Sampling
from safer_steer.student.transformers_policy import TransformersPolicy
from safer_steer.training.tutor import TutorCritic

SIGMA, GROUP = 0.8, 5
SETTINGS = Student(max_turn_tokens=48, max_length=2048, dtype="float32", device="cpu")
RATE, SHARE, PREFILL = 2.0, 0.8, 3.0
"""What is wanted: trajectories a second against lock-step, share of the bound, and prefilled tokens saved."""


@dataclass
class Played:
    """One way to play all trajectories: wall and CPU seconds, and prompt tokens that the student has read."""

    way: str
    wall: float
    cpu: float
    prefilled: int
    sampled: int


class Late:
    """A tutor whose verdicts come after a latency."""

    immediate = True

    def __init__(self, tutor: TutorCritic, latency: dict[tuple[str, int], float]) -> None:
        self.tutor, self.latency = tutor, latency

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        await asyncio.sleep(self.latency[dialogue.id, turn])
        return await self.tutor.judge(dialogue, turn, template)


class InStep:
    """A student that begins a turn only when all trajectories have come to it."""

    def __init__(self, student: StudentAssistant, trajectories: int) -> None:
        self.student, self.barrier = student, asyncio.Barrier(trajectories)

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        await self.barrier.wait()
        return await self.student.answer(dialogue, asked)


class Work:
    """The trajectories, and the ways to play them."""

    def __init__(self, student: LoadedStudent, trajectories: int, turns: int) -> None:
        self.student, self.turns = student, turns
        self.pictures: dict[str, Picture] = {}
        self.seeds: list[Seed] = []
        for number in range(math.ceil(trajectories / GROUP)):
            draw, device, marked = random.Random(number), training_devices()[number], number % 2 == 0
            name, script = f"{number}.png", []
            while len(script) < turns:
                script += scripts.benign_script(device, marked, min(turns, 6), draw)
            self.pictures[name] = picture_from(draw_png(device, marked, number), name, 10**6)
            for place in range(min(GROUP, trajectories - GROUP * number)):
                asked = [Turn(user=text) for text in script[:turns]]
                known = {"kind": Kind.BENIGN, "intent": "operate it", "images": [name], "turns": asked}
                self.seeds.append(Seed(id=f"{number}-{place}", **known))
        model = ChatModel("tutor", Role(), SandboxTransport())
        self.tutor = TutorCritic(model, Format.THINKING_ANSWER, self.pictures_of, feedback_dynamics=False)
        self.tokens: list[list[int]] | None = None

    def pictures_of(self, names: Any) -> list[Picture]:
        return [self.pictures[name] for name in names]

    def latencies(self, mean_s: float, pair: int) -> dict[tuple[str, int], float]:
        """Seconds by trajectory and turn."""
        draw = random.Random(pair)
        places = [(seed.id, turn) for seed in self.seeds for turn in range(self.turns)]
        if not mean_s:
            return dict.fromkeys(places, 0.0)
        return {place: draw.lognormvariate(math.log(mean_s) - SIGMA**2 / 2, SIGMA) for place in places}

    async def played(
        self,
        way: str,
        latency: dict[tuple[str, int], float],
        in_step: bool = False,
        kept: int = SETTINGS.kept_tokens,
    ) -> Played:
        """Play all trajectories.

        Raises:
            SystemExit: the tokens are not those of the first way.
        """
        sampling = Sampling(SETTINGS.max_turn_tokens, 1.0)
        policy = TransformersPolicy(self.student.model, sampling, kept_tokens=kept)
        student = StudentAssistant(policy, self.student.renderer, SETTINGS, self.pictures_of, "rollout")
        seat = InStep(student, len(self.seeds)) if in_step else student
        tutor, cpu, begun = Late(self.tutor, latency), time.process_time(), time.monotonic()
        dialogues = await asyncio.gather(
            *(play(seed, Script(), seat, tutor, self.turns) for seed in self.seeds)
        )
        wall, cpu = time.monotonic() - begun, time.process_time() - cpu
        transcripts = [found for dialogue in dialogues if (found := student.transcript(dialogue))]
        tokens = [transcript.ids for transcript in transcripts]
        self.tokens = self.tokens or tokens
        if tokens != self.tokens or len(tokens) < len(self.seeds):
            raise SystemExit(f"{way}: the trajectories are not those of the first way of playing")
        sampled = sum(sum(transcript.mask) for transcript in transcripts)
        return Played(way, wall, cpu, policy.prefilled, sampled)


async def measure(work: Work, mean_s: float, pairs: int) -> dict[str, Any]:
    """All ways of playing, the bound of each pair, and what was wanted."""
    at_once = work.latencies(0, 0)
    await work.played("warm-up", at_once)
    again = await work.played("student alone, nothing kept", at_once, kept=0)
    alone = await work.played("student alone", at_once)
    rows, rates, shares, tutors = [again, alone], [], [], []
    for pair in range(pairs):
        latency = work.latencies(mean_s, pair)
        tutor = max(sum(latency[seed.id, turn] for turn in range(work.turns)) for seed in work.seeds)
        found = {}
        for in_step in (True, False) if pair % 2 else (False, True):
            way = "lock-step" if in_step else "coroutines"
            found[in_step] = await work.played(way, latency, in_step)
            rows.append(found[in_step])
        rates.append(found[True].wall / found[False].wall)
        shares.append(max(alone.wall, tutor) / found[False].wall)
        tutors.append(tutor)
    return {
        "trajectories": len(work.seeds),
        "turns": work.turns,
        "latency_s": mean_s,
        "rows": [asdict(row) for row in rows],
        "tutor_s": tutors,
        "rate": median(rates),
        "share": median(shares),
        "prefill": again.prefilled / alone.prefilled,
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(found: dict[str, Any]) -> str:
    count = found["trajectories"]
    lines = [
        "| way | wall, s | CPU, s | trajectories/s | tokens prefilled a trajectory |",
        "|---|---|---|---|---|",
    ]
    by_way: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        by_way.setdefault(row["way"], []).append(row)
    for way, rows in by_way.items():
        wall, cpu = (median(row[name] for row in rows) for name in ("wall", "cpu"))
        cells = [f"{wall:.1f}", f"{cpu:.1f}", f"{count / wall:.2f}", f"{rows[0]['prefilled'] / count:.0f}"]
        lines.append(f"| {' | '.join([way, *cells])} |")
    longest = median(found["tutor_s"])
    lines += [f"| the longest trajectory's latencies | {longest:.1f} | | {count / longest:.2f} | |", ""]
    lines += ["| target | found | wanted | met |", "|---|---|---|---|"]
    for what, value, wanted in (
        ("trajectories a second, coroutines to lock-step", found["rate"], RATE),
        ("coroutines, of the bound that the busier of student and tutor sets", found["share"], SHARE),
        ("tokens prefilled, nothing kept to kept", found["prefill"], PREFILL),
    ):
        lines.append(
            f"| {what} | {value:.2f} x | at least {wanted:g} x | {'yes' if value >= wanted else 'no'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trajectories", type=int, default=40)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--latency", type=float, default=1.0, help="mean of the tutor's, in seconds")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print every number instead of the table")
    args = parser.parse_args()
    work = Work(load_student(SETTINGS), args.trajectories, args.turns)
    found = asyncio.run(measure(work, args.latency, args.pairs))
    print(json.dumps(found, indent=1) if args.json else table(found))


if __name__ == "__main__":
    main()
