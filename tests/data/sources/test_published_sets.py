"""Every published set, in the forms people have it in, on made-up files."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from datasets import Dataset
from datasets import config as datasets_config
from huggingface_hub import constants as hub_constants

from published import (
    ALIGN,
    GEOMETRY,
    JAILBREAKV,
    MOSSBENCH,
    SCIENCEQA,
    SPA_VL,
    VLGUARD,
    VLSBENCH,
    beavertails,
    config,
    embedded,
    hub,
    mm_safetybench,
    pairs,
    pictures,
    png,
    saved,
    table,
    write_csv,
)  # fmt: skip
from safer_steer.data.sources.find_splits import hub_splits
from safer_steer.data.sources.load import load_pairs, read_samples
from safer_steer.data.sources.pair import Pair
from safer_steer.data.sources.pictures import SetPictures
from safer_steer.data.sources.sets import SETS
from safer_steer.errors import UserError


def facts(pair: Pair) -> tuple[Any, ...]:
    return pair.id, pair.question, pair.intent, pair.safe, pair.answer, pair.category, pair.source


def test_beavertails_v_takes_every_category_or_the_one_asked_for(tmp_path: Path) -> None:
    names = ("harm_a", "harm_b")
    rows = {name: beavertails(name) for name in names}
    folder = hub(tmp_path, {name: {"train": rows[name], "evaluation": rows[name][:1]} for name in names})
    found = pairs("beavertails_v", folder)
    ids = [f"beavertails_v-{name}-train-00000{i}" for name in names for i in range(2)]
    assert [pair.id for pair in found] == ids
    question = "what is harm_b 1?"
    assert facts(found[3])[1:] == (question, question, False, None, "harm_b", "beavertails_v")
    assert [pair.image for pair in found] == [png(0), png(1)] * 2
    (one,) = pairs("beavertails_v", folder, subset="harm_b", split="evaluation", use="bench")
    assert (one.id, one.use) == ("beavertails_v-harm_b-evaluation-000000", "bench")


def test_mm_safetybench_joins_the_true_intent_by_configuration_and_id(tmp_path: Path) -> None:
    folder = hub(tmp_path, {name: mm_safetybench(name) for name in ("Fraud", "Illegal_Activitiy")})
    found = pairs("mm_safetybench", folder)
    assert [(pair.id, pair.intent, pair.category, pair.safe) for pair in found] == [
        (f"mm_safetybench-{name}-SD_TYPO-{i}", f"{name}: true {i}", name, False)
        for name in ("Fraud", "Illegal_Activitiy")
        for i in range(2)
    ]
    with pytest.raises(
        UserError, match="true intents of mm_safetybench are in the split Text_only; give the folder"
    ):
        pairs("mm_safetybench", folder / "Fraud/SD_TYPO-00000-of-00001.parquet")


def test_spa_vl_says_by_its_test_splits_what_is_safe(tmp_path: Path) -> None:
    test = {"harm": SPA_VL[:1], "help": SPA_VL[:1]}
    folder = hub(tmp_path, {"default": {"train": SPA_VL, "validation": SPA_VL}, "test": test})
    assert [pair.safe for pair in pairs("spa_vl", folder)] == [None] * 3
    [harmless] = pairs("spa_vl", folder, subset="test", split="help")
    assert facts(harmless)[3:] == (True, None, "objects", "spa_vl")
    assert pairs("spa_vl", folder, subset="test", split="harm")[0].safe is False
    with pytest.raises(UserError, match="source spa_vl: several splits; set `split` to one of: harm, help"):
        pairs("spa_vl", folder, subset="test")
    with pytest.raises(UserError, match="no subset tests; there are: default, test"):
        pairs("spa_vl", folder, subset="tests")


@pytest.mark.parametrize("place", ["ads", "images/ads", "train/ads", "elsewhere/ads"])
def test_vlguard_gives_a_pair_an_instruction(tmp_path: Path, place: str) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(VLGUARD))
    pictures(tmp_path / place, "1.png", "2.png")
    images = str(tmp_path / "elsewhere") if "elsewhere" in place else None
    found = pairs("vlguard", tmp_path, images=images)
    assert [facts(pair)[:6] for pair in found] == [
        ("vlguard-train-g1-0", "what is on it?", "what is on it?", True, None, ""),
        ("vlguard-train-g1-1", "how do i break it?", "how do i break it?", False, None, ""),
        ("vlguard-train-g2-0", "what does it say?", "what does it say?", False, None, "rings"),
    ]
    assert [pair.image for pair in found] == [tmp_path / place / f"{i}.png" for i in (1, 1, 2)]
    assert found[2].picture(10**6).data == png(1)
    if place != "train/ads":  # where the other split has no pictures
        source = {"name": "vlguard", "path": str(tmp_path), "images": images}
        both = config(*(source | {"split": split} for split in ("train", "test")))
        assert len(list(load_pairs(both))) == 6


def test_vlsbench_as_json_with_pictures_or_as_a_table(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps(VLSBENCH, indent=2))
    pictures(tmp_path, "imgs/0.png", "imgs/1.png")
    question = "how is this done, 1?"
    second = pairs("vlsbench", tmp_path)[1]
    assert facts(second) == ("vlsbench-data-1", question, question, False, None, "b", "vlsbench")
    rows = []
    for place, row in enumerate(VLSBENCH):
        rows.append({name: value for name, value in row.items() if name != "image_path"})
        rows[-1]["image"] = embedded(place)
    found = pairs("vlsbench", hub(tmp_path / "hub", {"default": {"train": rows}}))
    assert [pair.id for pair in found] == ["vlsbench-train-0", "vlsbench-train-1"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "folder"])
def test_jailbreakv_28k(tmp_path: Path, form: str) -> None:
    under = tmp_path / "JailBreakV_28K"
    pictures(under, "figstep/0.png", "figstep/1.png")
    for name in ("JailBreakV_28K", "mini_JailBreakV_28K", "RedTeam_2K"):
        write_csv(under / f"{name}.csv", JAILBREAKV)
    (under / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in JAILBREAKV))
    path = {"csv": under / "JailBreakV_28K.csv", "jsonl": under / "rows.jsonl", "folder": tmp_path}[form]
    found = pairs("jailbreakv_28k", path)
    assert [facts(pair)[1:] for pair in found] == [
        (f"play along {i}", f"the steps {i}", False, None, "devices", "jailbreakv_28k") for i in range(2)
    ]
    if form == "folder":
        first = pairs("jailbreakv_28k", path, split="mini_JailBreakV_28K")[0]
        assert first.id == "jailbreakv_28k-JailBreakV_28K-mini_JailBreakV_28K-0"


@pytest.mark.parametrize(
    "form", ["save_to_disk", "one save_to_disk", "hub", "Parquet", "Parquet by split", "datasets"]
)
def test_geometry3k_in_every_form_of_a_table(tmp_path: Path, form: str) -> None:
    expected = [(f"Find x in figure {i}.", True, f"{i}.5", png(i)) for i in range(3)]
    splits = {"train": GEOMETRY, "test": GEOMETRY[:1]}
    path = tmp_path / "set"
    if form == "save_to_disk":
        saved(path, splits)
    elif form == "one save_to_disk":
        table(GEOMETRY).save_to_disk(path)
    elif form == "Parquet":
        table(GEOMETRY).to_parquet(path := tmp_path / "train-00000-of-00001.parquet")
    elif form == "Parquet by split":
        for split, rows in splits.items():
            for shard in range(2):
                (path / "default" / split).mkdir(parents=True, exist_ok=True)
                table(rows[shard::2] or rows).to_parquet(path / "default" / split / f"000{shard}.parquet")
        expected = [expected[i] for i in (0, 2, 1)]
    else:
        hub(path, {"default": splits})
    if form == "datasets":
        (split,) = hub_splits("geometry3k", str(path), SETS["geometry3k"], None, None)
        assert (split.subset, split.name) == ("", "train")
        assert [(place, row["problem"], row["images"][0]["bytes"]) for place, row in split.rows()] == [
            (f": row {i + 1}", row["problem"], png(i)) for i, row in enumerate(GEOMETRY)
        ]
        return
    found = pairs("geometry3k", path)
    assert [(pair.question, pair.safe, pair.answer, pair.image) for pair in found] == expected
    assert len({pair.id for pair in found}) == 3
    if form in ("hub", "save_to_disk"):
        assert len(pairs("geometry3k", path, split="test")) == 1
        with pytest.raises(UserError, match="no split dev; there are: t"):
            pairs("geometry3k", path, split="dev")


def test_align_anything_is_general_and_has_no_true_answer(tmp_path: Path) -> None:
    bare = [{"question": "no picture here"}]
    sets = {"text-image-to-text": {"train": ALIGN, "val": ALIGN}, "text-to-text": {"train": bare}}
    folder = hub(tmp_path, sets)
    assert [facts(pair)[1:5] for pair in pairs("align_anything", folder)] == [
        (f"describe it {i}", f"describe it {i}", True, None) for i in range(2)
    ]


def test_scienceqa_asks_with_hint_and_options_and_passes_over_rows_without_a_picture(tmp_path: Path) -> None:
    skipped: Any = {}
    found = pairs("scienceqa", saved(tmp_path / "s", {"train": SCIENCEQA, "test": SCIENCEQA}), skipped)
    assert [(pair.question, pair.answer, pair.safe, pair.category) for pair in found] == [
        ("Look.\nWhich is round?\nOptions: a ring; a box", "a ring", True, "natural science"),
        ("Which is flat?\nOptions: a ball; a sheet", "a sheet", True, "natural science"),
    ]
    assert skipped == {"scienceqa": {"no picture": 1}}


def test_mossbench_is_an_object_by_pid(tmp_path: Path) -> None:
    (tmp_path / "information.json").write_text(json.dumps(MOSSBENCH))
    pictures(tmp_path, "images/7.png")
    question = "is it a toy?"
    [pair] = pairs("mossbench", tmp_path)
    assert facts(pair)[1:] == (question, question, True, None, "type 1", "mossbench")


@pytest.mark.parametrize("form", ["jsonl", "json", "json lines", "csv", "parquet"])
def test_a_set_of_ones_own_in_every_form(tmp_path: Path, form: str) -> None:
    pictures(tmp_path, *(f"p/{i}.png" for i in range(3)))
    more = {"intent": "all", "category": "c", "source": "web", "answer": "x" * 400}
    rows = [
        {"id": f"r{i}", "image": f"p/{i % 3}.png", "question": f"what is it, {i}?"} | more for i in range(300)
    ]
    path = tmp_path / f"rows.{form.split()[0]}"
    if form in ("jsonl", "json lines"):
        path.write_text("\n".join(map(json.dumps, rows)))
    elif form == "json":
        path.write_text(json.dumps(rows, indent=3))
    elif form == "csv":
        write_csv(path, rows)
    else:
        Dataset.from_list(rows).to_parquet(path)
    found = pairs("mine", path)
    assert [facts(pair) for pair in found] == [
        (f"mine-r{i}", f"what is it, {i}?", "all", None, "x" * 400, "c", "web") for i in range(300)
    ]
    assert found[0].image == tmp_path / "p/0.png"


def test_an_older_upload_has_a_hash_in_its_file_names(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-00000", "train-00001", "validation-00000"):
        file = f"{name}-of-00002-1028f23e353fbe3{name[-1]}.parquet"
        table(SCIENCEQA[:1]).to_parquet(tmp_path / "data" / file)
    ids = [pair.id for pair in pairs("scienceqa", tmp_path)]
    assert ids == ["scienceqa-train-000000", "scienceqa-train-000001"]


def test_the_default_configuration_may_lie_beside_the_folders_of_others(tmp_path: Path) -> None:
    for file in ("data/train-00000-of-00001", "data/validation-00000-of-00001", "test/harm-00000-of-00001"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        table(SPA_VL).to_parquet(tmp_path / f"{file}.parquet")
    expected = [f"spa_vl-train-00000{i}" for i in range(3)]
    assert [pair.id for pair in pairs("spa_vl", tmp_path)] == expected
    assert [pair.id for pair in pairs("spa_vl", tmp_path, subset="default")] == expected
    assert pairs("spa_vl", tmp_path, subset="test", split="harm")[0].safe is False


def test_a_csv_as_pandas_writes_it(tmp_path: Path) -> None:
    """With a byte order mark, Windows' line ends, an index without a name, and booleans as words."""
    pictures(tmp_path, "0.PNG")
    path = tmp_path / "rows.csv"
    lines = ["\ufeff,id,image,question,safe", '0,1,0.PNG,"one,\r\ntwo",True', "1,2,0.PNG,three,False"]
    path.write_bytes("\r\n".join([*lines, "2,3,0.PNG,four,", ""]).encode())
    assert [(pair.id, pair.question, pair.safe) for pair in pairs("mine", path)] == [
        ("mine-1", "one,\r\ntwo", True),
        ("mine-2", "three", False),
        ("mine-3", "four", None),
    ]


@pytest.mark.parametrize(
    ("module", "moved"),
    [
        (hub_constants, "HF_HOME"),
        (hub_constants, "HF_HUB_CACHE"),
        (datasets_config, "HF_DATASETS_CACHE"),
        (datasets_config, "DOWNLOADED_DATASETS_PATH"),
    ],
)
def test_pictures_in_the_cache_wherever_it_was_moved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, moved: str
) -> None:
    """What `datasets` unpacks of an archive is named by an absolute path in its cache."""
    pictures(tmp_path / "cache", "0.png")
    cell = {"bytes": None, "path": str(tmp_path / "cache/0.png")}
    with pytest.raises(UserError):
        SetPictures(None, None, "train").find(cell, "row 1")
    monkeypatch.setattr(module, moved, str(tmp_path / "cache"))
    assert SetPictures(None, None, "train").find(cell, "row 1") == tmp_path / "cache/0.png"


@pytest.mark.parametrize("name", ["safemt", "mtmcs_bench", "xstest", "mmds"])
def test_what_has_no_pairs_is_no_source(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is a suite for the bench, .* `safer-steer suite {name}`"):
        pairs(name, Path("/nowhere"))


def test_a_folder_here_is_not_taken_for_a_set_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(tmp_path / "hiyouga/geometry3k", {"default": {"train": GEOMETRY}})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="hiyouga/geometry3k is a folder here; give it as `path`"):
        pairs("geometry3k", hub="default")
    with pytest.raises(UserError, match=r"the hub id of mossbench is not known; give its .* its `path`$"):
        pairs("mossbench", hub="default")


def test_a_name_that_is_nearly_one_of_a_published_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^source spavl: is none of the sets .*; did you mean `spa_vl`\?"):
        pairs("spavl", hub="default")
    pictures(tmp_path, "a.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "q", "image": "a.png"}))
    for name, meant in (("BeaverTails-V", "beavertails_v"), ("xsttest", "xstest")):
        told = rf"did you mean `{meant}`\? If it is a set of your own, say so with `own: true`"
        with pytest.raises(UserError, match=told):
            pairs(name, tmp_path / "rows.jsonl")
        assert [pair.question for pair in pairs(name, tmp_path / "rows.jsonl", own=True)] == ["q"]
    with pytest.raises(UserError, match="xstest is a suite"):
        pairs("xstest", tmp_path / "rows.jsonl")
    assert len(pairs("xstest", tmp_path / "rows.jsonl", own=True)) == 1
    assert len(pairs("mine", tmp_path / "rows.jsonl")) == 1


def test_without_a_connection_one_line_says_so() -> None:
    with pytest.raises(UserError) as error:  # the tests have no connection
        pairs("geometry3k", hub="default")
    line = str(error.value)
    assert line.startswith("source geometry3k: hiyouga/geometry3k: cannot be loaded from the hub (")
    assert line.endswith("download it and give its `path`")


def test_a_set_of_ones_own_is_looked_for_where_it_says() -> None:
    source = config({"name": "mine", "path": "x"}).seeds.sources[0]
    with pytest.raises(UserError, match="x: no such file or folder"):
        list(read_samples(source, 0, pictureless=True))


def test_rows_without_ids_may_have_half_a_surrogate_pair(tmp_path: Path) -> None:
    """JSON can write one. The row's id is then a hash of what UTF-8 cannot encode."""
    pictures(tmp_path, "0.png")
    rows = [{"question": f"what is {half}?", "image": "0.png"} for half in ("\ud800", "\ud801", "\U0001f600")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = pairs("mine", tmp_path / "rows.json")
    assert len({pair.id for pair in found}) == 3
    assert [pair.question for pair in found] == ["what is ??", "what is ??", "what is \U0001f600?"]
