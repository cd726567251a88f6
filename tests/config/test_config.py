"""The configuration: what is refused and in which words, what is printed, and the configs that come with the
package."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from aliases import laughs
from places import CONFIGS, PACKAGE, ROOT, TIERS
from safer_steer.config import SHIPPED, Config, Role, RoleName
from safer_steer.config.file import dump_config, load_config
from safer_steer.config.keys import describe
from safer_steer.data.sources.sets import SETS
from safer_steer.errors import UserError


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UserError, match=r"latin\.yaml: cannot be read as text: "):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    "text",
    [
        laughs(),
        laughs().replace("[", "{<<: [").replace("]", "]}").replace("x", "{k: 1}"),
        f"name: &a {'x' * 9_999}\nb: [{'*a, ' * 11}]",
        "roles: &a {judge: *a}",
    ],
)
def test_aliases_that_stand_for_too_much_are_refused(tmp_path: Path, text: str) -> None:
    said = r"/config\.yaml: no valid YAML: its aliases stand for too much; write out what they stand for$"
    with pytest.raises(UserError, match=said):
        load_config(written(tmp_path, text))


def test_a_filter_of_the_bench_takes_a_model_that_is_not_measured(tmp_path: Path) -> None:
    other = "seeds: {filter_bench: true}\nroles: {target: {model: org/other, base_url: 'http://x/v1'}}"
    assert load_config(written(tmp_path, other)).seeds.filter_bench
    assert load_config(written(tmp_path, "seeds: {filter_bench: true}")).seeds.filter_bench, (
        "the sandbox's agent is no student"
    )
    assert not Config().seeds.filter_bench


@pytest.mark.parametrize("key", ["seed", "rl.seed"])
@pytest.mark.parametrize(("value", "said"), [(-1, "at least 0"), (2**32, "less than 4294967296")])
def test_a_seed_that_training_does_not_take_is_refused_at_once(key: str, value: int, said: str) -> None:
    """The trainers' libraries take no other, and would say so only after Stage II is paid for."""
    with pytest.raises(UserError, match=rf"--set: {key}: must be {said}, not {value}"):
        load_config(ROOT / "configs" / "sandbox.yaml", keys={key: value})


PATHS = """
student: {model: ./models/vl}
seeds: {sources: [{name: mine, path: data/pairs.jsonl, images: ../pictures}, {name: spa_vl, hub: org/set}]}
bench: {suites: [sandbox, suites/a.jsonl, /elsewhere/b.jsonl, ~/c.jsonl]}
"""


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", "/home/me")
    path = written(project, PATHS)
    config = load_config(Path("../project/config.yaml"))
    assert config == load_config(path)
    assert config.student.model == f"{project}/models/vl"
    mine, hub = config.seeds.sources
    assert (mine.path, mine.images) == (f"{project}/data/pairs.jsonl", f"{tmp_path}/pictures")
    assert (hub.path, hub.hub) == (None, "org/set")
    assert config.bench.suites == [
        "sandbox",
        f"{project}/suites/a.jsonl",
        "/elsewhere/b.jsonl",
        "/home/me/c.jsonl",
    ]
    assert load_config(written(elsewhere, dump_config(config))) == config, "a run's own config finds them too"


def test_a_model_is_a_path_only_if_it_is_a_folder_beside_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "student: {model: Qwen/Qwen2.5-VL-3B-Instruct}")
    assert load_config(path).student.model == "Qwen/Qwen2.5-VL-3B-Instruct"
    (tmp_path / "Qwen" / "Qwen2.5-VL-3B-Instruct").mkdir(parents=True)
    assert load_config(path).student.model == f"{tmp_path}/Qwen/Qwen2.5-VL-3B-Instruct"


def test_a_limit_lowers_every_size_and_keeps_batches_whole(tmp_path: Path) -> None:
    path = CONFIGS[0].parent / "qwen2.5-vl-3b.yaml"
    config = load_config(path, limit=3)
    assert {source.limit for source in config.seeds.sources} == {3}
    sft, rl = config.bootstrap.sft, config.rl
    assert (config.bootstrap.dialogues, sft.max_steps, sft.batch_size, sft.micro_batch_size) == (3, 3, 3, 1)
    assert (rl.seeds, rl.steps, rl.prompts_per_step, rl.micro_batch_size) == (3, 3, 3, 1)
    assert (config.bench.dialogues, config.assembly and config.assembly.bench_dialogues) == (3, 3)
    assert load_config(written(tmp_path, dump_config(config))) == config
    larger = load_config(path, limit=10**6)
    assert (larger.rl.seeds, larger.rl.prompts_per_step, larger.bootstrap.dialogues) == (2000, 64, 15400)


def test_with_stubs_nothing_is_asked_or_downloaded() -> None:
    config = load_config(CONFIGS[0].parent / "qwen2.5-vl-7b.yaml", stub=True)
    assert {config.role(name).who for name in get_args(RoleName)} == {"stub"}
    assert config.student.base == str(SHIPPED)
    assert (config.student.device, config.student.max_length) == ("cpu", 2048)


def test_one_tracker_needs_no_list(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "report_to: wandb")).report_to == ["wandb"]


def test_what_is_dumped_loads_again(tmp_path: Path) -> None:
    text = "seed: 3\nroles: {judge: {model: j, base_url: 'http://x/v1'}}\nrl: {learning_rate: 1e-6}"
    config = load_config(written(tmp_path, text))
    assert config.rl.learning_rate == 1e-6
    assert load_config(written(tmp_path, dump_config(config))) == config


def test_what_follows_from_who_does_a_role_is_asked_of_the_role() -> None:
    """So a new kind of player touches two files."""
    asks = re.compile(r"\b(role|settings|target|judge|tutor)\)?\.who\b|\.role\([^)]*\)\.who\b")
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert {name for name, text in texts.items() if asks.search(text)} == {"config/roles.py", "run/roles.py"}


@pytest.mark.parametrize(
    ("settings", "title", "facts"),
    [
        ({"model": "sandbox"}, "the sandbox's judge", (False, False, False, True)),
        ({"model": "student"}, "the base student", (False, True, False, False)),
        ({"model": "stub"}, "a stub", (False, False, True, False)),
        ({"model": "m", "base_url": "http://x/v1"}, "m", (True, False, False, True)),
        (
            {"model": "m", "base_url": "http://x/v1", "pictures": False},
            "m",
            (True, False, False, False),
        ),
    ],
)
def test_each_kind_of_player(settings: dict, title: str, facts: tuple[bool, ...]) -> None:
    role = Role.model_validate(settings)
    assert (role.remote, role.is_student, role.made_up, role.sees) == facts
    assert role.title("judge") == title


def test_a_base_url_means_an_endpoint_whatever_the_model_is_called_there() -> None:
    for name in ("sandbox", "student", "stub"):
        assert Role(model=name).who == name
        assert Role(model=name, base_url="http://127.0.0.1:9/v1").who == "endpoint"


def test_every_field_is_described_with_its_default() -> None:
    rows = {key: (kind, default, text) for key, kind, default, _, text in describe()}
    assert all(text for _, _, text in rows.values())
    assert rows["rl.tcsr"] == ("min_mean | running | mean | min", '"min_mean"', rows["rl.tcsr"][2])
    assert rows["student.format"][0] == "thinking_answer | plain"
    assert rows["roles.<role>.price_in"][:2] == ("float", "0")
    assert rows["seeds.sources[].path"][:2] == ("str | null", "null")

    def leaves(tree: dict[str, object], prefix: str = "") -> set[str]:
        nested = [(key, value) for key, value in tree.items() if isinstance(value, dict) and value]
        return {f"{prefix}{key}" for key in tree if key not in dict(nested)}.union(
            *(leaves(value, f"{prefix}{key}.") for key, value in nested)
        )

    missing = (
        leaves(yaml.safe_load(dump_config(Config())))
        - set(rows)
        - {
            "roles",
            "gates",
            "seeds.sources",
            "assembly",
            "rl.audit",
            "bench.adaptive",
            "bench.targets",
            "bench.typographic",
            "seeds.typographic",
        }
    )
    assert not missing


@pytest.mark.parametrize(
    "path", [path for path in TIERS if path.stem.startswith("qwen")], ids=lambda path: path.stem
)
def test_a_tier_changes_sizes_alone(path: Path) -> None:
    """The paper's settings but for how much there is of each, so that a small run tests the large one."""
    config, size = load_config(path), path.stem.removeprefix("qwen2.5-vl-").partition("-")[0]
    full = {"3b": "qwen2.5-vl-3b-full", "7b": "qwen2.5-vl-7b"}[size]
    ours, whole = dict(leaves(config.model_dump(mode="json"))), dict(leaves(config_of(full)))
    sizes = {
        *("limit", "seeds.at_most", "seeds.sources", "bootstrap.dialogues", "rl.seeds"),
        *("assembly.bench_dialogues", "bench.dialogues"),
    }
    of_limit = {
        *("bench.questions", "bootstrap.sft.batch_size", "bootstrap.sft.max_steps", "rl.micro_batch_size"),
        *("rl.prompts_per_step", "rl.steps"),
    }
    assert config.name == path.stem and "Not reproduced by us." in path.read_text()
    differing = {key for key in ours if ours[key] != whole.get(key)} - {"name"}
    differing = {key for key in differing if not key.startswith("gates")}
    assert differing <= sizes | (of_limit if config.limit else set())
    assert bool(differing) is not path.stem.endswith("paper")


def test_the_bands_that_are_shipped_say_where_they_come_from() -> None:
    seen, judged = (load_config(ROOT / f"configs/gates/{name}.yaml") for name in ("sandbox", "provisional"))
    assert all("run" in band.basis or "seeds" in band.basis for band in seen.gates.values()) and seen.gates
    assert {band.basis for band in judged.gates.values()} == {"provisional"}
    assert load_config(ROOT / "configs/reproduce/qwen2.5-vl-7b-small.yaml").gates == judged.gates


QWEN = [path for path in CONFIGS if path.stem.startswith("qwen")]


PAPER = {
    "bootstrap.sft": {"batch_size": 16, "epochs": 2, "weight_decay": 0.01},
    "student": {"max_length": 32768, "dtype": "bfloat16"},
    "rl": {
        **{
            "learning_rate": 1e-5,
            "group_size": 5,
            "prompts_per_step": 64,
            "micro_batch_size": 2,
            "beta": 0.1,
        },
        **{"seeds": 2000, "tcsr": "min_mean", "alpha": 0.3, "loss": "dr_grpo", "weights": [0.4, 0.4, 0.2]},
        "max_completion_tokens": 10240,
    },
}


@pytest.mark.parametrize("path", QWEN, ids=lambda path: path.stem)
def test_the_papers_settings(path: Path) -> None:
    config = load_config(path)
    ours = dict(leaves(config.model_dump(mode="json")))
    for section, settings in PAPER.items():
        assert {key: ours[f"{section}.{key}"] for key in settings} == settings
    student, rl = config.student, config.rl
    assert config.bootstrap.sft.learning_rate == (1e-4 if student.lora_rank else 1e-5), (
        "the adapters' is ours"
    )
    assert rl.max_turns * student.max_turn_tokens + (rl.max_turns - 1) * 60 <= rl.max_completion_tokens
    assert config.name == path.stem and "Follows the paper" in path.read_text().partition("name:")[0]


@pytest.mark.parametrize(
    ("lora", "full"), [("qwen2.5-vl-3b", "qwen2.5-vl-3b-full"), ("qwen2.5-vl-7b-lora", "qwen2.5-vl-7b")]
)
def test_a_lora_variant_differs_in_the_keys_its_head_names_alone(lora: str, full: str) -> None:
    ours, whole = (dict(leaves(config_of(name))) for name in (lora, full))
    assert ours.keys() == whole.keys()
    differing = {key: (ours[key], whole[key]) for key in ours if ours[key] != whole[key]}
    assert differing == {
        "name": (lora, full),
        "student.lora_rank": (64, 0),
        "bootstrap.sft.learning_rate": (1e-4, 1e-5),
    }


def test_the_two_sizes_differ_in_the_model_alone() -> None:
    small, large = (dict(leaves(config_of(name))) for name in ("qwen2.5-vl-3b-full", "qwen2.5-vl-7b"))
    assert {key for key in small if small[key] != large[key]} == {"name", "student.model"}


@pytest.mark.parametrize(
    ("name", "more"), [("qwen3-vl-4b", set()), ("qwen3.5-4b", {"student.chat_template"})]
)
def test_other_students_differ_in_the_model_alone(name: str, more: set[str]) -> None:
    ours, papers = (dict(leaves(config_of(name))) for name in (name, "qwen2.5-vl-3b"))
    assert {key for key in ours if ours[key] != papers[key]} == {"name", "student.model"} | more


def test_a_chat_template_is_found_beside_the_config() -> None:
    path = CONFIGS[0].parent / "qwen3.5-4b.yaml"
    template = load_config(path).student.chat_template
    assert template == str(path.parent / "qwen3.5-chat.jinja") and Path(template).is_file()


def test_a_bound_on_pairs_holds_for_each_source(tmp_path: Path) -> None:
    sources = (
        "[{name: a, path: a.jsonl}, {name: b, path: b.jsonl, limit: 3}, {name: c, path: c.jsonl, limit: 9}]"
    )
    config = load_config(written(tmp_path, f"seeds: {{at_most: 5, sources: {sources}}}"))
    assert [source.limit for source in config.seeds.sources] == [5, 3, 5]
    assert load_config(written(tmp_path, dump_config(config))) == config


def test_a_config_begins_from_others(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.yaml").write_text(
        "seed: 3\nroles: {judge: {model: j, temperature: 1}}\nbench: {suites: [a.jsonl]}\n"
        "seeds: {sources: [{name: mine, path: rows.jsonl}]}\n"
    )
    (tmp_path / "below" / "b.yaml").write_text("base: a.yaml\nrl: {alpha: 0.5}\nseed: 4\n")
    (tmp_path / "c.yaml").write_text("rl: {beta: 0.2}\nbench: {dialogues: 7}\n")
    path = written(tmp_path, "base: [below/b.yaml, c.yaml]\nroles: {judge: {temperature: 0}}\n")
    config = load_config(path)
    assert (config.seed, config.rl.alpha, config.rl.beta, config.bench.dialogues) == (4, 0.5, 0.2, 7)
    assert (config.role("judge").model, config.role("judge").temperature) == ("j", 0)
    assert config.bench.suites == [f"{tmp_path}/below/a.jsonl"], "relative to the file that names it"
    assert config.seeds.sources[0].path == f"{tmp_path}/below/rows.jsonl"
    assert "\nbase:" not in dump_config(config), "a run's own config is whole"
    assert load_config(written(tmp_path, dump_config(config))) == config


def config_of(name: str) -> dict[str, object]:
    return load_config(CONFIGS[0].parent / f"{name}.yaml").model_dump(mode="json")


def leaves(tree: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("path", QWEN, ids=lambda path: path.stem)
def test_a_shipped_config_names_splits_that_the_sets_have(path: Path) -> None:
    """As `safer-steer sets` lists them: "default: train, validation; test: harm, help"."""
    named = [source for source in load_config(path).seeds.sources if source.split]
    assert len(named) > 5
    for source in named:
        layout = SETS[source.name]
        parts = [part.rpartition(": ")[::2] for part in layout.parts.split("; ")]
        of_subset = [splits for name, splits in parts if name == (source.subset or layout.subset)]
        assert source.split in (of_subset or [splits for _, splits in parts])[0].split(", "), source


@pytest.mark.parametrize("path", QWEN, ids=lambda path: path.stem)
def test_a_shipped_config_does_not_stop_at_an_awkward_row(path: Path) -> None:
    """Published sets have a few among tens of thousands."""
    assert {source.bad_rows for source in load_config(path).seeds.sources} == {"skip"}
