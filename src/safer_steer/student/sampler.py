"""Draws tokens from a model's scores. Each answer has its own random generator, seeded by its key, so what is
drawn does not depend on the other answers of a batch."""

from __future__ import annotations

import hashlib

import torch

from safer_steer.student.policy import Sampling


def generator_of(key: str, device: torch.device) -> torch.Generator:
    """The random generator of the answer with this key."""
    seed = int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)
    return torch.Generator(device).manual_seed(seed)


def drawn(
    scores: torch.Tensor, generators: list[torch.Generator], sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each row by adding Gumbel noise from the row's own generator.

    Args:
        scores: the model's logits [rows, vocabulary].

    Returns:
        Scores [rows, vocabulary] whose argmax is the drawn token, and its log-probability [rows, 1] at the
        sampling temperature, before top-p.
    """
    logprobs = torch.log_softmax(scores.float() / (sampling.temperature or 1.0), -1)
    chosen = logprobs
    if sampling.temperature:
        if sampling.top_p < 1:
            ordered, order = logprobs.sort(descending=True)
            outside = ordered.exp().cumsum(-1) - ordered.exp() >= sampling.top_p
            chosen = logprobs.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
        noise = torch.stack(
            [
                torch.empty_like(scores[0], dtype=torch.float32).exponential_(generator=generator)
                for generator in generators
            ]
        )
        chosen = chosen - noise.log()
    return chosen, logprobs.gather(-1, chosen.argmax(-1, keepdim=True))
