"""Rollouts on vLLM servers: exact token ids in, sampled ids and their log-probabilities out.

All requests of a dialogue, and of the other trajectories of its group, go to one server, whose prefix cache
then holds picture and history. Before the first answer every server is proved on a probe: what it says of
given and of sampled tokens must be what the trainer says.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from safer_steer.errors import EndpointError, UserError
from safer_steer.student import processes
from safer_steer.student.looking import evaluating
from safer_steer.student.policy import Completion, SampledStudent, Sampling, cut_at_its_end, seed_of
from safer_steer.student.transcript import Transcript, model_inputs
from safer_steer.student.vllm_server import KEY, Features, Offer, Server, digest, run_and_close
from safer_steer.student.vllm_weights import adapter_in_training, offered, serve_line

MOST_FEATURES = 2**30
"""Characters of features that are kept; the oldest are asked for again."""
LIMITS = {"float32": (1e-3, 1e-3), "bfloat16": (0.15, 0.05)}
"""For each number type, by how much the log-probabilities of server and trainer may differ on average: for
the given tokens of the probe, most of which are unlikely, and for sampled ones."""


class VLLMPolicy:
    """Samples turns on vLLM servers that all offer the same weights."""

    def __init__(self, offers: Sequence[Offer], sampling: Sampling) -> None:
        # Each process begins with another server: alone, each would give its first dialogues to the first.
        begin = processes.rank() % len(offers)
        self.offers, self.sampling = [*offers[begin:], *offers[:begin]], sampling
        self._place: dict[bytes, Offer] = {}
        self._load: Counter[str] = Counter()
        self._features: OrderedDict[str, asyncio.Task[Features]] = OrderedDict()

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        """Sample a turn.

        Raises:
            UserError: a server is down, or declines the request.
            EndpointError: no answer in time.
        """
        offer = self._offer(transcript)
        renderer = transcript.renderer
        sampling = {
            "temperature": self.sampling.temperature,
            "top_p": 1.0,
            "max_tokens": self.sampling.max_tokens,
            "stop_token_ids": renderer.stops,
            "ignore_eos": True,  # the stops are all there are, as in this process
            "logprobs": 0,
            "detokenize": False,
            "seed": seed_of(key),
        }
        data = await self._generate(offer, transcript, sampling)
        try:
            [choice] = data["choices"]
            ids = [int(token) for token in choice["token_ids"]]
            logprobs = [float(entry["logprob"]) for entry in choice["logprobs"]["content"]]
            finish = choice["finish_reason"]
        except (LookupError, TypeError, ValueError):
            raise EndpointError(
                f"{offer.server.url}: an answer without tokens or log-probabilities"
            ) from None
        if len(ids) != len(logprobs) or finish not in ("stop", "length"):
            raise EndpointError(f"{offer.server.url}: the answer was broken off ({finish})")
        return cut_at_its_end(ids, logprobs, renderer)

    async def score(self, transcript: Transcript) -> list[float]:
        """The log-probability of each token after those before it, at temperature 1: [tokens]. The first one
        is 0. Raises as `reply` does."""
        sampling = {"temperature": 1.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
        offer = self._offer(transcript)
        data = await self._generate(offer, transcript, sampling)
        try:
            rows = data["prompt_logprobs"][1:]
            pairs = zip(transcript.ids[1:], rows, strict=True)
            return [0.0, *(float(row[str(token)]["logprob"]) for token, row in pairs)]
        except (LookupError, TypeError, ValueError):
            raise EndpointError(
                f"{offer.server.url}: an answer without the prompt's log-probabilities"
            ) from None

    async def _generate(
        self, offer: Offer, transcript: Transcript, sampling: dict[str, Any]
    ) -> dict[str, Any]:
        pictures = [await self._features_of(offer, image) for image in transcript.images]
        return await offer.server.generate(offer.name, transcript.ids, pictures, sampling)

    def _offer(self, transcript: Transcript) -> Offer:
        """The server of this dialogue: that of its first prompt, or the one with the fewest of them."""
        digests = "".join(map(digest, transcript.images))
        first = hashlib.sha256(f"{transcript.prompt_ids} {digests}".encode()).digest()
        if first not in self._place:
            offer = min(self.offers, key=lambda offer: self._load[offer.server.url])
            self._place[first] = offer
            self._load[offer.server.url] += 1
        return self._place[first]

    async def _features_of(self, offer: Offer, image: Image.Image) -> Features:
        """Asked for once per picture, however many dialogues show it."""
        name = digest(image)
        if name not in self._features or self._features[name].cancelled():
            self._features[name] = asyncio.ensure_future(
                offer.server.features(offer.base or offer.name, image)
            )
            self._forget_old()
        self._features.move_to_end(name)
        try:
            return await asyncio.shield(self._features[name])
        except EndpointError:
            self._features.pop(name, None)
            raise

    def _forget_old(self) -> None:
        size = 0
        for name, task in reversed(list(self._features.items())):
            if task.done() and not task.cancelled() and task.exception() is None:
                size += len(task.result().data)
                if size > MOST_FEATURES:
                    del self._features[name]


def on_servers(student: SampledStudent) -> VLLMPolicy:
    """Make a policy on the servers of `rl.rollouts.base_url`, for the student's weights as they are now. A
    `PolicyOf`, to be called by all processes: the first sends the weights. Raises `UserError` if a server is
    down, cannot offer these weights, or fails the probe."""
    weights = adapter_in_training(student)

    async def prepare() -> list[_Proof]:
        servers = [Server(url, student.rollouts) for url in student.rollouts.base_url]
        try:
            return await asyncio.gather(
                *(_probe(offer, student) for offer in await offered(servers, student, weights))
            )
        except EndpointError as error:
            raise UserError(f"{KEY}: {error}") from None

    proofs = processes.decided(lambda: run_and_close(prepare()))
    for proof in proofs:  # in all processes: they may hold the model together
        _compare(proof, student)
    sampling = Sampling(student.settings.max_turn_tokens, student.temperature)
    return VLLMPolicy([proof.offer for proof in proofs], sampling)


PROBE = ("What is it?", "It is red.", "Look again. What does the picture show?")


@dataclass(frozen=True)
class _Proof:
    """What a server says of the probe, a dialogue with a picture."""

    offer: Offer
    logprobs: list[float]
    """Log-probabilities of the probe's tokens after the first."""
    answer: Completion


def _dialogue(student: SampledStudent) -> Transcript:
    """The probe."""
    return Transcript.of(student.renderer, PROBE, [[_picture()]])


async def _probe(offer: Offer, student: SampledStudent) -> _Proof:
    """Have a server score the probe and continue it."""
    sampling = Sampling(min(32, student.settings.max_turn_tokens), student.temperature or 1.0)
    policy, probe = VLLMPolicy([offer], sampling), _dialogue(student)
    logprobs, answer = await asyncio.gather(policy.score(probe), policy.reply(probe, "probe"))
    return _Proof(offer, logprobs[1:], answer)


def _compare(proof: _Proof, student: SampledStudent) -> None:
    """Raises `UserError` if server and trainer differ by more than number types explain."""
    offer, answer = proof.offer, proof.answer
    whole = _dialogue(student)
    first = len(whole.ids)
    whole.add_assistant(answer.token_ids, answer.logprobs)
    logits = trainer_logits(student.model, whole)
    most, most_sampled = LIMITS[student.settings.dtype]
    line = serve_line(student.settings, student.saved, student.step is not None)
    start = f"start the server with: {line}"
    gap = _mean_gap(logprobs_at(logits, whole.ids, 1, first, 1.0), proof.logprobs)
    if not gap <= most:
        raise UserError(
            f"{KEY}: {offer.server.url} offers {offer.root}, whose log-probabilities differ from those of"
            f" {student.saved} by {gap:.2g} on average; {start}"
        )
    end, temperature = first + len(answer.token_ids), student.temperature or 1.0
    gap = _mean_gap(logprobs_at(logits, whole.ids, first, end, temperature), answer.logprobs)
    if not gap <= most_sampled:
        raise UserError(
            f"{KEY}: {offer.server.url} gives its own samples other log-probabilities than the trainer (by"
            f" {gap:.2g} on average); {start}"
        )


def trainer_logits(model: Any, transcript: Transcript) -> torch.Tensor:
    """What the loaded model says of a transcript: logits [tokens, vocabulary] in float32."""
    with evaluating(model):
        logits: torch.Tensor = model(**model_inputs([transcript], "right", model.device)).logits[0]
    return logits.float()


def logprobs_at(
    logits: torch.Tensor, ids: Sequence[int], begin: int, end: int, temperature: float
) -> list[float]:
    """Log-probabilities of the tokens at `begin` to `end` - 1."""
    rows = (logits[begin - 1 : end - 1] / temperature).log_softmax(-1).cpu()
    logprobs: list[float] = rows.gather(-1, torch.tensor(ids[begin:end]).unsqueeze(-1)).squeeze(-1).tolist()
    return logprobs


def _mean_gap(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Mean absolute difference; 0 for no token."""
    gaps = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    return math.fsum(gaps) / max(len(gaps), 1)


def _picture() -> Image.Image:
    """The probe's picture: gradients, so that no two patches are equal."""
    ramp = Image.linear_gradient("L").resize((112, 84))
    across = Image.linear_gradient("L").rotate(90).resize((112, 84))
    return Image.merge("RGB", (ramp, across, Image.radial_gradient("L").resize((112, 84))))
