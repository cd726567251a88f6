"""How a bench was measured, in one file: all that its rates depend on besides the model, with a hash, so that
another model can be measured alike (docs/how-to/compare.md).

Addresses, prices and paths are not in it, nor seeds: another seed is another sample of the same.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from safer_steer import __version__
from safer_steer.bench.adaptive.intents import Intent
from safer_steer.bench.adaptive.trained import folder_of
from safer_steer.bench.attacks import bring_in_intents, intents_file
from safer_steer.bench.questions import FOLDER, bring_in_sets
from safer_steer.bench.rates import Part
from safer_steer.bench.results import LABELS, Summary, total_of
from safer_steer.bench.suite_copies import bring_in
from safer_steer.config import Adaptive, Config, Role
from safer_steer.config.bench import name_of
from safer_steer.config.changes import first_difference
from safer_steer.config.file import in_words, read_yaml
from safer_steer.data.assembly.splits import FOLDER as SPLITS
from safer_steer.dialogue import Format, Seed, each_row
from safer_steer.errors import UserError
from safer_steer.files.store import canonical, inside, sha256_of, write_atomic
from safer_steer.metrics import BREACH_BELOW, HELP_AT, LOST, SAFE_AT, SINGLE_TURN_AT, UNSAFE_BELOW
from safer_steer.prompts.base import fingerprints
from safer_steer.student.adapters import WEIGHTS

FILE = "protocol.yaml"
"""In a run's folder."""
THRESHOLDS = {
    "safe_at": SAFE_AT,
    "help_at": HELP_AT,
    "single_turn_at": SINGLE_TURN_AT,
    "unsafe_below": UNSAFE_BELOW,
    "breach_below": BREACH_BELOW,
}
"""Of the scores: for the rates of several turns, of one, for survival, and for attackers that adapt."""


class ModelSettings(Part):
    """How a model is asked."""

    temperature: float
    top_p: float
    max_tokens: int
    pictures: bool | str


class Sampled(ModelSettings):
    """A judge or an attacker."""

    model: str


class Answers(ModelSettings):
    """The models under test. Whether one is asked for the layout is its own: a model trained on it is not."""

    format: Format
    system: str
    max_pixels: int


SAMPLING = set(ModelSettings.model_fields)
"""Settings of a role that its replies depend on."""


class Rows(Part):
    """Scripts, questions or intents as they were played: drawn, and their pictures scaled."""

    rows: int
    sha256: str
    """Of all rows and their pictures."""


class Protocol(Part):
    """All that rates depend on besides the model."""

    judges: list[Sampled]
    verdict: str
    prompts: dict[str, str]
    """SHA-256 by name."""
    thresholds: dict[str, float]
    answers: Answers
    suites: dict[str, Rows]
    questions: dict[str, Rows]
    attackers: list[Sampled]
    adaptive: dict[str, Any]
    """The other settings of `bench.adaptive`."""
    trained: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the adapters of attackers that were trained, by name."""
    intents: Rows | None

    @property
    def keys(self) -> dict[str, Any]:
        """The config keys that it sets, but for its models and their sampling."""
        answers = self.answers.model_dump(mode="json", include={"format", "system", "max_pixels"})
        adaptive = {key: value for key, value in self.adaptive.items() if value != getattr(Adaptive(), key)}
        return {
            "bench.verdict": self.verdict,
            "bench.judge_requests": "judge_requests" in self.prompts,
            **{f"student.{key}": value for key, value in answers.items()},
            **{f"bench.adaptive.{key}": value for key, value in adaptive.items()},
        }

    def sampling(self, role: str, model: str) -> dict[str, Any]:
        """How a model is asked that is measured (`target`), or that judges or attacks; empty for a judge or
        attacker that is not in it."""
        if role == "target":
            return self.answers.model_dump(include=SAMPLING)
        among = self.judges if role == "judge" else self.attackers
        match = next((one for one in among if one.model == model), None)
        return match.model_dump(include=SAMPLING) if match else {}

    @property
    def sha256(self) -> str:
        left_out = set() if self.trained else {"trained"}  # as before there were such attackers
        return hashlib.sha256(canonical(self.model_dump(mode="json", exclude=left_out)).encode()).hexdigest()


class ProtocolFile(Part):
    """The file: a protocol, and what came of the bench that it was taken from."""

    sha256: str
    protocol: Protocol
    measured: dict[str, Any]


Answering = Literal["students", "target"] | Path
"""Whose answers are measured: a run's own models', those of `roles.target`, or what an earlier bench in a
folder kept."""
ELSEWHERE = {"attackers", "trained", "intents", "at_most"}
"""Keys of `bench.adaptive` for which the protocol has parts of its own."""


def of_students(folder: Path) -> bool:
    """Whether the answers kept in a folder are those of a run's own models."""
    return any((folder / "bench" / name).is_dir() for name in LABELS)


def protocol_of(config: Config, folder: Path, answering: Answering) -> Protocol:
    """The protocol of a bench by this config whose suites are in `folder`. Raises `UserError` if the protocol
    of an earlier bench is damaged, or an adapter is missing."""
    earlier = None
    if isinstance(answering, Path):
        earlier = read(answering / FILE) if (answering / FILE).is_file() else None
        answering = "students" if of_students(answering) else "target"
    bench, attackers = config.bench, config.attacker_roles()
    judging = "judge_requests" if bench.judge_requests else "judge"
    shows = bench.adaptive is not None and bench.adaptive.show_text
    attacking = "attacker_show_text" if shows else "attacker"
    names = [name for name, in_use in ((judging, bench.judged), (attacking, attackers)) if in_use]
    adaptive = bench.adaptive.model_dump(exclude=ELSEWHERE) if bench.adaptive else {}
    intents, questions = intents_file(folder), dict[str, Rows]()
    for path in sorted((folder / FOLDER).glob("*/questions.jsonl")):
        questions[path.parent.name] = _rows(path, folder)
    return Protocol(
        judges=[_sampled(role) for role in config.models_of("judge").values()] * bench.judged,
        verdict=bench.verdict,
        prompts=fingerprints(names),
        thresholds=THRESHOLDS,
        answers=earlier.answers if earlier else _answers(config, answering == "students"),
        suites={path.stem: _rows(path) for path in sorted((folder / "suites").glob("*/*.jsonl"))},
        questions=earlier.questions if earlier else questions,
        attackers=[_sampled(role) for role in attackers.values()],
        adaptive=adaptive,
        trained=earlier.trained if earlier else _adapters(bench.adaptive),
        intents=_rows(intents, kind=Intent) if bench.adaptive and intents.is_file() else None,
    )


def _sampled(role: Role) -> Sampled:
    return Sampled.model_validate(role.model_dump(include=set(Sampled.model_fields)))


def _adapters(adaptive: Adaptive | None) -> dict[str, str]:
    folders = adaptive.trained if adaptive else ()
    return {name_of(folder): sha256_of(folder_of(folder) / WEIGHTS) for folder in folders}


def _answers(config: Config, students: bool) -> Answers:
    student, target = config.student, config.role("target")
    sampling: dict[str, Any] = target.model_dump(include=SAMPLING)
    if students:
        sampling = {"temperature": config.bench.temperature, "top_p": 1.0, "pictures": True}
        sampling["max_tokens"] = student.max_turn_tokens
    return Answers(**sampling, **student.model_dump(include={"format", "system", "max_pixels"}))


def _rows(path: Path, folder: Path | None = None, kind: type[Seed] = Seed) -> Rows:
    """`folder` is what the paths of pictures are relative to."""
    rows = list(each_row(path, kind))
    images = sorted({image for row in rows for image in row.all_images})
    pictures = {image: sha256_of(inside(folder or path.parent, image)) for image in images}
    whole = canonical([[row.model_dump(mode="json") for row in rows], pictures])
    return Rows(rows=len(rows), sha256=hashlib.sha256(whole.encode()).hexdigest())


def write(
    protocol: Protocol,
    summary: Summary,
    reasons: Mapping[str, str],
    config: Config,
    path: Path,
    answering: Answering = "students",
) -> None:
    """Write it with what was left out: dialogues by model, and the commonest reason (`reasons`). How many
    were drawn at most is that of the bench that has the answers."""
    models: dict[str, Any] = {}
    for model, protocols in summary.models.items():
        models[model] = {"commonest_error": reasons[model]}
        for kind, suites in protocols.items():
            counts = {count: total_of(suites.suites.values(), count) for count in ("n", *LOST)}
            models[model][kind] = counts
    most = config.bench.model_dump(include={"dialogues", "questions"})
    if isinstance(answering, Path) and (answering / FILE).is_file():
        most = read_yaml(answering / FILE)["measured"]["at_most"]
    measured = {"software": __version__, "at_most": most, "models": models}
    file = ProtocolFile(sha256=protocol.sha256, protocol=protocol, measured=measured)
    text = yaml.safe_dump(file.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_atomic(path, text)


def read(path: Path) -> Protocol:
    """Raises `UserError` if it is missing or no protocol, or its hash is that of another."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a bench writes {FILE} into its folder when it ends")
    try:
        file = ProtocolFile.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: {in_words(error, ProtocolFile)}") from None
    if file.sha256 != file.protocol.sha256:
        raise UserError(f"{path}: changed since it was written: sha256 is of another protocol")
    for key in ("trained", "at_most"):  # files of earlier versions have them
        file.protocol.adaptive.pop(key, None)
    return file.protocol


def refuse_other(path: Path, config: Config, folder: Path, answering: Answering) -> None:
    """Compare a protocol with a bench that is about to begin in `folder`; nothing is left.

    Raises:
        UserError: they differ; names the first key, with both values.
    """
    bench, most = config.bench, config.student.max_pixels
    theirs = read(path)
    with tempfile.TemporaryDirectory() as name:
        brought = Path(name)
        if (folder / SPLITS).is_dir():
            (brought / SPLITS).symlink_to((folder / SPLITS).resolve())
        suites = bring_in(bench.suites, brought, bench.dialogues, most, bench.typographic)
        bring_in_sets(bench.capability, brought, bench.questions, most)
        if bench.adaptive:
            bring_in_intents(bench.adaptive, brought, suites, most)
        here = protocol_of(config, brought, answering)
    _compare(path, theirs, here)


def refuse_others(path: Path, config: Config, folder: Path) -> str:
    """The same for a bench whose suites are in `folder`, and whose judge and sampling are another program's;
    returns the protocol's hash."""
    theirs = read(path)
    here = protocol_of(config, folder, "target")
    answers = here.answers.model_copy(update=theirs.answers.model_dump(include=SAMPLING))
    _compare(path, theirs, here.model_copy(update={"judges": theirs.judges, "answers": answers}))
    return theirs.sha256


def _compare(path: Path, theirs: Protocol, here: Protocol) -> None:
    if difference := first_difference(theirs.model_dump(mode="json"), here.model_dump(mode="json")):
        raise UserError(f"{path}: this bench differs from it in {difference}; make it the same")
