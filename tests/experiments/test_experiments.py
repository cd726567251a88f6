"""Experiments: their file, what their runs share, and their table."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from display import complaint, safer_steer
from places import ROOT
from safer_steer.bench.adaptive.intents import Intent
from safer_steer.config import Config
from safer_steer.config.file import dump_config
from safer_steer.dialogue import Dialogue, Kind, StopReason, Turn, to_jsonl
from safer_steer.errors import ExitCode
from safer_steer.experiments.measures import MEASURES
from safer_steer.experiments.results import results, verdict
from safer_steer.experiments.shown import markdown, wall_times
from safer_steer.experiments.spec import config_of, load_experiment
from safer_steer.experiments.survival import compared, hazard, log_rank
from safer_steer.experiments.work import Job, branch, checkable, plan, trunk_id, work
from safer_steer.files.manifest import Manifest
from safer_steer.files.store import write_atomic
from safer_steer.intervals import difference_over_seeds
from safer_steer.stages import STAGES

SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))
SMALL: dict[str, Any] = {
    "name": "small",
    "config": str(ROOT / "configs" / "sandbox.yaml"),
    "seeds": [0, 1],
    "arms": {"SFT": {"model": "sft"}, "full": {}, "mean": {"set": {"rl.tcsr": "mean"}}},
    "compare": [["full", "SFT"], ["full", "mean"]],
    "paper": {"source": "Table 8", "values": {"multi-turn Safe": {"full": 55.6, "mean": 51.1}}},
}
CLAIM = {"says": "TCSR helps.", "where": "Table 8", "pair": ["full", "mean"], "measure": "multi-turn Safe"}


def odd(changes: dict[str, Any], model: str = "safer_steer") -> dict[str, Any]:
    """With one more arm."""
    return {"arms": SMALL["arms"] | {"odd": {"set": changes, "model": model}}}


def file_of(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_can_be_planned(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    jobs, folders = plan(experiment, path, tmp_path)
    assert set(folders) == set(experiment.arms) and len(experiment.seeds) >= 3
    assert all(set(by_seed) == set(experiment.seeds) for by_seed in folders.values())
    assert {folder for by_seed in folders.values() for folder in by_seed.values()} == {
        job.folder for job in jobs if job.stages == ("bench",)
    }


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"compare": [["full", "half"]]}, "compare|'half' is no arm; use SFT, full, mean"),
        ({"set": {"seed": 3}}, "set: seed is set by seeds; leave it out of set"),
        (
            {"arms": {"full": {"set": {"bench.models": []}}}, "compare": [], "paper": None},
            "by the arm's",
        ),
        ({"measures": ["Safe"]}, "'Safe' is no measure; use single-turn Safe"),
        ({"arms": {"full": {"set": {"rl.tcrs": "mean"}}}, "compare": [], "paper": None}, "rl.tcrs"),
        ({"arms": {"full": {"set": {"name.x": 1}}}, "compare": [], "paper": None}, "name is no section"),
        ({"claims": [CLAIM | {"pair": ["mean", "full"]}]}, "mean - full must stand in compare"),
        (
            {"measures": ["multi-turn Safe"], "claims": [CLAIM | {"measure": "turns held"}]},
            "'turns held' be one",
        ),
        ({"seeds": [1, 1]}, "a seed stands twice"),
        ({"config": "missing.yaml"}, "missing.yaml: no such config file"),
        ({"arm": {}}, "arm"),
        ({"fresh_attacker": True} | odd({}, "base"), "fresh_attacker learns against an adapter, and base is"),
        ({"set": {"rl": {"tcsr": "mean"}}}, "rl is a section of the config; write rl.tcsr"),
        ({"set": {"roles": {"judge": {}}}}, "roles is a section of the config; write roles.judge"),
        ({"set": {"bootstrap.sft": {}}}, "bootstrap.sft is a section of the config; write bootstrap.sft.KEY"),
        ({"arms": {0.25: {}}}, "arms: an arm's name must be text, not 0.25; put it in quotes"),
        (
            {"paper": {"source": "Table 8", "values": {"multi-turn Safe": {True: 55.6}}}},
            "paper.values: an arm's name must be text, not True; put it in quotes",
        ),
        (odd({"bench.suites": ["none.jsonl"]}), "bench: odd, seed 0: {}/none.jsonl"),
        (odd({"bench.adaptive": {"intents": "none.jsonl"}}), "bench: odd, seed 0: {}/none.jsonl"),
        (
            odd({"bench.capability": ["none.jsonl"]}, "sft"),
            "bench: base and SFT, seed 0: bench.capability: {}/none.jsonl",
        ),
        (odd({"rl.reward": "no_such:thing"}), "RL: odd, seed 0: rl.reward"),
        (odd({"rl.prompts_per_step": 8}), "RL: odd, seed 0: rl.micro_batch_size: a step of 40 cannot"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    path = file_of(tmp_path, **changes)
    said = complaint(safer_steer("experiment", path, "--out", tmp_path / "out"))
    assert any(part in said for part in line.format(tmp_path).split("|"))
    assert not (tmp_path / "out").exists()


def test_paths_are_relative_to_the_experiments_file(tmp_path: Path) -> None:
    given = {
        "bench.suites": ["sandbox", "suite.jsonl"],
        "bench.capability": ["questions"],
        "bench.adaptive": {"intents": "intents.jsonl"},
        "student.model": "./weights",
        "student.chat_template": "template.jinja",
        "seeds.sources": [{"name": "own", "path": "pairs.jsonl", "images": "pictures"}],
    }
    path = file_of(tmp_path, set=given)
    experiment = load_experiment(path)
    found = config_of(experiment, path, experiment.arms["full"], 0)
    [source] = found.seeds.sources
    assert found.bench.adaptive
    assert found.bench.suites == ["sandbox", str(tmp_path / "suite.jsonl")]
    assert [*found.bench.capability, found.bench.adaptive.intents, found.student.model] == [
        str(tmp_path / name) for name in ("questions", "intents.jsonl", "weights")
    ]
    assert [found.student.chat_template, source.path, source.images] == [
        str(tmp_path / name) for name in ("template.jinja", "pairs.jsonl", "pictures")
    ]
    path = file_of(tmp_path, set={"seeds.sources": [], "seeds.scripts": "scripts.jsonl"})
    own = config_of(load_experiment(path), path, experiment.arms["full"], 0).seeds.scripts
    assert own == str(tmp_path / "scripts.jsonl")


@pytest.mark.parametrize("more", ["", "--table-only"])
def test_a_file_in_place_of_the_folder_is_one_line(tmp_path: Path, more: str) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        said = complaint(safer_steer("experiment", file_of(tmp_path), "--out", out, *more.split()))
        assert str(tmp_path / "file") in said


def test_arms_share_runs_and_stages(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    jobs, folders = plan(load_experiment(path), path, tmp_path / "out")
    named = {job.name: job for job in jobs}
    assert len(named) == len(jobs) == 2 + 4 + 2 + 4, (
        "up to SFT, RL, and the bench of SFT and of RL's students"
    )
    seen: list[object] = [None]
    for job in jobs:
        assert job.after in seen, "what others wait for comes first"
        seen.append(job)
    sft, rl = named["up to SFT, seed 0"], named["RL: full, seed 0"]
    assert rl.after is named["RL: mean, seed 0"].after is sft and rl.stages == ("rl",)
    both, full = named["bench: base and SFT, seed 0"], named["bench: full, seed 0"]
    assert both.stages == full.stages == ("bench",) and both.after is sft and full.after is rl
    assert both.config.bench.models == ["base", "sft"] and full.config.bench.models == ["safer_steer"]
    again, _ = plan(load_experiment(path), path, tmp_path / "out")
    assert [job.folder for job in again] == [job.folder for job in jobs]
    alone = {"arms": {"base": {"model": "base", "set": {"rl.tcsr": "min"}}, "RL": {}}, "compare": []}
    path = file_of(tmp_path, **alone, paper=None)
    _, others = plan(load_experiment(path), path, tmp_path / "out")
    assert others["base"] == folders["SFT"], "one bench measures both, whatever RL would do"
    assert others["RL"] == folders["full"], "another experiment trains the same student"
    path = file_of(tmp_path, set={"bench.dialogues": 7})
    longer, others = plan(load_experiment(path), path, tmp_path / "out")
    assert not set(others["full"].values()) & set(folders["full"].values())
    trained = {job.folder for job in jobs if job.stages == ("rl",)}
    assert trained == {job.folder for job in longer if job.stages == ("rl",)}, "another bench, same students"


def test_where_rl_probes_twins_the_benchs_suites_and_judgement_are_its_own(tmp_path: Path) -> None:
    gated = {"gates.twin_refusals.at_most": 0.3, "bench.suites": ["own.jsonl", "sandbox"]}

    def planned(keys: dict[str, Any]) -> tuple[Job, Job]:
        path = file_of(tmp_path, set=keys)
        named = {job.name: job for job in plan(load_experiment(path), path, tmp_path)[0]}
        return named["up to SFT, seed 0"], named["RL: full, seed 0"]

    judged = gated | {"bench.temperature": 0.3, "bench.verdict": "mean", "bench.judge_requests": True}
    trunk, job = planned(judged)
    bench = job.config.bench
    assert (bench.temperature, bench.verdict, bench.judge_requests) == (0.3, "mean", True)
    assert bench.suites == [str(tmp_path / "own.jsonl"), "sandbox"]
    other = planned(gated)
    assert other[0].folder == trunk.folder and other[1].folder != job.folder
    assert planned(judged | {"bench.dialogues": 7})[1].folder == job.folder, (
        "of which the probe knows nothing"
    )


def test_a_fresh_attacker_learns_against_each_arms_student_and_attacks_it_in_the_bench(
    tmp_path: Path,
) -> None:
    """Its own training is the same for all arms, whatever is set in them, and no gate of a student holds."""
    ranked = {"student.lora_rank": 4, "gates.engine_gap.at_most": 0.1}
    without, _ = plan(load_experiment(path := file_of(tmp_path, set=ranked)), path, tmp_path)
    jobs, folders = plan(
        load_experiment(path := file_of(tmp_path, set=ranked, fresh_attacker=True)), path, tmp_path
    )
    named = {job.name: job for job in jobs}
    assert len(named) == len(jobs) == 2 + 4 + 6 + 6
    assert {job.folder for job in without if job.stages != ("bench",)} < {job.folder for job in jobs}
    seen: list[object] = [None]
    for job in jobs:
        assert job.after in seen and job.awaits in seen, "what others wait for comes first"
        seen.append(job)
    trunk, begun = named["up to SFT, seed 0"], set[str]()
    for arm, student in {
        "SFT": trunk.folder / "sft",
        "mean": named["RL: mean, seed 0"].folder / "rl",
    }.items():
        attacker, bench = named[f"fresh attacker: {arm}, seed 0"], named[f"bench: {arm}, seed 0"]
        assert attacker.after is trunk and attacker.awaits is (bench.after if arm == "mean" else trunk)
        assert attacker.config.rl.cotrain.student == str(student / "model")
        assert attacker.config.rl.cotrain.learns == "attacker" and attacker.config.rl.tcsr != "mean"
        assert bench.config.gates and not list(STAGES["rl"].refusals(attacker.config))
        begun.add(dump_config(checkable(attacker)))
        assert bench.folder == folders[arm][0] and bench.awaits is attacker and bench.config.bench.adaptive
        assert bench.config.bench.adaptive.trained == [str(attacker.folder / "rl" / "attacker")]
        assert bench.config.bench.models == [load_experiment(path).arms[arm].model]
        assert checkable(bench).bench.adaptive.trained == [] != bench.config.bench.adaptive.trained
    assert len(begun) == 1


def test_the_stages_share_sft_and_the_runs_of_feedback(tmp_path: Path) -> None:
    path = ROOT / "experiments" / "stages.yaml"
    experiment = load_experiment(path)
    jobs, folders = plan(experiment, path, tmp_path)
    by_folder = {job.folder: job for job in jobs if job.after}
    shared = {}
    for arm in experiment.arms:
        job = by_folder[folders[arm][0]]
        while job.after:
            job = job.after
        shared[arm] = job
    assert shared["DPO"] is shared["SaFeR-Steer"] is shared["SFT"] is shared["without bootstrapping"]
    assert shared["single-turn SFT"] is shared["single-turn SFT and GRPO"] is not shared["SFT"]
    assert folders["base"] == folders["SFT"] != folders["single-turn SFT"]
    assert by_folder[folders["DPO"][0]].config.rl.algorithm == "dpo"
    other = path.with_stem("feedback")
    theirs, _ = plan(load_experiment(other), other, tmp_path)
    assert {folders[arm][0] for arm in ("SFT", "SaFeR-Steer")} <= {job.folder for job in theirs}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"name": "other"}, True),
        ({"rl": {"algorithm": "dpo"}}, True),
        ({"rl": {"tcsr": "mean", "alpha": 0.5, "steps": 3}}, True),
        ({"rl": {"seed": 4}}, True),
        ({"bench": {"dialogues": 3}}, True),
        ({"rl": {"benign_share": 0.0}}, False),
        ({"rl": {"single_turn": True}}, False),
        ({"rl": {"rollouts": {"engine": "vllm", "base_url": "http://localhost:1/v1"}}}, False),
        ({"roles": {"tutor": {"model": "sandbox-ab"}}}, True),
        ({"bench": {"adaptive": {"attackers": ["sandbox-b"]}}}, True),
        ({"seed": 1}, False),
        ({"student": {"max_turn_tokens": 5}}, False),
        ({"bootstrap": {"sft": {"learning_rate": 1e-3}}}, False),
        ({"roles": {"red": {"temperature": 0.1}}}, False),
    ],
)
def test_only_runs_that_agree_up_to_sft_share_it(changes: dict[str, Any], same: bool) -> None:
    assert (trunk_id(Config.model_validate(changes)) == trunk_id(Config())) is same


def test_a_branch_has_the_shared_stages_and_no_other(tmp_path: Path) -> None:
    trunk, config = tmp_path / "trunk", Config(seed=3)
    write_atomic(trunk / "seeds" / "benign.jsonl", "{}\n")
    write_atomic(trunk / "bench" / "base" / "probing.jsonl", "{}\n")
    manifest = Manifest(trunk)
    manifest.record("seeds", ("seeds",), (), {})
    manifest.record("bench", ("bench",), (), {})
    for stage in ("seeds", "bench"):
        manifest.override(stage, "kept_share", None, {})
    folder = tmp_path / "runs" / "a"
    branch(trunk, folder, config)
    found = Manifest(folder)
    assert list(found.stages) == ["seeds"] and found.finished("seeds")
    assert [one["stage"] for one in found.overrides] == ["seeds"], "a gate overridden there stops none here"
    ours, shared = folder / "seeds" / "benign.jsonl", trunk / "seeds" / "benign.jsonl"
    assert ours.stat().st_ino == shared.stat().st_ino
    assert not (folder / "bench").exists()
    write_atomic(ours, "changed\n")
    assert shared.read_text() == "{}\n"
    branch(trunk, folder, config)
    assert ours.read_text() == "changed\n", "what is there stays"


def test_a_job_that_left_a_gate_is_not_done_until_it_is_overridden(tmp_path: Path) -> None:
    """Its last stage is entered before its gates are looked at."""
    config = Config.model_validate({"gates": {"sft_loss": {"at_most": 0.1}}})
    job = Job("up to SFT, seed 0", tmp_path, config, ("bootstrap", "sft"))
    write_atomic(tmp_path / "config.yaml", dump_config(config))
    write_atomic(tmp_path / "sft" / "metrics.jsonl", '{"step": 1, "loss": 9}\n')
    manifest = Manifest(tmp_path)
    manifest.record("sft", ("sft",), (), {})
    assert not job.done()
    manifest.override("sft", "sft_loss", None, {})
    assert job.done()


async def test_what_two_experiments_share_is_done_once_and_the_other_waits(tmp_path: Path) -> None:
    config = Config.model_validate({"seeds": {"sources": [{"name": "sandbox", "limit": 4}]}})
    jobs = [Job("up to SFT, seed 0", tmp_path / "shared" / "a", config, ("seeds",)) for _ in range(2)]
    said: list[str] = []
    await asyncio.gather(*(work([job], 1, 1, said.append) for job in jobs))
    assert [job.failed for job in jobs] == [None, None] and all(job.done() for job in jobs)
    assert said.count("up to SFT, seed 0: begun") == 1
    assert f"up to SFT, seed 0: waiting for another process that is at work in {jobs[0].folder}" in said


def test_a_gate_ends_an_experiment_with_its_exit_code_and_can_be_overridden(tmp_path: Path) -> None:
    """Stage I is done here, and its generator refused all."""
    path = file_of(
        tmp_path,
        seeds=[0],
        set={"gates.generator_refusals.at_most": 0.1},
        arms={"SFT": SMALL["arms"]["SFT"]},
        **{"compare": [], "paper": None},
    )
    out = tmp_path / "out"
    trunk, _ = plan(load_experiment(path), path, out)[0]
    refused = "".join(f'{{"id": "p{n}-benign:0", "failed": "refused: no"}}\n' for n in range(20))
    write_atomic(trunk.folder / "seeds" / "journal" / "0.jsonl", refused)
    write_atomic(trunk.folder / "config.yaml", dump_config(trunk.config))
    Manifest(trunk.folder).record("seeds", ("seeds",), (), {})
    command = ("experiment", path, "--out", out)
    assert "--override generator_refusal: is no gate" in complaint(
        safer_steer(*command, "--override", "generator_refusal")
    )
    stopped = safer_steer(*command)
    assert stopped.exit_code == ExitCode.OUT_OF_BAND, stopped.output
    line = stopped.stderr.splitlines()[-1]
    assert line.startswith("gate: 2 of 2 runs failed; the first, up to SFT, seed 0: gate: seeds: generator_")
    assert line.endswith(f"--override generator_refusals goes on all the same ({trunk.folder}.log)")
    gone_on = safer_steer(*command, "--override", "generator_refusals")
    said = gone_on.stderr.splitlines()[-1]
    assert gone_on.exit_code == ExitCode.TO_FIX and "seeds/benign.jsonl: no such file" in said, "of assembly"
    [noted] = Manifest(trunk.folder).overrides
    assert (noted["stage"], noted["gate"]) == ("seeds", "generator_refusals")


def played(id: str, marks: list[int], kind: Kind = Kind.RED_TEAM) -> Dialogue:
    """A dialogue in which a turn is safe and helpful (1) or neither (0)."""
    turns = [
        Turn(
            user="u", assistant="a", scores={"harmlessness": 3 * mark, "helpfulness": 3 * mark, "refused": 0}
        )
        for mark in marks
    ]
    return Dialogue(id=id, kind=kind, turns=turns, stop=StopReason.COMPLETED)


def test_the_table_has_rates_differences_and_the_papers_sign(tmp_path: Path) -> None:
    later = CLAIM | {"measure": "turns held"}
    claims = [CLAIM, CLAIM | {"more": False}, CLAIM | {"measure": "over-refusal on twins"}, later]
    experiment = load_experiment(file_of(tmp_path, survival=True, claims=claims))
    passing = {"SFT": (8, 10), "full": (18, 16), "mean": (3, 3)}
    runs: dict[str, dict[int, Path]] = {}
    for arm, counts in passing.items():
        for seed, count in zip(experiment.seeds, counts, strict=True):
            folder = tmp_path / ("full" if arm == "SFT" else arm) / str(seed)
            runs.setdefault(arm, {})[seed] = folder
            rows = [played(f"d-{n}", [1, int(n < count)]) for n in range(20)]
            twins = [played(f"t-{n}", [1, 1], Kind.BENIGN) for n in range(10)]
            model = folder / "bench" / experiment.arms[arm].model
            if (arm, seed) == ("mean", experiment.seeds[0]):
                twins[0].turns[1].scores["refused"] = 1
            drawn = [row.model_copy(update={"meta": {"in_text": True}}) for row in rows]  # typographic
            for suite, dialogues in {"probing": rows, "drawn": drawn, "safe_twins": twins}.items():
                write_atomic(model / f"{suite}.jsonl", "".join(d.model_dump_json() + "\n" for d in dialogues))
    for seed, folder in runs["mean"].items():
        Manifest(folder).record("sft", (), (), {"seconds": 100.0})
        Manifest(folder).record("rl", (), (), {"seconds": 10.0 * seed})
    found = results(experiment, runs)
    assert ["mean", "105"] in wall_times(runs).rows and "seconds" not in found
    assert found["arms"]["full"]["multi-turn Safe"]["value"] == pytest.approx(85)
    assert found["arms"]["SFT"]["Help on twins"]["value"] == 100
    assert "single-turn Safe" not in found["arms"]["full"], "no arm has dialogues of one turn"
    gains = {(*d["pair"], d["measure"]): d for d in found["differences"]}
    assert gains["full", "mean", "multi-turn Safe"]["value"] == pytest.approx(70)
    assert gains["full", "mean", "multi-turn Safe"]["paper"]["value"] == pytest.approx(4.5)
    assert gains["full", "SFT", "multi-turn Safe"]["paper"] is None
    assert found["survival"]["arms"]["mean"]["hazard"] == [0.0, 0.85]
    assert found["survival"]["arms"]["mean"]["refused"] == [0.0, 0.05], "of 20 twins"
    text = markdown(found, experiment)
    assert "| full - mean | multi-turn Safe | +70.0 [" in text and "| +4.5 | " in text
    assert "Every dialogue has a result." in text
    assert "| mean | 0.0 | 85.0 | 2 |" in text and "| mean | 0.0 | 5.0 |" in text
    said = [claim["verdict"] for claim in found["claims"]]
    assert said[:2] == ["agrees", "disagrees"] and said[2] == "cannot tell"
    [test] = [one for one in found["survival"]["tests"] if one["pair"] == ["full", "mean"]]
    assert min(test["z"]) > 0
    best = {f"d-{n}": (played("a", [1, int(n < 18)]), played("b", [1, int(n < 3)])) for n in range(20)}
    z, _ = log_rank(*({id: two[side] for id, two in best.items()} for side in (0, 1)))
    assert test["z"][0] == pytest.approx(z), "a script drawn as a picture is no further script"
    assert " | not reached within 2 turns |" in text
    held = {arm: rates["turns held"]["value"] for arm, rates in found["arms"].items()}
    assert held == pytest.approx({"SFT": 72.5, "full": 92.5, "mean": 57.5}), (
        "half of a dialogue that fails at turn 2"
    )
    assert found["claims"][3]["found"]["value"] == pytest.approx(35)
    failing = gains["full", "mean", "turns held where it fails"]
    assert (failing["value"], failing["n"]) == (0, 6), "both fail at turn 2 in two and in four dialogues"
    assert "| TCSR helps. | Table 8 | turns held, full - mean | +35.0 [" in text


def test_the_table_is_of_the_seeds_that_are_done_in_every_arm(tmp_path: Path) -> None:
    """An arm of which too many dialogues have no scores decides on no claim and no sign."""
    path = file_of(
        tmp_path,
        arms={"full": {}, "mean": SMALL["arms"]["mean"]},
        compare=[["full", "mean"]],
        claims=[CLAIM, CLAIM | {"measure": "breach@1 by B"}],
    )
    out = tmp_path / "out"
    _, runs = plan(load_experiment(path), path, out)
    command = ("experiment", path, "--out", out, "--table-only")
    assert "no training seed is done in every arm yet" in complaint(safer_steer(*command))
    for arm, seeds in {"full": (0, 1), "mean": (1,)}.items():
        for seed in seeds:
            rows = [played(f"d-{n}", [int(arm == "full")]) for n in range(20)]
            if arm == "full":
                rows[0].turns[0].scores, rows[0].stop = None, StopReason.UNSCORED
            journal = runs[arm][seed] / "bench" / "safer_steer" / "probing.jsonl"
            write_atomic(journal, "".join(row.model_dump_json() + "\n" for row in rows))
            Manifest(runs[arm][seed]).record("bench", (), (), {"seconds": 10.0 * seed})
    answer = safer_steer(*command)
    assert answer.exit_code == 0, answer.output
    found = json.loads((out / "small.json").read_bytes())
    assert found["seeds"] == [1]
    measured = [*list(MEASURES)[2:6], "breach@1 by B"]
    assert list(found["arms"]) == ["full", "mean"] and list(found["arms"]["full"]) == measured
    safe, *_, breach = found["differences"]
    assert (safe["n"], safe["paper"]["verdict"], breach["value"]) == (19, "no result", None)
    assert [claim["verdict"] for claim in found["claims"]] == ["no result", "no result"]
    text = (out / "small.md").read_text()
    assert "over 1 of 2 training seeds and" in text and "| full | 20 | 1 | 0 | 0 | 0 |" in text


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({}, "agrees"),
        ({("probing", StopReason.CONTEXT_FULL): 10}, "agrees"),
        ({("probing", StopReason.UNSCORED): 1}, "no result"),
        ({("single_turn_direct", StopReason.ASSISTANT_FAILED): 1}, "no result"),
        ({("adaptive_sandbox-b", StopReason.UNSCORED): 1}, "no result"),
        ({("questions", StopReason.ASSISTANT_FAILED): 1}, "no result"),
    ],
    ids=str,
)
def test_an_arm_has_no_result_if_one_of_its_benches_has_none(
    tmp_path: Path, lost: dict[tuple[str, StopReason], int], said: str
) -> None:
    """As in the bench itself: a share of a protocol's or an attacker's dialogues, or of a set's questions,
    and incomplete dialogues do not count. Each share here is 1 of 20, and of all seeds' dialogues 1 of 80."""
    experiment = load_experiment(
        file_of(
            tmp_path,
            seeds=[0, 1, 2, 3],
            arms={"full": {}, "mean": SMALL["arms"]["mean"]},
            compare=[["full", "mean"]],
            measures=["multi-turn Safe"],
            claims=[CLAIM],
            paper=None,
        )
    )
    runs: dict[str, dict[int, Path]] = {"full": {}, "mean": {}}
    for arm, by_seed in runs.items():
        for seed in experiment.seeds:
            by_seed[seed] = run = tmp_path / arm / str(seed)
            write_atomic(run / "config.yaml", dump_config(Config()))
            for name in ("probing", "single_turn_direct", "adaptive_sandbox-b", "questions"):
                rows = [played(f"d-{n}", [int(arm == "full" or n < seed % 2)]) for n in range(20)]
                for row in rows:
                    row.meta = {"intent_id": row.id, "try": 0, "choices": ["a", "b"], "answer": 0}
                for (where, stop), count in lost.items() if (arm, seed) == ("mean", 2) else ():
                    for row in rows[:count] if where == name else ():
                        row.turns[0].scores, row.stop = None, stop
                journal = run / "bench" / "safer_steer" / f"{name}.jsonl"
                if name == "questions":
                    journal = run / "capability" / name / "answers" / "safer_steer.jsonl"
                write_atomic(journal, to_jsonl(rows))
    found = results(experiment, runs, max_unscored=0.03)
    assert found["claims"][0]["verdict"] == said
    text = markdown(found, experiment)
    if not lost:
        assert "Every dialogue has a result." in text
    elif ("questions", StopReason.ASSISTANT_FAILED) in lost:
        assert "| mean | 240 | 0 | 0 | 0 | 1 |" in text
    else:
        assert "| mean | 240 | " in text and f" {sum(lost.values())} |" in text


def test_attackers_are_compared_on_the_same_intents(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        arms={"SFT": {"model": "sft"}, "full": {}},
        compare=[["full", "SFT"]],
        paper=None,
        measures=[
            *("breach@1 by A", "breach@1 by B", "generalisation gap B - A", "multi-turn Safe"),
            *("breached by scripts", "breach@1 by A, B or C", "breach@1 by a fresh attacker"),
        ],
    )
    experiment = load_experiment(path)
    breaches = {("SFT", "a"): (3, 2), ("SFT", "b"): (4, 4), ("full", "a"): (0, 0), ("full", "b"): (3, 4)}
    runs: dict[str, dict[int, Path]] = {"SFT": {}, "full": {}}
    for (arm, attacker), counts in breaches.items():
        for seed, count in zip(experiment.seeds, counts, strict=True):
            runs[arm][seed] = tmp_path / arm / str(seed)
            model = runs[arm][seed] / "bench" / experiment.arms[arm].model
            rows = []
            for n in range(8):  # four intents, two tries each
                facts = {"intent_id": f"i-{n % 4}", "try": n // 4, "attacker": f"sandbox-{attacker}"}
                row = played(f"i-{n}", [1, 1])
                scores = {"harmlessness": -2.0 if n < count else 3.0, "helpfulness": 1.0, "refused": 0.0}
                last = row.turns[-1].model_copy(update={"scores": scores, "meta": {"calls": 2}})
                rows.append(row.model_copy(update={"meta": facts, "turns": [row.turns[0], last]}))
            text = "".join(row.model_dump_json() + "\n" for row in rows)
            write_atomic(model / f"adaptive_sandbox-{attacker}.jsonl", text)
            if attacker == "b":  # one that was trained, which breaches as B does
                write_atomic(model / "adaptive_trained-run.jsonl", text.replace("sandbox-b", "trained-run"))
            scripted = [played(f"s-{n}", [1, 1]) for n in range(4)]
            for turn in (*scripted[0].turns[1:], *scripted[1].turns[:1]):
                turn.scores = {"harmlessness": -1.0, "helpfulness": 1.0, "refused": 0.0}
            lost = played("d", [1]).model_copy(update={"stop": StopReason.ASSISTANT_FAILED})
            write_atomic(model / "probing.jsonl", to_jsonl([*scripted, lost]))
            of = {f"i-{n}": {"script_of": ["probing", f"s-{n}"]} for n in range(4)}
            intents = [Intent(id=id, intent="?", images=[], meta=meta) for id, meta in of.items()]
            write_atomic(runs[arm][seed] / "intents" / "intents.jsonl", to_jsonl(intents))
            config = Config.model_validate({"bench": {"suites": ["sandbox"], "adaptive": {"turns": 1}}})
            write_atomic(runs[arm][seed] / "config.yaml", dump_config(config))
    found = results(experiment, runs)
    arms = found["arms"]
    assert arms["SFT"]["breach@1 by A"]["value"] == pytest.approx(100 * 5 / 16)
    assert arms["SFT"]["generalisation gap B - A"]["value"] == pytest.approx(100 * 3 / 16)
    assert arms["full"]["generalisation gap B - A"]["value"] == pytest.approx(100 * 7 / 16)
    assert arms["full"]["breach@1 by A"]["value"] == 0 < arms["full"]["breach@1 by A"]["high"]
    gaps = {one["measure"]: one for one in found["differences"]}
    assert gaps["breach@1 by A"]["value"] == pytest.approx(-100 * 5 / 16)
    assert gaps["generalisation gap B - A"]["value"] == pytest.approx(100 * 4 / 16)
    assert arms["SFT"]["multi-turn Safe"]["value"] == 50, "attackers' dialogues are in no suite"
    assert arms["SFT"]["breached by scripts"]["value"] == 25, "one of four, within one turn"
    # Of two tries, A and B breach one each, or B alone: 1 - (1 - a)(1 - b) by intent.
    wanted = {(3, 4): [1 - 0.5 * 0.5] * 3 + [0.5], (2, 4): [0.75, 0.75, 0.5, 0.5]}
    mean = sum(sum(shares) for shares in wanted.values()) / 8
    assert arms["SFT"]["breach@1 by A, B or C"]["value"] == pytest.approx(100 * mean)
    assert arms["SFT"]["breach@1 by a fresh attacker"]["value"] == pytest.approx(100 * 8 / 16)
    assert found["lost"]["SFT"] == {"dialogues": 58, "unscored": 0, "failed": 2, "incomplete": 0}


@pytest.mark.parametrize(
    ("low", "high", "t", "said"),
    [
        (1.0, 3.0, {"low": 0.5, "high": 3.5}, "agrees"),
        (1.0, 3.0, None, "cannot tell"),
        (-3.0, -1.0, None, "cannot tell"),
        (1.0, 3.0, {"low": -1.0, "high": 5.0}, "cannot tell"),
        (-3.0, -1.0, {"low": -4.0, "high": -0.5}, "disagrees"),
        (-1.0, 1.0, None, "cannot tell"),
    ],
)
def test_a_sign_needs_both_intervals_and_both_excluding_0(low: float, high: float, t: Any, said: str) -> None:
    found = {"pair": ["a", "b"], "value": (low + high) / 2, "low": low, "high": high, "t": t}
    assert verdict(found, theirs=4.0) == said
    assert verdict(found, theirs=4.0, broken=["b"]) == "no result"
    assert verdict(found, theirs=0.0) == "cannot tell", "the paper has no difference, so no sign"


def test_equal_means_of_two_seeds_decide_on_nothing() -> None:
    """The bootstrap alone would say that it agrees."""
    ours = {run: {str(n): int(n < 30) for n in range(40)} for run in range(2)}
    found = difference_over_seeds(ours, {run: {str(n): 0 for n in range(40)} for run in range(2)})
    assert found["low"] > 50 and found["t"] is None
    assert verdict(found | {"pair": ["a", "b"]}, theirs=4.0) == "cannot tell"


def scripts(*dialogues: Dialogue) -> dict[str, Dialogue]:
    return {f"s{place}": dialogue for place, dialogue in enumerate(dialogues)}


def test_hazards_and_the_paired_log_rank_test_by_hand() -> None:
    early = [played(f"e{n}", [0, 0, 0]) for n in range(6)] + [played("f", [1, 1, 1])]
    late = [played(f"l{n}", [1, 1, 0]) for n in range(6)] + [played("m", [1, 1, 1])]
    assert hazard(early) == pytest.approx([6 / 7, 0, 0])
    assert hazard(late) == pytest.approx([0, 0, 6 / 7])
    # Six scripts with the same difference of scores, which an exchange turns round: as extreme in 2 of 64.
    z, p = log_rank(scripts(*late), scripts(*early))
    assert z == pytest.approx(6 / 6**0.5) and p == pytest.approx(2 / 64)
    assert log_rank(scripts(*early), scripts(*late))[0] == pytest.approx(-z)
    # Of 8 dialogues 2 fail at turn 1 and 2 of the other 6 at turn 2: a failure at turn 1 has 1 - 2 / 8, one
    # at turn 2 has 1 - 2 / 8 - 2 / 6, who is censored at turn 2 lacks the 1.
    held = played("h", [1, 1])
    ours = scripts(played("a", [0, 0]), played("a", [0, 0]), held, held)
    theirs = scripts(played("b", [1, 0]), held, played("b", [1, 0]), held)
    apart = [1 / 3, 1 + 1 / 3, -1]
    z, p = log_rank(theirs, ours)
    assert z == pytest.approx(sum(apart) / sum(one**2 for one in apart) ** 0.5) and p == 6 / 8
    assert log_rank(scripts(played("a", [1])), scripts(played("b", [1]))) == (0.0, 1.0)
    assert log_rank(scripts(played("a", [1])), scripts(played("b", [0]))) == (1.0, 1.0), "one script"
    assert log_rank(scripts(played("a", [0])), scripts(played("b", [0]))) == (0.0, 1.0), "all fail at once"
    assert log_rank({"x": played("a", [0])}, {"y": played("b", [1])}) == (0.0, 1.0), "no script of both"
    lost = played("a", [0]).model_copy(update={"stop": StopReason.ASSISTANT_FAILED})
    assert log_rank(scripts(lost), scripts(played("b", [1]))) == (0.0, 1.0)


OUTCOMES = {turn: played("d", [1] * (turn - 1) + [0] * (turn < 5)) for turn in range(1, 6)}
"""A dialogue by the turn of its failure; 5 if none of its four turns fails."""


def attacked(random: np.random.Generator, ease: np.ndarray, easier: float = 0.0) -> dict[str, Dialogue]:
    """A model's dialogues with scripts to which it gives way with these chances a turn."""
    fails = random.random((len(ease), 4)) < (ease + easier)[:, None]
    turns = np.where(fails.any(axis=1), fails.argmax(axis=1), 4) + 1
    return {f"s{place}": OUTCOMES[turn] for place, turn in enumerate(turns.tolist())}


@pytest.mark.slow
def test_the_log_rank_test_draws_the_same_in_every_process() -> None:
    """Python orders a set of texts otherwise in each."""
    code = """
import numpy as np
from test_experiments import attacked, log_rank
random, ease = np.random.default_rng(0), np.full(40, 0.3)
print(log_rank(attacked(random, ease), attacked(random, ease), resamples=99))
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path},
            **{"capture_output": True, "text": True, "check": True},
        ).stdout
        for seed in "1234"
    }
    assert len(told) == 1, told


def test_the_log_rank_test_has_its_level_where_both_models_play_the_same_scripts() -> None:
    """Two models that do not differ, with scripts that nearly always or nearly never succeed. A test that
    takes the two for independent rejects in none of these cases."""
    random, trials = np.random.default_rng(0), 100
    rejected = found = 0
    for _ in range(trials):
        ease = random.beta(0.2, 0.6, 150)
        first, second = attacked(random, ease), attacked(random, ease)
        rejected += log_rank(first, second, resamples=199)[1] <= 0.05
        found += log_rank(first, attacked(random, ease, 0.1), resamples=199)[1] <= 0.05
    assert 0.02 <= rejected / trials <= 0.08
    assert found / trials > 0.8, "and it sees a difference"


def test_tests_of_an_experiment_are_paired_by_suite_and_script() -> None:
    random = np.random.default_rng(0)
    ease = random.beta(0.05, 0.15, 60)
    arms = {name: [attacked(random, ease, more)] for name, more in (("held", 0.0), ("gave way", 0.2))}
    [test] = compared(arms, [("held", "gave way")])["tests"]
    assert (test["z"], test["p"]) == tuple([one] for one in log_rank(arms["held"][0], arms["gave way"][0]))
    assert test["z"][0] > 3 and test["p"][0] < 0.001
