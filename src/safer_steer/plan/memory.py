"""GPU memory of each stage and process, in bytes, term by term.

This is an estimate, not a measurement. It counts the tensors that the installed transformers, PEFT and TRL
hold at each stage's peak, for the longest dialogues and largest pictures that the config allows. The CUDA
context, kernel workspaces and allocator fragmentation are not counted; `MARGIN` allows for them.
docs/how-to/memory.md explains the formulas.

Symbols: P parameters, A adapter parameters, G parameters with a gradient; H hidden, I intermediate, V
vocabulary, L layers; T tokens in the batch; a bytes per number in the arithmetic (2 in bfloat16, 4 in
float32).

| term        | bytes |
|-------------|-------|
| weights     | P x 4 if all weights are trained, else P x bytes of `student.dtype`; + A x 4 for the float32
|             | adapters, which are never merged, in `bench` too |
| reference   | P x 4 in RL with beta > 0 and no adapters: TRL loads it like the policy. With adapters A x 4,
|             | a copy of SFT's; if RL begins with the base, they are switched off instead |
| gradients   | G x 4; twice that with several processes, because DDP also keeps buckets |
| optimiser   | G x 8, AdamW's two moments |
| casts       | G x 2: autocast keeps a bfloat16 copy of each float32 weight with a gradient for one forward
|             | pass. In training, only the excess of the end of the forward pass (with casts) over the
|             | backward pass (without) |
| cache       | T x L x K x (key + value bytes), K the width of all key/value heads. Under autocast on float32
|             | weights, keys are float32 and values bfloat16, because the rotation is done in float32 |
| activations | generation: T x (5 H x 4 + 3 I x a) for one layer of the prefill, 4 I with adapters.
|             | Training: T x L x H layer inputs kept by checkpointing, and T x (5 I + 8 H) x 4 for the layer
|             | being recomputed; without checkpointing, for all layers |
| logits      | generation: rows x V x 4 x 6, for one position. Training: tiles of TRL's fused head, 4,096 x
|             | 32,768 numbers, and V x H x 4 for the head's float32 gradient if it is trained |
| pictures    | patches x numbers per patch x 4; TRL keeps those of all trajectories of a step on the GPU |

Sharded over N processes (`student.sharding: full`, FSDP2), each holds 1/N of weights, reference, gradients
and moments, without DDP's buckets. What it gathers is in `casts`: for rollouts in the process P x a, all
weights; elsewhere (R + 2 W) x a, with W the weights of one layer of the language model and R all that is in
none, and in training the gradients of a layer, W x a.

With rollouts on vLLM servers nothing is generated here: no cache, activations and logits of generation, and
nothing is gathered for it.
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
        self.config, self.shape, self.processes = config, shape, processes
        self.sharded = config.student.sharding == "full" and processes > 1
        self.shares = processes if self.sharded else 1
        """Number of processes that hold the weights together."""
        self.served = config.rl.rollouts.engine == "vllm"
        self.student = config.student
        self.half = self.student.dtype == "bfloat16"
        self.arithmetic = 2 if self.half else 4
        self.whole = not shape.adapters
        """Whether all weights are trained, in float32."""
        self.patches = self.student.max_pixels // shape.patch_pixels
        self.picture_tokens = self.patches // shape.patches_a_token

    def peaks(self) -> list[Memory]:
        config = self.config
        found = []
        if config.student_is_target:
            found.append(self._asked("seeds"))
        found += [self._sft(), self._rollouts()]
        if config.rl.beta:
            found.append(self._reference())
        found.append(self._training())
        found.append(self._asked("bench"))
        return found

    # independent of the dialogues

    def _weights(self) -> float:
        each = 4 if self.whole else self.arithmetic
        return (self.shape.parameters * each + self.shape.adapters * 4) / self.shares

    def _gradients(self) -> float:
        return self.shape.trained * 4 / self.shares + self._buckets()

    def _buckets(self) -> float:
        """DDP's buckets, which outlive the gradients."""
        return self.shape.trained * 4 if self.processes > 1 and not self.sharded else 0

    def _optimiser(self) -> float:
        return self.shape.trained * 8 / self.shares

    def _casts(self) -> float:
        return self.shape.trained * 2 if self.half else 0

    def _frozen_policy(self) -> float:
        """The frozen reference policy of the KL term."""
        rl = self.config.rl
        if not rl.beta:
            return 0
        if self.whole:
            return self.shape.parameters * 4 / self.shares
        return self.shape.adapters * 4 / self.shares if rl.start_from == "sft" else 0

    def _gathered(self, layers: int) -> float:
        """What FSDP2 gathers for so many layers at once, with all weights that are in no layer."""
        shape = self.shape
        outside = shape.parameters - shape.layers * shape.layer
        return (outside + layers * shape.layer) * self.arithmetic

    # stages

    def _asked(self, stage: str) -> Memory:
        """The student generates without a trainer, in the number type of its file. With vLLM its weights are
        here only to be compared with the server's."""
        adapted = stage == "bench" and not self.whole
        weights = self.shape.parameters * self.arithmetic + (self.shape.adapters * 4 if adapted else 0)
        if self.served:
            return Memory(f"{stage} generation", weights=weights)
        cache, activations, logits, pictures = self._generation(
            self.arithmetic, self.arithmetic, adapters=adapted
        )
        return Memory(
            f"{stage} generation",
            weights=weights,
            cache=cache,
            activations=activations,
            logits=logits,
            pictures=pictures,
        )

    def _sft(self) -> Memory:
        sft = self.config.bootstrap.sft
        tokens = sft.micro_batch_size * self.student.max_length
        return Memory(
            "sft training",
            weights=self._weights(),
            gradients=self._gradients(),
            optimiser=self._optimiser(),
            casts=self._casts_left(tokens),
            activations=self._learning(tokens, sft.micro_batch_size),
            logits=self._head(tokens),
            pictures=self._pixels(sft.micro_batch_size),
        )

    def _rollouts(self) -> Memory:
        if self.served:
            return self._held("rl rollouts", self._pixels(self._trajectories()))
        keys = 4 if self.whole or not self.half else 2
        cache, activations, logits, pictures = self._generation(
            keys, self.arithmetic, self._trajectories(), adapters=not self.whole
        )
        return Memory(
            "rl rollouts",
            weights=self._weights(),
            reference=self._frozen_policy(),
            gradients=self._buckets(),
            optimiser=self._optimiser(),
            casts=self._gathered(self.shape.layers) if self.sharded else self._casts(),
            cache=cache,
            activations=activations,
            logits=logits,
            pictures=pictures + self._pixels(self._trajectories()),
        )

    def _held(self, peak: str, pictures: float) -> Memory:
        """What stays between two training steps."""
        return Memory(
            peak,
            weights=self._weights(),
            reference=self._frozen_policy(),
            gradients=self._buckets(),
            optimiser=self._optimiser(),
            pictures=pictures,
        )

    def _reference(self) -> Memory:
        """Scoring by the reference and the hand-over after it, when the last step's pictures and two copies
        of this step's are on the GPU."""
        tokens = self._trajectory_tokens()
        casts = self.shape.parameters * 2 if self.whole and self.half else self._casts()
        if self.sharded:
            casts = self._gathered(2)
        return Memory(
            "rl reference",
            weights=self._weights(),
            reference=self._frozen_policy(),
            gradients=self._buckets(),
            optimiser=self._optimiser(),
            casts=casts,
            activations=max(
                self._prefill(tokens, adapters=not self.whole), self._looking(self.config.rl.micro_batch_size)
            ),
            logits=self._tiles(tokens),
            pictures=3 * self._pixels(self._trajectories()),
        )

    def _training(self) -> Memory:
        tokens = self._trajectory_tokens()
        return Memory(
            "rl training",
            weights=self._weights(),
            reference=self._frozen_policy(),
            gradients=self._gradients(),
            optimiser=self._optimiser(),
            casts=self._casts_left(tokens),
            activations=self._learning(tokens, self.config.rl.micro_batch_size),
            logits=self._head(tokens),
            pictures=self._pixels(self._trajectories()),
        )

    # dependent on the dialogues

    def _trajectories(self) -> int:
        """Trajectories of one step in one process."""
        rl = self.config.rl
        return -(-rl.prompts_per_step * rl.group_size // self.processes)

    def _trajectory_tokens(self) -> int:
        """Tokens of one micro-batch."""
        rl = self.config.rl
        prompt = self.picture_tokens + PROMPT_TOKENS
        return rl.micro_batch_size * min(self.student.max_length, prompt + rl.max_completion_tokens)

    def _generation(
        self, key: int, value: int, rows: int | None = None, adapters: bool = False
    ) -> tuple[float, float, float, float]:
        """Cache, activations, logits and pictures of one full batch. `rows` limits its dialogues."""
        shape, tokens = self.shape, self.student.generation_tokens
        answer = self.student.max_turn_tokens
        most = max(1, tokens // (answer + 1))
        shown = max(1, tokens // (answer + self.picture_tokens))
        rows = most if rows is None else min(rows, most)
        shown = min(shown, rows)
        cache = tokens * shape.layers * shape.cache_width * (key + value)
        activations = max(self._prefill(tokens, adapters), self._looking(shown))
        return cache, activations, rows * shape.vocabulary * 4 * 6, self._pixels(shown)

    def _prefill(self, tokens: int, adapters: bool) -> float:
        """One layer without a gradient: residual-sized tensors, and the tensors alive at once in the MLP or
        attention."""
        shape = self.shape
        mlp = (4 if adapters else 3) * shape.intermediate
        return tokens * (5 * shape.hidden * 4 + max(mlp, 6 * shape.heads_width) * self.arithmetic)

    def _looking(self, pictures: int) -> float:
        """One layer of the vision tower without a gradient."""
        shape = self.shape
        return (
            pictures
            * self.patches
            * (3 * shape.vision_intermediate + 4 * shape.vision_hidden)
            * self.arithmetic
        )

    def _learning(self, tokens: int, pictures: int) -> float:
        """Activations for the backward pass: with gradient checkpointing in bfloat16, without in float32."""
        shape = self.shape
        residual = 4 if self.whole else self.arithmetic
        layer = self._layer(tokens)
        language = (
            tokens * shape.layers * shape.hidden * residual + layer if self.half else layer * shape.layers
        )
        if self.student.freeze_vision or not self.whole:
            return max(language, self._looking(pictures))
        patches = pictures * self.patches
        seen = patches * (5 * shape.vision_intermediate + 8 * shape.vision_hidden) * 4
        return language + (
            patches * shape.vision_layers * shape.vision_hidden * 4
            if self.half
            else seen * shape.vision_layers
        )

    def _layer(self, tokens: int) -> float:
        """Memory for the backward pass through one layer."""
        return tokens * (5 * self.shape.intermediate + 8 * self.shape.hidden) * 4

    def _casts_left(self, tokens: int) -> float:
        """The casts are freed before the backward pass. Returns by how much the end of the forward pass, with
        them, exceeds the backward pass. Sharded: what is gathered for two layers, and a layer's gradients."""
        if self.sharded:
            return self._gathered(2) + (self.shape.layer * self.arithmetic if self.whole else 0)
        forward = self._casts() + self._prefill(tokens, adapters=not self.whole)
        return min(self._casts(), max(0.0, forward - self._layer(tokens)))

    def _tiles(self, tokens: int) -> float:
        return min(tokens, TILE[0]) * min(self.shape.vocabulary, TILE[1]) * self.arithmetic

    def _head(self, tokens: int) -> float:
        shape = self.shape
        return (
            self._tiles(tokens)
            + tokens * shape.hidden * 4
            + (shape.vocabulary * shape.hidden * 4 if self.whole else 0)
        )

    def _pixels(self, pictures: int) -> float:
        return pictures * self.patches * self.shape.patch_numbers * 4
