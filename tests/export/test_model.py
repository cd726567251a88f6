"""A trained model as it is handed over: it loads, says how it was made, and is whole or absent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from display import Quiet
from safer_steer import pipeline
from safer_steer.cli import app
from safer_steer.config import SHIPPED, Config
from safer_steer.manifest import verify
from safer_steer.report.table import headline

TEMPLATE = "{# a template of one's own #}" + (SHIPPED / "chat_template.jinja").read_text()
CONFIG = {
    "student": {
        "max_turn_tokens": 40,
        "max_length": 512,
        "dtype": "bfloat16",
        "device": "cpu",
        "lora_rank": 4,
    },
    "seeds": {"sources": [{"name": "sandbox", "limit": 8}], "min_turns": 2, "max_turns": 3},
    "bootstrap": {
        "sft": {
            **{"batch_size": 4, "micro_batch_size": 4, "max_steps": 1, "learning_rate": 3e-3},
            "warmup_ratio": 0,
        }
    },
    "rl": {
        **{"prompts_per_step": 1, "group_size": 2, "micro_batch_size": 2, "steps": 1, "max_turns": 2},
        **{"max_completion_tokens": 256, "learning_rate": 1e-3},
    },
    "bench": {"suites": ["sandbox"], "models": ["sft", "safer_steer"], "dialogues": 2},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, small and adapted with LoRA; tests that change it take a copy."""
    home = tmp_path_factory.mktemp("trained")
    (home / "mine.jinja").write_text(TEMPLATE)
    student = CONFIG["student"] | {"chat_template": str(home / "mine.jinja")}
    pipeline.run(Config.model_validate(CONFIG | {"student": student}), home / "run", Quiet())
    return home / "run"


def export(*arguments: object) -> tuple[int, str]:
    """The command's exit code and what it says."""
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    """The export of the last model."""
    code, said = export(run, "--model", run.parent / "steered")
    assert code == 0 and said.startswith("safer_steer: 0.01 GB of weights"), said
    return run.parent / "steered"


def test_it_loads_with_the_weights_of_the_run_and_without_adapters(run: Path, model: Path) -> None:
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype="auto")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    assert loaded.config.get_text_config().dtype == loaded.config.dtype == torch.bfloat16
    assert loaded.config.get_text_config().use_cache
    kept, base = (
        load_file(run / "rl" / "model" / "model.safetensors"),
        load_file(SHIPPED / "model.safetensors"),
    )
    written = load_file(model / "model.safetensors")
    assert written.keys() == kept.keys() == base.keys(), "adapters are merged"
    assert all(torch.equal(written[name], kept[name]) for name in kept)
    assert any(not torch.equal(written[name], base[name].to(torch.bfloat16)) for name in base)
    assert (model / "chat_template.jinja").read_text() == TEMPLATE
    talk = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}]}]
    inputs = AutoProcessor.from_pretrained(model).apply_chat_template(
        talk, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert loaded.generate(**inputs, max_new_tokens=4).shape[1] > inputs["input_ids"].shape[1]


def test_an_answer_ends_at_any_special_token_and_is_sampled_as_in_the_bench(run: Path, model: Path) -> None:
    """The base's file names one end, and Qwen's own adds a repetition penalty that no bench has."""
    found = json.loads((model / "generation_config.json").read_text())
    tokenizer = AutoProcessor.from_pretrained(model).tokenizer
    assert tokenizer.convert_ids_to_tokens(found["eos_token_id"]) == [
        "<|im_end|>",
        *("<|endoftext|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>"),
        *("<|image_pad|>", "<|video_pad|>"),
    ]
    assert (found["do_sample"], found["temperature"], found["top_k"], found["top_p"]) == (True, 0.7, 0, 1)
    assert "repetition_penalty" not in found


def test_the_card_says_what_the_run_says(run: Path, model: Path) -> None:
    text = (model / "README.md").read_text("utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "transformers"
    summary = json.loads((run / "summary.json").read_text())
    rows = headline(summary)
    assert len(rows) > 10 and any("[" in cell for row in rows for cell in row.cells)
    for row in rows:
        assert f"| {row.label} | {' | '.join(row.cells)} |" in text
    kept = len((run / "bootstrap" / "kept.jsonl").read_text().splitlines())
    for needed in (
        "| SFT | SaFeR-Steer |",
        "LoRA adapters of rank 4 on the language model, merged. Weights in bfloat16. Seed 0.",
        f"SFT: 1 steps over {kept} dialogues, batch 4, learning rate 0.003.",
        "steps 1, each of 1 scripts x 2 trajectories",
        "return min_mean with alpha 0.3, credit by trajectory, from the SFT model",
        "Tutor: the sandbox's tutor",
        "Judge: the sandbox's judge. Temperature 0.7.",
        "| blue | the sandbox's agent | 0.7 |",
        "stay under its licence",
        "## Limits",
        "--max-tokens 40 --temperature 0.7",
    ):
        assert needed in text, needed
    assert str(run.parent) not in text and verify(model) == []


def test_sft_alone_by_choice_or_because_rl_is_not_done(run: Path, tmp_path: Path) -> None:
    assert export(run, "--model", tmp_path / "chosen", "--which", "sft")[0] == 0
    part = tmp_path / "run"
    shutil.copytree(run, part)
    manifest = json.loads((part / "manifest.json").read_text())
    del manifest["stages"]["rl"], manifest["stages"]["bench"]
    (part / "manifest.json").write_text(json.dumps(manifest))
    code, said = export(part, "--model", tmp_path / "left")
    assert code == 0 and said.startswith("sft: ")
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (tmp_path / "chosen", tmp_path / "left")
    ]
    assert weights[0] == weights[1] == (run / "sft" / "model" / "model.safetensors").read_bytes()
    card = (tmp_path / "left" / "README.md").read_text()
    assert "Not measured: the run's bench is not finished." in card and "GRPO" not in card


def test_a_base_from_the_hub_is_named_on_the_card(run: Path, tmp_path: Path) -> None:
    part = tmp_path / "run"
    shutil.copytree(run, part)
    config = yaml.safe_load((part / "config.yaml").read_text())
    config["student"]["model"] = "Qwen/Qwen2.5-VL-3B-Instruct"
    (part / "config.yaml").write_text(yaml.safe_dump(config))
    assert export(part, "--model", tmp_path / "out")[0] == 0
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert (front["base_model"], front["base_model_relation"]) == ("Qwen/Qwen2.5-VL-3B-Instruct", "finetune")


def untrained(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    for stage in ("sft", "rl", "bench"):
        del manifest["stages"][stage]
    (run / "manifest.json").write_text(json.dumps(manifest))


def spoilt(run: Path) -> None:
    path = run / "rl" / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "more", "said"),
    [
        (lambda run: (run / "config.yaml").unlink(), [], "no config.yaml in it"),
        (untrained, [], "no trained model in it, `rl` or `sft` is not finished"),
        (untrained, ["--which", "sft"], "no trained model in it, `sft` is not finished"),
        (spoilt, [], "model.safetensors: changed since `rl` finished"),
        (lambda run: (run.parent / "out").write_text("mine"), [], "exists and is not an empty folder"),
        (lambda run: (run.parent / "out" / "mine").mkdir(parents=True), [], "exists and is not an empty"),
        (lambda run: (run.parent / "out.part" / "mine").mkdir(parents=True), [], "has other files (mine)"),
        (lambda run: None, ["--to", "data"], "--to is for the data and --model for the model"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(run, tmp_path, spoil, more, said) -> None:
    part = tmp_path / "run"
    shutil.copytree(run, part)
    spoil(part)
    before = sorted(tmp_path.iterdir())
    code, output = export(part, "--model", tmp_path / "out", *more)
    assert code == 2 and len(output.splitlines()) == 1
    assert said in output
    assert sorted(tmp_path.iterdir()) == before


def test_which_needs_model(run: Path) -> None:
    code, output = export(run, "--which", "sft")
    assert code == 2 and "--which needs --model DIR" in output


def test_what_a_killed_export_left_is_replaced(run: Path, model: Path, tmp_path: Path) -> None:
    left = tmp_path / "out.part"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert export(run, "--model", tmp_path / "out")[0] == 0
    assert not left.exists() and verify(tmp_path / "out") == []
