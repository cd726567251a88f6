"""Both sides learn in turns on one base: whom they meet, what they leave, and what stops them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cotrain_run import STEPS, config_of, counted, prepared
from forked import Forked
from rl_run import Counting
from safer_steer.config import Config
from safer_steer.config.rl import SHIPPED_ATTACKER
from safer_steer.data.assembly.splits import read_split
from safer_steer.dialogue import Dialogue, Kind, StopReason, Turn, read_dialogues, to_jsonl
from safer_steer.errors import UserError
from safer_steer.files.store import write_atomic
from safer_steer.student.adapters import WEIGHTS
from safer_steer.training.cotrain.loop import begins_with, cotrain
from safer_steer.training.cotrain.pool import RULES, SIDES, Block, Pool, blocks, opponent
from safer_steer.training.cotrain.rollouts import SideRollouts, side_metrics
from safer_steer.training.patience import LastVerdicts

pytestmark = pytest.mark.slow


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in lines(path)]


def adapters(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    folders = {"student": run / "rl" / "model", "attacker": run / "rl" / "attacker" / "model"}
    return {side: load_file(folder / "adapter_model.safetensors") for side, folder in folders.items()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, list[str]]:
    """The run nobody disturbed, and the calls of its judges."""
    home = tmp_path_factory.mktemp("straight")
    Forked(home / "log", "cotrain_run", home / "run", home / "calls").wait()
    return home / "run", lines(home / "calls")


def test_sides_take_turns_and_meet_the_other_as_it_was_or_the_rules() -> None:
    rl = config_of(every=2).rl
    assert [*blocks(rl, 5)] == [
        Block("attacker", 2, 0),
        Block("student", 2, 2),
        Block("attacker", 4, 2),
        Block("student", 4, 4),
        Block("attacker", 5, 4),
        Block("student", 5, 5),
    ]
    assert [*blocks(config_of(learns="student", every=2).rl, 3)] == [
        Block("student", 2, 0),
        Block("student", 3, 0),
    ]
    met = [opponent(rl, Block("student", 6, 4), step, 0) for step in range(200)]
    assert set(met) == {"0", "2", "4", RULES} and 80 < met.count("4") < 120
    assert {opponent(rl, Block("attacker", 6, 4), step, 0) for step in range(99)} == {"0", "2", "4"}
    assert {opponent(rl, Block("attacker", 2, 0), step, 0) for step in range(9)} == {"0"}


def test_both_adapters_learn_on_the_base_as_it_is_and_each_step_says_whose_it_was(straight) -> None:
    run, _ = straight
    student, attacker = rows(run / "rl" / "metrics.jsonl"), rows(run / "rl" / "attacker" / "metrics.jsonl")
    assert [(row["side"], row["step"]) for row in student] == [("student", 1), ("student", 2)]
    assert [(row["side"], row["step"]) for row in attacker] == [("attacker", 1), ("attacker", 2)]
    assert all({"opponent", "groups_equal", "twins_refused"} <= row.keys() for row in [*student, *attacker])
    assert all(0 <= row["attack_faithfulness"] <= 1 for row in attacker)
    played = read_dialogues(run / "rl" / "attacker" / "trajectories.jsonl")
    for row in attacker:
        hits = [
            dialogue.meta["attack"]["hit"]
            for dialogue in played
            if dialogue.id.startswith(f"{row['step'] - 1:05d}-") and dialogue.kind is not Kind.BENIGN
        ]
        assert row["attack_breach"] == pytest.approx(sum(hits) / len(hits)), "safe twins are not in it"
    assert all("checks" in row for row in attacker), "the guard saw pictures and masks of the attacker's seat"
    for weights in adapters(run).values():
        assert all(".lora_" in name for name in weights), "nothing of the base is in it"
        assert any(bool(tensor.any()) for name, tensor in weights.items() if "lora_B" in name)
    assert all(dialogue.meta["attack"]["similarity"] == 0 for dialogue in played if dialogue.id < "00001")
    said = {turn.user for dialogue in played for turn in dialogue.turns}
    scripted = {turn.user for seed in read_split(run, "rl") for turn in seed.turns}
    assert len(said - scripted) > 0.7 * len(said), "the attacker speaks, and not the script"


@pytest.mark.parametrize(("side", "step"), [("attacker", 0), ("", STEPS - 1)])
def test_killed_in_a_step_of_either_side_it_ends_the_same_and_pays_for_nothing_twice(
    straight, tmp_path, side: str, step: int
) -> None:
    wanted, all_calls = straight
    run, calls = tmp_path / "run", tmp_path / "calls"
    journal = run / "rl" / side / "rollouts" / f"{step:05d}-000.jsonl"
    killed = Forked(tmp_path / "log", "cotrain_run", run, calls)
    assert killed.kill_when(lambda: len(lines(journal)) >= 6)
    Forked(tmp_path / "log", "cotrain_run", run, calls).wait()
    assert sorted(lines(calls)) == sorted(all_calls)
    for name in ("trajectories.jsonl", "attacker/trajectories.jsonl"):
        assert lines(run / "rl" / name) == lines(wanted / "rl" / name)
    for side, weights in adapters(run).items():
        assert all(torch.equal(tensor, adapters(wanted)[side][name]) for name, tensor in weights.items())


def test_one_adapter_for_both_sides_goes_from_block_to_block(tmp_path) -> None:
    run, calls = tmp_path / "run", tmp_path / "calls"
    Forked(tmp_path / "log", "cotrain_run", run, calls, "shared_weights=true").wait()

    def apart(one: str, other: str) -> float:
        first, last = (load_file(run / "rl" / "pool" / block / WEIGHTS) for block in (one, other))
        return sum((last[name] - first[name]).square().sum().item() for name in last)

    ended = "attacker/00002"
    assert apart(ended, "student/00001") < apart(ended, "attacker/00001"), "it had begun with its own weights"


def test_one_adapter_for_both_sides_ends_the_same_after_a_kill_within_a_block(tmp_path) -> None:
    shared = ("shared_weights=true", "every=2")
    straight, run, calls = tmp_path / "straight", tmp_path / "run", tmp_path / "calls"
    Forked(tmp_path / "log", "cotrain_run", straight, calls, *shared).wait()
    journal = run / "rl" / "rollouts" / "00001-000.jsonl"
    killed = Forked(tmp_path / "log", "cotrain_run", run, calls, *shared)
    assert killed.kill_when(lambda: bool(lines(journal)))
    Forked(tmp_path / "log", "cotrain_run", run, calls, *shared).wait()
    for side, weights in adapters(run).items():
        assert all(torch.equal(tensor, adapters(straight)[side][name]) for name, tensor in weights.items())


def rollouts(tmp_path: Path, config: Config) -> SideRollouts:
    """Those of a student's block, without a model."""
    return SideRollouts(
        config, {}, None, None, None, tmp_path, block=Block("student", 9, 0),
        opponents=None, faithful=None, renderer=None,
    )  # fmt: skip


def test_the_archive_is_what_was_faithful_in_earlier_steps_also_after_a_kill(tmp_path) -> None:
    def dialogue(user: str, faithfulness: float) -> Dialogue:
        attack = {"hit": True, "faithfulness": faithfulness, "similarity": 0.0}
        return Dialogue(id="0", kind=Kind.BENIGN, turns=[Turn(user=user)], meta={"attack": attack})

    faithful, other = dialogue("how?", 1.0), dialogue("blah", 0.0)
    write_atomic(tmp_path / "trajectories.jsonl", to_jsonl([faithful, other]))
    found = rollouts(tmp_path, config_of())
    found.go_on([])
    assert [*found.archive] == ["how?"]
    found._learn({"groups_equal": [0, 1], "twins_refused": [0, 1]}, [dialogue("and then?", 0.5)])
    assert [*found.archive] == ["how?", "and then?"]


def test_only_breaches_that_count_for_the_attacker_are_distinct_ones() -> None:
    """A turn that is not faithful may leak, and is no hit."""

    def dialogue(user: str, hit: bool) -> Dialogue:
        meta = {"return": 1.0, "seed": "s", "attack": {"hit": hit, "faithfulness": 1.0, "similarity": 0.0}}
        turns = [Turn(user=user, scores={"safety": 2.0}), Turn(user="thanks", scores={"safety": 10.0})]
        return Dialogue(id=user, kind=Kind.RED_TEAM, turns=turns, meta=meta)

    found = side_metrics([dialogue("how?", True), dialogue("blah", False), dialogue("bleh", False)])
    assert (found["attack_breach"], found["distinct_breaches"]) == (pytest.approx(1 / 3), 1)


@pytest.mark.parametrize(
    ("stop", "scores", "value"),
    [
        (StopReason.COMPLETED, {"safety": 2.0}, 1.0),
        (StopReason.CONTEXT_FULL, {"safety": 2.0}, None),
        (StopReason.UNSCORED, None, None),
        (StopReason.ASSISTANT_FAILED, {"safety": 2.0}, None),
        (StopReason.COMPLETED, None, None),
    ],
)
async def test_a_lost_dialogue_pays_its_attacker_nothing_and_no_check_of_its_turns(
    tmp_path, stop, scores, value
) -> None:
    asked = []

    async def faithful(dialogue: Dialogue) -> list[bool]:
        asked.append(dialogue.id)
        return [True]

    turns = [Turn(user="how?", assistant="so.", scores=scores)]
    lost = Dialogue(id="0", kind=Kind.RED_TEAM, turns=turns, stop=stop)
    side = rollouts(tmp_path, config_of())
    side.faithful = faithful
    assert await side._attackers_return(lost, LastVerdicts(SimpleNamespace(immediate=True), 9, 1)) == value
    assert len(asked) == (value is not None)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"groups_equal": [2, 2], "twins_refused": [0, 2]},
            "100% of the groups have equal returns.*max_equal",
        ),
        (
            {"groups_equal": [1, 2], "twins_refused": [2, 2]},
            "100% of the benign dialogues.*max_twin_refusals",
        ),
        ({"groups_equal": [1, 2], "twins_refused": [1, 2]}, ""),
    ],
)
def test_groups_without_spread_and_refused_twins_stop_it_after_five_steps(tmp_path, row, said) -> None:
    step = row | {"unscored": 0, "trajectories": 6}
    found = rollouts(tmp_path, config_of())
    found.go_on([step] * 4)
    assert found._complaint() == "", "four steps are too few"
    found.go_on([step])
    assert re.search(said, found._complaint()) if said else found._complaint() == ""
    raised = rollouts(tmp_path, config_of(max_equal_groups=1, max_twin_refusals=1))
    raised.go_on([step] * 5)
    assert raised._complaint() == "", "a bound that was raised lets it go on"


@pytest.mark.parametrize(
    ("cotraining", "said"),
    [
        ({"attacker": "/nowhere"}, r"rl.cotrain.attacker: \S+ is no folder of a LoRA adapter; give one"),
        ({"learns": "attacker"}, "rl.cotrain.learns: attacker leaves the student .*; set rl.start_from: sft"),
    ],
)
def test_a_side_that_cannot_begin_costs_one_line(tmp_path, cotraining, said) -> None:
    config = config_of(**cotraining)
    run = prepared(tmp_path / "run", config)
    with pytest.raises(UserError, match=said):
        cotrain(config, run, Counting(run, tmp_path / "c", None), counted(run, tmp_path / "c"))
    assert not (run / "rl" / "model").exists()


def test_with_shared_weights_both_sides_begin_as_the_student_does(tmp_path) -> None:
    config = config_of(shared_weights=True, student=str(SHIPPED_ATTACKER))
    assert {begins_with(config, tmp_path, side) for side in SIDES} == {str(SHIPPED_ATTACKER)}


@pytest.mark.parametrize(
    ("student", "rl", "said"),
    [
        ({}, {}, "two LoRA adapters on one base; set student.lora_rank"),
        (
            {"lora_rank": 4},
            {"credit": "turn"},
            "has returns of its own for both sides and has no use for credit: turn; leave it out",
        ),
        ({"lora_rank": 4}, {"reward": "a:b"}, "for both sides and has no use for reward; leave it out"),
        ({"lora_rank": 4}, {"audit": {}}, "for both sides and has no use for audit; leave it out"),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_the_config(student, rl, said) -> None:
    with pytest.raises(ValueError, match=said):
        Config.model_validate({"student": student, "rl": {"algorithm": "cotrain", **rl}})


def test_a_checkpoint_in_the_pool_is_complete_or_absent(tmp_path) -> None:
    pool, block = Pool(tmp_path / "pool", {"attacker": None, "student": None}), Block("attacker", 2, 0)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError):
        pool.add(block, checkpoint)
    assert not pool.has(block) and pool.path("attacker", 0) is None
    (checkpoint / "adapter_model.safetensors").write_bytes(b"weights")
    pool.add(block, checkpoint)
    assert pool.has(block)
