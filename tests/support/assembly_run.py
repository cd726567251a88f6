"""Made-up pools for the assembly's tests."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from safer_steer.config import Config, Role
from safer_steer.data.assembly.build import assemble
from safer_steer.dialogue import Kind, Seed, Turn, read_seeds, to_jsonl
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import ChatReply, Transport
from safer_steer.files.store import write_atomic
from safer_steer.sandbox import scripts
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.sandbox.world import draw_png, training_devices
from seeds_run import Watched


def config(
    rl_seeds: int = 8,
    benign_share: float = 0.5,
    seed: int = 0,
    bootstrap: dict[str, Any] | None = None,
    **assembly: Any,
) -> Config:
    rl = {"seeds": rl_seeds, "benign_share": benign_share}
    return Config.model_validate({"seed": seed, "rl": rl, "bootstrap": bootstrap or {}, "assembly": assembly})


def seed(
    pair: str,
    kind: Kind | str,
    *script: str,
    question: str = "",
    picture: str = "",
    use: str = "train",
    **more: Any,
) -> Seed:
    """A seed of the pair's own picture, unless another is named."""
    meta = {"pair": pair, "question": question, "picture": picture or f"picture of {pair}", "use": use}
    values = {
        "id": f"{pair}-{kind}",
        "kind": kind,
        "source": "made-up",
        "turns": [Turn(user=turn) for turn in script],
        "meta": meta,
    }
    return Seed.model_validate(values | more)


def write_pools(folder: Path, seeds: list[Seed]) -> None:
    for kind in Kind:
        write_atomic(
            folder / "seeds" / f"{kind.value}.jsonl", to_jsonl(one for one in seeds if one.kind is kind)
        )


def sandbox_pools(folder: Path, pairs: int) -> list[Seed]:
    """Three scripts of each marked picture and one of each unmarked, as Stage I makes them."""
    found = []
    for number in range(pairs):
        rng = random.Random(number)
        device, marked = training_devices()[number % 16], number % 2 == 0
        image = f"images/{number}.png"
        write_atomic(folder / image, draw_png(device, marked, number))
        plans = {Kind.BENIGN: scripts.benign_script(device, marked, 4, rng)}
        if marked:
            plans[Kind.OBFUSCATED] = scripts.obfuscated_script(device, 4, rng)
            plans[Kind.RED_TEAM] = [
                turn
                for turn, _, _ in scripts.red_team_script(device, rng.choice(list(scripts.Strategy)), 4, rng)[
                    1
                ]
            ]
        found += [
            seed(f"p{number}", kind, *script, picture=f"{number:016d}", images=[image], intent="operate it")
            for kind, script in plans.items()
        ]
    write_pools(folder, found)
    return found


def run(settings: Config, folder: Path, transport: Transport | None = None, **more: Any) -> list[str]:
    """Assemble, the sandbox's agent or `transport` being the evaluator."""
    evaluator = ChatModel("evaluator", Role(reasks=1, concurrency=4), transport or SandboxTransport())
    return asyncio.run(assemble(settings, folder, lambda _: evaluator, **more))


def split(folder: Path, name: str) -> list[Seed]:
    return read_seeds(folder / "splits" / f"{name}.jsonl", may_be_empty=True)


def left_out(folder: Path) -> dict[str, dict[str, str]]:
    return {
        row["id"]: row for row in map(json.loads, (folder / "splits/left_out.jsonl").read_text().splitlines())
    }


def contents(folder: Path) -> dict[str, bytes]:
    """All data sets, reasons and counts, by name."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (folder / "splits").rglob("*.*")
        if path.name != "verdicts.jsonl"
    }
    assert found
    return found


def refuse_some(job: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
    """One script in five or so is declined."""
    return ChatReply("", refusal=True) if job == "script_check" and len(given["script"]) % 5 == 0 else None


KILLED = config(rl_seeds=10)
"""What the killed process assembles."""


def assemble_killed(folder: Path, calls: Path) -> None:
    """Assembles `KILLED`, and notes every call in a file."""
    with calls.open("a", buffering=1) as file:

        def note(job: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
            file.write(f"{job}\n")
            return refuse_some(job, repeat, given)

        run(KILLED, folder, Watched(note, pause_s=0.01))
