"""Stage I and Stage II with real endpoints alone: vLLM's student is target and blue expert, the sandbox's
agents behind HTTP are the rest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from safer_steer.dialogue import Kind, read_dialogues, read_seeds
from safer_steer.rewards import has_thinking_answer
from servers import MODEL, VLLM, Server, safer_steer

pytestmark = pytest.mark.timeout(900)

PAIRS = 24
TAU_SAFE = TAU_HELP = 8
"""The default filter, nothing made easier for a small expert."""


@pytest.fixture(scope="module")
def run(vllm: VLLM, world: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A run after both stages, and vLLM's counts of requests and pictures in them."""
    home = tmp_path_factory.mktemp("stages")
    student = {
        "model": MODEL,
        "base_url": vllm.url,
        "temperature": 0.7,
        "max_tokens": 48,
        "concurrency": 16,
        "ask_layout": False,
    }
    agents = {"model": "sandbox", "base_url": world.url}
    config = {
        "student": {"max_turn_tokens": 48, "max_length": 768, "dtype": "float32", "device": "cpu"},
        "roles": {"target": student, "blue": student}
        | dict.fromkeys(("generator", "attack_judge", "red", "evaluator"), agents),
        "seeds": {"sources": [{"name": "sandbox", "limit": PAIRS}], "min_turns": 2, "max_turns": 4},
        "bootstrap": {"blue": "chat", "tau_safe": TAU_SAFE, "tau_help": TAU_HELP},
    }
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    answered, pictures = vllm.answered, vllm.pictures
    safer_steer("seeds", home / "config.yaml", "--out", home / "run", "--no-check")
    safer_steer("bootstrap", home / "config.yaml", "--out", home / "run", "--no-check")
    return home / "run", {"answered": vllm.answered - answered, "pictures": vllm.pictures - pictures}


def test_seeds_of_every_kind_survive_and_red_team_scripts_have_broken_the_served_target(
    run: tuple[Path, dict[str, int]],
) -> None:
    folder, _ = run
    pools = {kind: read_seeds(folder / "seeds" / f"{kind.value}.jsonl") for kind in Kind}
    print({kind.value: len(pool) for kind, pool in pools.items()})
    assert all(pools.values())
    for seed in pools[Kind.RED_TEAM]:
        assert seed.meta["attack_scores"][-1] >= 4
        assert (folder / seed.images[0]).is_file()


def test_dialogues_of_the_served_blue_expert_pass_the_filter(run: tuple[Path, dict[str, int]]) -> None:
    folder, _ = run
    kept, rejected = (read_dialogues(folder / "bootstrap" / f"{name}.jsonl") for name in ("kept", "rejected"))
    seeds = sum(len(read_seeds(folder / "seeds" / f"{kind.value}.jsonl")) for kind in Kind)
    print(
        {
            "kept": Counter(d.kind.value for d in kept),
            "rejected": Counter((d.kind.value, *d.meta["reasons"]) for d in rejected),
        }
    )
    assert len(kept) + len(rejected) == seeds
    assert kept
    assert all(has_thinking_answer(turn.assistant or "") for dialogue in kept for turn in dialogue.turns)
    assert all(
        turn.scores and turn.scores["safety"] >= TAU_SAFE for dialogue in kept for turn in dialogue.turns
    )


def test_every_call_went_to_a_real_endpoint_with_its_picture(run: tuple[Path, dict[str, int]]) -> None:
    folder, counted = run
    stages: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["stages"]
    calls = {role: account for stage in stages.values() for role, account in stage["calls"].items()}
    assert calls.keys() == {"generator", "target", "attack_judge", "red", "blue", "evaluator"}
    assert not any(
        account["failed"] or account["unparsable"] or account["refused"] for account in calls.values()
    )
    assert counted["answered"] == counted["pictures"] == calls["target"]["calls"] + calls["blue"]["calls"]
