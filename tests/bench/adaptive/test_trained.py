"""A trained attacker in the user's seat of the adaptive bench, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from safer_steer.bench.adaptive.attacker import attackers_of
from safer_steer.bench.adaptive.intents import Intent, tries_of
from safer_steer.bench.adaptive.trained import base_of, folder_of
from safer_steer.bench.adaptive.user import AdaptiveUser
from safer_steer.config import Config
from safer_steer.config.bench import name_of
from safer_steer.config.rl import SHIPPED_ATTACKER
from safer_steer.dialogue import Dialogue, Format
from safer_steer.endpoints.chat import ChatAssistant
from safer_steer.episode import play
from safer_steer.errors import UserError
from safer_steer.files.images import pictures_in
from safer_steer.files.store import write_atomic
from safer_steer.sandbox.language import understand
from safer_steer.sandbox.world import devices, draw_png
from student_parts import ask, tiny_config


def config_of(folder: Path) -> Config:
    return tiny_config(bench={"adaptive": {"trained": [str(folder)], "turns": 3, "take_backs": 1}})


async def played(folder: Path, config: Config) -> list[Dialogue]:
    """Two tries of the attacker against the sandbox's target."""
    write_atomic(folder / "p.png", draw_png(devices()[0], True, 1))
    ((name, (attacker, model)),) = attackers_of(config, ask).items()
    assert name == name_of(config.bench.adaptive.trained[0])
    pictures_of = pictures_in(folder, 10**6)
    seeds = tries_of([Intent(id="i", intent="operate it", images=["p.png"])], name, 3, 2)
    user = AdaptiveUser(attacker, model, config.bench.adaptive, Format.THINKING_ANSWER, pictures_of)
    target = ChatAssistant(ask("target"), pictures_of)
    return [await play(seed, user, target, None) for seed in seeds]


@pytest.mark.slow
async def test_it_asks_in_the_language_otherwise_in_each_try_and_the_same_in_each_bench(tmp_path) -> None:
    config = config_of(SHIPPED_ATTACKER)
    first, second = await played(tmp_path, config)
    asked = [turn.user for dialogue in (first, second) for turn in dialogue.turns]
    assert any(understand(text) is not None for text in asked)
    assert [turn.user for turn in first.turns] != [turn.user for turn in second.turns]
    again, _ = await played(tmp_path, config)
    assert [turn.user for turn in again.turns] == [turn.user for turn in first.turns]


def test_a_run_s_attacker_is_called_after_the_run_and_one_that_is_none_costs_a_line(tmp_path) -> None:
    assert name_of("/x/runs/3b/rl/attacker") == "trained-runs-3b"
    assert name_of("runs/3b/rl/pool/attacker/00010") == "trained-3b-00010"
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=r"trained: \S+ has no LoRA adapter; give RUN/rl/attacker"):
        folder_of(str(tmp_path))
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    assert folder_of(str(tmp_path)) == tmp_path / "model"
    (tmp_path / "model" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "model" / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match="does not say base_model_name_or_path"):
        base_of(tmp_path / "model")
