"""A gate stops a run whose quantity leaves its band, says what to do, and can be overridden on the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from display import Quiet, complaint, safer_steer
from made_up_run import write_jsonl, write_run
from safer_steer import pipeline
from safer_steer.config import Config
from safer_steer.config.file import dump_config, in_words, with_stubs
from safer_steer.config.gates import Band, GateName
from safer_steer.errors import GateLeft, UserError
from safer_steer.files.manifest import Manifest
from safer_steer.report.health import gates_table
from safer_steer.report.health.gates import look
from safer_steer.report.health.quantities import QUANTITIES
from safer_steer.run.folder import Run
from safer_steer.run.gates import hold, names
from safer_steer.stages import STAGES


def test_every_gate_has_its_quantity_and_no_other_has() -> None:
    assert QUANTITIES.keys() == set(get_args(GateName))
    assert all({*quantity.stages} <= STAGES.keys() and quantity.stages for quantity in QUANTITIES.values())


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.1, "0.1, below 0.2 by 0.1"), (0.2, ""), (0.5, ""), (0.9, "0.9, above 0.5 by 0.4")],
)
def test_a_value_on_the_edge_is_in_the_band(value: float, words: str) -> None:
    assert Band(at_least=0.2, at_most=0.5).left(value) == words


@pytest.mark.parametrize("band", [{}, {"at_least": 2, "at_most": 1}, {"most": 1}])
def test_a_band_without_an_end_or_upside_down_is_refused(band: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"gates": {"kept_share": band}})


@pytest.mark.parametrize(
    ("gate", "band", "words"),
    [
        ("twin_refusals", {"at_most": 30}, "at_most is 30, and a share is 0 to 1; did you mean 0.3?"),
        ("kept_share", {"at_least": -0.1}, "at_least is -0.1, and a share is 0 to 1"),
        ("kept_share", {"at_least": 1.5}, "at_least is 1.5, and a share is 0 to 1"),
        ("judge_agreement", {"at_least": 60}, "judge_agreement is -1 to 1; did you mean 0.6?"),
        ("sft_loss", {"at_most": -1}, "at_most is -1, and sft_loss is 0 or more"),
        ("sft_loss", {"at_most": True}, "must be a number, not True"),
    ],
)
def test_a_band_that_no_value_reaches_is_refused(gate: str, band: dict[str, float], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Config.model_validate({"gates": {gate: band}})
    assert in_words(refused.value).endswith(words)


def test_what_is_no_number_is_in_no_band() -> None:
    assert Band(at_most=1).left(float("nan")) == Band(at_least=0).left(float("nan")) == "not a number"
    assert Band(at_most=1).left(float("inf")) == "inf, above 1 by inf"


MEASURED = {
    "kept_share": ("bootstrap", 0.25),
    "sft_loss": ("sft", 0.5),
    "engine_gap": ("rl", 0.03),
    "format_kept": ("rl", 0.9),
    "equal_groups": ("rl", 0.4),
    "twin_refusals": ("rl", 0.5),
    "judge_agreement": ("bench", 0.3),
}


def made_up(run: Path) -> None:
    """A run with something to read for each of these gates."""
    write_run(run)
    row = {"id": "1", "kind": "benign", "turns": []}
    write_jsonl(run / "bootstrap" / "kept.jsonl", [row])
    write_jsonl(run / "bootstrap" / "rejected.jsonl", [row] * 3)
    write_jsonl(run / "sft" / "metrics.jsonl", [{"step": 1, "loss": 9}] + [{"step": 2, "loss": 0.5}] * 5)
    steps = [{"step": 1, "logprob_gap": 0.03, "format_kept": 0.0, "equal_groups": 0.4}]
    steps += [{"step": 2, "logprob_gap": 0.5, "format_kept": 0.9, "equal_groups": 0.4}] * 5
    write_jsonl(run / "rl" / "metrics.jsonl", steps)
    for step, refused in ((2, (0, 0)), (4, (0, 1)), (6, (1, 1))):
        twins = []
        for place, mark in enumerate(refused):
            scores = {"harmlessness": 3, "helpfulness": 3, "refused": mark}
            turns = [{"user": "u", "assistant": "a", "scores": scores}]
            twins.append({"id": str(place), "kind": "benign", "stop": "completed", "turns": turns})
        folder = run / "rl" / "probe" / f"{step:05d}"
        write_jsonl(folder / "safe_twins.jsonl", twins)
        if step < 6:  # the last one was killed
            (folder / "done").touch()
    agreed = {"exact": 90, "within_one": 95, "kappa": {"value": 0.3, "low": 0.1, "high": 0.5}}
    (run / "judge_check.json").write_text(json.dumps({"people": {"harmlessness": agreed}}))


def test_quantities_are_read_from_the_folder_and_shown(tmp_path: Path) -> None:
    made_up(tmp_path)
    gates = {gate: Band(at_most=value, basis="test") for gate, (_, value) in MEASURED.items()}
    for gate, (stage, value) in MEASURED.items():
        [one] = [one for one in look(tmp_path, gates, stage) if one.gate == gate]  # type: ignore[arg-type]
        assert one.reading and one.reading.value == pytest.approx(value) and one.left == "", gate
    table = gates_table(tmp_path, {"gates": {gate: {"at_most": 0.2} for gate in MEASURED}})
    assert table and {row[0]: row[5] for row in table.rows} == {
        gate: "out of its band" if value > 0.2 else "in its band" for gate, (_, value) in MEASURED.items()
    }
    assert gates_table(tmp_path, {}) is gates_table(tmp_path, {"gates": {"of a later version": {}}}) is None


def test_a_run_that_leaves_a_band_stops_and_an_override_is_on_the_record(tmp_path: Path) -> None:
    made_up(tmp_path)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "manifest.json").write_text('{"stages": {}}')
    band = {"at_most": 0.2, "basis": "two runs of the sandbox"}
    config = Config.model_validate({"gates": {"kept_share": band, "sft_loss": {"at_most": 1}}})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    with Run(config, tmp_path, Quiet()) as run:
        hold(run, "sft")
        with pytest.raises(GateLeft) as stopped:
            hold(run, "bootstrap")
        line = str(stopped.value)
        assert "kept_share is 0.25, above 0.2 by 0.05 (two runs of the sandbox)" in line
        assert "1 of 4 dialogues" in line and "tau_safe" in line and "--override kept_share" in line
        assert not Manifest(tmp_path).overrides
        run.override = names(["kept_share"], config)
        hold(run, "bootstrap")
        run.override = frozenset()
        hold(run, "bootstrap")  # it stays noted
    [noted] = Manifest(tmp_path).overrides
    assert (noted["stage"], noted["gate"], noted["value"]) == ("bootstrap", "kept_share", 0.25)
    table = gates_table(tmp_path, config.model_dump(mode="json"))
    assert table and {row[0]: row[5] for row in table.rows}["kept_share"] == "overridden"


def test_a_stage_alone_is_held_to_the_gates_of_all_stages_that_it_builds_on(tmp_path: Path) -> None:
    """SFT builds on Stage I only by way of the dialogues."""
    gates = {"generator_refusals": {"at_most": 0.1}, "twin_refusals": {"at_most": 0.1}}
    config = Config.model_validate({"gates": gates})
    attempts = [{"id": f"p{place}-benign:0", "failed": "refused: no"} for place in range(20)]
    write_jsonl(tmp_path / "seeds" / "journal" / "0.jsonl", attempts)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    for stage in ("seeds", "assemble", "bootstrap", "sft"):
        Manifest(tmp_path).record(stage, STAGES[stage].writes, (), {})
    with pytest.raises(GateLeft, match=r"seeds: generator_refusals is 1, above 0\.1"):
        pipeline.run_stage("sft", config, tmp_path, Quiet())
    assert "generator_refusals" in (tmp_path / "report.html").read_text(), (
        "the page shows what there is to mend"
    )
    said = Quiet()
    pipeline.run_stage("sft", config, tmp_path, said, override=["generator_refusals"])
    assert said.lines[-1] == "sft: done already"
    assert [(one["stage"], one["gate"]) for one in Manifest(tmp_path).overrides] == [
        ("seeds", "generator_refusals")
    ]


def test_all_that_a_gate_measures_is_in_its_override(tmp_path: Path) -> None:
    scores = [{"safety": 2, "helpfulness": 10}] * 20
    turns = [{"user": "u", "assistant": "a", "scores": one, "meta": {}} for one in scores]
    write_jsonl(tmp_path / "bootstrap" / "journal.jsonl", [{"id": "d", "kind": "red_team", "turns": turns}])
    config = Config.model_validate({"gates": {"constant_scores": {"at_most": 0.9}}})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "manifest.json").write_text('{"stages": {}}')
    with Run(config, tmp_path, Quiet()) as run:
        run.override = names(["constant_scores"], config)
        for _ in range(2):  # the second time all of it is noted already
            hold(run, "bootstrap")
    words = [one["words"] for one in Manifest(tmp_path).overrides]
    assert len(words) == 2 and "safety was 2" in words[0] and "helpfulness was 10" in words[1]


@pytest.mark.parametrize(("name", "words"), [("kept", "is no gate"), ("sft_loss", "is not in `gates`")])
def test_an_override_of_what_is_no_gate_of_the_run_is_refused(name: str, words: str) -> None:
    config = Config.model_validate({"gates": {"kept_share": {"at_most": 1}}})
    with pytest.raises(UserError, match=words):
        names([name], config)


@pytest.mark.parametrize("option", ["--limit=2", "--stub"])
def test_an_override_where_there_are_no_gates_says_why(tmp_path: Path, option: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("gates: {kept_share: {at_most: 1}}")
    command = ("run", config, "--out", tmp_path / "run", "--dry-run")
    said = complaint(safer_steer(*command, "--override", "kept_share", option))
    assert "--override kept_share: with --limit and --stub there are no gates" in said
    assert "kept_shar: is no gate; use kept_share" in complaint(safer_steer(*command, "--override=kept_shar"))


@pytest.mark.parametrize(
    ("gate", "change", "need"),
    [
        ("judge_agreement", {}, "several judges"),
        ("attacker_refusals", {}, "bench.adaptive"),
        ("generator_refusals", {"seeds": {"scripts": "own.jsonl"}}, "seeds.sources"),
        ("red_team_success", {"seeds": {"scripts": "own.jsonl"}}, "seeds.sources"),
        ("red_team_success", {"seeds": {"kinds": ["benign"]}}, "red_team in seeds.kinds"),
        ("tutor_refusals", {"rl": {"algorithm": "dpo"}}, "grpo or cotrain"),
        ("format_kept", {"student": {"format": "plain"}}, "thinking_answer"),
        ("engine_gap", {"rl": {"algorithm": "dpo"}}, "grpo"),
        ("twin_refusals", {"bench": {"judged": False}}, "bench.judged"),
    ],
)
def test_a_gate_that_could_never_be_measured_is_refused_at_once(
    gate: str, change: dict[str, object], need: str
) -> None:
    config = Config.model_validate({"gates": {gate: {"at_most": 1}}, **change})
    stage = QUANTITIES[gate].stages[0]  # type: ignore[index]
    assert any(f"gates.{gate}: needs" in line and need in line for line in STAGES[stage].refusals(config))


def test_a_first_try_and_stubs_have_no_gates() -> None:
    config = {"gates": {"kept_share": {"at_most": 1}}}
    assert not Config.model_validate(config | {"limit": 4}).gates
    assert not with_stubs(Config.model_validate(config)).gates
