"""verl's own config accepts what the export and the launch scripts set."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from places import ROOT
from safer_steer.config.file import load_config
from safer_steer.config.rl import LossType, Reinforce
from safer_steer.export.verl import AGENT, ESTIMATORS, LOSSES, as_lines, overrides
from safer_steer.training import verl_loop

SCRIPTS = sorted((ROOT / "configs" / "verl").glob("qwen*.sh"))
TELL = """#!/usr/bin/env bash
shift 2  # -m verl.trainer.main_ppo
for argument in "$@"; do printf '%s\\0' "$argument"; done
"""


def composed(arguments: list[str]) -> DictConfig:
    """As `verl.trainer.main_ppo` does it: an unknown key is an error."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=arguments)


def arguments_of(script: Path, run: Path, folder: Path, *more: str) -> list[str]:
    """What the script starts verl with."""
    (folder / "tell").write_text(TELL)
    (folder / "tell").chmod(0o755)
    environment = os.environ | {"PYTHON": str(folder / "tell")}
    command = ["bash", str(script), str(run), *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_launch_script_says_what_the_run_says(script: Path, run: Path, tmp_path: Path) -> None:
    verl = composed(arguments_of(script, run, tmp_path, "trainer.save_freq=3"))
    validate_config(verl, need_reference_policy(verl), need_critic(verl))
    ours = load_config(run / "config.yaml")
    rollout, actor = verl.actor_rollout_ref.rollout, verl.actor_rollout_ref.actor
    gpus = {"qwen2.5-vl-3b": (1, 8), "qwen2.5-vl-7b": (2, 8)}
    assert (verl.trainer.nnodes, verl.trainer.n_gpus_per_node) == gpus[script.stem]
    assert (rollout.n, verl.data.train_batch_size) == (ours.rl.group_size, ours.rl.prompts_per_step)
    assert rollout.response_length == actor.loss_scale_factor == ours.rl.max_completion_tokens
    assert (actor.optim.lr, actor.kl_loss_coef) == (ours.rl.learning_rate, ours.rl.beta)
    assert need_reference_policy(verl) and not need_critic(verl)
    assert verl.trainer.save_freq == 3, "the user's own overrides come last"
    assert load_config(Path(verl.algorithm.safer_steer.config)) == ours
    assert [Path(file).is_file() for file in verl.data.train_files] == [True]
    longest = rollout.prompt_length + rollout.response_length
    assert longest <= actor.ppo_max_token_len_per_gpu * actor.ulysses_sequence_parallel_size
    environment = verl.ray_kwargs.ray_init.runtime_env.env_vars
    assert verl_loop.__name__ == environment.VERL_USE_EXTERNAL_MODULES
    assert AGENT in _agent_loop_registry and get_adv_estimator_fn(verl.algorithm.adv_estimator)


@pytest.mark.parametrize("steps", [-1, 1, 700])
def test_verl_makes_as_many_passes_as_the_steps_need(steps: int) -> None:
    """It ends, and saves the last checkpoint, at the last of its steps alone; a pass has one or more."""
    config = load_config(ROOT / "configs" / "qwen2.5-vl-3b-full.yaml", keys={"rl.steps": steps})
    verl = composed([*as_lines(overrides(config)).splitlines(), "actor_rollout_ref.rollout.name=vllm"])
    assert verl.trainer.total_epochs >= (verl.trainer.total_training_steps or 1)


def test_an_override_that_verl_does_not_know_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigCompositionException, match="n_gpu_per_node"):
        composed(arguments_of(SCRIPTS[0], run, tmp_path, "trainer.n_gpu_per_node=8"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_repository_has_its_overrides(path: Path) -> None:
    config = load_config(path)
    lines = as_lines(overrides(config)).splitlines()
    verl = composed([*lines, "actor_rollout_ref.rollout.name=vllm"])
    assert verl.actor_rollout_ref.model.lora_rank == config.student.lora_rank
    assert verl.trainer.project_name == config.name


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("credit", ESTIMATORS)
def test_every_loss_and_credit_has_its_name(run: Path, loss: LossType, credit: str) -> None:
    config = load_config(run / "config.yaml")
    config.rl = Reinforce(loss=loss, credit=credit)  # type: ignore[arg-type]
    config.name = 'a "name", {with} =syntax\\'
    verl = composed([*as_lines(overrides(config)).splitlines(), "actor_rollout_ref.rollout.name=vllm"])
    assert get_adv_estimator_fn(verl.algorithm.adv_estimator)
    assert verl.trainer.project_name == config.name
    assert json.loads(as_lines({"x": config.name}).partition("=")[2]) == config.name


def test_two_steps_of_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/gpu.py starts verl with what its config accepts, and a tutor that its workers can load."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu_parts.bench import Bench
    from gpu_parts.step import verl_command, verl_run

    bench = Bench(tiny=True, work=tmp_path)
    run = verl_run(bench)
    monkeypatch.setenv("MODEL", str(bench.student()))
    script, *more = verl_command(run)[1:]
    verl = composed(arguments_of(Path(script), run, tmp_path, *more[1:]))
    assert (verl.trainer.total_training_steps, verl.trainer.n_gpus_per_node) == (2, 1)
    assert Path(verl.actor_rollout_ref.model.path) == bench.student()
    assert verl.actor_rollout_ref.model.lora_rank == bench.sizes.rank
    environment = verl.ray_kwargs.ray_init.runtime_env.env_vars
    assert Path(environment.VERL_FILE_LOGGER_PATH).parent == run
    parts = verl_loop.parts(verl.algorithm.safer_steer.config, verl.actor_rollout_ref.model.path, 1)
    assert parts.tutor(lambda images: [], None).immediate
