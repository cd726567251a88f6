"""How weights reach a vLLM server: a new name for each step's adapter, the old one withdrawn, also after a
kill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from safer_steer.config import SHIPPED, Student
from safer_steer.config.rl import Rollouts
from safer_steer.endpoints.clients import close_all
from safer_steer.errors import UserError
from safer_steer.run.agents import ready
from safer_steer.student import vllm_server
from safer_steer.student.adapters import adapter_weights, write_adapter
from safer_steer.student.load import LoadedStudent, load_student
from safer_steer.student.policy import SampledStudent
from safer_steer.student.training import lora
from safer_steer.student.vllm_policy import VLLMPolicy, on_servers
from safer_steer.student.vllm_server import Server
from safer_steer.student.vllm_weights import serve_line
from student_parts import tiny_config
from vllm_double import VLLMDouble

SETTINGS = Student(dtype="float32", device="cpu", max_turn_tokens=8, max_length=512, lora_rank=4)


@pytest.fixture(scope="module")
def loaded() -> LoadedStudent:
    return load_student(SETTINGS)


@pytest.fixture
def double(loaded: LoadedStudent) -> Iterator[VLLMDouble]:
    with VLLMDouble(loaded, str(SHIPPED)) as server:
        yield server


@pytest.fixture
def model(loaded: LoadedStudent) -> Any:
    """In training; its adapter does nothing yet."""
    return get_peft_model(deepcopy(loaded.model), lora(SETTINGS, loaded.model))


def at_step(step: int, folder: Path, loaded: LoadedStudent, model: Any, url: str) -> VLLMPolicy:
    rollouts = Rollouts(engine="vllm", base_url=[url], retries=0)
    return on_servers(
        SampledStudent(model, loaded.renderer, SETTINGS, 1.0, rollouts, str(SHIPPED), step, folder)
    )


def test_each_step_has_a_name_of_its_own_and_the_old_one_is_withdrawn(tmp_path, loaded, model, double):
    double.adapters["steer-00000000-00007-of-another-run"] = "/elsewhere"
    first = at_step(0, tmp_path, loaded, model, double.url).offers[0].name
    assert double.adapters[first] == str(tmp_path / ".adapters" / "00000")
    assert {body["model"] for body in double.bodies} == {first}
    with torch.no_grad():
        next(w for name, w in model.named_parameters() if "lora_B" in name).add_(0.1)
    second = at_step(1, tmp_path, loaded, model, double.url).offers[0].name
    assert second != first
    assert set(double.adapters) == {"steer-00000000-00007-of-another-run", second}
    assert [path.name for path in (tmp_path / ".adapters").iterdir()] == ["00001"]


def test_a_step_that_is_repeated_after_a_kill_takes_the_adapter_that_is_there(
    tmp_path, loaded, model, double
):
    first = at_step(3, tmp_path, loaded, model, double.url).offers[0].name
    again = at_step(3, tmp_path, loaded, model, double.url).offers[0].name
    assert again == first
    assert double.asked["/v1/load_lora_adapter"] == 1
    assert "/v1/unload_lora_adapter" not in double.asked


def test_weights_that_the_server_does_not_use_are_noticed(tmp_path, loaded, model, double):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.05)
    at_step(0, tmp_path, loaded, model, double.url)
    double.deaf = True
    with pytest.raises(UserError, match=r"whose log-probabilities differ .*--enable-lora"):
        at_step(1, tmp_path, loaded, model, double.url)


def test_a_server_without_adapters_is_told_what_it_lacks(tmp_path, loaded, model, double):
    double.fail["/v1/load_lora_adapter"] = 404
    with pytest.raises(UserError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora"):
        at_step(0, tmp_path, loaded, model, double.url)


def test_a_trained_model_is_measured_by_its_adapter(tmp_path, loaded, model, double):
    saved = tmp_path / "model"
    write_adapter(model, saved, adapter_weights(model))
    config = json.loads((saved / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(SHIPPED)
    assert sorted(path.name for path in saved.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    rollouts = Rollouts(engine="vllm", base_url=[double.url])
    policy = on_servers(SampledStudent(loaded.model, loaded.renderer, SETTINGS, 0.0, rollouts, str(saved)))
    assert double.adapters == {policy.offers[0].name: str(saved)}


async def forget(double: VLLMDouble) -> None:
    try:
        await Server(double.url, Rollouts(retries=0)).forget()
    finally:
        await close_all()


def test_after_all_weights_were_sent_nothing_of_the_old_ones_is_used(double):
    asyncio.run(forget(double))
    assert double.asked == {"/reset_prefix_cache": 1, "/reset_encoder_cache": 1}


def test_a_server_that_still_uses_the_old_weights_keys_is_waited_for_and_not_for_ever(double, monkeypatch):
    monkeypatch.setattr(vllm_server, "FORGETTING_WAITS_S", (0.01, 0.01))
    double.busy = 2
    asyncio.run(forget(double))
    assert double.asked["/reset_prefix_cache"] == 3
    double.busy = 9
    with pytest.raises(UserError, match="keeps what it computed with the weights before"):
        asyncio.run(forget(double))


def test_the_line_that_starts_a_server_names_all_it_needs(tmp_path):
    settings = SETTINGS.model_copy(update={"lora_rank": 12, "model": str(tmp_path)})
    training = serve_line(settings, str(tmp_path / "sft"), True)
    assert training.startswith(f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve {tmp_path} --dtype float32")
    assert serve_line(settings, str(tmp_path / "rl"), False) == training, "one server for all adapters"
    assert "--max-model-len 512 " in training and "--max-lora-rank 16 " in training
    assert "--generation-config vllm --logprobs-mode processed_logprobs --enable-scale-out" in training
    full = serve_line(SETTINGS.model_copy(update={"lora_rank": 0}), "org/name", True)
    assert full.startswith("VLLM_SERVER_DEV_MODE=1 vllm serve org/name ")
    assert """--weight-transfer-config '{"backend": "nccl"}'""" in full
    whole = serve_line(SETTINGS.model_copy(update={"lora_rank": 0}), "org/name", False)
    assert whole.startswith("vllm serve org/name ") and "lora" not in whole.lower()


def test_before_the_student_is_loaded_a_missing_server_is_one_line(loaded):
    with VLLMDouble(loaded, str(SHIPPED), max_length=100) as server:
        config = tiny_config(rl={"rollouts": {"engine": "vllm", "base_url": server.url}})
        with pytest.raises(UserError, match="takes 100 tokens, and student"):
            ready(config, None)
    with pytest.raises(
        UserError, match=r"^rl.rollouts.base_url: http.*: cannot connect.*; start it with: vllm serve /"
    ):
        ready(config, None)
    ready(tiny_config(), None)
