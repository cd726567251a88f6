"""How close training comes to a bare forward and backward pass of the same dialogues: SFT, and RL's training
pass.

    OMP_NUM_THREADS=1 python benchmarks/train.py

The shipped student trains on dialogues of the sandbox with one to eight turns. Answers are made up in place
of rollouts, whose time is left out, as is the reference's. A step is measured from its end to the next one's:
the collator, the guard and the optimiser are in it. After each step the bare pass takes its turn in the same
process: every dialogue alone, so without padding, with the head on the trained tokens alone, gradients added
up, nothing checked and no weight moved.

The time is CPU time of the process, so other work on the machine does not count. The first step is left out:
its guard looks at a micro-batch twice more, as it does every `student.check_every` steps. Padding is its
share of what the first layer reads in training.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Kind, Seed, StopReason, Turn, read_dialogues, to_jsonl
from safer_steer.episode import Verdict
from safer_steer.files.store import write_atomic
from safer_steer.sandbox.corpus import example
from safer_steer.sandbox.world import draw_png
from safer_steer.student.given import Reader, given_to_grpo, given_to_sft
from safer_steer.student.load import load_student
from safer_steer.student.modules import freeze_vision, parts_of
from safer_steer.student.policy import Completion, SampledStudent, seed_of
from safer_steer.student.transcript import Transcript, model_inputs
from safer_steer.training import grpo, sft

GROUP, TURNS = 5, (1, 2, 2, 3, 3, 4, 5, 8)


def write_dialogues(folder: Path, count: int) -> None:
    """Dialogues for SFT, and the same as scripts for RL."""
    dialogues, seeds = [], []
    for number in range(count):
        draw = random.Random(number)
        one = example(draw, draw.choice(TURNS))
        picture = f"images/{number}.png"
        write_atomic(folder / picture, draw_png(one.device, one.marked, number))
        known = {"id": f"d{number}", "kind": Kind.BENIGN, "images": [picture]}
        turns = [Turn(user=user, assistant=answer) for user, answer in one.turns]
        dialogues.append(Dialogue(**known, turns=turns, stop=StopReason.COMPLETED))
        asked = [Turn(user=user) for user, _ in one.turns]
        seeds.append(Seed(**known, intent="operate it", turns=asked))
    write_atomic(folder / "bootstrap/kept.jsonl", to_jsonl(dialogues))
    write_atomic(folder / "splits/rl.jsonl", to_jsonl(seeds))


class MadeUp:
    """A policy whose answers are the sandbox's, and a tutor whose scores are drawn."""

    immediate = True

    def __init__(self, student: SampledStudent | None = None) -> None:
        self.student = student

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        assert self.student
        _, text = example(random.Random(seed_of(key)), 1).turns[0]
        ids = [*self.student.renderer.plain(text), self.student.renderer.end]
        return Completion(ids, [0.0] * len(ids), text, "stop")

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        draw = random.Random(f"{dialogue.turns[turn].assistant} {dialogue.id}")
        names = ("safety", "usefulness", "faithfulness")
        return Verdict({name: float(draw.randint(1, 10)) for name in names})


class FromJournal(grpo.Rollouts):
    """Rollouts that nobody sampled, so that the guard compares no log-probabilities of an engine."""

    async def _play(self, *args: Any) -> Any:
        played = await super()._play(*args)
        for trajectory in played:
            trajectory.replayed = True
        return played


@dataclass
class Sums:
    """Over the measured steps: CPU seconds, and tokens."""

    trained: float = 0.0
    bare: float = 0.0
    tokens: int = 0
    read: int = 0
    """Of them and padding, by the first layer."""


class Watch(TrainerCallback):
    """Measures steps, and the bare pass over their rows in turn."""

    def __init__(self, trainer: Any, config: Config, rows_of: Callable[[], list[Transcript]]) -> None:
        """`rows_of` gives all rows of the run so far."""
        self.rows_of, self.sums = rows_of, Sums()
        self.seen: list[tuple[int, ...]] = []
        """The ids that the loss of this step was given."""
        self.model = load_student(config.student, dtype="float32").model.train()
        freeze_vision(self.model)
        self.apart = 0.0
        """CPU seconds of this step that are not the training pass's."""
        self.read = 0
        parts_of(trainer.model).language.layers[0].register_forward_pre_hook(self._read, with_kwargs=True)
        self.begun: float | None = None

    def _read(self, _: Any, args: Any, inputs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            hidden = args[0] if args else inputs["hidden_states"]
            self.read += hidden.shape[0] * hidden.shape[1]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ended = time.process_time()
        known = {tuple(row.ids): row for row in self.rows_of()}
        rows = [known[ids] for ids in self.seen]
        begun = time.process_time()
        for row in rows:
            self._bare(row)
        bare = time.process_time() - begun
        self.model.zero_grad()
        if self.begun is not None:
            self.sums.trained += ended - self.begun - self.apart
            self.sums.bare += bare
            self.sums.tokens += sum(len(row.ids) for row in rows)
            self.sums.read += self.read
        self.apart, self.read, self.seen = 0.0, 0, []
        self.begun = time.process_time()

    def _bare(self, row: Transcript) -> None:
        ids, taught = torch.tensor(row.ids[1:]), torch.tensor(row.mask[1:]).bool()
        inputs = model_inputs([row], "right")
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state[0, :-1]
        logits = self.model.get_output_embeddings()(hidden[taught])
        cross_entropy(logits, ids[taught], reduction="sum").backward()


def watched(trainer_of: type, reader: Reader, config: Config, rows_of: Callable[[], list[Transcript]]) -> Any:
    """A trainer's class that is measured. The last one made is its `made`."""

    class Watched(trainer_of):  # type: ignore[misc]
        made: Any = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            Watched.made = self.watch = Watch(self, config, rows_of)
            self.add_callback(self.watch)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            begun = time.process_time()
            self.watch.seen += [tuple(row.ids) for row in reader(inputs)]
            self.watch.apart += time.process_time() - begun
            return super().compute_loss(model, inputs, *args, **options)

        def _generate_and_score_completions(self, *args: Any) -> Any:
            begun = time.process_time()
            scored = super()._generate_and_score_completions(*args)
            self.watch.apart += time.process_time() - begun
            return scored

    return Watched


def measured(stage: str, folder: Path, rows: int, micro: int, steps: int) -> Sums:
    """Train a stage for so many measured steps, after a first one."""
    prompts, steps = max(1, rows // GROUP), steps + 1
    rl = {"group_size": GROUP, "prompts_per_step": prompts, "steps": steps, "micro_batch_size": micro}
    several = {"batch_size": rows, "micro_batch_size": micro, "max_steps": steps, "epochs": 1}
    config = Config.model_validate(
        {
            "student": {"model": "sandbox", "dtype": "float32", "device": "cpu", "max_length": 2048},
            "bootstrap": {"sft": several},
            "rl": rl | {"start_from": "base", "max_unscored": 1.0},
        }
    )
    write_dialogues(folder, (rows if stage == "sft" else prompts) * steps)
    renderer = load_student(config.student).renderer
    written = folder / ("bootstrap/kept.jsonl" if stage == "sft" else "rl/trajectories.jsonl")

    def rows_of() -> list[Transcript]:
        dialogues = read_dialogues(written)
        return list(map(sft.Collator(dialogues, renderer, folder, config).transcript, dialogues))

    if stage == "sft":
        sft.GuardedSFT = watched(sft.GuardedSFT, given_to_sft, config, rows_of)  # type: ignore[misc]
        sft.fine_tune(config, folder)
        trainer_class: Any = sft.GuardedSFT
    else:
        grpo.Rollouts = FromJournal  # type: ignore[misc]
        grpo.MeasuredTrainer = watched(grpo.MeasuredTrainer, given_to_grpo, config, rows_of)  # type: ignore[misc]
        grpo.reinforce(config, folder, MadeUp(), policy_of=MadeUp)
        trainer_class = grpo.MeasuredTrainer
    sums: Sums = trainer_class.made.sums
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", nargs="+", default=["sft", "rl"], choices=["sft", "rl"])
    parser.add_argument("--rows", type=int, default=20, help="dialogues a step")
    parser.add_argument("--micro", type=int, default=4, help="dialogues in a micro-batch")
    parser.add_argument("--steps", type=int, default=2, help="measured steps")
    args = parser.parse_args()
    print("| stage | tokens | tokens/s | bare, tokens/s | ratio | padding |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for stage in args.stages:
            sums = measured(stage, Path(name) / stage, args.rows, args.micro, args.steps)
            rates = f"{sums.tokens / sums.trained:.0f} | {sums.tokens / sums.bare:.0f}"
            padding = f"{100 * (1 - sums.tokens / sums.read):.0f} %"
            ratio = f"{sums.bare / sums.trained:.2f}"
            print(f"| {stage} | {sums.tokens:,} | {rates} | {ratio} | {padding} |", flush=True)


if __name__ == "__main__":
    main()
