"""The kinds of config keys: each has one, at its definition, and a finished run does what it says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

from display import safer_steer
from safer_steer.config import Adaptive, Assembly, Config, Role, Source
from safer_steer.config.changes import EVERY_KIND, another_run, keep_finished, settings_of
from safer_steer.config.keys import describe
from safer_steer.experiments.work import run_id
from safer_steer.stages import STAGES

FREE = {
    *("name", "report_to", "spending_limit"),
    *(f"student.{key}" for key in ("generation_tokens", "kept_tokens", "check_every", "sharding")),
    *(
        f"roles.<role>.{key}"
        for key in (
            *("base_url", "api_key_env", "timeout_s", "retries", "rate_limit_s", "max_reply_mb", "reasks"),
            *("concurrency", "requests_per_minute", "json_schema", "price_in", "price_out"),
        )
    ),
    *("seeds.max_unanswered", "bootstrap.max_unanswered", "bootstrap.sft.micro_batch_size"),
    *("rl.micro_batch_size", "rl.patience_s", "rl.max_unscored"),
    *("rl.audit.role", "rl.audit.share"),
    *("rl.cotrain.max_equal_groups", "rl.cotrain.max_twin_refusals"),
    *(f"rl.rollouts.{key}" for key in ("engine", "base_url", "api_key_env", "timeout_s", "retries")),
    *("bench.max_unscored", "bench.targets[].base_url", "bench.targets[].api_key_env"),
    *(f"gates.<gate>.{key}" for key in ("at_least", "at_most", "basis", "means")),
}
CALL = {"roles.<role>.max_tokens"}
KINDS = {key: kind for key, _, _, kind, _ in describe()}


def whole() -> dict[str, Any]:
    """A config with every section, as YAML has it."""
    config = Config(
        roles={"judge": Role()},
        assembly=Assembly(),
        rl={"seeds": 5, "audit": {}},
        bench={
            "adaptive": Adaptive(tries=4, show_text=True),
            "targets": [{"model": "a"}, {"model": "b"}],
            "typographic": {},
        },
        seeds={"sources": [Source(), Source(name="mine", path="/pairs.jsonl")], "typographic": {}},
        gates={"kept_share": {"at_least": 0.1}},
    )
    return config.model_dump(mode="json")


def changed(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """The config with another value of a key, in the last section of a list."""
    settings = copy.deepcopy(settings)
    *sections, last = key.replace("<role>", "judge").replace("<gate>", "kept_share").split(".")
    inner: Any = settings
    for name in sections:
        inner = inner[name.removesuffix("[]")]
        inner = inner[-1] if name.endswith("[]") else inner
    inner[last] = "another value"
    return settings


def test_every_key_has_the_kind_that_is_meant() -> None:
    """A new key is of kind `run` until somebody says here, too, that it is not."""
    assert {key for key, kind in KINDS.items() if kind == "free"} == FREE
    assert {key for key, kind in KINDS.items() if kind == "call"} == CALL
    assert set(KINDS.values()) == {"run", "call", "free"}


@pytest.mark.parametrize("key", KINDS)
def test_each_key_is_compared_by_its_path(key: str) -> None:
    said = another_run(whole(), changed(whole(), key))
    if KINDS[key] == "run":
        place = key.replace("<role>", "judge").replace("[]", "[1]")
        assert (
            said is not None
            and said.startswith(f"{place} (")
            and said.endswith(" there, another value here)")
        )
        assert settings_of(whole()) != settings_of(changed(whole(), key))
    else:
        assert said is None
        assert settings_of(whole()) == settings_of(changed(whole(), key))


def test_a_name_is_a_label_of_the_run_alone() -> None:
    """A source's name says how its rows are read, wherever it stands."""
    there, here = whole(), whole()
    here["name"] = "another title"
    assert another_run(there, here) is None
    here["seeds"]["sources"][1]["name"] = "spa_vl"
    assert another_run(there, here) == "seeds.sources[1].name (mine there, spa_vl here)"


def test_what_stands_on_one_side_alone_is_named_and_not_printed() -> None:
    there, here = whole(), whole()
    del here["roles"]["judge"]
    assert another_run(there, here) == "roles.judge (there, but not here)"
    assert another_run(here, there) == "roles.judge (not there, but here)"
    here = whole()
    del here["seeds"]["sources"][1]
    assert another_run(there, here) == "seeds.sources[1] (there, but not here)"
    here = whole() | {"assembly": None}
    assert another_run(there, here) == "assembly (there, but not here)"
    here = whole()
    here["bench"]["adaptive"] = None
    assert another_run(there, here) == "bench.adaptive (there, but not here)"


def test_a_long_value_is_cut() -> None:
    there, here = whole(), whole()
    here["bench"]["suites"] = [f"/suites/number-{number}.jsonl" for number in range(100)]
    assert len(another_run(there, here) or "") < 220


def test_a_config_of_an_earlier_version_is_compared_too() -> None:
    there, here = whole(), whole()
    there["rl"]["an_old_key"] = 1
    assert another_run(there, here) == "rl.an_old_key (1 there, null here)"
    assert another_run("a text", here) is not None
    assert another_run(None, here) is not None


def test_the_ids_of_runs_stay_where_keys_come() -> None:
    """The id of the config that says nothing. A key that comes must be marked `LATER`, or experiments of the
    version before run everything again. Change it only with a default."""
    assert run_id(Config()) == "e1d445f728c3493e"


def test_a_key_that_came_later_leaves_earlier_runs_their_ids_at_its_default() -> None:
    earlier = whole()
    del earlier["bench"]["adaptive"], earlier["bench"]["targets"], earlier["seeds"]["at_most"]
    del earlier["rl"]["tutor_memory"], earlier["rl"]["seed"], earlier["bench"]["judge_requests"]
    del earlier["rl"]["audit"], earlier["rl"]["cotrain"], earlier["gates"]
    del earlier["bench"]["typographic"], earlier["seeds"]["typographic"], earlier["bench"]["verdict"]
    del earlier["seeds"]["max_unanswered"], earlier["bootstrap"]["max_unanswered"]
    for source in earlier["seeds"]["sources"]:
        for key in ("columns", "ignore", "own"):
            del source[key]
    later = whole()
    later["bench"] |= {"adaptive": None, "targets": [], "judge_requests": False, "typographic": None}
    later["seeds"]["typographic"] = later["rl"]["audit"] = None
    later["gates"] = {}
    assert settings_of(later) == settings_of(earlier) != settings_of(whole())
    assert settings_of(later, EVERY_KIND) == earlier
    assert run_id(Config()) != run_id(Config.model_validate({"bench": {"adaptive": {}}}))
    assert Config().model_dump()["bench"]["adaptive"] is None, "and it is written out like every other key"


SEEDS = {
    "seeds": {"sources": [{"limit": 2}], "kinds": ["benign"]},
    "roles": {"generator": {"temperature": 0.5}},
}


def seeds(folder: Path, *changes: tuple[str, Any]) -> Result:
    """`safer-steer seeds` with these keys changed."""
    settings = copy.deepcopy(SEEDS)
    for key, value in changes:
        *sections, last = key.split(".")
        inner: Any = settings
        for name in sections:
            inner = inner.setdefault(name, {})
        inner[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return safer_steer("seeds", folder / "config.yaml", "--out", folder / "out")


def test_a_finished_run_does_what_the_kinds_of_its_keys_say(tmp_path: Path) -> None:
    assert seeds(tmp_path).exit_code == 0
    for key, value in (
        ("name", "another"),
        ("spending_limit", 3.5),
        ("roles.generator.concurrency", 3),
        ("roles.generator.max_tokens", 4096),
        ("student.kept_tokens", 0),
        ("rl.rollouts.retries", 2),
        ("bench.max_unscored", 0.5),
    ):
        again = seeds(tmp_path, (key, value))
        assert again.exit_code == 0 and "seeds: done already" in again.stderr, key
        assert safer_steer("verify", tmp_path / "out").exit_code == 0, key
    for key, value, said in (
        ("seed", 5, "seed (0 there, 5 here)"),
        ("roles.generator.temperature", 0.9, "roles.generator.temperature (0.5 there, 0.9 here)"),
        ("roles.judge", {"temperature": 0.1}, "roles.judge (not there, but here)"),
        (
            "seeds.kinds",
            ["red_team"],
            'seeds.kinds (["benign"] there, ["red_team"] here)',
        ),
    ):
        refused = seeds(tmp_path, (key, value))
        assert refused.exit_code == 2, key
        assert refused.stderr.strip() == (
            f"error: {tmp_path / 'out'}: holds a run whose config differs in {said}; choose another folder,"
            " or start over with --fresh"
        )


def test_a_key_that_a_finished_stage_alone_reads_has_no_effect(tmp_path: Path) -> None:
    """That is said each time, and the run's config does not tell of what was not done."""
    assert seeds(tmp_path).exit_code == 0
    for _ in range(2):
        again = seeds(tmp_path, ("seeds.max_unanswered", 0.5), ("rl.audit", {"share": 0.5}))
        line = "seeds.max_unanswered has no effect: seeds is finished; config.yaml keeps what it ran with"
        assert again.exit_code == 0 and [
            said for said in again.stderr.splitlines() if "no effect" in said
        ] == [line]
        there = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
        assert (there["seeds"]["max_unanswered"], there["rl"]["audit"]["share"]) == (0, 0.5)
    (tmp_path / "out" / "seeds" / "benign.jsonl").unlink()
    assert "no effect" not in seeds(tmp_path, ("seeds.max_unanswered", 0.5)).stderr
    there = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert there["seeds"]["max_unanswered"] == 0.5


@pytest.mark.parametrize("key", [key for key in sorted(FREE) if "[]" not in key])
def test_each_key_is_kept_if_the_one_stage_that_reads_it_is_finished(key: str) -> None:
    stage = "sft" if key.startswith("bootstrap.sft") else key.partition(".")[0]
    alone = stage in STAGES and not key.startswith("rl.rollouts.")
    said = (("rl.audit" if "audit" in key else key), stage)
    here = changed(whole(), key)
    assert not list(keep_finished(whole(), here, lambda name: name != stage))
    assert here == changed(whole(), key)
    assert list(keep_finished(whole(), here, lambda name: True)) == ([said] if alone else [])
    assert here == (whole() if alone else changed(whole(), key))


def test_a_section_that_is_new_to_a_finished_stage_is_left_out_again() -> None:
    for there in (whole()["rl"] | {"audit": None}, {"algorithm": "grpo"}):
        here = whole()
        assert ("rl.audit", "rl") in keep_finished({"rl": there}, here, lambda name: True)
        assert here["rl"]["audit"] is None
