"""Measures whether a student in training sees its pictures and learns what was rendered and sampled.

The loss of a model that is trained without its pictures falls too, so nothing else shows it. Measured are the
dialogues of one forward pass of the trainer; `guard.py` decides on the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL import Image

from safer_steer.dialogue import Dialogue
from safer_steer.errors import UserError
from safer_steer.student.modules import parts_of
from safer_steer.student.renderer import Renderer

BLANK = 0.1
"""What every pixel value is set to. Zeros stay, since some processors fill rows up with them."""


@dataclass(frozen=True)
class Trained:
    """What is known of a row of ids that the trainer feeds to the model."""

    dialogue: Dialogue
    mask: list[int]
    """1 on trained tokens; one entry for each id."""
    logprobs: list[float] | None = None
    """The engine's, of each id, at the sampling temperature; None if none sampled them in this process."""


@dataclass(frozen=True)
class Fed:
    """One forward pass of the trainer."""

    inputs: dict[str, Any]
    """The model's arguments, with those of TRL's fused head."""
    logprobs: torch.Tensor
    """[rows, tokens - 1], of each id after the first, at the sampling temperature."""


@dataclass(frozen=True)
class Finding:
    """The numbers of one dialogue."""

    dialogue: str
    """Its id; empty if the ids belong to no known dialogue."""
    pictures: int = 0
    picture_tokens: int = 0
    """Picture tokens in the ids."""
    reached: int | None = None
    """Positions that get a picture's features; None if the model does not let this be seen."""
    blank_shift: float | None = None
    """Mean shift of the trained tokens' log-probabilities when the pictures are blanked, in nats; None
    without pictures."""
    gap: float | None = None
    """Mean difference between trainer and engine on the sampled tokens, in nats; None without an engine."""
    gap_max: float | None = None
    """The largest such difference."""
    rerendered: bool | None = None
    """Whether the chat template renders these ids; None if it cannot be said, because an answer is empty."""


KnownOf = Callable[[list[int]], list[Trained]]
"""What is known of a row of ids. Several dialogues may have the same ids."""
ShownIn = Callable[[Dialogue], list[list[Image.Image]]]
"""The pictures of each user turn."""


def measure(model: Any, fed: Fed, renderer: Renderer, known_of: KnownOf, shown_in: ShownIn) -> list[Finding]:
    """The numbers of each dialogue of a forward pass.

    Two more passes are made, without pictures as well, so that all processes make as many. Gradients, modes
    and random generators stay as they are.
    """
    blank = _blanked(fed.inputs, renderer.picture_inputs)
    with _evaluating(model):
        seeing, reached = _forward(model, fed.inputs)
        blind, _ = _forward(model, fed.inputs | blank)
    shifts = (blind - seeing).abs().cpu()
    token = getattr(model.config, "image_token_id", None)
    findings = []
    for row, ids in enumerate(fed.inputs["input_ids"]):
        places = fed.inputs["attention_mask"][row].nonzero()[:, 0]
        trained_ids, after = ids[places].tolist(), (places[1:] - 1).cpu()
        known = known_of(trained_ids)
        if not known:
            findings.append(Finding("", rerendered=False))
            continue
        gaps = [_gaps(fed.logprobs[row].cpu()[after], each) for each in known]
        # Of dialogues with the same ids, the one whose log-probabilities fit.
        number = min(range(len(known)), key=lambda index: sum(gaps[index]))
        trained, gap = known[number], gaps[number]
        answers = sum(sampled for sampled, _ in groupby(trained.mask))
        shown = shown_in(trained.dialogue)[:answers]  # the last turns may have been left off
        count = sum(map(len, shown))
        shift = shifts[row][after][torch.tensor(trained.mask[1:]) == 1]
        findings.append(
            Finding(
                trained.dialogue.id,
                count,
                trained_ids.count(token),
                None if reached is None else int(reached[row].sum()),
                float(shift.mean()) if count and shift.numel() else None,
                sum(gap) / len(gap) if gap else None,
                max(gap, default=None),
                _renders(renderer, trained_ids, trained, shown),
            )
        )
    return findings


def _blanked(inputs: dict[str, Any], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The inputs with these names that are pixels, all of one colour."""
    given = {name: inputs[name] for name in names if inputs.get(name) is not None}
    pixels = {name: values for name, values in given.items() if values.is_floating_point()}
    return {name: torch.where(values == 0, values, BLANK) for name, values in pixels.items()}


def _gaps(logprobs: torch.Tensor, trained: Trained) -> list[float]:
    """Differences to the engine's log-probabilities on the sampled tokens; empty without an engine."""
    if trained.logprobs is None:
        return []
    sampled = torch.tensor(trained.mask[1:]) == 1
    return (logprobs - torch.tensor(trained.logprobs[1:])).abs()[sampled].tolist()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without gradients and dropout. Each module's mode is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _forward(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities [rows, tokens - 1], and which positions get a picture's features [rows, tokens].

    These are the positions at which the language model is given something else than the id's embedding.
    """
    made: list[torch.Tensor] = []
    given: list[torch.Tensor] = []

    def embedded(_: Any, __: Any, output: torch.Tensor) -> None:
        made.append(output.clone())  # some models write the features into it

    def entered(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        if arguments.get("inputs_embeds") is not None:
            given.append(arguments["inputs_embeds"])

    hooks = []
    try:
        language = parts_of(model).language
        hooks.append(model.get_input_embeddings().register_forward_hook(embedded))
        hooks.append(language.register_forward_pre_hook(entered, with_kwargs=True))
    except UserError:  # its parts cannot be told apart
        pass
    try:
        logprobs = model(**inputs).log_probs.float()
    finally:
        for hook in hooks:
            hook.remove()
    if not made or not given or made[0].shape != given[0].shape:
        return logprobs, None
    reached = (made[0] != given[0]).any(-1) & inputs["attention_mask"].bool()
    return logprobs, None if bool((reached == inputs["attention_mask"].bool()).all()) else reached


def _renders(
    renderer: Renderer, ids: list[int], trained: Trained, shown: list[list[Image.Image]]
) -> bool | None:
    """Whether the chat template renders the dialogue in one go as `ids`.

    An answer may have other tokens, since sampling need not choose those that its text is encoded as; its
    text must be the same. None if an answer is empty.
    """
    ours: list[int] = []
    heard: list[str] = []
    asked = 0
    for sampled, pairs in groupby(zip(trained.mask, ids, strict=True), key=lambda pair: pair[0]):
        span = [token for _, token in pairs]
        if sampled:
            asked = len(ours)
            heard.append(_bare(renderer, renderer.decode(span)))
            span = renderer.plain(heard[-1]) + [renderer.end] * (span[-1] == renderer.end)
        ours += span
    turns = trained.dialogue.turns[: len(heard)]
    said = [_bare(renderer, turn.assistant or "") for turn in turns]
    if not heard or not all(heard) or not all(said):
        return None
    talk = [
        text
        for turn, answer in zip(turns, said, strict=True)
        for text in (renderer.defused(turn.user), answer)
    ]
    whole = renderer.rendered(talk[:-1], shown)["input_ids"][0].tolist()
    return whole == ours[:asked] and heard[-1] == said[-1]


def _bare(renderer: Renderer, text: str) -> str:
    """An answer without what the template writes before every past answer."""
    return renderer.quoted(text).removeprefix(renderer.lead.strip()).strip()
