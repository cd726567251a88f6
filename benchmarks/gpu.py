"""Speed and memory of the student on a GPU: rollouts, training, and one whole GRPO step. A Qwen2.5-VL-3B with
random weights is built on the spot; nothing is downloaded.

python benchmarks/gpu.py rollouts --out gpu.json         # meant for ten minutes each on a card of 80 GB
python benchmarks/gpu.py training step --out gpu.json
python benchmarks/gpu.py rollouts step --engine vllm --base-url http://localhost:8000 --out gpu.json
python benchmarks/gpu.py table --out gpu.json            # the tables alone; what is missing is not measured
python benchmarks/gpu.py --tiny --out tiny.json          # all of it without a GPU; its numbers mean nothing

The vLLM server must serve the folder of the student, which `gpu.py student` builds and names.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import random_student
from PIL import Image

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Kind, Seed, StopReason, Turn, to_jsonl
from safer_steer.episode import Script, Verdict, play
from safer_steer.files.images import pictures_in
from safer_steer.files.manifest import versions
from safer_steer.files.store import write_atomic

PARTS = ("rollouts", "training", "step")
TUTOR_SIGMA = 0.8
"""Of the tutor's lognormal latency."""


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    model: dict[str, Any]
    dtype: str
    picture: int
    """Side of a picture in pixels."""
    rollouts: tuple[tuple[int, int], ...]
    """Trajectories and turns."""
    group: int
    """Trajectories on one picture and script."""
    answer: int
    """Most tokens of an answer; random weights seldom end one sooner."""
    lengths: tuple[int, ...]
    """Tokens of a dialogue in training."""
    steps: int
    """Training steps measured, after two that are not."""
    rank: int
    generation_tokens: int
    context: int
    """Most tokens of a dialogue."""
    prompts: int
    turns: int
    tutor_s: float
    """The tutor's mean latency."""


CARD = Sizes(
    **{"model": random_student.PUBLISHED, "dtype": "bfloat16", "picture": 448, "group": 5, "answer": 128},
    **{"rollouts": ((40, 1), (160, 1), (320, 1), (40, 8), (160, 8)), "lengths": (4_096, 10_240), "steps": 3},
    **{"rank": 64, "generation_tokens": 262_144, "context": 12_288, "prompts": 8, "turns": 8, "tutor_s": 1.0},
)
TINY = Sizes(
    **{"model": random_student.TINY, "dtype": "float32", "picture": 112, "group": 2, "answer": 8},
    **{"rollouts": ((4, 1), (4, 2)), "lengths": (512, 768), "steps": 1},
    **{"rank": 4, "generation_tokens": 4_096, "context": 2_048, "prompts": 2, "turns": 2, "tutor_s": 0.02},
)


class Enough(Exception):
    """Ends a training once its measured steps are done."""


class Busy:
    """Seconds during which at least one of the calls counted here was under way."""

    def __init__(self) -> None:
        self.seconds, self.calls, self._since = 0.0, 0, 0.0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A call."""
        if not self.calls:
            self._since = time.perf_counter()
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            if not self.calls:
                self.seconds += time.perf_counter() - self._since

    def take(self) -> float:
        """The seconds since the last `take`."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class Bench:
    """One measurement: its sizes, the engine, and the folder it works in."""

    def __init__(self, sizes: Sizes, engine: str, base_url: str | None, work: Path) -> None:
        import torch

        self.sizes, self.engine, self.base_url, self.work = sizes, engine, base_url, work
        self.gpu = torch.cuda.is_available()
        self.device = "cuda" if self.gpu else "cpu"

    def student(self) -> Path:
        """The random student's folder, built if it is not there."""
        return random_student.build(
            self.work / "student", self.sizes.model, self.sizes.dtype, self.device
        ).resolve()

    def config(self, lora: bool, **sections: Any) -> Config:
        """The settings of a run; `sections` are those of SFT or RL."""
        sizes = self.sizes
        student = {
            "model": str(self.student()),
            "system": "You are a helpful assistant.",
            **{"max_turn_tokens": sizes.answer, "max_length": sizes.context, "dtype": sizes.dtype},
            **{"device": self.device, "generation_tokens": sizes.generation_tokens},
            "lora_rank": sizes.rank if lora else 0,
        }
        rollouts = {"engine": self.engine} | ({"base_url": self.base_url} if self.base_url else {})
        rl = sections.pop("rl", {}) | {"rollouts": rollouts}
        return Config.model_validate({"student": student, "rl": rl, **sections})

    def seeds(self, folder: Path, count: int, turns: int) -> list[Seed]:
        """Scripts, with a picture for each group."""
        rng = random.Random(0)
        seeds = []
        for number in range(count):
            path = f"images/{number // self.sizes.group}.png"
            if not (folder / path).exists():
                (folder / "images").mkdir(parents=True, exist_ok=True)
                side = self.sizes.picture
                Image.frombytes("RGB", (side, side), rng.randbytes(3 * side**2)).save(folder / path)
            script = [Turn(user=_text(rng, 120 if turn == 0 else 60)) for turn in range(turns)]
            seeds.append(
                Seed(id=f"s{number}", kind=Kind.RED_TEAM, intent="none", images=[path], turns=script)
            )
        return seeds

    def start(self) -> float:
        """The clock, once the GPU is idle; what was reserved before is forgotten."""
        import torch

        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return self.now()

    def now(self) -> float:
        """The clock, once the GPU is idle."""
        import torch

        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> float | None:
        """Most memory that torch held since `start`, in GB (1e9 bytes)."""
        import torch

        return torch.cuda.max_memory_reserved() / 1e9 if self.gpu else None

    # what is measured

    def rollouts(self) -> Iterator[dict[str, Any]]:
        """Answered tokens a second of dialogues played side by side, without a tutor."""
        from safer_steer.student.load import load_student
        from safer_steer.student.policy import SampledStudent

        config = self.config(lora=False)
        loaded = load_student(config.student)
        policy_of = _policy_of(self.engine)
        for trajectories, turns in ((self.sizes.group, 1), *self.sizes.rollouts):  # the first warms up
            folder = self.work / f"rollouts-{trajectories}-{turns}"
            seeds = self.seeds(folder, trajectories, turns)
            begun = self.start()
            policy = policy_of(
                SampledStudent(
                    model=loaded.model,
                    renderer=loaded.renderer,
                    settings=config.student,
                    temperature=1.0,
                    rollouts=config.rl.rollouts,
                    saved=config.student.base,
                )
            )
            made = self.now()
            dialogues = asyncio.run(self._play(policy, loaded.renderer, config, folder, seeds, turns))
            seconds = self.now() - made
            tokens = sum(turn.meta["tokens"] for one in dialogues for turn in one.turns)
            if (trajectories, turns) in self.sizes.rollouts:
                yield {
                    **{"engine": self.engine, "trajectories": trajectories, "turns": turns},
                    **{"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds},
                    **{"sync_s": made - begun, "peak_gb": self.peak()},
                }

    async def _play(
        self, policy: Any, renderer: Any, config: Config, folder: Path, seeds: list[Seed], turns: int
    ) -> list[Dialogue]:
        from safer_steer.endpoints.clients import close_all
        from safer_steer.student.assistant import StudentAssistant

        pictures_of = pictures_in(folder, config.student.max_pixels)
        assistant = StudentAssistant(policy, renderer, config.student, pictures_of, "benchmark")
        try:
            played = [play(seed, Script(), assistant, None, turns) for seed in seeds]
            return await asyncio.gather(*played)
        finally:
            await close_all()

    def training(self) -> Iterator[dict[str, Any]]:
        """Tokens a second of SFT steps with one dialogue each, and the memory they take."""
        for lora in (True, False):
            for length in self.sizes.lengths:
                row = {"weights": "LoRA" if lora else "all", "length": length}
                try:
                    yield row | self._training(lora, length)
                except RuntimeError as error:
                    if "out of memory" not in str(error).lower():
                        raise
                    yield row | {"tokens_per_s": None, "failed": "out of memory"}

    def _training(self, lora: bool, length: int) -> dict[str, Any]:
        from safer_steer.plan.memory_table import shape_of
        from safer_steer.student.load import renderer_of
        from safer_steer.training.sft import Collator, fine_tune

        folder = self.work / "training"
        shutil.rmtree(folder, ignore_errors=True)
        sft = {"batch_size": 1, "micro_batch_size": 1, "max_steps": 1000, "save_steps": 1000}
        config = self.config(lora, bootstrap={"sft": sft})
        renderer = renderer_of(config.student)
        [seed] = self.seeds(folder, 1, 4)

        def dialogue(answer: int) -> Dialogue:
            """Four turns; a byte is a token."""
            turns = [Turn(user=turn.user, assistant="x" * answer) for turn in seed.turns]
            return Dialogue(**{**seed.model_dump(), "turns": turns, "stop": StopReason.COMPLETED})

        def tokens(one: Dialogue) -> int:
            return len(Collator([one], renderer, folder, config).transcript(one).ids)

        fitting = dialogue(1 + (length - tokens(dialogue(1))) // 4)
        write_atomic(folder / "bootstrap" / "kept.jsonl", to_jsonl([fitting]))
        times: list[float] = []

        def progress(step: int, _: int) -> None:
            times.append(self.now())
            if len(times) == self.sizes.steps + 2:
                raise Enough

        self.start()
        with suppress(Enough):
            fine_tune(config, folder, progress)
        seconds = (times[-1] - times[1]) / self.sizes.steps
        rate = tokens(fitting) / seconds
        shape = shape_of(config.student.base, config.student)
        spoken = shape.layers * shape.layer + shape.vocabulary * shape.hidden
        return {
            **{"tokens": tokens(fitting), "seconds": seconds, "tokens_per_s": rate},
            "model_tflops": rate * (4 if lora else 6) * spoken / 1e12,
            "peak_gb": self.peak(),
        }

    def step(self) -> Iterator[dict[str, Any]]:
        """A GRPO step with LoRA: the second, so that nothing is loaded or compiled any more."""
        from safer_steer.training.grpo import reinforce

        sizes, folder = self.sizes, self.work / "step"
        shutil.rmtree(folder, ignore_errors=True)
        rl = {
            **{"group_size": sizes.group, "prompts_per_step": sizes.prompts},
            **{"micro_batch_size": 2, "steps": 1000, "save_steps": 1000, "start_from": "base"},
            **{"max_turns": sizes.turns, "max_completion_tokens": 8_192, "benign_share": 0},
        }
        config = self.config(lora=True, rl=rl)
        seeds = self.seeds(folder, 2 * sizes.prompts * sizes.group, sizes.turns)[:: sizes.group]
        write_atomic(folder / "splits" / "rl.jsonl", to_jsonl(seeds))
        clock = StepClock(self.now, sizes.tutor_s, _policy_of(self.engine))
        self.start()
        with suppress(Enough):
            reinforce(config, folder, clock, clock.progress, wait=clock.wait, policy_of=clock.policy_of)
        yield {
            **{"engine": self.engine, "prompts": sizes.prompts, "group": config.rl.group_size},
            **{"turns": sizes.turns, "tutor_mean_s": sizes.tutor_s, **clock.split, "peak_gb": self.peak()},
        }


class StepClock:
    """The tutor of a step, with seeded latencies and scores, and the clocks of all that goes on in it."""

    immediate = True

    def __init__(self, now: Callable[[], float], latency: float, policy_of: Callable[[Any], Any]) -> None:
        """`latency` is the tutor's mean, in seconds."""
        self.now, self.latency, self._policy_of = now, latency, policy_of
        self.student, self.tutor = Busy(), Busy()
        self.split: dict[str, float] = {}
        """Seconds of the last step, by what they went to. Student and tutor are busy side by side."""
        self._rollouts = self._sync = 0.0
        self._ended: list[float] = []

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        """Score a turn at random, after a while."""
        rng = random.Random(f"{dialogue.id} {turn}")
        with self.tutor.one():
            await asyncio.sleep(self.latency * rng.lognormvariate(-(TUTOR_SIGMA**2) / 2, TUTOR_SIGMA))
        return Verdict({name: rng.randint(1, 10) for name in ("safety", "usefulness", "faithfulness")})

    def policy_of(self, student: Any) -> Any:
        """The engine's policy, with a clock on its answers. What it takes to make it is the sync: nothing in
        this process; with vLLM, the new weights go to the server."""
        begun = self.now()
        policy = self._policy_of(student)
        self._sync = self.now() - begun
        reply = policy.reply

        async def clocked(*arguments: Any) -> Any:
            with self.student.one():
                return await reply(*arguments)

        policy.reply = clocked
        return policy

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Play a step's trajectories."""

        async def closing() -> Any:
            from safer_steer.endpoints.clients import close_all

            try:
                return await work
            finally:
                await close_all()

        begun = self.now()
        played = asyncio.run(closing())
        self._rollouts = self.now() - begun
        return played

    def progress(self, step: int, _: int) -> None:
        """At the end of each step."""
        self._ended.append(self.now())
        student, tutor = self.student.take(), self.tutor.take()
        if step == 2:
            whole = self._ended[1] - self._ended[0]
            self.split = {
                **{"step_s": whole, "rollouts_s": self._rollouts, "student_busy_s": student},
                **{"tutor_busy_s": tutor, "sync_s": self._sync},
                "training_s": whole - self._rollouts - self._sync,
            }
            raise Enough


def _policy_of(engine: str) -> Callable[[Any], Any]:
    """The function that makes the engine's policy."""
    from safer_steer.config.named import load_named
    from safer_steer.student.policy import maker_of

    made: Callable[[Any], Any] = load_named("--engine", maker_of(engine))
    return made


def _text(rng: random.Random, characters: int) -> str:
    return "".join(rng.choice("abcdefghij klmnop") for _ in range(characters)).strip() or "a"


def machine(gpu: bool) -> dict[str, Any]:
    """Where it was measured: card and versions."""
    import torch

    card = None
    if gpu:
        found = torch.cuda.get_device_properties(0)
        card = f"{found.name}, {found.total_memory / 1e9:.0f} GB"
    return {"card": card, "cuda": torch.version.cuda, "versions": versions()}


def tables(found: dict[str, Any], sizes: Sizes) -> str:
    """The Markdown of docs/explanation/performance.md. A row that was not measured says so."""
    rows = found.get("rows", [])

    def cell(row: dict[str, Any] | None, key: str, form: str = ",.0f") -> str:
        if row is None:
            return "not measured"
        return row.get("failed", "-") if row.get(key) is None else format(row[key], form)

    def row_of(part: str, **wanted: Any) -> dict[str, Any] | None:
        for row in rows:
            if row["part"] == part and all(row[key] == value for key, value in wanted.items()):
                return row
        return None

    lines = ["| engine | trajectories | turns | tokens/s | s | peak GB |", "|---|---|---|---|---|---|"]
    for engine in ("transformers", "vllm"):
        for count, turns in sizes.rollouts:
            row = row_of("rollouts", engine=engine, trajectories=count, turns=turns)
            cells = [cell(row, "tokens_per_s"), cell(row, "seconds", ".1f"), cell(row, "peak_gb", ".1f")]
            lines.append(f"| {engine} | {count} | {turns} | {' | '.join(cells)} |")
    lines += ["", "| trained | tokens | tokens/s | s a step | model TFLOP/s | peak GB |"]
    lines.append("|---|---|---|---|---|---|")
    for weights in ("LoRA", "all"):
        for length in sizes.lengths:
            row = row_of("training", weights=weights, length=length)
            cells = [cell(row, "tokens_per_s"), cell(row, "seconds", ".2f")]
            cells += [cell(row, "model_tflops", ".1f"), cell(row, "peak_gb", ".1f")]
            lines.append(f"| {weights} | {length:,} | {' | '.join(cells)} |")
    lines += ["", "| engine | step, s | rollouts | student busy | tutor busy | training | sync | peak GB |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for engine in ("transformers", "vllm"):
        row = row_of("step", engine=engine)
        keys = ("step_s", "rollouts_s", "student_busy_s", "tutor_busy_s", "training_s", "sync_s", "peak_gb")
        lines.append(f"| {engine} | {' | '.join(cell(row, key, '.1f') for key in keys)} |")
    if commands := found.get("runs"):
        lines.append("")
        for run in commands:
            packages = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
            lines.append(f"- `{run['command']}` on {run['card'] or 'no GPU'}, CUDA {run['cuda']}: {packages}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; or student, or table; default: all")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; results are added to it")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="folder for student and runs")
    parser.add_argument("--engine", default="transformers", help="transformers, vllm, or package.module:name")
    parser.add_argument("--base-url", help="with --engine vllm: the server")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and sizes, for any machine")
    args = parser.parse_args()
    if unknown := set(args.parts) - {*PARTS, "student", "table"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    sizes = TINY if args.tiny else CARD
    found: dict[str, Any] = {"rows": [], "runs": []}
    if args.out.exists():
        found = json.loads(args.out.read_text())
    if args.parts != ["table"]:
        bench = Bench(sizes, args.engine, args.base_url, args.work / ("tiny" if args.tiny else "3b"))
        if not (bench.gpu or args.tiny):
            parser.error("no GPU here; --tiny tries the program without one")
        print(f"student: {bench.student()}", flush=True)
        for part in [part for part in args.parts or PARTS if part in PARTS]:
            for row in getattr(bench, part)():
                same = {"part": part} | {
                    key: row[key]
                    for key in ("engine", "trajectories", "turns", "weights", "length")
                    if key in row
                }
                found["rows"] = [
                    kept
                    for kept in found["rows"]
                    if any(kept.get(key) != value for key, value in same.items())
                ]
                found["rows"].append({"part": part, **row})
                print(part, json.dumps(row), flush=True)
                write_atomic(args.out, json.dumps(found, indent=1) + "\n")
        found["runs"].append({"command": " ".join(["gpu.py", *sys.argv[1:]]), **machine(bench.gpu)})
        write_atomic(args.out, json.dumps(found, indent=1) + "\n")
    print(f"\n{tables(found, sizes)}")


if __name__ == "__main__":
    main()
