"""A trained model as it is handed over: it loads, says how it was made, and is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from display import Quiet, safer_steer
from places import ROOT
from safer_steer import pipeline
from safer_steer.bench.results import Summary
from safer_steer.config import SHIPPED, Config
from safer_steer.config.file import load_config
from safer_steer.dialogue import read_dialogues
from safer_steer.export.model_card import model_card
from safer_steer.files.manifest import Manifest, verify
from safer_steer.files.store import write_atomic
from safer_steer.report.main_table import headline
from safer_steer.student.load import load_student
from safer_steer.training.sft import Collator

pytestmark = pytest.mark.slow

TEMPLATE = "{# a template of one's own #}" + (SHIPPED / "chat_template.jinja").read_text()
NOISE = 0.03
"""A bound of what bfloat16 arithmetic alone makes of log-probabilities, on average."""
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
            **{"batch_size": 4, "micro_batch_size": 4, "max_steps": 1, "learning_rate": 5e-3},
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
    done = safer_steer("export", *arguments)
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    """The export of the last model."""
    code, said = export(run, "--model", run.parent / "steered")
    assert code == 0 and "safer_steer: 0.01 GB of weights" in said, said
    assert "safer_steer: its adapter is merged into the base; 1.000 of the update is left, with" in said
    return run.parent / "steered"


def test_it_loads_without_adapters(run: Path, model: Path) -> None:
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype="auto")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    assert loaded.config.get_text_config().dtype == loaded.config.dtype == torch.bfloat16
    assert loaded.config.get_text_config().use_cache
    base, written = (load_file(folder / "model.safetensors") for folder in (SHIPPED, model))
    assert written.keys() == base.keys(), "adapters are merged"
    assert any(not torch.equal(written[name], base[name].to(torch.bfloat16)) for name in base)
    assert not (model / "adapter_config.json").exists()
    assert (model / "chat_template.jinja").read_text() == TEMPLATE
    talk = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}]}]
    inputs = AutoProcessor.from_pretrained(model).apply_chat_template(
        talk, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert loaded.generate(**inputs, max_new_tokens=4).shape[1] > inputs["input_ids"].shape[1]


def distance(run: Path, stage: str, folder: Path) -> float:
    """Mean absolute difference between the log-probabilities of a run's policy, as bench and RL load it, and
    of the weights in `folder`: of every token after each one that the run's dialogues trained."""
    config = load_config(run / "config.yaml")
    policy = load_student(config.student, run / stage / "model")
    dialogues = read_dialogues(run / "bootstrap" / "kept.jsonl")
    batch = Collator(dialogues, policy.renderer, run, config)([{"row": row} for row in range(len(dialogues))])
    targets = batch.pop("labels")[:, 1:] >= 0
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        one, other = (
            model(**batch).logits[:, :-1][targets].float().log_softmax(-1) for model in (policy.model, plain)
        )
    return float((one - other).abs().mean())


def test_it_is_the_policy_that_was_trained_and_says_what_rounding_has_left(run: Path, model: Path) -> None:
    assert distance(run, "rl", model) < NOISE < distance(run, "rl", SHIPPED) / 2
    config = load_config(run / "config.yaml")
    written = load_file(model / "model.safetensors")
    base = {
        name: weight.to(torch.bfloat16) for name, weight in load_file(SHIPPED / "model.safetensors").items()
    }
    adapter = load_file(run / "rl" / "model" / "adapter_model.safetensors")
    wanted, found = [], []
    for name, down in adapter.items():
        if "lora_A" in name:
            update = adapter[name.replace("lora_A", "lora_B")] @ down * 2  # lora_alpha is twice the rank
            layer = name.removeprefix("base_model.model.").replace("lora_A.", "")
            layer = next(known for known in base if tail(known) == tail(layer))
            wanted.append(update.double().flatten())
            found.append((written[layer].double() - base[layer].double()).flatten())
    update, new = torch.cat(wanted), torch.cat(found)
    assert config.student.lora_rank and len(wanted) == 42
    share, noise = float(update @ new / (update @ update)), float((new - update).norm() / update.norm())
    assert share == pytest.approx(1, abs=0.01) and 0.01 < noise < 1
    facts = json.loads((model / "manifest.json").read_text())["stages"]["export"]
    assert (facts["update_kept"], facts["rounding_noise"]) == pytest.approx((share, noise), abs=1e-3)
    share, noise = (f"{facts[key]:.3f}" for key in ("update_kept", "rounding_noise"))
    stated = f"rounded to bfloat16 once: {share} of the update is left, with rounding noise of {noise} of its"
    assert stated in (model / "README.md").read_text("utf-8")


def tail(name: str) -> str:
    """A weight's name without the wrappers that differ between memory and file."""
    return name.replace("model.", "").replace("language_", "")


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
    summary = Summary.read(run / "summary.json")
    rows = headline(summary)
    assert len(rows) > 10 and any("[" in cell for row in rows for cell in row.cells)
    for row in rows:
        assert f"| {row.label} | {' | '.join(row.cells)} |" in text
    kept = len((run / "bootstrap" / "kept.jsonl").read_text().splitlines())
    for needed in (
        "| SFT | SaFeR-Steer |",
        "LoRA adapters of rank 4 on the language model, merged. Weights in bfloat16. Seed 0.",
        f"SFT: 1 steps over {kept} dialogues, batch 4, learning rate 0.005.",
        "steps 1, each of 1 scripts x 2 trajectories",
        "return min_mean with alpha 0.3, credit by trajectory, from the SFT model",
        "Tutor: the sandbox's tutor",
        "Judge: the sandbox's judge. Temperature 0.7.",
        "| blue | the sandbox's agent | 0.7 |",
        "stay under its licence",
        "## Limits",
        "--set roles.target.max_tokens=40 \\\n        --set roles.target.temperature=0.7",
        "--set 'student.system=You are a helpful assistant.' ",
    ):
        assert needed in text, needed
    assert str(run.parent) not in text and verify(model) == []
    (model / "modeling_more.py").touch()
    assert verify(model) == ["modeling_more.py: added since `export` finished"]
    (model / "modeling_more.py").unlink()


def test_sft_alone_by_choice_or_because_rl_is_not_done(run: Path, tmp_path: Path) -> None:
    assert export(run, "--model", tmp_path / "chosen", "--which", "sft")[0] == 0
    part = tmp_path / "run"
    shutil.copytree(run, part)
    manifest = json.loads((part / "manifest.json").read_text())
    del manifest["stages"]["rl"], manifest["stages"]["bench"]
    (part / "manifest.json").write_text(json.dumps(manifest))
    code, said = export(part, "--model", tmp_path / "left")
    assert code == 0 and "sft: 0.01 GB of weights" in said
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (tmp_path / "chosen", tmp_path / "left")
    ]
    assert weights[0] == weights[1]
    assert distance(run, "sft", tmp_path / "chosen") < NOISE < distance(run, "sft", SHIPPED) / 2
    card = (tmp_path / "left" / "README.md").read_text()
    assert "Not measured: the run's bench is not finished." in card and "GRPO" not in card


def test_a_base_from_the_hub_is_named_on_the_card(run: Path) -> None:
    config = load_config(run / "config.yaml")
    config.student.model = "Qwen/Qwen2.5-VL-3B-Instruct"
    card = model_card("steered", run, config, Manifest(run).stages, "safer_steer")
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["base_model"], front["base_model_relation"]) == ("Qwen/Qwen2.5-VL-3B-Instruct", "finetune")


def untrained(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    for stage in ("sft", "rl", "bench"):
        del manifest["stages"][stage]
    (run / "manifest.json").write_text(json.dumps(manifest))


def spoilt(run: Path) -> None:
    path = run / "rl" / "model" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "more", "said"),
    [
        (lambda run: (run / "config.yaml").unlink(), [], "no run in it"),
        (untrained, [], "no trained model in it, `rl` or `sft` is not finished"),
        (untrained, ["--which", "sft"], "no trained model in it, `sft` is not finished"),
        (spoilt, [], "adapter_model.safetensors: changed since `rl` finished"),
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


def test_verl_is_not_started_from_an_adapter(run: Path, model: Path, tmp_path: Path) -> None:
    part = tmp_path / "run"
    shutil.copytree(run, part)
    assert export(part)[0] == 0
    environment = os.environ | {"PYTHON": "echo"}
    command = ["bash", str(ROOT / "configs" / "verl" / "launch.sh"), str(part)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().endswith("--model DIR --which sft`, and set MODEL=DIR")
    done = subprocess.run(command, env=environment | {"MODEL": str(model)}, capture_output=True, text=True)
    assert done.returncode == 0 and f"actor_rollout_ref.model.path='{model}'" in done.stdout


def test_what_a_killed_export_left_is_replaced(run: Path, model: Path, tmp_path: Path) -> None:
    left = tmp_path / "out.part"
    write_atomic(left / ".safer-steer" / "model.safetensors", b"half")
    assert export(run, "--model", tmp_path / "out")[0] == 0
    assert not left.exists() and verify(tmp_path / "out") == []
