"""`--set KEY=VALUE`: single keys of a config, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from safer_steer.config.file import load_config
from safer_steer.config.keys import read_keys
from safer_steer.errors import UserError

FILE = """
roles: {tutor: {model: t}, judge: [{model: a}, {model: b, timeout_s: 5}]}
seeds: {sources: [{name: mine, path: rows.jsonl}, {name: sandbox}]}
rl: {alpha: 0.4}
"""


def test_a_single_value_is_its_text_a_list_has_commas_and_the_rest_is_yaml() -> None:
    assert read_keys(
        [
            "rl.alpha=0.5",
            "limit=null",
            "student.system=Answer: yes, or #no",
            "student.chat_template=null",
            "roles.judge.model=1.5",
            "bench.capability=sandbox,my #1: [a].jsonl",
            "bench.suites=[sandbox]",
            "roles.target.pictures=caption",
            "roles.target.ask_layout=false",
            "bench.adaptive.at_most=*",
            "bench.adaptive.attackers=a, b",
            "rl.rollouts.base_url=",
            "rl.weights=0.5,0.3,0.2",
            "seeds.sources.subset=2024",
            "seeds.sources.columns.question=no",
            "gates.kept_share.basis=2026",
            "roles.*.model=5",
            "bench.typographic={layout: whole}",
            "seed=!!bool foo",
            "seed=010",
        ]
    ) == {
        "rl.alpha": "0.5",
        "limit": None,
        "student.system": "Answer: yes, or #no",
        "student.chat_template": None,
        "roles.judge.model": "1.5",
        "bench.capability": ["sandbox", "my #1: [a].jsonl"],
        "bench.suites": ["sandbox"],
        "roles.target.pictures": "caption",
        "roles.target.ask_layout": "false",
        "bench.adaptive.at_most": "*",
        "bench.adaptive.attackers": ["a", "b"],
        "rl.rollouts.base_url": [],
        "rl.weights": ["0.5", "0.3", "0.2"],
        "seeds.sources.subset": "2024",
        "seeds.sources.columns.question": "no",
        "gates.kept_share.basis": "2026",
        "roles.*.model": "5",
        "bench.typographic": {"layout": "whole"},
        "seed": "010",
    }
    assert [*read_keys(["seed=1", "limit=2", "seed=3"]).items()] == [("limit", "2"), ("seed", "3")]
    with pytest.raises(UserError, match=r"--set student\.system: its value is not valid UTF-8"):
        read_keys(["student.system=\udcff"])


def test_numbers_are_read_as_the_config_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("name: sandbox")
    typed = ["seed=010", "rl.alpha=1e-1", "rl.weights=0.5,0.3,0.2", "seeds.filter_bench=yes", "limit=null"]
    config = load_config(file, keys=read_keys(typed))
    assert (config.seed, config.rl.alpha, config.limit) == (10, 0.1, None)
    assert (config.rl.weights, config.seeds.filter_bench) == ((0.5, 0.3, 0.2), True)
    for entry, said in {"seed=1:30": "a whole number", "seeds.filter_bench=maybe": "true or false"}.items():
        with pytest.raises(UserError, match=f"--set: {entry.partition('=')[0]}: must be {said}"):
            load_config(file, keys=read_keys([entry]))


def test_a_key_counts_before_the_file_is_judged_and_cut_to_its_limit(tmp_path: Path) -> None:
    file, child = tmp_path / "config.yaml", tmp_path / "child.yaml"
    file.write_text(
        "{limit: 2, rl: {seeds: 40}, bench: {dialogues: 200}, gates: {kept_share: {at_least: 0.1}}}"
    )
    whole = load_config(file, keys={"limit": None})
    assert (whole.rl.seeds, whole.bench.dialogues, [*whole.gates]) == (40, 200, ["kept_share"])
    assert load_config(file, limit=8, keys={"limit": 30}).bench.dialogues == 30
    child.write_text("{base: config.yaml, limit: null}")
    assert load_config(child).bench.dialogues == 200
    file.write_text("{seeds: {at_most: 5, sources: [{name: sandbox, limit: 60}]}}")
    assert load_config(file, keys={"seeds.at_most": 20}).seeds.sources[0].limit == 20
    file.write_text("assembly: {}")
    assert load_config(file, keys={"rl.seeds": 10}).assembly
    with pytest.raises(UserError, match=r"config\.yaml: config: assembly needs rl\.seeds"):
        load_config(file, keys={"seed": 10})


def test_a_key_does_not_turn_the_files_model_into_a_folder_of_where_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("student: {model: org/m}")
    (tmp_path / "here" / "org" / "m").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert load_config(file, keys={"seed": 1}).student.model == "org/m"
    assert load_config(file, keys={"student.model": "org/m"}).student.model == str(Path.cwd() / "org/m")


def test_the_source_that_is_there_by_default_gets_the_key(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("name: sandbox")
    [source] = load_config(file, keys={"seeds.sources.limit": 10}).seeds.sources
    assert (source.name, source.limit) == ("sandbox", 10)
    cotrain = {"rl.algorithm": "cotrain", "student.lora_rank": 8}
    assert load_config(file, stub=True, keys=cotrain).student.lora_rank == 8, "it trains adapters"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in a folder below the working one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    file = tmp_path / "below" / "config.yaml"
    file.write_text(FILE)
    return file


def test_keys_go_over_the_files_and_paths_are_relative_to_where_they_were_typed(file: Path) -> None:
    keys = {"rl.beta": 0.1, "bench.suites": ["typed.jsonl"], "bench.adaptive.tries": 2, "limit": 5}
    config = load_config(file, keys=keys)
    assert (config.rl.alpha, config.rl.beta, config.limit) == (0.4, 0.1, 5)
    assert config.seeds.sources[0].path == str(file.parent / "rows.jsonl")
    assert config.bench.suites == [str(file.parents[1] / "typed.jsonl")]
    assert config.bench.adaptive and config.bench.adaptive.tries == 2
    assert load_config(file, stub=True, keys={"student.max_turn_tokens": 7}).student.max_turn_tokens == 7


def test_every_section_of_a_list_and_every_section_there_may_be_meant(file: Path) -> None:
    config = load_config(file, keys={"roles.judge.max_tokens": 9, "seeds.sources.limit": 3})
    assert [judge.max_tokens for judge in config.models_of("judge").values()] == [9, 9]
    assert [source.limit for source in config.seeds.sources] == [3, 3]
    config = load_config(file, keys={"roles.*.timeout_s": 7})
    assert [role.timeout_s for _, role in config.each_role()] == [7, 7, 7]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rl.alhpa", 1, "--set: rl.alhpa: unknown key; did you mean `alpha`?"),
        ("rl.alpha.x", 1, "--set: rl.alpha.x: alpha is no section of the config"),
        ("rl", {"alpha": 1}, "--set: rl is a section of the config; write rl.alpha"),
        ("roles.*", 1, "--set: roles.*: unknown key"),
        (
            "roles.tutor",
            {"max_tokens": 1},
            "--set: roles.tutor is a section of the config; write roles.tutor.max",
        ),
        (
            "roles.judge",
            {"retries": 1},
            "--set: roles.judge is a section of the config; write roles.judge.retries",
        ),
        ("bench.targets.nokey", 1, "--set: bench.targets.nokey: targets is no section of the config"),
        ("gates.*.at_least", 1, "--set: gates.*.at_least: * is no section of the config"),
    ],
)
def test_what_is_no_key_is_refused(file: Path, key: str, value: object, said: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(file, keys={key: value})
    assert str(error.value).startswith(said)
