"""Corrects an estimate by what a run has really asked: the run's own config is forecast too, and each role
differs from this config's forecast as it did from that one. With the same config the counts are the run's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safer_steer.config.file import load_config
from safer_steer.errors import UserError
from safer_steer.files.manifest import Manifest
from safer_steer.plan.calls import Estimate, estimate
from safer_steer.plan.counting import Count, role_of

CHANCE = 50
"""Calls that the forecast weighs as much as, against those of a run that has asked only a small part: how
often eight pairs give in is mostly chance. Of what a run has asked itself, nothing is chance."""


def from_run(found: Estimate, folder: Path) -> Estimate:
    """The estimate, corrected for the stages that the run in `folder` has finished.

    Raises:
        UserError: it is no run, or no stage of it that asks is finished.
    """
    paid = {name: entry["calls"] for name, entry in Manifest(folder).stages.items() if entry.get("calls")}
    if not paid or not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: no stage that asks a model is finished in it; give the folder of a run")
    there = estimate(load_config(folder / "config.yaml"), found.assumed)
    stages = {name: dict(counts) for name, counts in found.stages.items()}
    for name, accounts in paid.items():
        for who, account in accounts.items():
            mine, its = found.role(name, who), there.role(name, who)
            if not (account["calls"] and mine.calls and its.calls):
                continue
            chance = CHANCE * max(0, 1 - its.calls / mine.calls)
            times = (account["calls"] + chance) / (its.calls + chance)
            sees = role_of(found.config, who).who == "endpoint"  # agents here do not count pictures
            each = its.calls / account["calls"]
            # A server that reports no tokens corrects the calls alone.
            longer = account["prompt_tokens"] / (its.tokens_in if sees else its.text_tokens) * each or 1.0
            said = account["completion_tokens"] / its.tokens_out * each or 1.0
            for key, count in found.stages[name].items():
                if key[0] == who:
                    stages[name][key] = Count(
                        count.calls * times,
                        count.images * times,
                        (count.tokens_in if sees else count.text_tokens) * times * longer,
                        0 if sees else count.image_tokens * times,
                        count.tokens_out * times * said,
                        count.upload_bytes * times,
                    )
    known = ", ".join(name for name in found.stages if name in paid)
    note = f"From what {folder} asked: {known}. Tokens are as its models counted them."
    return replace(found, stages=stages, notes=[note, *found.notes])
