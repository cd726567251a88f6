"""The roles of a run: the student, the fixed target, the judge and the tutor, as named in the config. They
are loaded on demand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safer_steer.config import Config, ModelName
from safer_steer.config.named import load_named
from safer_steer.run.folder import Run

if TYPE_CHECKING:
    from safer_steer.episode import Assistant, Critic
    from safer_steer.files.images import PicturesOf
    from safer_steer.training.audit import Audit
    from safer_steer.training.cotrain.rollouts import Faithful


def student(run: Run, model: ModelName) -> Assistant:
    """One of the run's models, as the assistant in the bench."""
    config, weights = run.config, weights_of(run.folder, model)
    key = f"bench {config.seed}"
    return sampling_student(config, weights, config.bench.temperature, key, run.pictures())


def weights_of(folder: Path, model: ModelName) -> Path | None:
    """Where a run's stages save the weights of a model; None for the base, which no stage trains."""
    stages: dict[ModelName, str | None] = {"base": None, "sft": "sft", "safer_steer": "rl"}
    stage = stages[model]
    return folder / stage / "model" if stage else None


def target(run: Run, model: str | None = None) -> Assistant:
    """The fixed target policy of Stage I, or the model under test: `roles.target`; `model` is the one of
    several under test."""
    from safer_steer.endpoints.chat import ChatAssistant

    config, role, pictures_of = run.config, run.config.role("target"), run.pictures()
    if role.is_student:
        return sampling_student(config, None, role.temperature, f"target {config.seed}", pictures_of)
    chat, student = run.ask("target", model), config.student
    return ChatAssistant(chat, pictures_of, system=student.system, format=student.format)


def tutor(run: Run) -> Critic:
    """The Safety Tutor, or the user's own critic `rl.tutor`, called with (config, folder, ask)."""
    from safer_steer.training.tutor import TutorCritic
    from safer_steer.training.tutor_memory import memory_of

    config = run.config
    if config.rl.tutor:
        own: Critic = load_named("rl.tutor", config.rl.tutor)(config, run.folder, run.ask)
        return own
    format, memory = config.student.format, memory_of(config)
    return TutorCritic(run.ask("tutor"), format, run.pictures(), config.rl.adapts, memory)


def audit(run: Run) -> Audit | None:
    """Who scores turns of Stage III again (`rl.audit`): another role's model, asked as the tutor is, but for
    no next turn."""
    from safer_steer.training.audit import Audit
    from safer_steer.training.tutor import TutorCritic

    config = run.config
    if config.rl.audit is None:
        return None
    model, format = run.ask(config.rl.audit.role), config.student.format
    return Audit(TutorCritic(model, format, run.pictures(), feedback_dynamics=False), config)


def faithful(run: Run) -> Faithful:
    """The check of a trained attacker's turns, by the role `evaluator`."""
    from safer_steer.training.cotrain.rollouts import checked_by

    return checked_by(run.ask("evaluator"), run.pictures())


def ready(config: Config, saved: Path | None, training: bool = False) -> None:
    """Check quickly, before the student is loaded, that the servers which sample its answers are there.
    `saved` are its weights, None for the base; `training`: whether they are trained further. Raises
    `UserError`."""
    if config.rl.rollouts.engine == "vllm":
        from safer_steer.student.vllm_weights import check_servers

        where = str(saved) if saved else config.student.base
        check_servers(config.rl.rollouts, config.student, where, training)


def sampling_student(
    config: Config, weights: Path | None, temperature: float, key: str, pictures_of: PicturesOf
) -> Assistant:
    """A student that samples its answers; `key` seeds it. Loads its weights, the base student's if None.
    Raises `UserError` as `load_student` and `load_named` do."""
    from safer_steer.student.assistant import StudentAssistant
    from safer_steer.student.load import load_student
    from safer_steer.student.policy import SampledStudent, engine_of

    settings = config.student
    ready(config, weights)
    loaded = load_student(settings, weights)
    saved = str(weights) if weights else settings.base
    sampled = SampledStudent(loaded.model, loaded.renderer, settings, temperature, config.rl.rollouts, saved)
    return StudentAssistant(
        engine_of(config.rl.rollouts)(sampled), loaded.renderer, settings, pictures_of, key
    )
