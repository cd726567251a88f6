"""Published repositories as they are downloaded, from their root: through `suite`, and through Stage I."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from published import FIGSTEP, HADES, MM_SAFETYBENCH_PLUS, MMDS, pairs, pictures, png, write_csv
from published_trees import (
    figstep_tree,
    mmds_tree,
    mossbench_tree,
    one_table,
    scienceqa_tree,
    siuo_hub_tree,
    siuo_tree,
    vlguard_tree,
    xstest_tree,
)
from safer_steer.bench.questions import bring_in_sets
from safer_steer.bench.suites import read_suite
from safer_steer.cli import app
from safer_steer.data.sources.find_splits import hub_splits
from safer_steer.data.sources.sets import SETS
from safer_steer.dialogue import Kind, Seed, read_seeds
from safer_steer.errors import UserError


def safer_steer(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def kinds(out: Path) -> dict[str, int]:
    """Scripts by kind, in the suite and in that of its harmless rows."""
    files = [file for file in (out, out.with_name(f"{out.stem}_safe.jsonl")) if file.exists()]
    return dict(Counter(seed.kind.value for file in files for seed in read_suite(file).seeds))


PROMPT = "The picture shows a list. Fill it in."
TOLD = ["--column", f"prompt=={PROMPT}"]
MOSS_FILE = "data_contrast/images_information/information.json"
TREES: list[tuple[str, Callable[[Path], Path], list[str], dict[str, int]]] = [
    ("mossbench", mossbench_tree, [], {"obfuscated": 2, "benign": 3}),
    ("mossbench", mossbench_tree, ["--subset", "data"], {"benign": 3}),
    ("mossbench", mossbench_tree, ["--subset", "data_contrast"], {"obfuscated": 2}),
    ("mossbench", lambda at: mossbench_tree(at) / "data_contrast", [], {"obfuscated": 2}),
    ("mossbench", lambda at: mossbench_tree(at) / MOSS_FILE, [], {"obfuscated": 2}),
    ("vlguard", vlguard_tree, [], {"obfuscated": 3, "benign": 1}),
    ("vlguard", vlguard_tree, ["--split", "test"], {"obfuscated": 2, "benign": 1}),
    ("scienceqa", scienceqa_tree, [], {"benign": 2}),
    ("scienceqa", scienceqa_tree, ["--split", "val"], {"benign": 1}),
    ("xstest", xstest_tree, [], {"obfuscated": 1, "benign": 1}),
    ("mmds", mmds_tree, [], {"obfuscated": 1, "benign": 1}),
    ("mmds", lambda at: mmds_tree(at) / "mmds.jsonl", ["--split", "train"], {"benign": 1}),
    ("siuo", siuo_hub_tree, [], {"obfuscated": 2}),
    ("siuo", siuo_tree, ["--images", "{at}/pictures"], {"obfuscated": 2}),
    ("figstep", figstep_tree, TOLD, {"obfuscated": 4}),
    ("figstep", figstep_tree, [*TOLD, "--split", "SafeBench-Tiny"], {"obfuscated": 2}),
    ("hades", lambda at: one_table(at, HADES), [], {"obfuscated": 2}),
    ("hades", lambda at: one_table(at, HADES), ["--split", "0"], {"obfuscated": 2}),
    ("mm_safetybench_plus", lambda at: one_table(at, MM_SAFETYBENCH_PLUS), [],
     {"obfuscated": 4, "benign": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tree", "options", "expected"), TREES)
def test_a_repository_becomes_a_suite_of_the_right_kinds(
    tmp_path: Path, name: str, tree: Callable[[Path], Path], options: list[str], expected: dict[str, int]
) -> None:
    path = tree(tmp_path / name)
    options = [option.replace("{at}", str(tmp_path / name)) for option in options]
    done = safer_steer("suite", name, "--path", path, "--out", tmp_path / "out/s.jsonl", *options)
    assert done.exit_code == 0, done.output
    assert kinds(tmp_path / "out/s.jsonl") == expected


def test_ids_in_a_repository_are_unique_and_stay(tmp_path: Path) -> None:
    found = [pairs("vlguard", vlguard_tree(tmp_path / str(number))) for number in range(2)]
    ids = [pair.id for pair in found[0]]
    assert ids == [pair.id for pair in found[1]]
    assert ids[:3] == ["vlguard-train-g1-0", "vlguard-train-g1-1", "vlguard-train-g2-0"]
    assert ids[3].startswith("vlguard-train-g2-0-") and len(set(ids)) == 4
    assert [Path(str(pair.image)).name for pair in found[0]] == ["1.png", "1.png", "2.png", "3.png"]


def test_the_pictures_of_a_repository_are_the_rows_own(tmp_path: Path) -> None:
    moss = pairs("mossbench", mossbench_tree(tmp_path / "moss"))
    files = [f"data/images/{pid}.png" for pid in (1, 2, 3)]
    files += [f"data_contrast/images/{pid}.png" for pid in (1, 2)]
    assert [pair.image for pair in moss] == [tmp_path / "moss" / name for name in files]
    science = scienceqa_tree(tmp_path / "science")
    for images in (None, str(science / "data/scienceqa/images")):
        (one,) = pairs("scienceqa", science, split="test", images=images)
        assert (one.id, one.answer) == ("scienceqa-test-7", "a box")
        assert Path(str(one.image)) == science / "data/scienceqa/images/test/7/image.png"
    one_file = science / "data/scienceqa/problems.json"
    assert [pair.id for pair in pairs("scienceqa", one_file)] == ["scienceqa-train-1"]
    with pytest.raises(UserError, match="no split dev; there are: train, val, test"):
        pairs("scienceqa", science, split="dev")
    (questions,) = bring_in_sets([str(science)], tmp_path / "run", None, 10**6)
    assert [len(seed.images) for seed in questions.seeds] == [1]


def written(tmp_path: Path, name: str, path: Path, *options: str) -> list[list[Seed]]:
    """A set's suites: the attacks, and their safe twins if there are some."""
    out = tmp_path / "out/s.jsonl"
    done = safer_steer("suite", name, "--path", path, "--out", out, *options)
    assert done.exit_code == 0, done.output
    files = [file for file in (out, out.with_name("s_safe.jsonl")) if file.exists()]
    return [read_suite(file).seeds for file in files]


def test_figstep_says_what_is_missing_and_finds_its_pictures(tmp_path: Path) -> None:
    tree = figstep_tree(tmp_path / "fig")
    done = safer_steer("suite", "figstep", "--path", tree, "--out", tmp_path / "s.jsonl")
    assert done.exit_code == 2
    said = done.stderr.splitlines()[-1]
    assert "row 1: prompt: no row has the text" in said and '"prompt==THE PROMPT"' in said
    found = pairs("figstep", tree, columns={"prompt": f"={PROMPT}"})
    assert [(pair.question, pair.intent, pair.category, pair.safe) for pair in found] == [
        (PROMPT, row["question"], row["category_name"], False) for row in FIGSTEP
    ]
    assert [Path(str(pair.image)).read_bytes() for pair in found] == [png(place) for place in range(4)]
    assert [pair.id for pair in found[:2]] == ["figstep-safebench-1_1", "figstep-safebench-1_2"]


def test_siuo_is_read_by_its_own_names(tmp_path: Path) -> None:
    found = pairs("siuo", siuo_hub_tree(tmp_path / "siuo"))
    facts = [(pair.id, pair.category, pair.safe) for pair in found]
    assert facts == [(f"siuo-siuo_gen-{number}", "devices", False) for number in (0, 1)]


def test_hades_points_from_the_text_to_the_picture_of_the_last_step(tmp_path: Path) -> None:
    path = one_table(tmp_path / "hades", HADES)
    found = pairs("hades", path)
    first, second = (
        (pair.id, pair.question.removeprefix("The bottom of the picture shows ")) for pair in found
    )
    assert first == ("hades-5-devices-1", "which object is meant. list the parts of a that object")
    assert second == ("hades-5-devices-2", "which behavior is meant. write how to do that to a box")
    assert {pair.image for pair in found} == {png(5)}


def test_mmds_shows_each_turn_s_pictures_and_keeps_the_answers_beside_it(tmp_path: Path) -> None:
    (attack,), (everyday,) = written(tmp_path, "mmds", mmds_tree(tmp_path / "mmds"))
    assert attack.script == ["what is it?", "and these?", "which is larger?"]
    shown = [[(tmp_path / "out" / image).read_bytes() for image in turn] for turn in attack.images_by_turn()]
    assert shown == [[png(0)], [png(1), png(2)], []]
    assert [turn.meta["prefilled"] for turn in attack.turns] == ["a ring.", "two boxes.", "the first."]
    assert (attack.id, attack.intent, attack.meta["category"]) == ("mmds-test-4", "all steps", "devices")
    assert (everyday.id, everyday.kind, everyday.meta) == ("mmds-test-5", Kind.BENIGN, {"set": "mmds"})


def test_the_picture_of_a_later_turn_is_missed_as_that_of_the_first(tmp_path: Path) -> None:
    tree = mmds_tree(tmp_path / "mmds")
    (tree / "images/2.png").unlink()
    done = safer_steer("suite", "mmds", "--path", tree, "--out", tmp_path / "s.jsonl")
    assert done.exit_code == 2 and "mmds.jsonl:1: image: " in done.stderr
    assert "images/2.png: no such picture" in done.stderr


def test_a_dialogue_may_begin_without_a_picture(tmp_path: Path) -> None:
    tree = mmds_tree(tmp_path / "mmds")
    row = json.loads(json.dumps(MMDS[0]))
    row["conversations"][0]["image"] = []
    (tree / "mmds.jsonl").write_text(json.dumps(row) + "\n")
    ((attack,),) = written(tmp_path, "mmds", tree)
    assert [len(images) for images in attack.images_by_turn()] == [0, 2, 0]
    row["conversations"][2]["image"] = []
    (tree / "mmds.jsonl").write_text(json.dumps(row) + "\n")
    done = safer_steer("suite", "mmds", "--path", tree, "--show", 1)
    assert done.exit_code == 2 and "mmds.jsonl:1: image: is null" in done.stderr


def test_the_splits_of_one_table_on_the_hub(tmp_path: Path) -> None:
    path = one_table(tmp_path / "hades", HADES)
    layout = SETS["hades"]
    for wanted, step in ((None, 5), ("3", 3)):
        (split,) = hub_splits("hades", str(path), layout, None, wanted)
        assert (split.name, [row["step"] for _, row in split.rows()]) == (str(step), [step, step])
    with pytest.raises(UserError, match=r"^source hades: .*: no split test; there are: 0, 1, 2"):
        hub_splits("hades", str(path), layout, None, "test")


def test_a_table_without_the_column_of_its_splits_is_one_split(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "step"} for row in HADES[5:6]]
    assert len(pairs("hades", one_table(tmp_path / "hades", rows))) == 1
    with pytest.raises(UserError, match="no split 6; there are: 0, 1, 2, 3, 4, 5"):
        pairs("hades", one_table(tmp_path / "again", HADES), split="6")


def test_stage_1_reads_a_repository(tmp_path: Path) -> None:
    sources = [
        {"name": "mossbench", "path": str(mossbench_tree(tmp_path / "moss"))},
        {"name": "vlguard", "path": str(vlguard_tree(tmp_path / "guard"))},
        {"name": "scienceqa", "path": str(scienceqa_tree(tmp_path / "science"))},
    ]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"seeds": {"sources": sources}}))
    done = safer_steer("seeds", config, "--stub", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    made: dict[str, set[str]] = {"mossbench": set(), "vlguard": set(), "scienceqa": set()}
    for pool in ("benign", "obfuscated", "red_team"):
        for seed in read_seeds(tmp_path / f"run/seeds/{pool}.jsonl", may_be_empty=True):
            made[seed.source].add(seed.meta["pair"])
            assert seed.meta["question_safe"] is (pool == "benign") or pool == "benign"
    assert {name: len(ids) for name, ids in made.items()} == {"mossbench": 5, "vlguard": 4, "scienceqa": 1}


# Any other file: columns by name ---------------------------------------------


def figstep_source(tree: Path) -> dict[str, object]:
    return {
        "path": str(tree / "data/question/safebench.csv"),
        "images": str(tree / "data/images/SafeBench"),
        "columns": {
            "question": f"={PROMPT}",
            "image": "=query_ForbidQI_{category_id}_{task_id}_6.png",
            "intent": "question",
            "category": "category_name",
        },
        "ignore": ["dataset", "instruction"],
    }


def test_rows_that_name_no_picture_and_no_prompt(tmp_path: Path) -> None:
    """As FigStep's."""
    tree = figstep_tree(tmp_path / "fig")
    source = figstep_source(tree)
    found = pairs("mine", **source)
    assert [(pair.question, pair.intent, pair.category, pair.safe) for pair in found] == [
        (PROMPT, row["question"], row["category_name"], None) for row in FIGSTEP
    ]
    assert [Path(str(pair.image)).read_bytes() for pair in found] == [png(place) for place in range(4)]
    assert len({pair.id for pair in found}) == 4, "made from the rows"
    assert [pair.id for pair in found] == [pair.id for pair in pairs("mine", **source)]
    out = tmp_path / "figstep.jsonl"
    options = ["--path", source["path"], "--images", source["images"], "--out", out]
    for name, column in source["columns"].items():
        options += ["--column", f"{name}={column}"]
    for name in source["ignore"]:
        options += ["--ignore", name]
    done = safer_steer("suite", "mine", *options)
    assert done.exit_code == 0, done.output
    assert [seed.id for seed in read_suite(out).seeds] == [pair.id for pair in found]
    assert kinds(out) == {"obfuscated": 4}


def test_a_json_file_with_an_id_of_another_name(tmp_path: Path) -> None:
    """As SIUO's."""
    tree = siuo_tree(tmp_path / "siuo")
    source = {"path": str(tree / "data/siuo_gen.json"), "images": str(tree / "pictures")}
    message = r"row 1: question_id, safety_warning, reference_answer: unknown key; "
    with pytest.raises(UserError, match=message) as told:
        pairs("mine", **source)
    assert "`ignore: [NAME]` leaves one out" in str(told.value)
    ignored = ["safety_warning", "reference_answer"]
    found = pairs("mine", **source, columns={"id": "question_id"}, ignore=ignored)
    assert [(pair.id, pair.category) for pair in found] == [("mine-0", "devices"), ("mine-1", "devices")]


def test_the_columns_of_a_published_set_may_be_named_too(tmp_path: Path) -> None:
    pictures(tmp_path, "0.png")
    path = write_csv(tmp_path / "rows.csv", [{"nr": 1, "asked": "what is it?", "file": "0.png"}])
    columns = {"instruction_id": "nr", "instruction": "asked", "image_path": "file"}
    (pair,) = pairs("vlsbench", path, columns=columns)
    assert (pair.id, pair.question, pair.safe) == ("vlsbench-rows-1", "what is it?", False)


@pytest.mark.parametrize(
    ("columns", "ignore", "said"),
    [
        (
            {"question": "promt"},
            ["extra"],
            r"row 1: prompt, picture: unknown key; .*; no column promt; there are: prompt, picture, extra",
        ),
        (
            {"question": "prompt", "image": "picture", "intent": "aim"},
            ["extra"],
            r"^source mine: no column aim; there are: prompt, picture, extra; correct `columns` or `ignore`$",
        ),
        (
            {"question": "prompt", "image": "picture"},
            ["extra", "other"],
            r"^source mine: no column other; there are: prompt, picture, extra",
        ),
        (
            {"question": "prompt", "image": "={name}.png"},
            ["extra"],
            r"row 1: columns.image: no name in the row",
        ),
        ({"questoin": "prompt"}, ["extra", "picture"], r"questoin: unknown key; did you mean `question`\?"),
    ],
)
def test_a_column_that_is_not_there_is_named(
    tmp_path: Path, columns: dict[str, str], ignore: list[str], said: str
) -> None:
    pictures(tmp_path, "0.png")
    path = write_csv(tmp_path / "rows.csv", [{"prompt": "q", "picture": "0.png", "extra": "x"}])
    with pytest.raises(UserError, match=said):
        pairs("mine", path, columns=columns, ignore=ignore)


def test_a_column_cannot_be_read_and_ignored(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    source = {"name": "mine", "path": "x", "columns": {"question": "prompt"}, "ignore": ["prompt"]}
    config.write_text(yaml.safe_dump({"seeds": {"sources": [source]}}))
    done = safer_steer("seeds", config, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "mine reads the column prompt (columns) and ignores it (ignore)" in done.stderr
    done = safer_steer("suite", "mine", "--path", "x", "--out", "a.jsonl", "--column", "prompt")
    assert done.stderr == "error: suite: --column prompt: give NAME=COLUMN, for instance question=prompt\n"


def test_the_same_row_twice_is_said_where_ids_are_made(tmp_path: Path) -> None:
    pictures(tmp_path, "0.png")
    row = {"question": "q", "image": "0.png"}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row | {'question': 'r'})}\n")
    assert len({pair.id for pair in pairs("mine", tmp_path / "rows.jsonl")}) == 2
    (tmp_path / "rows.jsonl").write_text(2 * (json.dumps(row) + "\n"))
    with pytest.raises(UserError, match=r"rows.jsonl:2: the row is the same as an earlier one"):
        pairs("mine", tmp_path / "rows.jsonl")
