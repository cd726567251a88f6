"""The columns that verl's `RLHFDataset` and the agent loop read, and verl's settings (verl 0.9;
`training/verl_loop.py`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from safer_steer.config import Config
from safer_steer.dialogue import Seed
from safer_steer.export.columns import PICTURE, PLACEHOLDER, TEXT, embedded, plain, prompt, schema
from safer_steer.files.images import Picture

AGENT = "safer_steer"
"""The name under which the agent loop is registered."""


def schema_of() -> pa.Schema:
    """Names and types of the columns."""
    about = dict.fromkeys(("split", "id", "kind", "source", "intent", "seed"), TEXT)
    pictures = pa.list_(pa.struct({"name": TEXT, "bytes": pa.binary()}))
    return schema(
        {
            **{"data_source": TEXT, "agent_name": TEXT, "ability": TEXT},
            "prompt": pa.list_(pa.struct({"role": TEXT, "content": TEXT})),
            "images": pa.list_(PICTURE),
            "reward_model": pa.struct({"style": TEXT, "ground_truth": TEXT}),
            "extra_info": pa.struct(
                {**about, "index": pa.int64(), "script": pa.list_(TEXT), "pictures": pictures}
            ),
        }
    )


def row(seed: Seed, pictures: Sequence[Picture], system: str, index: int, name: str) -> dict[str, Any]:
    """A script for RL as a row. `ground_truth` is the intent; the agent loop computes the reward itself.

    `RLHFDataset` turns `images` into the pictures of the prompt, which is the first turn, and drops the
    column. The agent loop therefore gets the script as `extra_info.seed`, a JSON object, with the picture
    files of all turns in `extra_info.pictures`, each under its path in the seed.
    """
    about = {
        "split": "train",
        "id": seed.id,
        "kind": seed.kind.value,
        "source": seed.source,
        "intent": seed.intent,
        "index": index,
        "script": [plain(turn.user) for turn in seed.turns],
        "seed": seed.model_dump_json(),
        "pictures": [{"name": picture.name, "bytes": picture.data} for picture in pictures],
    }
    return {
        "data_source": name,
        "agent_name": AGENT,
        "ability": "multimodal_safety",
        "prompt": prompt(seed, system, PLACEHOLDER),
        "images": [embedded(picture) for picture in pictures[: len(seed.images_by_turn()[0])]],
        "reward_model": {"style": "model", "ground_truth": seed.intent},
        "extra_info": about,
    }


LOSSES = {"dr_grpo": "seq-mean-token-sum-norm", "grpo": "seq-mean-token-mean", "dapo": "token-mean"}
"""verl's name of each `rl.loss`."""
ESTIMATORS = {"trajectory": "steer_tcsr", "turn": "steer_turns"}
"""The advantage estimator of each `rl.credit` (`training/verl_loop.py`)."""
NOT_LANGUAGE = r".*(visual|vision|multi_modal|projector|connector).*"
"""Modules that get no adapter. verl chooses them by name."""


def overrides(config: Config) -> dict[str, Any]:
    """What `rl` and `student` set, as overrides of verl's Hydra config. How to spread it over GPUs is not
    among them (configs/verl/)."""
    rl, student = config.rl, config.student
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    keys: dict[str, Any] = {
        "algorithm.adv_estimator": ESTIMATORS[rl.credit],
        "algorithm.use_kl_in_reward": False,
        "data.train_batch_size": rl.prompts_per_step,
        "data.max_response_length": rl.max_completion_tokens,
        "data.return_raw_chat": True,
        "data.filter_overlong_prompts": True,
        "data.seed": config.seed,
        f"{actor}.ppo_mini_batch_size": rl.prompts_per_step,
        f"{actor}.optim.lr": rl.learning_rate,
        f"{actor}.optim.lr_scheduler_type": rl.schedule,
        f"{actor}.optim.weight_decay": rl.weight_decay,
        f"{actor}.use_kl_loss": rl.beta > 0,
        f"{actor}.kl_loss_coef": rl.beta,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.loss_agg_mode": LOSSES[rl.loss],
        f"{rollout}.n": rl.group_size,
        f"{rollout}.temperature": rl.temperature,
        f"{rollout}.top_p": 1.0,
        f"{rollout}.calculate_log_probs": True,
        f"{rollout}.seed": config.seed,
        "trainer.total_epochs": max(1, rl.steps),  # a pass has a step or more, and the steps end it
        "trainer.save_freq": rl.save_steps,
        "trainer.project_name": config.name,
        "trainer.experiment_name": "rl",
    }
    if rl.loss == "dr_grpo":
        keys[f"{actor}.loss_scale_factor"] = rl.max_completion_tokens
    if rl.steps > 0:
        keys["trainer.total_training_steps"] = rl.steps
    if student.lora_rank:
        keys |= {
            "actor_rollout_ref.model.lora_rank": student.lora_rank,
            "actor_rollout_ref.model.lora_alpha": 2 * student.lora_rank,
            "actor_rollout_ref.model.exclude_modules": NOT_LANGUAGE,
            f"{rollout}.load_format": "safetensors",
        }
    return keys


def as_lines(overrides: dict[str, Any]) -> str:
    """One override a line, in Hydra's grammar: texts are quoted, so nothing in them is read as syntax."""
    return "".join(f"{key}={json.dumps(value, ensure_ascii=False)}\n" for key, value in overrides.items())
