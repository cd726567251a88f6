"""Made-up sets as they are downloaded, from the root of the repository; the rows are those of `published`."""

import json
from pathlib import Path

from published import (
    FIGSTEP,
    MMDS,
    SIUO,
    VLGUARD,
    XSTEST,
    Rows,
    hub,
    pictures,
    write_csv,
)


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
    """No row names its picture: its category and its number do. Two of the four are in a small set too."""
    for split, count in (("SafeBench", 4), ("SafeBench-Tiny", 2)):
        file = split if count == 2 else "safebench"
        write_csv(folder / f"data/question/{file}.csv", FIGSTEP[:count])
        names = [f"query_ForbidQI_{row['category_id']}_{row['task_id']}_6.png" for row in FIGSTEP[:count]]
        pictures(folder / f"data/images/{split}", *names)
    write_csv(folder / "data/question/benign_sentences.csv", [{"sentence": "steps to *"}])
    return folder


def mmds_tree(folder: Path) -> Path:
    """The set as downloaded: a line a dialogue, of any split; pictures in `images/`."""
    folder.mkdir(parents=True)
    rows = [*MMDS, MMDS[1] | {"id": 6, "set": "train"}]
    (folder / "mmds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pictures(folder / "images", "0.png", "1.png", "2.png")
    return folder


def siuo_hub_tree(folder: Path) -> Path:
    """The hub's repository: a file of questions, one of multiple choice, pictures beside them."""
    folder.mkdir(parents=True)
    (folder / "siuo_gen.json").write_text(json.dumps(SIUO))
    (folder / "siuo_mcqa.json").write_text(json.dumps([row | {"options": "A. B."} for row in SIUO]))
    pictures(folder / "images", *(row["image"] for row in SIUO))
    return folder


def one_table(folder: Path, rows: Rows) -> Path:
    """A set that is one split on the hub, `test`."""
    folder.mkdir(parents=True)
    return hub(folder, {"default": {"test": rows}})


def siuo_tree(folder: Path) -> Path:
    """The pictures come separately."""
    (folder / "data").mkdir(parents=True)
    (folder / "data/siuo_gen.json").write_text(json.dumps(SIUO))
    pictures(folder / "pictures", *(row["image"] for row in SIUO))
    return folder
