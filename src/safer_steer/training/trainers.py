"""TRL's GRPO trainer, which also measures how far the engine's log-probabilities are from its own, and may
give every turn an advantage of its own; and the files of Stage III that grow by the step.

Engine and trainer compute with other kernels, and on GPUs in bfloat16, so the policy that sampled is not
exactly the one that is trained. The forward pass of the loss has the trainer's log-probabilities anyway, at
the weights that sampled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils import gather_object
from PIL import Image
from torch.nn.functional import pad
from transformers import TrainerCallback, TrainerState
from trl import GRPOTrainer
from trl.trainer.utils import flush_left, unsplit_pixel_values_by_grid

from safer_steer.episode import Assistant
from safer_steer.files.store import write_atomic
from safer_steer.student import processes
from safer_steer.student.guard import Guarded
from safer_steer.student.training import last_checkpoint, steps_in
from safer_steer.student.transcript import padded
from safer_steer.training.credit import turn_advantages
from safer_steer.training.padding import by_length
from safer_steer.training.rollouts import StepJournals
from safer_steer.training.trajectory import by_token


class MeasuredTrainer(Guarded, GRPOTrainer):
    """Adds to the logs of each step (`DRIFT`), over its sampled tokens and all processes:

    - `logprob_gap`, `logprob_gap_max`: mean and largest absolute difference of the log-probabilities;
    - `importance_ratio`: mean of w = p_trainer / p_engine, 1 if both agree;
    - `importance_ess`: effective sample size (sum w)^2 / sum w^2, as a share of the tokens.
    """

    _buffered_inputs: list[dict[str, Any]] | None
    """TRL's: the micro-batches of the step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._trained = torch.zeros(0, dtype=torch.bool)
        """[rows, completion], true on the tokens that the loss of the rows in hand is taken over."""
        self._sampled: torch.Tensor | None = None
        """Their engine's log-probabilities, while their loss is computed."""
        self._sums = torch.zeros(4, dtype=torch.float64)
        """Tokens, and the sums of |difference|, w and w^2."""
        self._largest = 0.0

    def correct_importance(self) -> None:
        """Weight each token's loss by w, truncated, as TRL does for a server of its own
        (`vllm_importance_sampling_correction`). It takes a forward pass more."""
        self.use_vllm = True
        # In place of TRL's own vLLM: the engine has the current weights already.
        self.vllm_generation = SimpleNamespace(sync_weights=lambda: None)
        self._last_loaded_step = -1

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Opens the rows' pictures, each once. TRL fetches all rows of a step anew for every micro-batch and
        reads them for the first one alone, so rows with opened pictures would fill the memory: 64 x 5 rows in
        micro-batches of 2 are 51,200 pictures."""
        images = {path: _opened(path) for row in inputs for path in row["images"]}
        for row in inputs:
            row["images"] = [images[path] for path in row["images"]]
        with _tiles_of_a_grid(self.processing_class.image_processor):
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The next micro-batch. TRL shuffles a step's rows before it splits them; here they are sorted. TRL
        holds the last step's pictures during the rollouts, and then copies a step's; here neither is done."""
        count = self.args.steps_per_generation
        if self._step % count == 0 or self._buffered_inputs is None:
            self._buffered_inputs = None
            step = self._generate_and_score_completions(generation_batch)
            lengths = step["prompt_mask"].sum(1) + step["completion_mask"].sum(1)
            _, self._buffered_inputs = by_length(step, lengths, count)
        batch: dict[str, Any] = unsplit_pixel_values_by_grid(self._buffered_inputs[self._step % count])
        return batch

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        self._trained = padded(generated[2], 0, "right").bool().to(self.accelerator.device)
        return generated

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._sampled = inputs.get("sampling_per_token_logps")
        self._trained = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
        try:
            loss: torch.Tensor = super()._compute_loss(model, inputs)
            return loss
        finally:
            self._sampled = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **inputs: Any,
    ) -> Any:
        """As TRL's, but in micro-batches of like lengths, and 0 on what is not trained."""
        rows = {"input_ids": input_ids, "attention_mask": attention_mask, "trained": self._trained}
        rows |= {name: value for name, value in inputs.items() if value is not None}
        count = len(input_ids) // (batch_size or len(input_ids))
        order, batches = by_length(rows, attention_mask.sum(1), count)
        logprobs, entropies, aux_loss = [], [], None
        for batch in map(unsplit_pixel_values_by_grid, batches):
            own, entropy, aux_loss = self._scored(model, batch, compute_entropy, compute_aux_loss)
            logprobs.append(own)
            entropies.append(entropy)
        back = order.argsort()
        whole = torch.cat(logprobs)[back]
        if self._sampled is not None:
            self._note_drift((whole.detach() - self._sampled)[self._trained].double())
        return whole, torch.cat(entropies)[back] if compute_entropy else None, aux_loss

    def _scored(self, model: Any, rows: dict[str, Any], entropy: bool, aux_loss: bool) -> Any:
        """A micro-batch's, cut to its longest row. The head reads the trained tokens alone, while TRL has it
        read the other side's turns, too. A micro-batch without pictures has no inputs of pictures: some
        towers fail on zero of them, others take zeros for one."""
        trained, width = rows.pop("trained"), rows["input_ids"].shape[1]
        names = ["input_ids", *(name for name in rows if name.endswith("token_type_ids"))]
        if not any(rows.get("num_images", ())):
            rows = {name: rows[name] for name in (*names, "attention_mask")}
        aligned = [pad(trained, (width - trained.shape[1], 0)), *(rows[name][:, -width:] for name in names)]
        rows["attention_mask"], targets, *cut = flush_left(rows["attention_mask"], *aligned)
        rows |= dict(zip(names, cut, strict=True))

        def on_targets(labels: torch.Tensor, **inputs: Any) -> Any:
            return model(**inputs, labels=labels.masked_fill(~targets, -100))

        logprobs, entropies, aux = super()._get_per_token_logps_and_entropies(
            on_targets,
            **rows,
            logits_to_keep=targets.shape[1] - 1,
            compute_entropy=entropy,
            compute_aux_loss=aux_loss,
        )

        def whole(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(trained.shape).masked_scatter(trained, values[targets[:, 1:]])

        return whole(logprobs), whole(entropies) if entropy else None, aux

    def _note_drift(self, gaps: torch.Tensor) -> None:
        if gaps.numel():
            ratios = gaps.exp()
            sums = [gaps.new_tensor(gaps.numel()), gaps.abs().sum(), ratios.sum(), ratios.square().sum()]
            self._sums += torch.stack(sums).cpu()
            self._largest = max(self._largest, gaps.abs().max().item())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by all processes."""
        if "loss" in logs:
            own = torch.cat([self._sums, torch.tensor([self._largest], dtype=torch.float64)])
            device = self.accelerator.device
            every = self.accelerator.gather(own.float().to(device).unsqueeze(0)).double()
            (tokens, gap, ratio, squares), largest = every[:, :4].sum(0).tolist(), every[:, 4].max().item()
            if tokens:
                logs["logprob_gap"], logs["logprob_gap_max"] = gap / tokens, largest
                logs["importance_ratio"] = ratio / tokens
                logs["importance_ess"] = ratio**2 / (squares * tokens)
            self._sums.zero_()
            self._largest = 0.0
        super().log(logs, start_time)


@contextmanager
def _tiles_of_a_grid(images: Any) -> Iterator[None]:
    """Answers a question of TRL's. It takes pixels [patches, 3, height, width] for InternVL's tiles, and asks
    the image processor for their number by `crop_to_patches`, which others do not know. Where the patches are
    in `image_grid_thw`, as with Kimi K2.5, the number is not used. Ovis2 has `grids` of tiles instead, and
    the whole picture comes before several."""
    prepare = images.preprocess

    def preprocess(pictures: Any, *args: Any, **options: Any) -> Any:
        if "crop_to_patches" not in options:
            return prepare(pictures, *args, **options)
        if "image_grid_thw" in images.model_input_names:
            return {"num_patches": torch.ones(sum(map(len, pictures)), dtype=torch.long)}
        inputs = prepare(pictures, *args, **options)
        if "grids" in inputs:
            tiles = torch.as_tensor(inputs["grids"]).prod(-1)
            inputs["num_patches"] = tiles + (tiles > 1)
        return inputs

    images.preprocess = preprocess
    try:
        yield
    finally:
        vars(images).pop("preprocess", None)


def _opened(path: str) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


class TurnCreditTrainer(MeasuredTrainer):
    """`rl.credit: turn`: gives the sampled tokens of a turn that turn's advantage, where TRL gives all of a
    trajectory's tokens one. The loss takes both: advantages [trajectories] or [trajectories, tokens]."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        # TRL adds what the rollouts return to `inputs`. A seed's trajectories may lie on several processes.
        returns: list[list[float] | None] = gather_object([row["returns_to_go"] for row in inputs])
        groups = range(0, len(returns), self.num_generations)
        advantages = [
            own for start in groups for own in turn_advantages(returns[start : start + self.num_generations])
        ]
        first = self.accelerator.process_index * len(inputs)
        batch["advantages"] = by_token(
            advantages[first : first + len(inputs)],
            [row["answer_ends"] for row in inputs],
            batch["completion_mask"] * batch["tool_mask"],
        )
        return batch


RowOf = Callable[[int, dict[str, Any]], dict[str, Any] | None]
"""The row of a step (from 1) with what the trainer logs of it; None for no row."""


class StepLog(TrainerCallback):
    """Appends a row to rl/metrics.jsonl for each step of the trainer."""

    def __init__(self, path: Path, row_of: RowOf, saved: Callable[[int], None] = lambda step: None) -> None:
        """`saved` is called in the first process with the steps that a new checkpoint has."""
        self.path, self.row_of, self.saved = path, row_of, saved

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        row = self.row_of(state.global_step, logs) if "loss" in logs else None
        if row and state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.saved(state.global_step)


@dataclass(frozen=True)
class AtCheckpoints:
    """What is done with the student in training after step 1, at each checkpoint, and when training goes on
    from one. So a run that it stops goes on from there; after step 1, with its dialogues."""

    check: Callable[[int], None]
    """May end the training; called with the step, counted from 1."""
    probe: Callable[[Assistant, int], None] | None = None
    """Before it, at checkpoints: plays with the student. In the first process alone."""
    begin: Callable[[int], None] = lambda step: None
    """Told in the first process from which step training goes on, 0 for the start."""


class Checkpoints(TrainerCallback):
    """Does it. Must be added after `StepLog`, and after what completes a checkpoint."""

    def __init__(
        self, do: AtCheckpoints, student: Callable[[int], AbstractContextManager[Assistant]]
    ) -> None:
        """`student` gives the assistant with the weights after a step."""
        self.do, self.student = do, student

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if processes.first():
            self.do.begin(state.global_step)
        if state.global_step:
            self._look(state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1 and "loss" in (kwargs.get("logs") or {}):
            self.do.check(1)

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._look(state.global_step)

    def _look(self, step: int) -> None:
        if self.do.probe:
            with self.student(step) as assistant:
                processes.decided(partial(self.do.probe, assistant, step))
        self.do.check(step)


def gone_back(folder: Path) -> Path | None:
    """Go back to the last complete checkpoint in `folder`, so that later steps run again; returns it, if
    there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = last_checkpoint(folder)
    rollback(folder, steps_in(checkpoint))
    StepJournals(folder / "rollouts").forget(steps_in(checkpoint))
    return checkpoint


def rollback(folder: Path, step: int) -> None:
    """Delete the trajectories and metrics of steps after the checkpoint at `step`; they will be run again."""
    for name, of in (
        ("trajectories.jsonl", lambda row: int(row["id"][:5]) < step),
        ("metrics.jsonl", lambda row: row["step"] <= step),
    ):
        path = folder / name
        if path.exists():
            # As bytes: a kill can cut a character in half, and `splitlines` splits at separators inside text.
            with path.open("rb") as rows:
                lines = [row for row in rows if row.endswith(b"\n") and of(json.loads(row))]
            write_atomic(path, b"".join(lines))
