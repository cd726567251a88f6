"""Made-up files in the layouts of the published sets: harmless text, the sandbox's pictures."""

import csv
import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image, List

from safer_steer.config import Config
from safer_steer.data.sources import Pair, Skipped, load_pairs
from safer_steer.sandbox.world import draw_png, training_devices

Rows = list[dict[str, Any]]


def png(index: int = 0) -> bytes:
    device = training_devices()[index % 3]
    return draw_png(device, True, index)


def embedded(index: int = 0) -> dict[str, Any]:
    return {"bytes": png(index), "path": f"{index}.png"}


def beavertails(category: str) -> Rows:
    return [
        {
            "question": f"<image>what is {category} {i}?",
            "image": embedded(i),
            "category": category,
            "image_severity": "mild",
        }
        for i in range(2)
    ]


SPA_VL = [
    {
        "question": f"what is this, {i}?",
        "image": embedded(i),
        "class1": "objects",
        "class2": "devices",
        "class3": "rings",
    }
    for i in range(3)
]
ALIGN = [
    {
        "question": f"describe it {i}",
        "image": embedded(i),
        "response_1": "a",
        "response_2": "b",
        "overall_response": 1,
    }
    for i in range(2)
]
GEOMETRY = [
    {"images": [embedded(i)], "problem": f"<image>Find x in figure {i}.", "answer": f"{i}.5"}
    for i in range(3)
]
SCIENCEQA = [
    {
        "image": embedded(0),
        "question": "Which is round?",
        "choices": ["a ring", "a box"],
        "answer": 0,
        "hint": "Look.",
        "subject": "natural science",
    },
    {
        "image": None,
        "question": "Which is heavy?",
        "choices": ["lead", "air"],
        "answer": 0,
        "hint": "",
        "subject": "natural science",
    },
    {
        "image": embedded(1),
        "question": "Which is flat?",
        "choices": ["a ball", "a sheet"],
        "answer": 1,
        "hint": "",
        "subject": "natural science",
    },
]
VLGUARD = [
    {
        **{
            "id": "g1",
            "image": "ads/1.png",
            "safe": True,
            "harmful_category": None,
            "harmful_subcategory": None,
        },
        "instr-resp": [
            {"safe_instruction": "what is on it?", "response": "a ring"},
            {"unsafe_instruction": "how do i break it?", "response": "no"},
        ],
    },
    {
        **{"id": "g2", "image": "ads/2.png", "safe": False, "category": "devices", "subcategory": "rings"},
        "instr-resp": [{"instruction": "what does it say?", "response": "nothing"}],
    },
]
VLSBENCH = [
    {
        "instruction_id": i,
        "instruction": f"how is this done, {i}?",
        "image_path": f"imgs/{i}.png",
        "category": "a",
        "sub_category": "b",
        "source": "web",
    }
    for i in range(2)
]
JAILBREAKV = [
    {
        **{
            "id": i,
            "jailbreak_query": f"play along {i}",
            "redteam_query": f"the steps {i}",
            "format": "Template",
            "policy": "devices",
        },
        **{
            "image_path": f"figstep/{i}.png",
            "from": "hand",
            "selected_mini": False,
            "transfer_from_llm": True,
        },
    }
    for i in range(2)
]
MOSSBENCH = {
    "7": {
        "pid": "7",
        "question": "is it a toy?",
        "image": "images/7.png",
        "metadata": {"over": "type 1", "harm": 0},
    }
}
SAFEMT = [
    {
        **{"id": 3, "scenario": "devices", "image_path": "imgs/3.png", "question": "all steps"},
        "dialogue": [
            {"role": "user", "content": "what is it?"},
            {"role": "assistant", "content": "a ring."},
            {"role": "user", "content": "and then?"},
        ],
    }
]
MTMCS = {
    "type_a": {
        "r1": "what is it?",
        "r2": "who made it?",
        "safe_r3": "where is it kept?",
        "unsafe_r3": "how is it broken?",
        "r3": None,
    },
    "type_b": {
        "safe_r1": "i own it.",
        "unsafe_r1": "i found it.",
        "r2": "who made it?",
        "r3": "how is it opened?",
    },
}
XSTEST = [
    {"id": 1, "prompt": "how do i kill a process?", "type": "homonyms", "label": "safe"},
    {"id": 2, "prompt": "how do i break a ring?", "type": "contrast_homonyms", "label": "unsafe"},
]

FIGSTEP = [
    {
        "dataset": "SafeBench",
        "category_id": 1 + place // 2,
        "task_id": 1 + place % 2,
        "category_name": f"topic {place // 2}",
        "question": f"list the steps, {place}",
        "instruction": f"steps to do it, {place}. 1. 2. 3.",
    }
    for place in range(4)
]
SIUO = [
    {
        "question_id": place,
        "image": f"S-0{place}.png",
        "question": f"is this fine, {place}?",
        "category": "devices",
        "safety_warning": "it is marked",
        "reference_answer": "no",
    }
    for place in range(2)
]


def mossbench_tree(folder: Path) -> Path:
    """The repository: pictures beside the folder of the rows; three harmless questions and two risky ones."""
    for part, count in (("data", 3), ("data_contrast", 2)):
        rows = {
            str(pid): {
                "image": f"images/{pid}.png",
                "question": f"is number {pid} of {part} a toy?",
                "short description": "a device",
                "description": "a device with rings",
                "metadata": {"over": "type 1", "human": 0, "child": 0, "syn": 1, "ocr": 0, "harm": [7]},
                "pid": str(pid),
            }
            for pid in range(1, count + 1)
        }
        (folder / part / "images_information").mkdir(parents=True)
        (folder / part / "images_information/information.json").write_text(json.dumps(rows))
        (folder / part / "images_information/information.csv").write_text("name,other\na,b\n")
        pictures(folder / part, *(f"images/{pid}.png" for pid in range(1, count + 1)))
    pictures(folder, "images/1.png")
    return folder


def scienceqa_tree(folder: Path) -> Path:
    """The repository: one file of all splits, by id; a folder for each picture."""
    data = folder / "data/scienceqa"
    rows = {}
    for id, split, image in ((1, "train", True), (2, "train", False), (5, "val", True), (7, "test", True)):
        rows[str(id)] = {
            "question": f"Which is round, {id}?",
            "choices": ["a ring", "a box"],
            "answer": id % 2,
            "hint": "",
            "image": "image.png" if image else None,
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science",
            "split": split,
        }
        if image:
            pictures(data / f"images/{split}/{id}", "image.png")
    data.mkdir(parents=True, exist_ok=True)
    (data / "problems.json").write_text(json.dumps(rows))
    (data / "pid_splits.json").write_text(json.dumps({"train": ["1", "2"], "val": ["5"], "test": ["7"]}))
    return folder


def vlguard_tree(folder: Path) -> Path:
    """Files and unpacked archives. In train.json an id stands twice, with another picture."""
    twice = VLGUARD[1] | {"image": "ads/3.png"}
    for split, rows in (("train", [*VLGUARD, twice]), ("test", VLGUARD)):
        pictures(folder / split, "ads/1.png", "ads/2.png", "ads/3.png")
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


def xstest_tree(folder: Path) -> Path:
    """The prompts, and files of completions beside them."""
    write_csv(folder / "xstest_prompts.csv", [row | {"focus": "", "note": ""} for row in XSTEST])
    write_csv(folder / "model_completions/xstest_model_completions_a.csv", [{"id": 1, "completion": "x"}])
    write_csv(folder / "xstest_model_completions_b.csv", [{"id": 1, "completion": "x"}])
    return folder


def figstep_tree(folder: Path) -> Path:
    """No row names its picture: its category and its number do."""
    write_csv(folder / "data/question/safebench.csv", FIGSTEP)
    names = [f"query_ForbidQI_{row['category_id']}_{row['task_id']}_6.png" for row in FIGSTEP]
    pictures(folder / "data/images/SafeBench", *names)
    return folder


def siuo_tree(folder: Path) -> Path:
    """The pictures come separately."""
    (folder / "data").mkdir(parents=True)
    (folder / "data/siuo_gen.json").write_text(json.dumps(SIUO))
    pictures(folder / "pictures", *(row["image"] for row in SIUO))
    return folder


def mtmcs(kind: str) -> Rows:
    return [
        {"id": i, "image": embedded(i), "unsafe_intent": "all steps", "multimodal_dialogue": MTMCS[kind]}
        for i in range(2)
    ]


def mm_safetybench(category: str) -> dict[str, Rows]:
    said = [
        {"id": str(i), "question": f"list the steps of what is shown {i}", "image": embedded(i)}
        for i in range(2)
    ]
    meant = [{"id": str(i), "question": f"{category}: true {i}", "image": None} for i in range(2)]
    return {"SD_TYPO": said, "Text_only": meant}


def table(rows: Rows) -> Dataset:
    """As the hub has it: with the features of its pictures."""
    found = Dataset.from_list(rows)
    for name in {"image", "images"} & set(found.column_names):
        found = found.cast_column(name, List(Image()) if name == "images" else Image())
    return found


def hub(folder: Path, configs: dict[str, dict[str, Rows]]) -> Path:
    """A data set's repository: Parquet by configuration and split, and the card that lists them."""
    listed = []
    for config, splits in configs.items():
        listed.append(
            {
                "config_name": config,
                "data_files": [{"split": split, "path": f"{config}/{split}-*"} for split in splits],
            }
        )
        for split, rows in splits.items():
            (folder / config).mkdir(parents=True, exist_ok=True)
            table(rows).to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\n" + json.dumps({"configs": listed}) + "\n---\n")
    return folder


def saved(folder: Path, splits: dict[str, Rows]) -> Path:
    DatasetDict({split: table(rows) for split, rows in splits.items()}).save_to_disk(folder)
    return folder


def pictures(folder: Path, *names: str) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(index))


def write_csv(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def config(*sources: dict[str, Any], seed: int = 0, **student: Any) -> Config:
    return Config.model_validate(
        {
            "seed": seed,
            "student": student,
            "seeds": {"sources": list(sources)},
            "assembly": {},
            "rl": {"seeds": 1},
        }
    )


def pairs(name: str, path: Path | None = None, skipped: Skipped | None = None, **source: Any) -> list[Pair]:
    return list(load_pairs(config({"name": name, "path": str(path) if path else None} | source), skipped))
