"""The export: every form loads where it is meant to load, says what the run says, and is the same again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import datasets
import pytest
import yaml
from PIL import Image

from display import complaint, safer_steer
from export_run import HOSTILE, again, append_kept, write_run
from safer_steer.config import Config
from safer_steer.data.assembly.splits import read_split
from safer_steer.dialogue import Kind, Seed, Turn, read_dialogues, read_seeds
from safer_steer.errors import UserError
from safer_steer.export import verl
from safer_steer.export.columns import messages, plain, prompt
from safer_steer.export.llamafactory import LlamaFactory, family_of, without_template
from safer_steer.export.write import export
from safer_steer.files.images import Picture
from safer_steer.files.manifest import Manifest, verify

MARKERS = ("<image>", "<video>", "<audio>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")


@pytest.fixture
def run(exported):
    return exported


def copy_of(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def load(run: Path, name: str, tmp_path: Path) -> datasets.DatasetDict:
    """As a user of the hub loads it: the folder, and the name of a part."""
    return datasets.load_dataset(str(run / "export"), name, cache_dir=str(tmp_path / "cache"))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What is in it


def test_sft_holds_the_dialogues_kept_and_their_pictures(run, tmp_path):
    kept = read_dialogues(run / "bootstrap" / "kept.jsonl")
    rows = load(run, "sft", tmp_path)["train"]
    assert {len(row["images"]) for row in rows} == {0, 1, 2}
    for row, dialogue in zip(rows, kept, strict=True):
        scores = [{name: turn[name] for name in ("safety", "helpfulness")} for turn in row["turns"]]
        assert scores == [turn.scores for turn in dialogue.turns]
        assert [turn["assistant"] for turn in row["turns"]] == [turn.assistant for turn in dialogue.turns]
        for name in ("id", "kind", "source", "intent", "stop"):
            assert row[name] == getattr(dialogue, name)
        assert json.loads(row["meta"]) == dialogue.meta
        for picture, path in zip(row["images"], dialogue.images, strict=True):
            with Image.open(run / path) as original:
                assert picture.convert("RGB").tobytes() == original.convert("RGB").tobytes()


def test_pictures_stand_before_the_turns_that_show_them(run, tmp_path):
    run = copy_of(run, tmp_path)
    kept = run / "bootstrap" / "kept.jsonl"
    append_kept(run, "late", ["images/plain-0.jpg"])
    rows = kept.read_text().splitlines()
    late = json.loads(rows[-1])
    late["turns"][1] |= {"user": "and these?", "images": ["images/plain-1.jpg", "images/plain-0.jpg"]}
    kept.write_text("\n".join([*rows[:-1], json.dumps(late)]) + "\n")
    again(Manifest(run), "bootstrap")
    export(run, run / "export")
    row = load(run, "sft", tmp_path)["train"][-1]
    assert [picture.size for picture in row["images"]] == [(90, 60), (112, 84), (90, 60)]
    assert [turn["pictures"] for turn in row["turns"]] == [1, 2]
    assert all("<image>" not in message["content"] for message in row["messages"])
    shared = json.loads((run / "export/llamafactory/steer_sft.json").read_text())[-1]
    said = [message["content"] for message in shared["messages"] if message["role"] == "user"]
    assert said[0].startswith("<image>see < image>") and said[1] == "<image><image>and these?"
    assert "".join(said).count("<image>") == 3
    assert shared["images"][0] == shared["images"][2] != shared["images"][1]


def test_rl_holds_the_scripts_that_the_rl_stage_draws(run, tmp_path):
    seeds = read_split(run, "rl")
    rows = load(run, "rl", tmp_path)["train"]
    assert [(row["id"], [turn["user"] for turn in row["turns"]]) for row in rows] == [
        (seed.id, seed.script) for seed in seeds
    ]
    assert [message["role"] for message in rows[0]["prompt"]] == ["system", "user"]


def test_bench_has_a_split_for_each_suite(run, tmp_path):
    suites = {path.stem: read_seeds(path) for path in (run / "suites").glob("**/*.jsonl")}
    splits = load(run, "bench", tmp_path)
    assert {name: [row["id"] for row in rows] for name, rows in splits.items()} == {
        name: [seed.id for seed in seeds] for name, seeds in suites.items()
    }
    assert all(rows[0]["images"][0].size == (84, 84) for rows in splits.values())


def assembled_again(run):
    """Enter the splits as they are now, and the bootstrap that builds on them."""
    Manifest(run).record("assemble", ("splits",), (), {})
    again(Manifest(run), "bootstrap")


def test_assembled_splits_go_before_the_pools(run, tmp_path):
    run = copy_of(run, tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"assembly": {}}
    config["rl"]["seeds"] = 4
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    pool = (run / "seeds" / "red_team.jsonl").read_text().splitlines(keepends=True)
    (run / "splits" / "bench").mkdir(parents=True)
    (run / "splits" / "rl.jsonl").write_text("".join(pool[:2]))
    (run / "splits" / "bench" / "vls-1.jsonl").write_text(pool[2])
    shutil.copytree(run / "images", run / "splits" / "bench" / "images")
    tallies, missing = export(run, tmp_path / "before")
    assert [line.split(":")[0] for line in missing] == ["rl", "bench"], "`assemble` has not written these"
    assembled_again(run)
    tallies, missing = export(run, tmp_path / "after")
    assert [(tally.part, tally.split, tally.dialogues) for tally in tallies[1:]] == [
        ("rl", "train", 2),
        ("bench", "vls_1", 1),
    ] and not missing
    shutil.rmtree(run / "splits" / "bench")
    assembled_again(run)
    tallies, _ = export(run, tmp_path / "without")
    assert {tally.split for tally in tallies if tally.part == "bench"} == {
        path.stem for path in (run / "suites").glob("**/*.jsonl")
    }


# Text


def test_no_marker_in_a_turn_stays_one(run):
    dialogue = next(
        dialogue
        for dialogue in read_dialogues(run / "bootstrap" / "kept.jsonl")
        if dialogue.id == "hostile-2"
    )
    assert all(marker in HOSTILE for marker in MARKERS)
    said = messages(dialogue, "You are.", placeholder="<image>")
    assert [message["role"] for message in said] == ["system", "user", "assistant", "user", "assistant"]
    assert (
        said[1]["content"].startswith("<image><image>see < image>")
        and said[1]["content"].count("<image>") == 2
    )
    bare = [said[1]["content"].removeprefix("<image><image>"), *(message["content"] for message in said[2:])]
    assert not [marker for text in bare for marker in MARKERS if marker in text]
    assert said[2]["content"].startswith("<thinking>") and said[2]["content"].endswith("</answer>"), (
        "the layout is no marker"
    )
    assert [message["role"] for message in prompt(dialogue, "")] == ["user"]
    assert plain(plain(HOSTILE)) == plain(HOSTILE)


def test_single_turn_ablation_hands_over_the_questions(tmp_path):
    sft, rl = {"single_turn": True, "batch_size": 8, "micro_batch_size": 4}, {"single_turn": True}
    config = write_run(tmp_path / "run", suites=False, bootstrap={"sft": sft}, rl=rl)
    export(tmp_path / "run", tmp_path / "export")
    assert config.bootstrap.sft.single_turn
    given = json.loads((tmp_path / "export" / "llamafactory" / "steer_sft.json").read_text())
    assert {len(dialogue["messages"]) for dialogue in given} == {3}
    kept = read_dialogues(tmp_path / "run" / "bootstrap" / "single_turn" / "kept.jsonl")
    assert [dialogue["messages"][1]["content"] for dialogue in given] == [
        f"<image>{one.meta['question']}" for one in kept
    ]
    text = (tmp_path / "export" / "README.md").read_text("utf-8")
    assert "**sft**: the original questions" in text and "red agent fitted" not in text
    rows = load(tmp_path, "rl", tmp_path)["train"]
    assert rows["id"][:] == [seed.id for seed in read_split(tmp_path / "run", "rl")]
    assert {len(turns) for turns in rows["turns"]} == {1}


# LLaMA-Factory and verl (their own loaders: tests/integration/)


def test_llamafactory_gets_a_placeholder_for_each_picture(run):
    folder = run / "export" / "llamafactory"
    given = json.loads((folder / "steer_sft.json").read_text("utf-8"))
    kept = read_dialogues(run / "bootstrap" / "kept.jsonl")
    for dialogue, original in zip(given, kept, strict=True):
        texts = [message["content"] for message in dialogue["messages"]]
        assert (
            sum(text.count("<image>") for text in texts)
            == texts[1].count("<image>")
            == len(dialogue["images"])
        )
        assert [(folder / path).read_bytes() for path in dialogue["images"]] == [
            (run / path).read_bytes() for path in original.images
        ]
    named = {path for dialogue in given for path in dialogue["images"]}
    assert named == {f"images/{path.name}" for path in (folder / "images").iterdir()}, (
        "each picture once, and no other"
    )
    info = json.loads((folder / "dataset_info.json").read_text())
    arguments = yaml.safe_load((folder / "train_sft.yaml").read_text())
    assert (
        list(info) == [arguments["dataset"]] == ["steer_sft"]
        and (folder / info["steer_sft"]["file_name"]).is_file()
    )
    wanted = {
        "learning_rate": 3e-4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "cutoff_len": 768,
        "num_train_epochs": 2,
    }
    assert {key: arguments[key] for key in wanted} == wanted
    assert (
        arguments["freeze_vision_tower"]
        and not arguments["mask_history"]
        and not arguments["train_on_prompt"]
    )


@pytest.mark.parametrize(
    ("family", "arguments", "said"),
    [
        ("qwen2_5_vl", {"template": "qwen2_vl"}, None),
        ("qwen3_vl", {"template": "qwen3_vl_nothink"}, None),
        ("qwen3_5", {"template": "qwen3_5", "enable_thinking": False}, None),
        ("gemma3", {"template": "gemma3"}, None),
        ("internvl", {"template": "intern_vl"}, None),
        ("smolvlm", {}, "LLaMA-Factory has no template for smolvlm"),
        (None, {}, "the family of nobody/nothing is not known here"),
    ],
)
def test_llamafactorys_template_follows_the_student(tmp_path, family, arguments, said):
    model = "nobody/nothing"
    if family:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
        model = str(tmp_path)
    config = Config.model_validate({"student": {"model": model}})
    assert family_of(tmp_path, config.student) == family
    writer = LlamaFactory(tmp_path / "out", "steer", config, family)
    writer.close()
    text = (tmp_path / "out" / "train_sft.yaml").read_text()
    found = yaml.safe_load(text)
    assert {key: found[key] for key in ("template", "enable_thinking") if key in found} == arguments
    line = f"llamafactory: {said}; set `template` in train_sft.yaml" if said else None
    assert without_template(family, config.student) == line
    assert (f"# {line}\n" in text) is bool(line)


def test_verl_gets_scripts_prompts_and_picture_bytes(run, tmp_path):
    path = str(next((run / "export" / "verl").glob("rl-*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=path, cache_dir=str(tmp_path))["train"].cast_column(
        "images", datasets.List(datasets.Image(decode=False))
    )
    seeds = read_split(run, "rl")
    for index, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
        assert row["prompt"][-1] == {"role": "user", "content": "<image>" + seed.script[0]}
        assert (
            row["extra_info"]["script"] == seed.script
            and row["extra_info"]["index"] == index
            and row["extra_info"]["split"] == "train"
        )
        assert (
            row["reward_model"]["ground_truth"] == seed.intent
            and row["agent_name"] == "safer_steer"
            and row["data_source"] == "steer"
        )
        assert [picture["bytes"] for picture in row["images"]] == [
            (run / image).read_bytes() for image in seed.images
        ]
        assert Image.open(BytesIO(row["images"][0]["bytes"])).size == (84, 84)
        # what the agent loop reads
        about = row["extra_info"]
        assert Seed.model_validate_json(about["seed"]) == seed
        assert {one["name"]: one["bytes"] for one in about["pictures"]} == {
            image: (run / image).read_bytes() for image in seed.images
        }


def test_a_later_turns_picture_is_for_verls_agent_loop_and_not_in_the_prompt():
    turns = [Turn(user="what is it?", images=["b"]), Turn(user="and this?", images=["c"])]
    seed = Seed(id="s", kind=Kind.BENIGN, images=["a"], turns=turns)
    pictures = [Picture(name, name.encode(), name, "image/png") for name in seed.all_images]
    row = verl.row(seed, pictures, "", 0, "steer")
    assert [picture["bytes"] for picture in row["images"]] == [b"a", b"b"]
    assert row["prompt"] == [{"role": "user", "content": "<image><image>what is it?"}]
    assert [one["name"] for one in row["extra_info"]["pictures"]] == ["a", "b", "c"]


# Whole, the same, and nowhere else


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    again = copy_of(run, tmp_path)
    export(again, tmp_path / "elsewhere")
    assert files(tmp_path / "elsewhere") == files(run / "export")
    export(again, again / "export")
    assert files(again / "export") == files(run / "export")
    text = " ".join(content.decode("utf-8", "replace") for content in files(run / "export").values())
    assert str(run) not in text


KILLED = """
import sys
from pathlib import Path
from safer_steer.export import columns
from safer_steer.export.write import export
columns.GROUP_BYTES = 1  # a row group a row: many moments to be killed at
print("begins", flush=True)
export(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_export_looks_unfinished_and_the_next_is_whole(run, tmp_path):
    run = copy_of(run, tmp_path)
    to = tmp_path / "export"
    part = to.with_name("export.part")
    for wanted in ("llamafactory/images", "verl"):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(run), str(to)],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while process.poll() is None and not [*part.glob(f"*/{wanted}")]:
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if to.exists():  # it was quicker: then it is whole
            assert verify(to) == []
            shutil.rmtree(to)
    export(run, to)
    assert verify(to) == [] and not part.exists()
    assert files(to) == files(run / "export")
    (to / "more").mkdir()
    (to / "more" / "data.py").touch()
    assert verify(to) == ["more/data.py: added since `export` finished"]


def test_a_failed_export_leaves_the_old_one(run, tmp_path):
    run = copy_of(run, tmp_path)
    before = files(run / "export")
    append_kept(run, "pictureless", ["images/none.png"])
    again(Manifest(run), "bootstrap")
    with pytest.raises(UserError, match=r"^sft pictureless: .*none.png: no such picture"):
        export(run, run / "export")
    assert files(run / "export") == before


def test_shards_are_small_and_in_order(run, tmp_path, monkeypatch):
    monkeypatch.setattr("safer_steer.export.columns.GROUP_BYTES", 3_000)
    monkeypatch.setattr("safer_steer.export.columns.SHARD_BYTES", 20_000)
    export(run, tmp_path / "export")
    shards = sorted((tmp_path / "export" / "data").glob("sft-*.parquet"))
    assert len(shards) > 2 and shards[-1].name == f"sft-{len(shards) - 1:05d}-of-{len(shards):05d}.parquet"
    rows = datasets.load_dataset(str(tmp_path / "export"), "sft", cache_dir=str(tmp_path / "cache"))["train"]
    assert rows["id"][:] == [dialogue.id for dialogue in read_dialogues(run / "bootstrap" / "kept.jsonl")]


# The card and the command


def test_the_cards_numbers_are_counted(run):
    text = (run / "export" / "README.md").read_text("utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "other" and [config["config_name"] for config in front["configs"]] == [
        "sft",
        "rl",
        "bench",
    ]
    kept = read_dialogues(run / "bootstrap" / "kept.jsonl")
    pictures = {(run / image).read_bytes() for dialogue in kept for image in dialogue.images}
    kinds = " | ".join(
        str(sum(dialogue.kind == kind for dialogue in kept)) for kind in ("benign", "obfuscated", "red_team")
    )
    mean = sum(len(dialogue.turns) for dialogue in kept) / len(kept)
    assert f"| sft | {len(kept)} | {kinds} | {mean:.2f} | {len(pictures)} |" in text
    assert re.search(r"^\| a\\\|b \| 3 \|", text, re.MULTILINE), "a source's name cannot break the table"
    for needed in (
        "contains attacks",
        "Intended use",
        "Risks",
        "keeps its own licence",
        "| evaluator | the sandbox's agent |",
        "min safety >= 8",
    ):
        assert needed in text
    digest = Manifest(run).stages["bootstrap"]["prompts"]["evaluator"]
    assert f"| bootstrap | evaluator | `{digest}` |" in text


def test_the_command_says_what_it_writes_and_leaves_out(run, tmp_path):
    run = copy_of(run, tmp_path)
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["stages"]["bench"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    done = safer_steer("export", run, "--to", tmp_path / "out", "--name", "mine")
    assert done.exit_code == 0, done.output
    assert re.search(r"^sft: \d+ dialogues, \d+ pictures$", done.stdout, re.MULTILINE)
    assert "bench: left out, `bench` is not finished" in done.stdout
    assert (tmp_path / "out" / "llamafactory" / "mine_sft.json").is_file()
    front = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]
    assert "bench" not in yaml.safe_load(front)["configs"]
    assert safer_steer("verify", tmp_path / "out").exit_code == 0


def emptied(run: Path, name: str) -> None:
    (run / name).write_text("")
    manifest = Manifest(run)
    for stage in ("assemble", "bootstrap"):
        again(manifest, stage)


def edited(run: Path) -> None:
    path = run / "bootstrap" / "kept.jsonl"
    path.write_bytes(path.read_bytes().replace(b"safety", b"sofety", 1))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "config.yaml").unlink(), "no run in it"),
        (lambda run: (run / "manifest.json").unlink(), "nothing to export yet"),
        (lambda run: (run / "export" / "mine.txt").write_text(""), "has other files"),
        (edited, "kept.jsonl: changed since its stage finished"),
        (lambda run: emptied(run, "splits/rl.jsonl"), "nothing to export as rl: splits/rl.jsonl is empty"),
        (lambda run: emptied(run, "bootstrap/kept.jsonl"), "as sft: `bootstrap` kept no dialogue"),
    ],
)
def test_mistakes_end_in_one_line(run, tmp_path, spoil, said):
    run = copy_of(run, tmp_path)
    spoil(run)
    before = files(run)
    assert said in complaint(safer_steer("export", run))
    assert files(run) == before


def test_a_folder_that_only_looks_like_an_export_is_left_alone(run, tmp_path):
    """`data` beside a README.md is how many a project looks."""
    theirs = tmp_path / "theirs" / "data" / "notes.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    (tmp_path / "theirs" / "README.md").write_text("mine")
    with pytest.raises(UserError, match="has other files and is not an export"):
        export(run, tmp_path / "theirs")
    assert theirs.read_text() == "years of work"


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "é"])
def test_names_are_plain(run, tmp_path, name):
    with pytest.raises(UserError, match="--name"):
        export(run, tmp_path / "out", name)
