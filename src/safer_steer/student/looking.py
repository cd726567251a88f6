"""Looks at the dialogues of one forward pass: whether the student sees their pictures, and those it shows.

Two passes more, without gradients, and rendering the dialogues again; so this is done at some steps only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf
from typing import Any

import torch
from PIL import Image

from safer_steer.dialogue import Dialogue, Turn
from safer_steer.errors import UserError
from safer_steer.student.findings import Finding
from safer_steer.student.given import Trained
from safer_steer.student.modules import inside, parts_of
from safer_steer.student.renderer import QUESTION, Renderer

PLACES = 64
"""Tokens of each row that are compared with the model's own forward pass at most, since all logits of all
tokens may not fit in memory."""
TRAINER_ONLY = ("labels", "shift_labels", "fused_lm_head", "num_items_in_batch")
"""Arguments that are for TRL's head, and not for the model."""
BLANK = 0.1
"""What every pixel value is set to. Zeros stay, since some processors fill rows up with them."""

ShownIn = Callable[[Dialogue], list[list[Image.Image]]]
"""The pictures of each user turn."""


@dataclass(frozen=True)
class Fed:
    """One forward pass of the trainer."""

    inputs: dict[str, Any]
    """The model's arguments, with those of TRL's fused head."""
    findings: list[Finding]
    """What is known of each row by now."""
    candidates: list[list[Trained]]
    """The dialogues with each row's ids."""
    logprobs: torch.Tensor
    """[rows, tokens - 1], of its labels; 0 elsewhere. In training mode."""
    temperature: float | None
    """What the trainer divides the logits by, if its log-probabilities are to be compared with those of the
    model's own forward pass."""


def looked_at(model: Any, fed: Fed, renderer: Renderer, shown_in: ShownIn) -> list[Finding]:
    """The findings of a forward pass with all their numbers.

    All processes make as many passes, also without pictures. Gradients, modes and random generators stay as
    they are.
    """
    pictures = _Pictures(fed.inputs, renderer)
    blank = _blanked(pictures.inputs)
    with evaluating(model):
        seeing, reached = _forward(model, fed.inputs)
        blind, _ = _forward(model, fed.inputs | blank)
        heads = fed.temperature and head_gaps(model, fed.inputs, seeing, fed.temperature)
    modes = gaps_of(fed.logprobs, seeing)
    shifts = (blind - seeing).abs().cpu()
    token = getattr(model.config, "image_token_id", None)
    findings = []
    for row, (finding, candidates) in enumerate(zip(fed.findings, fed.candidates, strict=True)):
        head_gap = heads[row] if heads else None
        finding = replace(finding, looked=True, mode_gap=modes[row], head_gap=head_gap)
        if not candidates:
            findings.append(finding)
            continue
        places = fed.inputs["attention_mask"][row].nonzero()[:, 0]
        ids = fed.inputs["input_ids"][row][places].tolist()
        # Dialogues with the same ids may show other pictures.
        rendered = [_Again.of(renderer, each, shown_in) for each in candidates]
        gaps = [pictures.gap(row, each.pictures) for each in rendered]
        best = min(range(len(candidates)), key=lambda place: gaps[place] or 0.0)
        again, trained = rendered[best], candidates[best]
        pictures.leave(again.pictures)
        shift = shifts[row][(places[1:] - 1).cpu()][torch.tensor(trained.learnt[1:]) == 1]
        findings.append(
            replace(
                finding,
                pictures=again.count,
                picture_tokens=ids.count(token),
                reached=None if reached is None else _count(reached[row][places], ids, token, renderer),
                pixel_gap=gaps[best],
                blank_shift=float(shift.mean()) if again.count and shift.numel() else None,
                rerendered=_renders(renderer, ids, trained, again),
            )
        )
    return findings


def _count(reached: torch.Tensor, ids: list[int], token: int | None, renderer: Renderer) -> int:
    """Positions that get a picture's features. Other special tokens that do, such as those around a picture
    in Ovis2, show nothing and are not counted."""
    silent = set(renderer.stops) - {token}
    return sum(got and each not in silent for got, each in zip(reached.tolist(), ids, strict=True))


@dataclass(frozen=True)
class _Again:
    """A dialogue rendered again, in one go, up to its last answer."""

    ids: list[int]
    pictures: dict[str, torch.Tensor]
    """The inputs of the vision tower."""
    answers: list[str]
    count: int
    """Its pictures."""

    @classmethod
    def of(cls, renderer: Renderer, trained: Trained, shown_in: ShownIn) -> _Again:
        dialogue, answers, talk = trained.dialogue, [], []
        for turn in dialogue.turns:
            answers.append(_bare(renderer, turn.assistant or ""))
            talk += [renderer.defused(turn.user), answers[-1]]
        if not dialogue.turns:  # the first turn was rendered, and nobody answered it
            dialogue, talk = dialogue.model_copy(update={"turns": [Turn(user=QUESTION)]}), [QUESTION, ""]
        images = shown_in(dialogue)[: len(talk) // 2]
        whole = renderer.rendered(talk[:-1], images)
        count = sum(map(len, images))
        pictures = {name: whole[name] for name in renderer.picture_inputs if count and name in whole}
        return cls(whole["input_ids"][0].tolist(), pictures, answers, count)


class _Pictures:
    """The inputs of the vision tower in a forward pass, row after row."""

    def __init__(self, inputs: dict[str, Any], renderer: Renderer) -> None:
        names = [name for name in renderer.picture_inputs if inputs.get(name) is not None]
        self.inputs = {name: inputs[name] for name in names}
        self.rowwise = renderer.rowwise
        self._begins = dict.fromkeys(names, 0)

    def gap(self, row: int, pictures: dict[str, torch.Tensor]) -> float | None:
        """Largest difference to the inputs of the pictures that the row shows; None without any."""
        return max((self._gap(row, name, tensor) for name, tensor in pictures.items()), default=None)

    def _gap(self, row: int, name: str, picture: torch.Tensor) -> float:
        if name not in self.inputs:
            return inf
        begin = row if name in self.rowwise else self._begins[name]
        ours = self.inputs[name][begin : begin + len(picture)]
        # A batch is filled up to its largest picture.
        ours = ours[tuple(map(slice, picture.shape))].cpu()
        if ours.shape != picture.shape:
            return inf
        return float((ours.double() - picture.double()).abs().max())

    def leave(self, pictures: dict[str, torch.Tensor]) -> None:
        """Go on behind a row's pictures."""
        for name, tensor in pictures.items():
            if name in self._begins:
                self._begins[name] += len(tensor)


def _blanked(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of these inputs that are pixels, all of one colour."""
    pixels = {name: values for name, values in inputs.items() if values.is_floating_point()}
    return {name: torch.where(values == 0, values, BLANK) for name, values in pixels.items()}


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
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
    embeddings: list[torch.Tensor] = []
    inputs_embeds: list[torch.Tensor] = []

    def embedded(_: Any, __: Any, output: torch.Tensor) -> None:
        embeddings.append(output.clone())  # some models write the features into it

    def entered(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        if arguments.get("inputs_embeds") is not None:
            inputs_embeds.append(arguments["inputs_embeds"])

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
    if not embeddings or not inputs_embeds or embeddings[0].shape != inputs_embeds[0].shape:
        return logprobs, None
    reached = (embeddings[0] != inputs_embeds[0]).any(-1) & inputs["attention_mask"].bool()
    return logprobs, None if bool((reached == inputs["attention_mask"].bool()).all()) else reached


def _renders(renderer: Renderer, ids: list[int], trained: Trained, again: _Again) -> bool | None:
    """Whether the chat template renders the dialogue in one go as `ids`.

    An answer may have other tokens, since sampling need not choose those that its text is encoded as; its
    text must be the same. None if an answer is empty.
    """
    ours: list[int] = []
    answers: list[str] = []
    begin = 0
    for sampled, pairs in groupby(zip(trained.mask, ids, strict=True), key=lambda pair: pair[0]):
        span = [token for _, token in pairs]
        if sampled:
            begin = len(ours)
            answers.append(_bare(renderer, renderer.decode(span)))
            span = renderer.plain(answers[-1]) + [renderer.end] * (span[-1] == renderer.end)
        ours += span
    if not answers or not all(answers) or not all(again.answers):
        return None
    return again.ids == ours[:begin] and answers[-1] == again.answers[-1]


def _bare(renderer: Renderer, text: str) -> str:
    """An answer without what the template writes before every past answer."""
    return renderer.quoted(text).removeprefix(renderer.lead.strip()).strip()


def gaps_of(ours: torch.Tensor, theirs: torch.Tensor) -> list[float | None]:
    """Mean difference of each row's log-probabilities [rows, tokens], where not both are 0; None where
    all are."""
    ours, theirs = ours.float().cpu(), theirs.float().cpu()
    gaps: list[float | None] = []
    for one, other in zip(ours, theirs, strict=True):
        places = (one != 0) | (other != 0)
        gaps.append(float((one - other).abs()[places].mean()) if places.any() else None)
    return gaps


def head_gaps(
    model: Any, inputs: dict[str, Any], logprobs: torch.Tensor, temperature: float
) -> list[float | None]:
    """Mean difference between the trainer's log-probabilities of each row and the model's own.

    TRL computes the head on its own, to spare the memory of all logits, and knows a model's scaling of logits
    from its config. Where it reads the config otherwise than the model does, the loss falls all the same.

    Args:
        inputs: the trainer's, with `labels` [rows, tokens].
        logprobs: the trainer's, of the labels after the first [rows, tokens - 1].
    """
    labels = inputs["labels"][:, 1:]
    columns = (labels != -100).any(0).nonzero()[:, 0]
    if not len(columns):
        columns = labels.new_zeros(1)  # a pass all the same: other processes make one, and gather weights
    columns = columns[:: -(-len(columns) // PLACES)]
    logits = _logits(model, inputs, columns).float() / temperature
    targets = labels[:, columns]
    own = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    taught = targets != -100
    return gaps_of(own.masked_fill(~taught, 0), logprobs[:, columns].masked_fill(~taught, 0))


def _logits(model: Any, inputs: dict[str, Any], columns: torch.Tensor) -> torch.Tensor:
    """The model's own logits at these places [rows, places, vocabulary]."""
    own = {name: value for name, value in inputs.items() if name not in TRAINER_ONLY}
    if "logits_to_keep" in inspect.signature(type(inside(model)).forward).parameters:
        return model(**own, logits_to_keep=columns).logits
    return model(**own).logits[:, columns]
