"""`--set KEY=VALUE`: single keys of a config, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from safer_steer.config.file import load_config, read_keys
from safer_steer.errors import UserError

FILE = """
roles: {tutor: {model: t}, judge: [{model: a}, {model: b, timeout_s: 5}]}
seeds: {sources: [{name: mine, path: rows.jsonl}, {name: sandbox}]}
rl: {alpha: 0.4}
"""


def test_a_value_is_yaml_but_text_stands_for_itself() -> None:
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
        ]
    ) == {
        "rl.alpha": 0.5,
        "limit": None,
        "student.system": "Answer: yes, or #no",
        "student.chat_template": None,
        "roles.judge.model": "1.5",
        "bench.capability": ["sandbox", "my #1: [a].jsonl"],
        "bench.suites": ["sandbox"],
        "roles.target.pictures": "caption",
        "roles.target.ask_layout": False,
        "bench.adaptive.at_most": "*",
    }


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
        ("gates.*.at_least", 1, "--set: gates.*.at_least: * is no section of the config"),
    ],
)
def test_what_is_no_key_is_refused(file: Path, key: str, value: object, said: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(file, keys={key: value})
    assert str(error.value).startswith(said)
