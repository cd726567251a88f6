"""A whole step of GRPO, on our trainer (`step`) and on verl's (`verl`)."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu_parts.bench import CARD, Bench, Row

from safer_steer.config import Config
from safer_steer.config.file import dump_config
from safer_steer.dialogue import Dialogue
from safer_steer.episode import Verdict
from safer_steer.files.store import read_rows

SIGMA = 0.8
"""Of the tutor's lognormal latency."""
ROOT = Path(__file__).parents[2]
VERL_S = 400
"""Most seconds of the two steps on verl, from its start."""
VERL_KEYS = {
    **{"step_s": "timing_s/step", "rollouts_s": "timing_s/gen", "training_s": "timing_s/update_actor"},
    **{"sync_s": "timing_s/update_weights", "peak_gib": "actor/perf/max_memory_reserved_gb"},
}
"""What verl calls the numbers of a step."""


def step(bench: Bench) -> Iterator[Row]:
    """A GRPO step with LoRA: the second, so that nothing is loaded or compiled any more."""
    from safer_steer.student.policy import engine_of
    from safer_steer.training.grpo import reinforce

    sizes, folder = bench.sizes, bench.work / "step"
    shutil.rmtree(folder, ignore_errors=True)
    bench.serve(lora=True)
    config = bench.for_rl(folder)
    clock = StepClock(bench.now, sizes.tutor_s, engine_of(config.rl.rollouts))
    bench.start()
    reinforce(config, folder, clock, clock.progress, wait=clock.wait, policy_of=clock.policy_of)
    [_, second] = read_rows(folder / "rl" / "metrics.jsonl")
    yield {
        **{"engine": bench.engine, "prompts": sizes.prompts, "group": sizes.group, "turns": sizes.turns},
        **{"tutor_mean_s": sizes.tutor_s, **clock.split, "peak_gb": bench.peak()},
        "planned_gb": bench.planned(config, "rl rollouts", "rl reference", "rl training"),
        **{"gap": second["logprob_gap"], "gap_max": second["logprob_gap_max"]},
    }


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


class Tutor:
    """A critic that scores at random, after a while; both are seeded."""

    immediate = True

    def __init__(self, mean_s: float) -> None:
        self.mean_s, self.busy = mean_s, Busy()

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        """Score a turn."""
        rng = random.Random(f"{dialogue.id} {turn}")
        with self.busy.one():
            await asyncio.sleep(self.mean_s * rng.lognormvariate(-(SIGMA**2) / 2, SIGMA))
        return Verdict({name: rng.randint(1, 10) for name in ("safety", "usefulness", "faithfulness")})


def on_verl(config: Config, folder: Path, ask: Any) -> Tutor:
    """`rl.tutor` of the run on verl."""
    return Tutor(CARD.tutor_s)


class StepClock(Tutor):
    """The tutor of a step, and the clocks of all that goes on in it."""

    def __init__(self, now: Callable[[], float], mean_s: float, policy_of: Callable[[Any], Any]) -> None:
        """`mean_s` is the tutor's latency."""
        super().__init__(mean_s)
        self.now, self._policy_of = now, policy_of
        self.student = Busy()
        self.split: dict[str, float] = {}
        """Seconds of the second step, by what they went to. Student and tutor are busy side by side."""
        self._rollouts = self._sync = 0.0
        self._ended: list[float] = []

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
        student, tutor = self.student.take(), self.busy.take()
        if step == 2:
            whole = self._ended[1] - self._ended[0]
            self.split = {
                **{"step_s": whole, "rollouts_s": self._rollouts, "student_busy_s": student},
                **{"tutor_busy_s": tutor, "sync_s": self._sync},
                "training_s": whole - self._rollouts - self._sync,
            }


def verl(bench: Bench) -> Iterator[Row]:
    """Two steps on verl's trainer, with the dialogues, tutor and LoRA of `step`."""
    if bench.server:
        bench.server.stop()  # the card is verl's now
    run = verl_run(bench)
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    more = {"PYTHON": bench.verl or "", "MODEL": str(bench.student()), "PYTHONPATH": path}
    bench.start()
    with (run / "log.txt").open("wb") as log:
        command = verl_command(run)
        done = subprocess.run(command, env=os.environ | more, stdout=log, stderr=log, timeout=VERL_S)
    for row in read_rows(run / "metrics.jsonl"):
        numbers = {name: row["data"].get(key) for name, key in VERL_KEYS.items()}
        yield {"step": row["step"], **numbers, "peak_gb": (numbers["peak_gib"] or 0) * 2**30 / 1e9 or None}
    if done.returncode:
        raise RuntimeError(f"verl ended with code {done.returncode}; {run / 'log.txt'} says why")


def verl_run(bench: Bench) -> Path:
    """A run folder with the export that the launch script reads."""
    from safer_steer.export.write import export
    from safer_steer.files.manifest import Manifest

    run = (bench.work / "verl").resolve()
    shutil.rmtree(run, ignore_errors=True)
    config = bench.for_rl(run, tutor=f"{__name__}:on_verl")
    (run / "config.yaml").write_text(dump_config(config))
    Manifest(run).record("assemble", ("splits", "images"), (), {})
    export(run, run / "export")
    return run


def verl_command(run: Path) -> list[str]:
    """The launch script, for one card. Each step's metrics go to metrics.jsonl."""
    rollout, environment = "actor_rollout_ref.rollout", "+ray_kwargs.ray_init.runtime_env.env_vars"
    return [
        *("bash", str(ROOT / "configs" / "verl" / "qwen2.5-vl-3b.sh"), str(run)),
        *("trainer.n_gpus_per_node=1", "trainer.save_freq=-1", "trainer.logger=[console,file]"),
        # graphs would take longer to build than two steps
        *(f"{rollout}.gpu_memory_utilization=0.4", f"{rollout}.enforce_eager=True"),
        f"{environment}.VERL_FILE_LOGGER_PATH='{run / 'metrics.jsonl'}'",
    ]
