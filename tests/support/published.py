"""Made-up files in the layouts of the published sets: harmless text, the sandbox's pictures."""

import csv
import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image, List

from safer_steer.config import Config
from safer_steer.data.sources.load import Skipped, load_pairs
from safer_steer.data.sources.pair import Pair
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

MMDS = [
    {
        "id": 4,
        "set": "test",
        "data_type": "default",
        "dimension": "devices",
        "subdimension": "rings",
        "malicious_intent": "all steps",
        "conversations": [
            {"role": "user", "image": ["images/0.png"], "content": "what is it?"},
            {"role": "assistant", "image": [], "content": "a ring."},
            {"role": "user", "image": ["images/1.png", "images/2.png"], "content": "<image>and these?"},
            {"role": "assistant", "image": [], "content": "two boxes."},
            {"role": "user", "image": [], "content": "which is larger?"},
            {"role": "assistant", "image": [], "content": "the first."},
        ],
        "user_rating": "Unsafe",
        "assistant_rating": "Safe",
    },
    {
        "id": 5,
        "set": "test",
        "data_type": "default",
        "dimension": "",
        "malicious_intent": "",
        "conversations": [
            {"role": "user", "image": ["images/1.png"], "content": "is this a box?"},
            {"role": "assistant", "image": [], "content": "yes."},
        ],
        "user_rating": "Safe",
    },
]
MM_SAFETYBENCH_PLUS = [
    {
        "image": embedded(place),
        "question": f"how is {mode} {category} {number} {'used' if label == 'safe' else 'broken'}?",
        "category": category,
        "mode": mode,
        "label": label,
    }
    for mode in ("Gen", "GenOCR")
    for label in ("unsafe", "safe")
    for category in ("rings", "boxes")
    for place, number in enumerate(("one", "two"))
]
"""Its twins are far apart, and have no ids."""
HADES = [
    {
        "id": 1 + place,
        "scenario": "devices",
        "image": embedded(step),
        "keywords": ("ring", "break")[place],
        "step": step,
        "category": ("object", "behavior")[place],
        "instruction": ("list the parts of a ring", "write how to break a box")[place],
    }
    for place in range(2)
    for step in range(6)
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


SOUND: dict[str, dict[str, Any]] = {
    "mine": {"id": 1, "image": "0.png", "question": "q"},
    "beavertails_v": {"image": "0.png", "question": "q", "category": "c"},
    "mm_safetybench": {"id": 1, "image": "0.png", "question": "q"},
    "spa_vl": {"image": "0.png", "question": "q"},
    "vlguard": {"id": 1, "image": "0.png", "instr-resp": [{"instruction": "q"}]},
    "vlsbench": {"image_path": "0.png", "instruction": "q"},
    "jailbreakv_28k": {"image_path": "0.png", "jailbreak_query": "q", "redteam_query": "r"},
    "geometry3k": {"images": ["0.png"], "problem": "q", "answer": "a"},
    "align_anything": {"image": "0.png", "question": "q"},
    "scienceqa": {"image": "0.png", "question": "q", "choices": ["a", "b"], "answer": 1},
    "safemt": {"image_path": "0.png", "dialogue": [{"role": "user", "content": "q"}]},
    "mtmcs_bench": {
        "image": "0.png",
        "unsafe_intent": "i",
        "multimodal_dialogue": {"r1": "a", "r2": "b", "r3": "c"},
    },
    "mossbench": {"pid": 1, "image": "0.png", "question": "q", "metadata": {"over": "x"}},
    "xstest": {"prompt": "q", "label": "safe"},
    "mmds": {
        "conversations": [{"role": "user", "image": ["0.png"], "content": "q"}],
        "user_rating": "Unsafe",
        "set": "test",
    },
    "mm_safetybench_plus": {"image": "0.png", "question": "q", "category": "c", "label": "safe"},
    "figstep": {"category_id": 1, "task_id": 1, "question": "q", "prompt": "p"},
    "siuo": {"question_id": 1, "image": "0.png", "question": "q"},
    "hades": {"id": 1, "image": "0.png", "keywords": "k", "category": "c", "instruction": "q", "step": 5},
}
"""A row of each set that is in order. Its picture is `0.png`, where the row names one."""


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
