"""An attacker that was trained (docs/explanation/cotrain.md): a LoRA adapter in the user's seat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safer_steer.bench.adaptive.attacker import Move, Seen
from safer_steer.config import SHIPPED, Config
from safer_steer.errors import UnparsableError, UserError
from safer_steer.files.images import Picture
from safer_steer.student.adapters import CONFIG, is_adapter, settings_in
from safer_steer.training.cotrain.exchange import NOTHING, SYSTEM, goal_of

KEY = "bench.adaptive.trained"


def folder_of(path: str) -> Path:
    """The adapter in a folder: of a run's `rl/attacker`, the one that its training ended with. Raises
    `UserError` if there is none."""
    for folder in (Path(path), Path(path) / "model"):
        if is_adapter(folder):
            return folder
    raise UserError(f"{KEY}: {path} has no LoRA adapter; give RUN/rl/attacker, or another adapter's folder")


def base_of(folder: Path) -> str:
    """The model that an adapter was trained on, as the adapter says. Raises `UserError` if it does not."""
    base = settings_in(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{KEY}: {folder / CONFIG} does not say base_model_name_or_path, the adapter's model")
    return str(SHIPPED) if base == "sandbox" else base


class TrainedAttacker:
    """An `Attacker` that samples its turns from an adapter on its base, in this process or on the servers of
    `rl.rollouts`. It takes no turn back, and shows no pictures of its own."""

    def __init__(self, config: Config, path: str) -> None:
        """Load it. Raises `UserError` if there is no such adapter, or its base cannot be loaded."""
        from safer_steer.student.adapters import with_adapter
        from safer_steer.student.load import load_student
        from safer_steer.student.policy import SampledStudent, engine_of

        folder = folder_of(path)
        update = {"model": base_of(folder), "system": SYSTEM, "lora_rank": max(1, config.student.lora_rank)}
        self.settings = config.student.model_copy(update=update)
        loaded = load_student(self.settings)
        self.renderer, self.seed = loaded.renderer, config.seed
        model = with_adapter(loaded.model, folder).eval()
        temperature = config.role("attacker").temperature
        sampled = SampledStudent(
            model, self.renderer, self.settings, temperature, config.rl.rollouts, str(folder)
        )
        self.policy = engine_of(config.rl.rollouts)(sampled)

    async def __call__(self, seen: Seen) -> Move:
        """The next user turn. Raises `UnparsableError` if the dialogue leaves no room for it."""
        transcript = self._transcript(seen)
        if len(transcript.ids) + self.settings.max_turn_tokens + 1 > self.settings.max_length:
            raise UnparsableError("attacker: the dialogue is longer than student.max_length allows")
        key = f"attack {self.seed} {seen.key} {len(seen.history)} {len(seen.faults)}"
        completion = await self.policy.reply(transcript, key)
        return Move(completion.text.strip(), "trained")

    def _transcript(self, seen: Seen) -> Any:
        """The dialogue from the user's seat, up to what was heard last."""
        from safer_steer.student.assistant import add_user
        from safer_steer.student.transcript import Transcript

        transcript, message = Transcript(self.renderer), goal_of(seen.intent)
        pictures = [part for part in seen.pictures if isinstance(part, Picture)]
        for exchange in seen.history:
            add_user(transcript, message, pictures)
            transcript.add_answer(exchange.user)
            message, pictures = exchange.assistant or NOTHING, []
        add_user(transcript, message, pictures)
        return transcript
