"""What a stage's work on disk belongs to: the part of the config that decides its content, and the pairs it starts from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safer_steer.config import Config, RoleName
from safer_steer.errors import UserError
from safer_steer.seeds.dedup import Seen, normalise
from safer_steer.seeds.sources import load_pairs
from safer_steer.store import content_id, write_atomic

ROLES: tuple[RoleName, ...] = ("generator", "target", "attack_judge")
"""Who works in Stage I."""


@dataclass
class Survey:
    """The sources, read once from end to end before anybody is asked anything."""

    pairs: int = 0
    digest: str = ""
    """SHA-256 over every pair and its picture."""
    repeated: dict[str, str] = field(default_factory=dict)
    """Pairs with question and picture of an earlier one, by id, with the earlier one's id."""


def survey(config: Config) -> Survey:
    """Read all pairs and hash their pictures' files, without decoding them.

    Raises:
        UserError: a row is unusable, a picture's file cannot be read, or an id occurs twice.
    """
    found, digest, ids, seen = Survey(), hashlib.sha256(), set(), Seen()
    for pair in load_pairs(config):
        if pair.id in ids:
            raise UserError(f"{pair.where or pair.source}: id: {pair.id} occurs twice; ids must be unique in a set, and sets must differ in name")
        ids.add(pair.id)
        picture = ""  # a drawn picture follows from the id and the config's seed
        if isinstance(pair.image, Path):
            try:
                with pair.image.open("rb") as file:
                    picture = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                raise UserError(f"{pair.where}: image: {pair.image}: no such picture, or not readable; paths are relative to the file's folder") from None
            first = seen.first(content_id(normalise(pair.question), picture), pair.id)
            if first != pair.id:
                found.repeated[pair.id] = first
        row = [pair.id, picture, pair.question, pair.source, pair.intent, pair.safe, pair.answer]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        found.pairs += 1
    found.digest = digest.hexdigest()
    return found


def plan_id(config: Config, found: Survey) -> str:
    """The hash of everything that decides the seeds. Where models stand, what they cost and how many calls fly at once is not in it."""
    seeds = config.seeds.model_dump(mode="json", exclude={"sources"})
    roles: dict[str, Any] = {name: config.role(name).model_dump(include={"model", "temperature", "top_p", "max_tokens"}) for name in ROLES}
    student: dict[str, Any] = {}
    if config.role("target").model == "student":
        student = config.student.model_dump(mode="json", include={"model", "format", "system", "max_turn_tokens"})
    return content_id(config.seed, seeds, roles, student, found.digest)


class PlanFile:
    """`seeds/plan.json`: whose work lies in the folder, and whether it is finished."""

    def __init__(self, folder: Path, plan: str) -> None:
        self.path = folder / "plan.json"
        self.folder = folder
        self.plan = plan

    def finished(self) -> bool:
        """Is all the work done?

        Raises:
            UserError: the folder holds the work of another plan, or seeds of unknown origin.
        """
        try:
            row = json.loads(self.path.read_bytes())
            plan, finished = row["plan"], row["finished"]
        except FileNotFoundError:
            if any(self.folder.glob("*.jsonl")) or any(self.folder.glob("journal/*")):
                raise UserError(f"{self.folder}: holds seeds of unknown origin (no plan.json); move them away or start over with --fresh") from None
            return False
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{self.path}: not readable; start over with --fresh") from None
        if plan != self.plan:
            raise UserError(f"{self.folder}: begun with other settings or other source pairs; restore them, or start over with --fresh")
        return bool(finished)

    def claim(self) -> None:
        """Say whose work begins here; to be called before any of it is written."""
        write_atomic(self.path, json.dumps({"plan": self.plan, "finished": False}) + "\n")

    def finish(self, counts: dict[str, int]) -> None:
        """Say so, last of all: `counts` are the rows of each pool and of what was dropped."""
        write_atomic(self.path, json.dumps({"plan": self.plan, "finished": True, "rows": counts}) + "\n")
