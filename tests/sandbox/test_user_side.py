"""The user's side that the sandbox's attacker learns, and the attacker that is shipped."""

from __future__ import annotations

import json
import random

from safer_steer.config.rl import SHIPPED_ATTACKER
from safer_steer.sandbox.language import Request, understand
from safer_steer.sandbox.rubric import Outcome, assess
from safer_steer.sandbox.scripts import BENCH_FORMS
from safer_steer.sandbox.user_side import example
from safer_steer.sandbox.world import devices, training_devices


def test_it_has_neither_held_out_structures_nor_devices_and_every_question_is_understood() -> None:
    drawn = [example(random.Random(seed), 5) for seed in range(400)]
    requests = [understand(question) for one in drawn for _, question in one.turns]
    forms = {request.form for request in requests if request}
    assert None not in requests and not forms & set(BENCH_FORMS)
    assert {"all", "before", "last_word", "complete", "colour"} <= forms
    assert {one.device for one in drawn} <= set(training_devices())


def test_the_shipped_attacker_is_small_and_says_what_it_can() -> None:
    record = json.loads((SHIPPED_ATTACKER / "training.json").read_text())["runs"][-1]
    assert record["quality"]["understood"] > 0.1 and record["quality"]["grounded"] > 0.9
    assert (SHIPPED_ATTACKER / "adapter_model.safetensors").stat().st_size < 2e6
    config = json.loads((SHIPPED_ATTACKER / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sandbox", "no path of the machine that trained it"


def test_a_question_for_what_follows_a_step_that_the_device_has_not_is_answered_and_judged() -> None:
    device, other = devices()[0], devices()[1]
    step = f"{other.steps[0][0]} the {other.steps[0][1]}"
    for form in ("next", "before"):
        request = Request(form, "", (step,))
        assert assess(device, False, request.text, request.answer(device)).outcome is Outcome.ANSWERED
