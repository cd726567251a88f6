"""SFT and RL in two processes under torchrun, over gloo on the CPU: they train what one does, and end
together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from display import Quiet
from launch import done, failed, forked, start, workers
from safer_steer.config import SHIPPED, Config
from safer_steer.config.file import dump_config
from safer_steer.endpoints.cache import Cache
from safer_steer.files.manifest import Manifest, verify
from safer_steer.pipeline import run_stage
from safer_steer.stages import STAGES
from safer_steer.student.training import WHOLE
from safer_steer.training.rollouts import DRIFT
from student_parts import TINY, drawn_for_rl, write_seeds

FULL, LORA = 5e-6, 1e-6
"""Largest difference of a weight between one process and two, with a learning rate of 3e-4 in SFT. Measured:
2.7e-6 and 3.3e-7. Few weights differ by more than 1e-7 (21 of 82,944 with LoRA): Adam steps as far where a
gradient is mostly rounding."""

CLI = {"none": "safer_steer", "full": "fsdp_on_cpu"}
"""The command line by `student.sharding`."""
MEASURED = {"checks", "loss", "kl", "grad_norm", "entropy", "step_time", *DRIFT}
"""What the trainer adds to the metrics of the rollouts."""


PRICE = 1e4
"""Of a million tokens of the tutor."""


def config_of(processes: int, lora_rank: int, url: str, sharding: str = "none", **rl: Any) -> dict[str, Any]:
    """A step is one micro-batch in each process, and the tutor is paid and has a memory; `rl` replaces keys
    of the section."""
    tutor = {"model": "sandbox", "base_url": url, "price_in": PRICE, "price_out": PRICE}
    sft = TINY["bootstrap"]["sft"]
    return {
        **TINY,
        "roles": {"tutor": tutor},
        "student": TINY["student"] | {"lora_rank": lora_rank, "sharding": sharding},
        "seeds": {"sources": [{"name": "sandbox", "limit": 12}], "min_turns": 2, "max_turns": 3},
        "bootstrap": {"sft": sft | {"micro_batch_size": sft["batch_size"] // processes}},
        "rl": TINY["rl"] | {"micro_batch_size": 6 // processes, "tutor_memory": True} | rl,
    }


def write(config: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def alone(config: dict[str, Any], folder: Path, *stages: str) -> Path:
    """The stages in this process."""
    for stage in stages:
        run_stage(stage, Config.model_validate(config), folder, Quiet())
    return folder


def largest_difference(one: Path, other: Path, stage: str) -> float:
    ours, theirs = (load_file(weights_in(folder / stage / "model")) for folder in (one, other))
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def weights_in(model: Path) -> Path:
    """All weights, or the adapter alone."""
    [file] = model.glob("*.safetensors")
    return file


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def calls(run: Path) -> dict[str, Any]:
    """What the tutor was asked in RL, as the manifest has it."""
    manifest = json.loads((run / "manifest.json").read_text())
    found: dict[str, dict[str, float]] = manifest["stages"]["rl"]["calls"]
    return {role: {key: round(value, 6) for key, value in used.items()} for role, used in found.items()}


def spent(run: Path) -> list[Any]:
    """What the run's folder says was paid, role by role."""
    cache = Cache(run / "cache.sqlite")
    try:
        return [(role, *counts, round(money, 6)) for role, *counts, money in cache.spent()]
    finally:
        cache.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module", params=[0, 4], ids=["full", "lora"])
def rank(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def one(home: Path, rank: int, served_by_core: str) -> Path:
    """A run of one process up to RL."""
    stages = ("seeds", "assemble", "bootstrap", "sft", "rl")
    return alone(config_of(1, rank, served_by_core), home / f"one{rank}", *stages)


def before(stage: str, run: Path, folder: Path) -> Path:
    """A copy of a run without what this training stage made, and the later ones."""
    shutil.copytree(run, folder)
    for path in folder.glob("cache.sqlite*"):
        path.unlink()
    for name in ("sft", "rl") if stage == "sft" else ("rl",):
        shutil.rmtree(folder / name)
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["stages"][name]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module", params=["none", "full"], ids=["ddp", "fsdp2"])
def sharding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def two(home: Path, one: Path, rank: int, sharding: str, served_by_core: str) -> tuple[Path, Path, str]:
    """The same run, trained in two processes; its config, and what they printed."""
    folder = before("sft", one, home / f"two{rank}{sharding}")
    config = write(config_of(2, rank, served_by_core, sharding), folder.with_suffix(".yaml"))
    printed = [done(2, folder, stage, config, *to(folder), module=CLI[sharding]) for stage in ("sft", "rl")]
    return folder, config, "".join(printed)


def to(folder: Path) -> tuple[str | Path, ...]:
    """The options of a command on this run."""
    return "--out", folder, "--no-check"


def test_two_processes_train_what_one_does(one, two, rank):
    folder, _, printed = two
    for stage in ("sft", "rl"):
        assert largest_difference(one, folder, stage) < (LORA if rank else FULL)
        assert printed.count(f"{stage}: begins\n") == printed.count(f"{stage}: done in") == 1
    assert (folder / "rl" / "trajectories.jsonl").read_bytes() == (
        one / "rl" / "trajectories.jsonl"
    ).read_bytes()
    ours, theirs = (lines(run / "rl" / "metrics.jsonl") for run in (folder, one))
    for row, wanted in zip(ours, theirs, strict=True):
        assert row.keys() == wanted.keys()
        checks, expected = row.pop("checks", {}), wanted.pop("checks", {})
        assert checks == pytest.approx(expected, rel=1e-3, abs=1e-5), "the guard's, of both processes"
        counted, expected = ({k: v for k, v in each.items() if k not in MEASURED} for each in (row, wanted))
        assert counted == expected
        assert row.keys() == wanted.keys()
        for key in MEASURED & wanted.keys() - {"step_time"}:
            noise = 1e-5 if key in ("checks", *DRIFT) else 1e-6
            assert row[key] == pytest.approx(wanted[key], rel=1e-3, abs=noise), key
    assert calls(folder) == calls(one)
    assert spent(folder) == spent(one)
    assert spent(folder)[0][1] == calls(folder)["tutor"]["calls"] > 0
    assert verify(folder) == []
    assert not (folder / "rl" / "rollouts").exists()


@pytest.mark.parametrize("sharding", ["none"], indirect=True, ids=["ddp"])
@pytest.mark.parametrize("rank", [0], indirect=True, ids=["full"])
def test_a_stage_that_is_done_is_not_done_again(two):
    folder, config, _ = two
    model = folder / "rl" / "model" / "model.safetensors"
    written = model.stat().st_mtime_ns
    printed = done(2, folder, "rl", config, *to(folder))
    assert printed.count("rl: done already\n") == 1
    assert model.stat().st_mtime_ns == written


@pytest.mark.parametrize("rank", [0], indirect=True, ids=["full"])
def test_credit_by_turn_compares_the_trajectories_of_both_processes(one, tmp_path, rank, served_by_core):
    models = []
    for processes in (1, 2):  # of the seed's four trajectories, each process has 4 / processes
        folder = before("rl", one, tmp_path / f"run{processes}")
        split = {"credit": "turn", "group_size": 4, "prompts_per_step": 1, "steps": 2}
        config = config_of(processes, rank, served_by_core, **split, micro_batch_size=4 // processes)
        settings = Config.model_validate(config).model_dump(mode="json")
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        if processes == 1:
            alone(config, folder, "rl")
        else:
            done(2, folder, "rl", write(config, tmp_path / "config.yaml"), *to(folder))
        models.append(folder)
    assert largest_difference(*models, "rl") < FULL
    assert largest_difference(one, models[0], "rl") > FULL


@pytest.fixture(scope="module")
def untied(home: Path) -> str:
    """The shipped student with a head of its own, as models of 7B and more have."""
    config = AutoConfig.from_pretrained(SHIPPED)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    tied = AutoModelForImageTextToText.from_pretrained(SHIPPED, dtype=torch.float32)
    model = AutoModelForImageTextToText.from_config(config)
    head = {"lm_head.weight": tied.get_input_embeddings().weight}
    model.load_state_dict(tied.state_dict() | head)
    model.save_pretrained(home / "untied")
    AutoProcessor.from_pretrained(SHIPPED).save_pretrained(home / "untied")
    assert any("lm_head" in name for name in load_file(home / "untied/model.safetensors"))
    return str(home / "untied")


def test_a_head_of_its_own_learns_from_both_processes(home, untied, served_by_core):
    """Its weight is read by TRL's loss, which does not call it; two micro-batches in each process."""
    configs = {n: config_of(n, 0, served_by_core, "full", beta=0.04) for n in (1, 2)}
    for config in configs.values():
        config["student"]["model"] = untied
    configs[2]["bootstrap"]["sft"]["micro_batch_size"] = configs[2]["rl"]["micro_batch_size"] = 1
    whole = alone(configs[1], home / "untied1", "seeds", "assemble", "bootstrap", "sft", "rl")
    folder = before("sft", whole, home / "untied2")
    config = write(configs[2], home / "untied2.yaml")
    for stage in ("sft", "rl"):
        done(2, folder, stage, config, *to(folder), module=CLI["full"])
        assert largest_difference(whole, folder, stage) < FULL, stage


def test_log_probabilities_of_split_weights_are_not_rounded(tmp_path, served_by_core):
    config = config_of(2, 0, served_by_core, "full", start_from="base")
    config["student"]["dtype"] = "bfloat16"
    folder = ready_for_rl(tmp_path / "run", config)
    printed = done(2, folder, "rl", write(config, tmp_path / "c.yaml"), *to(folder), module="fsdp_log_probs")
    said = {line for line in printed.splitlines() if line.startswith("log-probabilities: ")}
    assert said == {"log-probabilities: torch.float32"}


def in_rollout(run: Path) -> bool:
    return sum(path.read_bytes().count(b"\n") for path in (run / "rl/rollouts").glob("*.jsonl")) >= 3


def in_checkpoint(run: Path) -> bool:
    checkpoints = (run / "rl").glob("checkpoint-*")
    return any(path.is_dir() and not (path / WHOLE).exists() for path in checkpoints)


def ends_as(one: Path, run: Path, most: float) -> None:
    assert largest_difference(one, run, "rl") < most
    assert spent(run) == spent(one), "a reply was paid twice"
    wanted = (one / "rl" / "trajectories.jsonl").read_bytes()
    assert (run / "rl" / "trajectories.jsonl").read_bytes() == wanted
    assert verify(run) == []


@pytest.mark.parametrize("rank", [0], indirect=True, ids=["full"])
def test_killed_in_rollout_and_checkpoint_two_processes_go_on(one, tmp_path, rank, served_by_core):
    folder = before("rl", one, tmp_path / "run")
    config = write(config_of(2, rank, served_by_core), tmp_path / "config.yaml")
    for due, whom in ((in_rollout, slice(1, 2)), (in_checkpoint, slice(None))):
        process = start(2, "rl", config, *to(folder))
        while process.poll() is None and not due(folder):
            time.sleep(0.002)
        assert process.poll() is None, process.communicate()[0]
        for worker in workers(process)[whom]:
            os.kill(worker, signal.SIGKILL)
        printed = process.communicate()[0]
        assert process.returncode == 1
        assert "safer_steer/" not in printed, "a traceback"
    done(2, folder, "rl", config, *to(folder))
    ends_as(one, folder, FULL)


@pytest.mark.parametrize("rank", [4], indirect=True, ids=["lora"])
def test_killed_in_a_checkpoint_two_that_share_the_weights_go_on(one, tmp_path, rank, served_by_core):
    folder = before("rl", one, tmp_path / "run")
    config = write(config_of(2, rank, served_by_core, "full"), tmp_path / "config.yaml")
    first, second = forked(2, folder, "rl", config, *to(folder), module=CLI["full"])
    assert first.kill_when(lambda: in_checkpoint(folder)) and second.kill_when(lambda: True)
    done(2, folder, "rl", config, *to(folder), module=CLI["full"])
    ends_as(one, folder, LORA)


def ready_for_rl(folder: Path, config: dict[str, Any]) -> Path:
    """A run folder with seeds, and the shipped student for the one of SFT."""
    settings = Config.model_validate(config)
    write_seeds(folder, 6)
    drawn_for_rl(settings, folder)
    shutil.copytree(SHIPPED, folder / "sft" / "model")
    (folder / "config.yaml").write_text(dump_config(settings))
    for stage in ("seeds", "assemble", "bootstrap", "sft"):
        Manifest(folder).record(stage, STAGES[stage].writes, (), {})
    return folder


def test_killed_in_its_second_pass_over_the_seeds_a_run_goes_on_in_another_number_of_processes(
    tmp_path, served_by_core
):
    """Two steps of two seeds are a pass over five."""
    config = config_of(2, 0, served_by_core, seeds=5, steps=4)
    wanted = alone(config, ready_for_rl(tmp_path / "straight", config), "rl")
    folder = ready_for_rl(tmp_path / "run", config)
    process = start(2, "rl", write(config, tmp_path / "config.yaml"), *to(folder))
    third = folder / "rl" / "rollouts"

    def played() -> int:
        return sum(path.read_bytes().count(b"\n") for path in third.glob("00002-*.jsonl"))

    while process.poll() is None and played() < 3:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()[0]
    for worker in workers(process):
        os.kill(worker, signal.SIGKILL)
    process.communicate()
    alone(config, folder, "rl")
    assert largest_difference(wanted, folder, "rl") < FULL
    assert spent(folder) == spent(wanted), "a reply was paid twice"
    trajectories = [(run / "rl" / "trajectories.jsonl").read_bytes() for run in (wanted, folder)]
    assert trajectories[0] == trajectories[1]


@pytest.mark.parametrize("rank", [0], indirect=True, ids=["full"])
@pytest.mark.parametrize(
    ("tutor", "line", "code"),
    [
        ("Mistaken", "error: the tutor of rank 1 has lost its key; set it again", 2),
        (
            "Silent",
            "error: rl: 25% of the trajectories of the last 2 step(s) could not be scored"
            " (model: no answer for rank 1), more than rl.max_unscored = 20%; fix the tutor, then run the"
            " same command to go on",
            2,
        ),
        ("Buggy", "ZeroDivisionError: a bug in the tutor of rank 1", 1),
    ],
)
def test_one_rank_that_fails_ends_all_with_one_line(one, tmp_path, served_by_core, tutor, line, code):
    folder = before("rl", one, tmp_path / "run")
    config = config_of(2, 0, served_by_core, tutor=f"rank_tutors:{tutor}", tutor_memory=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(Config.model_validate(config).model_dump(mode="json")))
    printed = failed(2, "rl", write(config, tmp_path / "config.yaml"), *to(folder))
    assert [found for found in printed if found.split(":")[0] in ("error", "ZeroDivisionError")] == [line]
    codes = [found.split()[2] for found in printed if found.strip().startswith("exitcode")]
    assert codes and set(codes) <= {str(code), "-15"}
    assert len(lines(folder / "rl" / "metrics.jsonl")) == 1


@pytest.mark.parametrize("rank", [0], indirect=True, ids=["full"])
def test_a_verdict_that_hangs_in_one_process_costs_its_trajectory(one, tmp_path, served_by_core):
    """One of six, by `rl.max_unscored`: of three no whole one may be lost."""
    folder = before("rl", one, tmp_path / "run")
    changes = {"tutor": "rank_tutors:Hanging", "tutor_memory": False, "patience_s": 2, "steps": 1}
    config = config_of(2, 0, served_by_core, **changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(Config.model_validate(config).model_dump(mode="json")))
    done(2, tmp_path / "log", "rl", write(config, tmp_path / "config.yaml"), *to(folder))
    [row] = lines(folder / "rl" / "metrics.jsonl")
    assert row["unscored"] == 1 and row["step_time"] < 100


@pytest.mark.parametrize("rank", [0], indirect=True, ids=["full"])
def test_a_gate_ends_all_processes_with_one_line_and_the_page(one, tmp_path, served_by_core):
    folder = before("rl", one, tmp_path / "run")
    config = config_of(2, 0, served_by_core) | {"gates": {"sft_loss": {"at_most": 0}}}
    printed = failed(2, "rl", write(config, tmp_path / "config.yaml"), *to(folder))
    said = [found for found in printed if found.split(":")[0] in ("gate", "error")]
    assert len(said) == 1 and said[0].startswith("gate: sft: sft_loss is "), printed
    codes = [found.split()[2] for found in printed if found.strip().startswith("exitcode")]
    assert codes and set(codes) <= {"4", "-15"}
    assert "sft_loss" in (folder / "report.html").read_text()


def test_only_training_runs_under_torchrun(tmp_path):
    config = write(TINY, tmp_path / "config.yaml")
    printed = failed(2, "run", config, "--out", tmp_path / "run")
    wanted = "error: `run` runs in one process; start it without torchrun, and only `sft` and `rl` with it"
    assert [line for line in printed if line.startswith("error")] == [wanted]
    assert not (tmp_path / "run").exists()
