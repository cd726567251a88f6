"""What SFT, RL and DPO are checked for while they train: one list, which guard, docs and report share.

The loss of a model that is trained without its pictures falls too, and so does one that is taken over other
tokens than the answers', so nothing else shows it. A check is a small function on a step's numbers, which
`given.py`, `looking.py` and `weights.py` measure. `guard.py` asks the checks. No torch here: the report reads
this list.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from safer_steer.errors import shortened
from safer_steer.student.findings import Check, Finding, Number, Step, mean, most, total

FLOOR = 1e-5
"""Smallest shift, in nats, that counts as seeing. Both passes have the same shapes, so pictures that do not
reach the answers shift them by exactly 0."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
"""Largest mean difference between trainer and engine, in nats, by number type: over a step (`logprob_gap`),
and over each dialogue looked at. It holds for every engine; docs/explanation/checks.md says why."""
HEAD = {"float32": 1e-4, "bfloat16": 0.15}
"""Largest mean difference between the trainer's head and the model's, in nats, by number type. It is below
1e-6 in both where nothing is scaled; a model may scale or cap its logits in bfloat16 where the trainer does
in float32, which rounds logits of 20 to 30 by up to 0.1. A head that is scaled wrongly is 0.4 and more
away."""
CREDIT = 1e-5
"""Largest difference of a credit from the one due, as a share of the step's largest return: the trainer
computes in float32."""
PIXELS = 0.02
"""Largest difference of a picture input, whose values are about -2 to 2: what bfloat16 rounds away."""
UPDATE = "install the tested versions (constraints.txt)"


CHECKS: list[Check] = []
"""In the order in which they are asked: what comes first is the cause of what comes after it."""


def check(name: str, passes: str, **facts: Any) -> Callable[[Callable[[Step], str | None]], None]:
    """Add a function to the list."""
    return lambda complaint: CHECKS.append(Check(name, passes, complaint, **facts))


def fault(step: Step, after: bool = False) -> tuple[Check, str] | None:
    """The first check that fails, and its message in one line; None if none fails."""
    for each in CHECKS:
        if each.after is after and (why := each.complaint(step)):
            return each, f"{each.name}: {why}"
    return None


def summary(step: Step) -> dict[str, Any]:
    """The step's numbers, for metrics. None where no dialogue has the number."""
    return {
        "dialogues": len(step.looked),
        "with_pictures": sum(finding.pictures > 0 for finding in step.looked),
        **{number.key: number.of(step) for each in CHECKS for number in each.numbers},
    }


def _name(finding: Finding) -> str:
    return shortened(finding.dialogue, 60)


@check(
    "ids",
    "each row that the loss is given has the ids of a dialogue of this step, to the last one",
    numbers=[Number("compared", lambda step: len(step.dialogues), "compared")],
)
def _ids(step: Step) -> str | None:
    if step.dialogues and all(finding.dialogue for finding in step.dialogues):
        return None
    return (
        "the trainer feeds ids that belong to no dialogue of this step: it cut them, or encoded them anew;"
        f" {UPDATE}"
    )


@check("labels", "(SFT) each label is the id at its place", rollouts=False)
def _labels(step: Step) -> str | None:
    for finding in step.dialogues:
        if finding.labels:
            return (
                f"{finding.labels} labels of dialogue {_name(finding)} are not the ids at their places, so"
                f" other tokens would be taught; they were moved between collator and loss; {UPDATE}"
            )
    return None


@check(
    "loss mask",
    "the loss is taken over the answers' sampled tokens (DPO: the last answer's), and no others",
    rollouts=False,
    numbers=[Number("loss_tokens", total("tokens"), "tokens with loss")],
)
def _mask(step: Step) -> str | None:
    for finding in step.dialogues:
        if finding.outside or finding.left_out:
            return (
                f"the loss of dialogue {_name(finding)} is taken over {finding.outside} tokens that are no"
                f" answer's, and leaves out {finding.left_out} that are; the mask was moved or lost between"
                f" transcript and loss; {UPDATE}"
            )
    return None


@check(
    "credit",
    "(RL) the advantage of each trajectory, or turn, is the one that follows from the returns noted in its"
    " group's dialogues; (DPO) the chosen answer is in the chosen half, against the rejected one of its pair",
    rollouts=False,
    numbers=[Number("credit_off", most("credit_off", "dialogues"))],
)
def _credit(step: Step) -> str | None:
    for finding in step.dialogues:
        if finding.credit_off > CREDIT:
            return (
                f"the loss weighs the answers of dialogue {_name(finding)} with {finding.credit:.4g}, but"
                f" {finding.due:.4g} is due; returns, or which answer is chosen, went to other rows on the"
                f" way to the loss; {UPDATE}"
            )
        if not finding.paired:
            return (
                f"the loss compares the answer of {_name(finding)} with another than that of its pair; rows"
                f" were mixed up on the way to the loss; {UPDATE}"
            )
    return None


@check(
    "trained tokens",
    "among the dialogues with pictures, at least one has a token that the loss is taken over",
    every_step=False,
)
def _trained_tokens(step: Step) -> str | None:
    seeing = [finding for finding in step.looked if finding.pictures]
    if not seeing or any(finding.tokens for finding in seeing):
        return None
    return (
        f"none of the {len(seeing)} dialogue(s) with pictures has one: every answer is empty, or ends at once"
        " by a special token, as where a model opens its reasoning; give a template without reasoning in"
        " student.chat_template, or choose another student.model"
    )


@check(
    "picture tokens",
    "as many stand in a dialogue's ids as positions get a picture's features",
    every_step=False,
    numbers=[
        Number("picture_tokens", total("picture_tokens"), "picture tokens"),
        Number("picture_features", lambda step: step.features, "with features"),
    ],
)
def _picture_tokens(step: Step) -> str | None:
    for finding in step.looked:
        tokens = finding.picture_tokens
        if finding.pictures and not tokens:
            return (
                f"dialogue {_name(finding)} has {finding.pictures} picture(s), but its ids have no picture"
                " token, so they are lost when it is rendered; give a template that writes pictures in"
                " student.chat_template"
            )
        if finding.reached is not None and finding.reached != tokens:
            return (
                f"the ids of dialogue {_name(finding)} have {tokens}, but {finding.reached} positions get a"
                " picture's features, so the model is trained without what the dialogue shows; pictures are"
                f" lost between renderer and model: {UPDATE}, or choose another student.model"
            )
    return None


@check(
    "pictures",
    "the inputs of the vision tower, row by row, are those of the pictures that the dialogue shows",
    every_step=False,
    numbers=[Number("pixel_gap", most("pixel_gap", "looked"))],
)
def _pictures(step: Step) -> str | None:
    for finding in step.looked:
        if finding.pixel_gap is not None and finding.pixel_gap > PIXELS:
            return (
                f"dialogue {_name(finding)} is trained with others than it shows (values differ by up to"
                f" {finding.pixel_gap:.2g}); rows were mixed up on the way to the model; {UPDATE}"
            )
    return None


@check(
    "template",
    "the chat template, asked to render the dialogue in one go, gives the ids trained; an answer may have"
    " other tokens for the same text",
    every_step=False,
    numbers=[
        Number(
            "rendered_again",
            lambda step: sum(each.rerendered is True for each in step.looked),
            "rendered again",
        )
    ],
)
def _template(step: Step) -> str | None:
    for finding in step.looked:
        if finding.rerendered is False:
            return (
                f"the chat template renders dialogue {_name(finding)} otherwise than it is trained; give a"
                " template that keeps every turn as it is in student.chat_template"
            )
    return None


@check(
    "blank pictures",
    f"with pictures of one colour, the trained tokens' log-probabilities shift by more than {FLOOR:g} nats on"
    " average, in at least one dialogue",
    every_step=False,
    numbers=[Number("blank_shift", mean("blank_shift"), "blank pictures", "ends")],
)
def _blank(step: Step) -> str | None:
    """Blindness of all dialogues with pictures; a single one may have answers that do not depend on them."""
    shifts = [finding.blank_shift for finding in step.looked if finding.blank_shift is not None]
    if not shifts or max(shifts) > FLOOR:
        return None
    why = "the student has stopped seeing; lower the learning rate and start the stage again"
    if step.begins:
        why = (
            "this model ignores pictures, or its processor makes empty ones; train it to see first, or choose"
            " another student.model"
        )
    return (
        f"blanking them shifts the trained tokens' log-probabilities by {max(shifts):.2g} in {len(shifts)}"
        f" dialogue(s), where seeing makes more than {FLOOR:g}: the pictures reach the model, but {why}"
    )


@check(
    "own forward pass",
    "at the first step, the trainer's log-probabilities are those of the model's own forward pass, on average"
    f" within {HEAD['float32']:g} nats in float32 and {HEAD['bfloat16']:g} in bfloat16",
    every_step=False,
    numbers=[Number("head_gap", most("head_gap", "looked"))],
)
def _head(step: Step) -> str | None:
    if not (worst := _furthest(step, "head_gap", HEAD)):
        return None
    gap, bound = worst.head_gap, _bound(step, HEAD)
    return (
        f"the trainer's log-probabilities of dialogue {_name(worst)} are {gap:.2g} nats from it on average"
        f" ({bound}), so another loss would be trained on: the trainer computes the head on its own, and"
        " scales the logits otherwise than this model (logit_scale, logits_scaling, final_logit_softcapping"
        " in its config); choose another student.model"
    )


@check(
    "training mode",
    "the trainer's log-probabilities in training mode are those in evaluation mode, on average within"
    f" {TOLERANCE['float32']:g} nats in float32 and {TOLERANCE['bfloat16']:g} in bfloat16",
    every_step=False,
    numbers=[Number("mode_gap", most("mode_gap", "looked"))],
)
def _mode(step: Step) -> str | None:
    if not (worst := _furthest(step, "mode_gap", TOLERANCE)):
        return None
    return (
        f"the log-probabilities of dialogue {_name(worst)} differ by {worst.mode_gap:.2g} on average"
        f" ({_bound(step, TOLERANCE)}) between training and evaluation mode, so another model is trained than"
        " is sampled and measured: dropout, noise in a router of experts, or statistics of the batch; set the"
        " dropout in the model's config.json to 0, or choose another student.model"
    )


def _furthest(step: Step, name: str, bounds: dict[str, float]) -> Finding | None:
    """The dialogue whose gap of this name is largest, if that is above the bound. A gap that is not a number
    shows in the gradient."""

    def gap_of(finding: Finding) -> float:
        gap = getattr(finding, name)
        return gap if gap is not None and isfinite(gap) else 0.0

    worst = max(step.looked, key=gap_of, default=None)
    return worst if worst and gap_of(worst) > bounds[step.number_type] else None


def _bound(step: Step, bounds: dict[str, float]) -> str:
    return f"at most {bounds[step.number_type]:g} in {step.number_type}"


@check(
    "engine",
    "(RL) the trainer's log-probabilities are those that came with the rollout: on average within"
    f" {TOLERANCE['float32']:g} nats in float32 and {TOLERANCE['bfloat16']:g} in bfloat16, over the step's"
    " sampled tokens (`logprob_gap`) and, every `student.check_every` steps, over each dialogue looked at",
    numbers=[
        Number("engine_gap", most("gap", "looked"), "engine", "max"),
        Number("engine_gap_max", most("gap_max", "looked")),
    ],
)
def _engine(step: Step) -> str | None:
    """One short dialogue of hundreds may be far off in bfloat16, so not of each dialogue of each step."""
    gaps = [(finding.gap, finding) for finding in step.looked if finding.gap is not None]
    gap, worst = max(gaps, key=lambda pair: pair[0], default=(0.0, Finding("")))
    which, pictures = f"of dialogue {_name(worst)}", worst.pictures
    if gap <= TOLERANCE[step.number_type]:
        gap, which, pictures, worst = step.logprob_gap or 0.0, "(logprob_gap)", 0, Finding("")
    if gap <= TOLERANCE[step.number_type]:
        return None
    shift = worst.blank_shift
    blanking = "" if shift is None else f"; blanking its pictures shifts them by {shift:.2g}"
    why = "the engine's weights are not those of this step; send it the current weights at every step"
    if step.begins and pictures:
        why = (
            "the engine gets its pictures at other positions than the trainer, or not at all, or it has other"
            " weights; place their features where the picture tokens stand in the ids, or choose another"
            " student.model if this one does not ignore padding"
        )
    elif step.begins:
        why = "the engine has other weights or another number type; let it load those of this stage"
    return (
        f"its log-probabilities {which} differ from the trainer's by {gap:.2g} on average"
        f" ({_bound(step, TOLERANCE)}{blanking}): {why}"
    )


@check(
    "gradient",
    "it is a number, and not 0 in the language model (LoRA: in B, and in A once B is not 0) if the step has"
    " something to learn: a label, an advantage other than 0, a pair",
    rollouts=False,
    numbers=[Number("gradient", most("gradient", "weights"))],
)
def _gradient(step: Step) -> str | None:
    for weights in step.weights:
        if not isfinite(weights.gradient):
            return f"that of {weights.kind} is not a number; lower the learning rate"
        if weights.due and not weights.gradient:
            why = "is frozen (requires_grad)" if weights.frozen else "is cut off from the loss"
            return f"that of {weights.kind} is 0, although the step has something to learn: it {why}"
    return None


@check(
    "weights",
    "the optimiser's step moves what has a gradient, if the learning rate is large enough to show in the"
    " number type",
    after=True,
    rollouts=False,
    numbers=[Number("moved", most("moved", "weights"), "moved", "max")],
)
def _weights(step: Step) -> str | None:
    for weights in step.weights:
        if weights.moved == 0:
            return (
                f"{weights.kind} has a gradient (up to {weights.gradient:.2g}), but the step did not move it"
                f" at a learning rate of {step.learning_rate:g}: it is not in the optimiser, or has no"
                " learning rate there"
            )
    return None
