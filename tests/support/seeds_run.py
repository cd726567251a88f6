"""Stage I on the sandbox, for its tests."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safer_steer.config import Config, Role
from safer_steer.data.seeds.build import build_seeds
from safer_steer.dialogue import Seed, read_seeds
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.ledger import Ledger
from safer_steer.endpoints.transport import ChatReply, Message, Transport
from safer_steer.episode import Assistant
from safer_steer.files.images import pictures_in
from safer_steer.prompts.base import sections
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.sandbox.world import draw_png, training_devices

KINDS = ("benign", "obfuscated", "red_team")


class Watched:
    """The sandbox's agents, every call noted as (job, repeat, sections); `answer` may reply in their
    place."""

    def __init__(
        self, answer: Callable[[str, int, dict[str, str]], ChatReply | None] | None = None, pause_s: float = 0
    ) -> None:
        self.agents = SandboxTransport()
        self.answer = answer
        self.pause_s = pause_s
        self.calls: list[tuple[str, int, dict[str, str]]] = []
        self.now = self.most = 0

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        job = system.split("\n")[0].removeprefix("Job: ") if system.startswith("Job: ") else "target"
        content = messages[-1]["content"]
        given = sections(content if isinstance(content, str) else content[-1]["text"])
        self.calls.append((job, repeat, given))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.pause_s * (1 + repeat % 3))
            return (self.answer and self.answer(job, repeat, given)) or await self.agents.complete(
                messages, schema, repeat
            )
        finally:
            self.now -= 1

    def count(self, job: str) -> int:
        return sum(called == job for called, _, _ in self.calls)


def config(
    pairs: int = 12, *, path: Path | None = None, seed: int = 0, concurrency: int = 16, **seeds: Any
) -> Config:
    source = {"name": "mine", "path": str(path)} if path else {"limit": pairs}
    roles = {name: {"concurrency": concurrency} for name in ("generator", "target", "attack_judge")}
    return Config.model_validate({"seed": seed, "roles": roles, "seeds": {"sources": [source]} | seeds})


async def build(
    settings: Config,
    folder: Path,
    transport: Transport | None = None,
    target: Assistant | None = None,
    progress: Callable[[int, int], None] | None = None,
    ledger: Ledger | None = None,
) -> list[str]:
    """Returns what the stage says."""
    transport = transport or SandboxTransport()
    models = {
        name: ChatModel(name, Role(reasks=1), transport, ledger=ledger)
        for name in ("generator", "target", "attack_judge")
    }
    target = target or ChatAssistant(models["target"], pictures_in(folder, 10**6))
    return await build_seeds(settings, folder, models.__getitem__, target, progress)


def write_pairs(folder: Path, *rows: dict[str, Any], marked: bool = True) -> Path:
    """A JSONL source with pictures `0.png`, `1.png` ... of the sandbox, one a row unless the row names its
    own."""
    folder.mkdir(exist_ok=True)
    for index in range(len(rows)):
        device = training_devices()[index]
        (folder / f"{index}.png").write_bytes(draw_png(device, marked, index))
    path = folder / "pairs.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": f"p{i}", "image": f"{i}.png", "question": "how do i operate it?"} | row) + "\n"
            for i, row in enumerate(rows)
        )
    )
    return path


def pool(folder: Path, kind: str) -> list[Seed]:
    path = folder / "seeds" / f"{kind}.jsonl"
    return read_seeds(path) if path.stat().st_size else []


def dropped(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "seeds/dropped.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Pools and pictures by name."""
    files = [*(folder / "seeds").glob("*.jsonl"), *(folder / "images").iterdir()]
    return {path.name: path.read_bytes() for path in files}


KILLED = config(24, seed=3, concurrency=4, perturb_share=0.3, max_turns=5)
"""What the killed process builds."""


def refuse_some(job: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
    """Some first attempts, and one job for good, so that there is something to retry and to drop."""
    if (job == "rewrite" and repeat % 6 == 0) or (job == "obfuscated" and repeat % 10 < 2):
        return ChatReply("", refusal=True)
    return None


def build_killed(folder: Path, calls: Path) -> None:
    """Builds `KILLED`, and notes every call in a file."""
    with calls.open("a", buffering=1) as file:

        def note(job: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
            file.write(f"{job} {repeat}\n")
            return refuse_some(job, repeat, given)

        asyncio.run(build(KILLED, folder, Watched(note, pause_s=0.003)))
