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
    weights = weights_of(run.folder, model)
    return _sampling(run, weights, run.config.bench.temperature, f"bench {run.config.seed}")


def weights_of(folder: Path, model: ModelName) -> Path | None:
    """Where a run's stages save the weights of a model; None for the base, which no stage trains."""
    stages: dict[ModelName, str | None] = {"base": None, "sft": "sft", "safer_steer": "rl"}
    stage = stages[model]
    return folder / stage / "model" if stage else None


def target(run: Run, model: str | None = None) -> Assistant:
    """The fixed target policy of Stage I, or the model under test: `roles.target`; `model` is the one of
    several under test."""
    from safer_steer.endpoints.chat import ChatAssistant
    from safer_steer.files.images import pictures_in

    role, settings = run.config.role("target"), run.config.student
    if role.is_student:
        return _sampling(run, None, role.temperature, f"target {run.config.seed}")
    return ChatAssistant(
        run.ask("target", model),
        pictures_in(run.folder, settings.max_pixels),
        system=settings.system,
        format=settings.format,
    )


def tutor(run: Run) -> Critic:
    """The Safety Tutor, or the user's own critic `rl.tutor`, called with (config, folder, ask)."""
    from safer_steer.files.images import pictures_in
    from safer_steer.training.tutor import TutorCritic
    from safer_steer.training.tutor_memory import memory_of

    config = run.config
    if config.rl.tutor:
        own: Critic = load_named("rl.tutor", config.rl.tutor)(config, run.folder, run.ask)
        return own
    pictures_of = pictures_in(run.folder, config.student.max_pixels)
    return TutorCritic(
        run.ask("tutor"), config.student.format, pictures_of, config.rl.adapts, memory_of(config)
    )


def audit(run: Run) -> Audit | None:
    """Who scores turns of Stage III again (`rl.audit`): another role's model, asked as the tutor is, but for
    no next turn."""
    from safer_steer.files.images import pictures_in
    from safer_steer.training.audit import Audit
    from safer_steer.training.tutor import TutorCritic

    config = run.config
    if config.rl.audit is None:
        return None
    pictures_of = pictures_in(run.folder, config.student.max_pixels)
    model = run.ask(config.rl.audit.role)
    return Audit(TutorCritic(model, config.student.format, pictures_of, feedback_dynamics=False), config)


def faithful(run: Run) -> Faithful:
    """The check of a trained attacker's turns, by the role `evaluator`."""
    from safer_steer.files.images import pictures_in
    from safer_steer.training.cotrain.rollouts import checked_by

    return checked_by(run.ask("evaluator"), pictures_in(run.folder, run.config.student.max_pixels))


def ready(config: Config, saved: Path | None, training: bool = False) -> None:
    """Check quickly, before the student is loaded, that the servers which sample its answers are there.
    `saved` are its weights, None for the base; `training`: whether they are trained further. Raises
    `UserError`."""
    if config.rl.rollouts.engine == "vllm":
        from safer_steer.student.vllm_weights import check_servers

        where = str(saved) if saved else config.student.base
        check_servers(config.rl.rollouts, config.student, where, training)


def _sampling(run: Run, weights: Path | None, temperature: float, key: str) -> Assistant:
    from safer_steer.files.images import pictures_in

    pictures_of = pictures_in(run.folder, run.config.student.max_pixels)
    return sampling_student(run.config, weights, temperature, key, pictures_of)


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
