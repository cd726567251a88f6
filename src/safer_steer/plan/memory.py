"""GPU memory of each stage and process, in bytes, term by term.

This is an estimate, not a measurement. It counts the tensors that the installed transformers, PEFT and TRL
hold at each stage's peak, for the longest dialogues and largest pictures that the config allows. The CUDA
context, kernel workspaces and allocator fragmentation are not counted; `MARGIN` allows for them.
docs/how-to/memory.md has the formulas, and the reason for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from safer_steer.config import Config
from safer_steer.plan.model_shape import Shape

GB = 1e9
MARGIN = 0.05
"""Share of a GPU's memory left free for what the estimate does not count."""
PROMPT_TOKENS = 256
"""Assumed tokens of the system message and first question, without the picture."""
TILE = 4096, 32_768
"""Tile size of TRL's fused language-model head: tokens and vocabulary entries."""


@dataclass(frozen=True)
class Memory:
    """Memory of one process at one peak, in bytes."""

    peak: str
    weights: float = 0
    reference: float = 0
    gradients: float = 0
    optimiser: float = 0
    casts: float = 0
    cache: float = 0
    activations: float = 0
    logits: float = 0
    pictures: float = 0

    @property
    def stage(self) -> str:
        return self.peak.partition(" ")[0]

    @property
    def held(self) -> float:
        """The part that does not depend on the dialogues."""
        return self.weights + self.reference + self.gradients + self.optimiser

    @property
    def total(self) -> float:
        return float(sum(getattr(self, field.name) for field in fields(self) if field.name != "peak"))


def estimate(config: Config, shape: Shape, processes: int = 1) -> list[Memory]:
    """Every memory peak of the config's stages, in stage order, with so many training processes, one a GPU.
    Raises nothing."""
    return _Estimate(config, shape, processes).peaks()


def too_large(peaks: list[Memory], card: float) -> list[Memory]:
    """The largest peak of each stage that does not fit a GPU with `card` bytes."""
    largest: dict[str, Memory] = {}
    for peak in peaks:
        if peak.stage not in largest or peak.total > largest[peak.stage].total:
            largest[peak.stage] = peak
    return [peak for peak in largest.values() if peak.total > card * (1 - MARGIN)]


class _Estimate:
    def __init__(self, config: Config, shape: Shape, processes: int) -> None:
        self.config, self.shape = config, shape
        student, rl = config.student, config.rl
        self.student, self.rl = student, rl
        self.served = rl.rollouts.engine == "vllm"
        self.half = student.dtype == "bfloat16"
        self.arithmetic = 2 if self.half else 4
        """Bytes of a number in the arithmetic."""
        self.checkpoints = student.device != "cpu"
        """Whether a layer's activations are computed again in the backward pass (`training.on_gpu`)."""
        self.whole = not shape.adapters
        """Whether all weights are trained, in float32."""
        self.patches = student.max_pixels // shape.patch_pixels
        self.picture_tokens = self.patches // shape.patches_a_token
        # one step of RL in one process, and its micro-batch
        self.trajectories = -(-rl.prompts_per_step * rl.group_size // processes)
        self.shown = self.trajectories + 3 * rl.micro_batch_size
        """Whose pictures are on the GPU: a step's, a micro-batch's, its sorted copy's and a look's."""
        longest = self.picture_tokens + PROMPT_TOKENS + rl.max_completion_tokens
        self.trajectory_tokens = rl.micro_batch_size * min(student.max_length, longest)
        # what does not depend on the dialogues
        self.sharded = student.sharding == "full" and processes > 1
        shares = processes if self.sharded else 1
        each = 4 if self.whole else self.arithmetic
        self.weights = (shape.parameters * each + shape.adapters * 4) / shares
        self.optimiser = shape.trained * 8 / shares
        self.buckets = shape.trained * 4 if processes > 1 and not self.sharded else 0
        """DDP's buckets, which outlive the gradients."""
        self.gradients = shape.trained * 4 / shares + self.buckets
        self.casts = shape.trained * 2 if self.half else 0
        self.reference = 0.0
        """The frozen policy of the KL term."""
        if rl.beta and self.whole:
            self.reference = shape.parameters * 4 / shares
        elif rl.beta and rl.start_from == "sft":
            self.reference = shape.adapters * 4 / shares

    def peaks(self) -> list[Memory]:
        peaks = [self._inference("seeds")] if self.config.student_is_target else []
        rows = self.config.bootstrap.sft.micro_batch_size
        peaks.append(self._training("sft", rows * self.student.max_length, rows, rows, 0))
        peaks.append(self._rollouts())
        if self.rl.beta:
            peaks.append(self._scoring())
        peaks.append(
            self._training("rl", self.trajectory_tokens, self.rl.micro_batch_size, self.shown, self.reference)
        )
        return [*peaks, self._inference("bench")]

    # stages

    def _inference(self, stage: str) -> Memory:
        """The student generates without a trainer, in the number type of its file. With vLLM its weights are
        here only to be compared with the server's."""
        adapted = stage == "bench" and not self.whole
        weights = self.shape.parameters * self.arithmetic + (self.shape.adapters * 4 if adapted else 0)
        generation = {} if self.served else self._generation(self.arithmetic, None, adapted)
        return Memory(f"{stage} generation", weights=weights, **generation)

    def _training(self, stage: str, tokens: int, rows: int, with_pictures: int, reference: float) -> Memory:
        """A micro-batch of so many rows, while the pictures of `with_pictures` of them are on the GPU."""
        shape = self.shape
        head = self._tiles(tokens) + tokens * shape.hidden * 4
        if self.whole:
            head += shape.vocabulary * shape.hidden * 4
        return Memory(
            f"{stage} training",
            weights=self.weights,
            reference=reference,
            gradients=self.gradients,
            optimiser=self.optimiser,
            casts=self._casts_left(tokens),
            activations=self._learning(tokens, rows),
            logits=head,
            pictures=self._pixels(with_pictures),
        )

    def _rollouts(self) -> Memory:
        if self.served:
            return self._between_steps("rl rollouts")
        keys = 4 if self.whole or not self.half else 2
        parts = self._generation(keys, self.trajectories, adapters=not self.whole)
        casts = self._gathered(self.shape.layers) if self.sharded else self.casts
        return self._between_steps("rl rollouts", casts=casts, **parts)

    def _scoring(self) -> Memory:
        """Scoring by the reference, before the micro-batches of the loss."""
        tokens = self.trajectory_tokens
        casts = self.shape.parameters * 2 if self.whole and self.half else self.casts
        prefill = self._prefill(tokens, adapters=not self.whole)
        return self._between_steps(
            "rl reference",
            # TRL splits a reference with all weights in one piece.
            casts=self._gathered(self.shape.layers if self.whole else 2) if self.sharded else casts,
            activations=max(prefill, self._looking(self.rl.micro_batch_size)),
            logits=self._tiles(tokens),
            pictures=self._pixels(self.shown),
        )

    def _between_steps(self, peak: str, **more: float) -> Memory:
        """What stays between two training steps of RL, and more."""
        return Memory(
            peak,
            weights=self.weights,
            reference=self.reference,
            gradients=self.buckets,
            optimiser=self.optimiser,
            **more,
        )

    # parts that depend on the dialogues

    def _generation(self, key: int, rows: int | None, adapters: bool) -> dict[str, float]:
        """One full batch, with `key` bytes for a number of a key. `rows` limits its dialogues."""
        shape, tokens = self.shape, self.student.generation_tokens
        answer = self.student.max_turn_tokens
        most = max(1, tokens // (answer + 1))
        rows = most if rows is None else min(rows, most)
        with_pictures = min(rows, max(1, tokens // (answer + self.picture_tokens)))
        return {
            "cache": tokens * shape.layers * shape.cache_width * (key + self.arithmetic),
            "activations": max(self._prefill(tokens, adapters), self._looking(with_pictures)),
            "logits": rows * shape.vocabulary * 4 * 6,
            "pictures": self._pixels(with_pictures),
        }

    def _prefill(self, tokens: int, adapters: bool) -> float:
        """One layer without a gradient: residual-sized tensors, and the tensors alive at once in the MLP or
        attention."""
        shape = self.shape
        mlp = (4 if adapters else 3) * shape.intermediate
        return tokens * (5 * shape.hidden * 4 + max(mlp, 6 * shape.heads_width) * self.arithmetic)

    def _looking(self, pictures: int) -> float:
        numbers = 3 * self.shape.vision_intermediate + 4 * self.shape.vision_hidden
        return pictures * self.patches * numbers * self.arithmetic

    def _learning(self, tokens: int, pictures: int) -> float:
        """Activations for the backward pass, on a GPU with gradient checkpointing, and in float32 the
        gradients of two tensors of an MLP. In bfloat16 a layer's tensors, counted as float32, leave room."""
        shape = self.shape
        residual = 4 if self.whole else self.arithmetic
        layer = self._layer(tokens)
        language = layer * shape.layers
        if self.checkpoints:
            language = tokens * shape.layers * shape.hidden * residual + layer
        if not self.half:
            language += tokens * 2 * shape.intermediate * 4
        if self.student.freeze_vision or not self.whole:
            return max(language, self._looking(pictures))
        patches = pictures * self.patches
        each = 5 * shape.vision_intermediate + 8 * shape.vision_hidden
        if self.checkpoints:
            each = shape.vision_hidden
        return language + patches * each * 4 * shape.vision_layers

    def _layer(self, tokens: int) -> float:
        return tokens * (5 * self.shape.intermediate + 8 * self.shape.hidden) * 4

    def _casts_left(self, tokens: int) -> float:
        """The casts are freed before the backward pass. Returns by how much the end of the forward pass, with
        them, exceeds the backward pass. Sharded: what is gathered for two layers, and a layer's gradients."""
        if self.sharded:
            return self._gathered(2) + (self.shape.layer * self.arithmetic if self.whole else 0)
        forward = self.casts + self._prefill(tokens, adapters=not self.whole)
        return min(self.casts, max(0.0, forward - self._layer(tokens)))

    def _gathered(self, layers: int) -> float:
        """What FSDP2 gathers for so many layers at once, with all weights that are in no layer."""
        outside = self.shape.parameters - self.shape.layers * self.shape.layer
        return (outside + layers * self.shape.layer) * self.arithmetic

    def _tiles(self, tokens: int) -> float:
        return min(tokens, TILE[0]) * min(self.shape.vocabulary, TILE[1]) * self.arithmetic

    def _pixels(self, pictures: int) -> float:
        return pictures * self.patches * self.shape.patch_numbers * 4
