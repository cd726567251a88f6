"""What every part of `gpu.py` measures with: its sizes, a random student, dialogues, clock and memory."""

from __future__ import annotations

import gc
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import random_student
from gpu_parts.server import VLLMServer
from PIL import Image

from safer_steer.config import Config
from safer_steer.dialogue import Kind, Seed, Turn, to_jsonl
from safer_steer.files.store import write_atomic

Row = dict[str, Any]
"""One measurement, by the names of its numbers."""
WEIGHTS = ("LoRA", "all")
"""What is trained."""


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    model: dict[str, Any]
    dtype: str
    picture: int
    """Side of a picture in pixels."""
    rollouts: dict[str, tuple[tuple[int, int], ...]]
    """For each engine, trajectories and turns."""
    group: int
    """Trajectories on one picture and script."""
    answer: int
    """Most tokens of an answer; random weights seldom end one sooner."""
    lengths: tuple[int, ...]
    """Tokens of a dialogue in training."""
    steps: int
    """Steps measured, after two of training that are not."""
    rank: int
    generation_tokens: int
    context: int
    """Most tokens of a dialogue."""
    prompts: int
    turns: int
    tutor_s: float
    """The tutor's mean latency."""
    processes: tuple[int, ...]
    """Of FSDP2."""
    serve: tuple[str, ...]
    """Options of `vllm serve` besides those of the shipped line."""


CARD = Sizes(
    **{"model": random_student.PUBLISHED, "dtype": "bfloat16", "picture": 448, "group": 5, "answer": 128},
    rollouts={
        "transformers": ((40, 1), (160, 1), (320, 1), (40, 8)),
        "vllm": ((40, 1), (160, 1), (320, 1), (40, 8), (160, 8)),
    },
    **{"lengths": (4_096, 10_240), "steps": 3, "rank": 64, "generation_tokens": 262_144, "context": 12_288},
    **{"prompts": 8, "turns": 4, "tutor_s": 1.0, "processes": (1, 2)},
    serve=("--gpu-memory-utilization", "0.4"),
)
TINY = Sizes(
    **{"model": random_student.TINY, "dtype": "float32", "picture": 112, "group": 2, "answer": 8},
    rollouts={"transformers": ((4, 1), (4, 2)), "vllm": ((4, 1), (4, 2))},
    **{"lengths": (512, 768), "steps": 1, "rank": 4, "generation_tokens": 4_096, "context": 2_048},
    **{"prompts": 2, "turns": 2, "tutor_s": 0.02, "processes": (2,)},
    serve=("--enforce-eager", "--max-num-seqs", "16", "--max-num-batched-tokens", "16384"),
)


class Bench:
    """One call: its sizes, what it was given, and the folder it works in."""

    def __init__(self, tiny: bool, work: Path, vllm: str | None = None, verl: str | None = None) -> None:
        """
        Args:
            vllm: the Python of vLLM's environment; rollouts are then on a server of it.
            verl: that of verl's.
        """
        import torch

        self.tiny, self.sizes, self.work, self.verl = tiny, TINY if tiny else CARD, work, verl
        self.engine = "vllm" if vllm else "transformers"
        work.mkdir(parents=True, exist_ok=True)
        self.server = VLLMServer(vllm, self.sizes.serve, work / "vllm.log") if vllm else None
        self.gpu = torch.cuda.is_available()
        self.device = "cuda" if self.gpu else "cpu"

    def student(self) -> Path:
        """The random student's folder, built if it is not there."""
        sizes = self.sizes
        folder = self.work / "student"
        return random_student.build(folder, sizes.model, sizes.dtype, self.device).resolve()

    def config(self, lora: bool, student: Row | None = None, **sections: Any) -> Config:
        """The settings of a run, with pictures of the sizes' pixels and no more.

        Args:
            student: keys of that section, for others than the sizes'.
            sections: those of SFT or RL. `rl.rollouts` is filled in, with the server if there is one.
        """
        sizes = self.sizes
        settings = {
            "model": str(self.student()),
            "system": "You are a helpful assistant.",
            **{"max_turn_tokens": sizes.answer, "max_length": sizes.context, "dtype": sizes.dtype},
            **{"device": self.device, "generation_tokens": sizes.generation_tokens},
            **{"lora_rank": sizes.rank if lora else 0, "max_pixels": sizes.picture**2},
        } | (student or {})
        rl = sections.pop("rl", {})
        if self.server:
            rl = rl | {"rollouts": {"engine": "vllm", "base_url": self.server.url}}
        return Config.model_validate({"student": settings, "rl": rl, **sections})

    def serve(self, lora: bool) -> None:
        """Have the server, if there is one, offer the student: for LoRA adapters, or for new weights."""
        if self.server:
            self.start()
            self.server.serve(self.config(lora).student)

    # dialogues

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

    def for_rl(self, folder: Path, **rl: Any) -> Config:
        """Write seeds for two steps of RL with LoRA to `folder`, and return the settings; `rl` are more."""
        sizes = self.sizes
        section = {
            **{"group_size": sizes.group, "prompts_per_step": sizes.prompts, "micro_batch_size": 2},
            **{"steps": 2, "save_steps": 1000, "start_from": "base", "benign_share": 0},
            # after the first prompt: the answers, and in each later turn 60 bytes with their markers
            **{"max_turns": sizes.turns, "max_completion_tokens": sizes.turns * (sizes.answer + 100)},
        }
        seeds = self.seeds(folder, 2 * sizes.prompts * sizes.group, sizes.turns)[:: sizes.group]
        write_atomic(folder / "splits" / "rl.jsonl", to_jsonl(seeds))
        return self.config(lora=True, rl=section | rl)

    # clock and memory

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
        """Most memory that torch held since `start`, in GB (1e9 bytes); None without a GPU."""
        import torch

        return torch.cuda.max_memory_reserved() / 1e9 if self.gpu else None

    def planned(self, config: Config, *peaks: str, processes: int = 1) -> float:
        """The largest of these peaks of `plan.memory.estimate`, in GB (1e9 bytes)."""
        from safer_steer.plan.memory import GB, estimate
        from safer_steer.plan.model_shape import shape_of

        shape = shape_of(config.student.base, config.student)
        totals = {peak.peak: peak.total for peak in estimate(config, shape, processes)}
        return max(totals[peak] for peak in peaks) / GB


def _text(rng: random.Random, characters: int) -> str:
    return "".join(rng.choice("abcdefghij klmnop") for _ in range(characters)).strip() or "a"
