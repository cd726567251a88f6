"""A user simulator: one model plays the user after an intent, another answers, about pictures. Resumable.

usage: python examples/simulate_user.py INTENTS.jsonl http://127.0.0.1:8100/v1 MODEL OUT
"""

import asyncio
import sys
from pathlib import Path

from safer_steer.bench.adaptive.attacker import by_model
from safer_steer.bench.adaptive.intents import read_intents, tries_of
from safer_steer.bench.adaptive.user import AdaptiveUser
from safer_steer.config import Adaptive, Role
from safer_steer.dialogue import Dialogue, Format
from safer_steer.endpoints.cache import Cache
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.endpoint import EndpointTransport
from safer_steer.episodes import play_all
from safer_steer.files.images import pictures_in


async def simulate(intents: Path, base_url: str, model: str, out: Path) -> list[Dialogue]:
    """Three dialogues of four turns for each intent; what an earlier call finished is not played again."""
    role, cache = Role(model=model, base_url=base_url), Cache(out / "cache.sqlite")  # or a role for each
    transport, shown = EndpointTransport(role), pictures_in(intents.parent, max_pixels=1_000_000)
    speaks, answers = (ChatModel(name, role, transport, cache) for name in ("attacker", "target"))
    user = AdaptiveUser(by_model, lambda: speaks, Adaptive(turns=4, take_backs=0), Format.PLAIN, shown)
    seeds = tries_of(read_intents(intents), model, turns=4, tries=3)
    played = await play_all(seeds, ChatAssistant(answers, shown), None, out / "dialogues.jsonl", user=user)
    await transport.aclose()
    return list(played)


if __name__ == "__main__":
    for dialogue in asyncio.run(simulate(Path(sys.argv[1]), *sys.argv[2:4], Path(sys.argv[4]))):
        for turn in dialogue.turns:
            print(f"{dialogue.id}\n  user: {turn.user}\n  model: {turn.assistant}")
