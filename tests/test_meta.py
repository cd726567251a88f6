"""The register of `meta`: no code names a key, and no run writes one, that it does not have."""

import json
from pathlib import Path

import pytest

from meta_keys import KEYS, named, unregistered
from places import PACKAGE
from safer_steer.data.assembly.splits import questions
from safer_steer.dialogue import Dialogue, Seed, Turn
from safer_steer.errors import EndpointError, Fault
from safer_steer.files.meta import only, without

ROW = {"id": "a", "turns": [{"meta": {"risk": 1, "finish": "stop"}}], "meta": {"try": 0, "seed": "s"}}


def test_all_code_names_keys_of_the_register() -> None:
    wrong = {
        (path.relative_to(PACKAGE).as_posix(), key)
        for path in PACKAGE.rglob("*.py")
        for key in named(path.read_text(encoding="utf-8")) - KEYS
    }
    assert not wrong


def test_every_key_of_the_register_is_in_the_code() -> None:
    in_code = set().union(*(named(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")))
    assert not KEYS - in_code


@pytest.mark.parametrize(
    "text",
    [
        'turn.meta["unscord"]',
        'row["meta"].get("unscord", "")',
        '(turn.get("meta") or {}).get("unscord")',
        'meta = _table(row.get("meta"))\nmeta.get("unscord")',
        '_table(row.get("meta")).get("unscord")',
        'dialogue.meta.pop("unscord", None)',
        '"unscord" in turn.meta',
        'Turn(user="?", meta={"unscord": 1} if late else {})',
        'Reply(text, {"unscord": 1})',
        'meta |= {"unscord": why}',
        'meta: TurnMeta = {"reason": "r"} | {"unscord": why}',
        'without(turn.meta, "reason", "unscord")',
    ],
)
def test_a_misspelt_key_in_the_code_is_noticed(text: str) -> None:
    assert named(text) - KEYS == {"unscord"}
    assert not named(text.replace("unscord", "unscored")) - KEYS


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        ({}, []),
        ({"meta": {"tries": 0}}, ["rows.jsonl: a: tries is not in the register"]),
        ({"meta": {"try": "0"}}, ["rows.jsonl: a: try: '0' is no <class 'int'>"]),
        ({"turns": [{"meta": {"unscord": "x"}}]}, ["rows.jsonl: a: unscord is not in the register"]),
    ],
)
def test_a_row_with_a_fact_that_is_not_registered_is_noticed(
    sabotage: dict, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW | sabotage) + "\n")
    assert list(unregistered(tmp_path)) == said


def test_a_row_keeps_its_facts_as_they_are_written() -> None:
    """Those of a user's own too, in their order: a copied suite is the same bytes."""
    meta = {"mine": [1], "unscored": "x: y", "calls": "three"}
    row = json.dumps({"user": "u", "assistant": None, "scores": None, "meta": meta}, separators=(",", ":"))
    assert Turn.model_validate_json(row).model_dump_json() == row
    assert only({"b": 1, "a": 2, "c": 3}, "a", "b", "z") == {"a": 2, "b": 1}
    assert list(without({"b": 1, "a": 2, "c": 3}, "a", "z")) == ["b", "c"]


def test_a_fact_that_is_null_is_none() -> None:
    """As a table's program writes an empty cell: an intent of null was the intent "None" of a question."""
    facts = {"pair": "p", "question": "q", "intent": None, "twin": None, "mine": None}
    turns = [{"user": "u", "meta": {"safe": None, "in_picture": None}}]
    seed = Seed.model_validate({"id": "a", "kind": "red_team", "intent": "i", "turns": turns, "meta": facts})
    assert (seed.meta, seed.turns[0].meta) == ({"pair": "p", "question": "q"}, {})
    assert questions([seed])[0].intent == "i"
    row = {"id": "a", "kind": "benign", "meta": {"return": None, "error": None}}
    assert Dialogue.model_validate(row).meta == {"return": None}, "a trajectory without one says so"


def test_a_fault_is_a_value_and_one_text_in_a_row() -> None:
    fault = EndpointError("http://x: status 500").fault
    assert fault == Fault("endpoint", "http://x: status 500") and fault.unreached
    assert str(fault) == "endpoint: http://x: status 500" and Fault.read(str(fault)) == fault
    assert str(Fault.read("no reply")) == "no reply" and not Fault.read("no reply").unreached
    assert str(Fault.read("endpoint: ")) == "endpoint: "


def test_a_dialogue_says_what_failed() -> None:
    seed = Seed(id="a", kind="benign", turns=[Turn(user="u")], meta={"pair": "p"})
    dialogue = Dialogue.begin(seed)
    assert dialogue.fault is None and list(dialogue.faults) == []
    dialogue.turns = [Turn(user="u", meta={"unscored": "unparsable: no JSON"}), Turn(user="v")]
    dialogue.meta["error"] = "refused: no"
    assert dialogue.turns[0].unscored == Fault("unparsable", "no JSON") and dialogue.turns[1].unscored is None
    assert list(dialogue.faults) == [Fault("refused", "no"), Fault("unparsable", "no JSON")]
    assert Dialogue.begin(dialogue).meta == {"pair": "p"}
