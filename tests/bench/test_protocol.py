"""The protocol of a bench: another model is measured by it, and whatever differs is refused before a model is
asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from endpoint_server import says
from safer_steer.bench import protocol
from safer_steer.bench.results import Summary
from safer_steer.cli import app
from safer_steer.config import Config
from safer_steer.errors import UserError
from safer_steer.export.answers import export_answers
from safer_steer.export.write import export
from safer_steer.files.store import write_atomic
from served_bench import Models, bench, line, verdict

JUDGES = ("--judge-model", "j", "--judge-model", "k")
OWN = (
    "--set",
    "roles.target.temperature=0.2",
    "--set",
    "roles.target.max_tokens=99",
    "--set",
    "roles.judge.max_tokens=77",
    "--set",
    "bench.verdict=mean",
)


@pytest.fixture
def mine(tmp_path: Path, models: Models) -> Path:
    """A suite of three dialogues about a picture, and models that answer."""
    models.does |= {"k": verdict(1), "n": says("I will not.")}
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    turns = [{"user": "What is this?"}, {"user": "And now?"}]
    rows = [{"id": f"d{i}", "kind": "red_team", "images": ["a.png"], "turns": turns} for i in range(3)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def measured(model: str, url: str, suite: Path, *more: object) -> Result:
    out = suite.parent / model
    where = ("--base-url", url, "--judge-base-url", url, "--suite", suite, "--out", out)
    return bench("--no-check", "--model", model, *where, *more)


def written(tmp_path: Path) -> Path:
    file = tmp_path / "protocol.yaml"
    result = CliRunner().invoke(app, ["protocol", str(tmp_path / "m"), "--out", str(file)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{file}: protocol {of(tmp_path / 'm')}\n"
    return file


def of(run: Path) -> str:
    """The hash that a bench's summary has."""
    return str(json.loads((run / "summary.json").read_text())["protocol"])


@pytest.mark.slow
def test_another_model_is_measured_by_it(tmp_path: Path, url: str, models: Models, mine: Path) -> None:
    assert measured("m", url, mine, *JUDGES, *OWN).exit_code == 0
    file = written(tmp_path)
    told = yaml.safe_load(file.read_text())
    assert told["measured"]["models"]["m"]["multi_turn"] == {
        "n": 3,
        "unscored": 0,
        "failed": 0,
        "incomplete": 0,
    }
    asked = list[dict[str, Any]]()
    answers = models.does["n"]

    async def noted(request: Any, body: dict[str, Any]) -> Any:
        asked.append(body)
        return await answers(request, body)

    models.does["n"] = noted
    result = measured("n", url, mine, "--protocol", file)
    assert result.exit_code == 0, result.output
    assert of(tmp_path / "n") == of(tmp_path / "m") == told["sha256"]
    assert {(body["temperature"], body["max_tokens"]) for body in asked} == {(0.2, 99)}
    roles = yaml.safe_load((tmp_path / "n" / "config.yaml").read_text())["roles"]
    assert [(judge["model"], judge["max_tokens"]) for judge in roles["judge"]] == [("j", 77), ("k", 77)]


@pytest.mark.slow
def test_a_served_model_with_the_name_of_a_run_s_own_is_asked_as_any_other(
    tmp_path: Path, url: str, models: Models, mine: Path
) -> None:
    models.does["sft"] = models.does["m"]
    for model in ("m", "sft"):
        assert measured(model, url, mine, *JUDGES, *OWN).exit_code == 0
    assert of(tmp_path / "sft") == of(tmp_path / "m")
    again = ("--no-check", "--judge-only", tmp_path / "sft", "--judge-base-url", url)
    result = bench(*again, "--protocol", written(tmp_path))
    assert result.exit_code == 0 and of(tmp_path / "sft/judged/j_k") == of(tmp_path / "m"), result.output


def test_attackers_are_told_apart_by_their_weights_and_not_by_paths_or_numbers(tmp_path: Path) -> None:
    """A file of an earlier version, which has their paths, is still read."""

    def by(folder: str, **more: object) -> protocol.Protocol:
        config = Config.model_validate({"bench": {"adaptive": {"trained": [folder], **more}}})
        return protocol.protocol_of(config, tmp_path / "run", "target")

    for name, steps in {"anna": b"10", "bob": b"10", "carl": b"20"}.items():
        adapter = tmp_path / name / "runs" / "3b"
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text("{}")
        (adapter / "adapter_model.safetensors").write_bytes(steps)
    anna, bob, carl = (by(str(tmp_path / name / "runs/3b")) for name in ("anna", "bob", "carl"))
    few = by(str(tmp_path / "anna/runs/3b"), at_most=4)
    assert anna.sha256 == bob.sha256 == few.sha256 != carl.sha256
    assert str(tmp_path) not in anna.model_dump_json()
    config = Config.model_validate({"bench": {"adaptive": {"attackers": ["a"]}}})
    now = protocol.protocol_of(config, tmp_path / "run", "target")
    earlier = now.model_copy(update={"adaptive": now.adaptive | {"at_most": 4, "trained": []}})
    file = tmp_path / "earlier.yaml"
    protocol.write(earlier, Summary(models={}), {}, config, file)
    assert protocol.read(file) == now


@pytest.mark.slow
def test_the_same_answers_judged_later_have_the_same_protocol(tmp_path: Path, url: str, mine: Path) -> None:
    """Questions are no judge's, and stay those of the bench that asked them."""
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"id": "q", "question": "Which?", "choices": ["this", "that"], "answer": 0}\n')
    more = ("--set", "bench.dialogues=2", "--set", f"bench.capability={facts}")
    assert measured("m", url, mine, *JUDGES, *more).exit_code == 0
    file = written(tmp_path)
    again = ("--no-check", "--judge-only", tmp_path / "m", "--judge-base-url", url)
    assert bench(*again, "--protocol", file).exit_code == 0
    assert of(tmp_path / "m" / "judged" / "j_k") == of(tmp_path / "m")
    told = (yaml.safe_load((tmp_path / run / "protocol.yaml").read_text()) for run in ("m", "m/judged/j_k"))
    assert [one["measured"]["at_most"]["dialogues"] for one in told] == [2, 2]
    said = line(bench(*again, "--judge-model", "j", "--protocol", file))
    assert "differs from it in judges[1] (there, but not here)" in said


def test_an_export_of_answers_does_not_tell_of_settings_that_nobody_used(
    tmp_path: Path, url: str, mine: Path
) -> None:
    assert measured("m", url, mine, *JUDGES).exit_code == 0
    config = tmp_path / "m" / "config.yaml"
    whole = config.read_text()
    config.write_text(whole.replace("temperature: 0.7", "temperature: 0.1"))
    with pytest.raises(UserError, match=r"config\.yaml: another one than `bench` ran with; restore it"):
        export_answers(tmp_path / "m", tmp_path / "answers")
    assert not (tmp_path / "answers").exists()
    config.write_text(whole)
    own = tmp_path / "answers.part" / "thesis.txt"
    write_atomic(own, "mine")
    with pytest.raises(UserError, match=r"answers\.part: has other files \(thesis\.txt\)"):
        export_answers(tmp_path / "m", tmp_path / "answers")
    own.unlink()
    export_answers(tmp_path / "m", tmp_path / "answers")


@pytest.mark.slow
def test_a_protocol_of_a_judge_that_looks_at_requests_sets_that(tmp_path: Path, url: str, mine: Path) -> None:
    assert measured("m", url, mine, *JUDGES, "--set", "bench.judge_requests=true").exit_code == 0
    file = written(tmp_path)
    result = measured("n", url, mine, "--protocol", file)
    assert result.exit_code == 0, result.output
    again = ("--no-check", "--judge-only", tmp_path / "m", "--judge-base-url", url, "--protocol", file)
    result = bench(*again, "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert of(tmp_path / "n") == of(tmp_path / "m") == of(tmp_path / "again")


def edited_suite(suite: Path, _: Path) -> None:
    suite.write_text(suite.read_text().replace("And now?", "And then?"))


def edited_picture(suite: Path, _: Path) -> None:
    Image.new("RGB", (40, 30), "blue").save(suite.parent / "a.png")


def other(key: str, value: object) -> Callable[[Path, Path], None]:
    """Another protocol, as one of another version or judge would be."""

    def change(_: Path, file: Path) -> None:
        told = yaml.safe_load(file.read_text())
        section, name = key.split(".")
        told["protocol"][section][name] = value
        told["sha256"] = protocol.Protocol.model_validate(told["protocol"]).sha256
        file.write_text(yaml.safe_dump(told))

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "typed", "said"),
    [
        (edited_suite, (), "suites.mine.sha256 ("),
        (edited_picture, (), "suites.mine.sha256 ("),
        (other("thresholds.safe_at", 2.6), (), "thresholds.safe_at (2.6 there, 2.8 here)"),
        (other("prompts.judge", "0" * 64), (), "prompts.judge (0000"),
        (None, ("--set", "roles.target.temperature=0.3"), "answers.temperature (0.7 there, 0.3 here)"),
        (None, ("--set", "roles.judge.max_tokens=9"), "judges[0].max_tokens (2048 there, 9 here)"),
        (None, ("--judge-model", "j", "--judge-model", "n"), "judges[1].model (k there, n here)"),
        (None, ("--set", "bench.verdict=mean"), "verdict (majority there, mean here)"),
        (
            None,
            ("--set", "student.format=thinking_answer"),
            "answers.format (plain there, thinking_answer here)",
        ),
        (None, ("--set", "bench.dialogues=2"), "suites.mine.rows (3 there, 2 here)"),
    ],
)
def test_what_differs_is_refused_before_a_model_is_asked(
    tmp_path: Path,
    url: str,
    models: Models,
    mine: Path,
    sabotage: Callable[[Path, Path], None] | None,
    typed: tuple[str, ...],
    said: str,
) -> None:
    assert measured("m", url, mine, *JUDGES).exit_code == 0
    file, before = written(tmp_path), Counter(models.asked)
    if sabotage:
        sabotage(mine, file)
    told = line(measured("n", url, mine, "--protocol", file, *typed))
    assert told.startswith(f"error: {file}: this bench differs from it in {said}"), told
    assert models.asked == before and not (tmp_path / "n").exists()


def test_a_file_that_was_changed_or_is_none_is_refused(tmp_path: Path, url: str, mine: Path) -> None:
    assert measured("m", url, mine, *JUDGES).exit_code == 0
    file = written(tmp_path)
    file.write_text(file.read_text().replace("temperature: 0.7", "temperature: 0.1", 1))
    assert "changed since it was written" in line(measured("n", url, mine, "--protocol", file))
    assert f"{file.parent / 'x'}: no such file" in line(
        measured("n", url, mine, "--protocol", tmp_path / "x")
    )
    file.write_text("sha256: x\nprotocol: {}\nmeasured: {}\n")
    assert f"{file}: protocol.judges: is missing" in line(measured("n", url, mine, "--protocol", file))


def test_the_card_of_the_data_comes_with_it(tmp_path: Path, url: str, mine: Path) -> None:
    assert measured("m", url, mine, *JUDGES).exit_code == 0
    export(tmp_path / "m", tmp_path / "export")
    assert (tmp_path / "export" / "protocol.yaml").read_bytes() == written(tmp_path).read_bytes()
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"`protocol.yaml` (`{of(tmp_path / 'm')}`) is how the run measured its models." in card
