"""A source of your own for Stage I: a JSONL file, one pair of picture and question a line.

usage: python examples/own_source.py FOLDER
In the config:    seeds: {sources: [{name: mine, path: FOLDER/pairs.jsonl}]}
A published set with its own columns is a function in data/sources/sets/ (see CONTRIBUTING.md).
"""

import json
import sys
from pathlib import Path

from PIL import Image

from safer_steer.config import Config, Seeds, Source
from safer_steer.data.sources.load import load_pairs

QUESTIONS = (("Which colour is this?", True), ("Whose door does this open?", False))
"""A question, and whether it is meant to be harmless; leave `safe` out where nobody knows."""


def write(folder: Path) -> Path:
    """The file and its pictures; their paths are relative to the file's folder."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (question, safe) in enumerate(QUESTIONS):
        picture = f"pictures/{number}.png"
        Image.new("RGB", (64, 64), "teal").save(folder / picture)
        rows.append({"id": str(number), "image": picture, "question": question, "safe": safe})
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


if __name__ == "__main__":
    config = Config(seeds=Seeds(sources=[Source(name="mine", path=str(write(Path(sys.argv[1]))))]))
    for pair in load_pairs(config):
        print(pair.id, pair.question, pair.safe, pair.image)
