"""The answers of an earlier bench, as the assistant: a judge scores them without asking the model
again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safer_steer.bench.adaptive.results import NotKept
from safer_steer.bench.results import EXPORTED, Summary, is_run, judged_in
from safer_steer.bench.suites import Suite
from safer_steer.config import Config
from safer_steer.config.file import config_in, in_words
from safer_steer.config.keys import set_keys
from safer_steer.dialogue import Dialogue, StopReason, Turn, read_dialogues, to_jsonl
from safer_steer.endpoints.cache import FILE as CACHE
from safer_steer.episode import ContextFull, Reply
from safer_steer.errors import UserError
from safer_steer.files.manifest import Manifest, verify
from safer_steer.files.meta import OF_JUDGE, without
from safer_steer.files.store import file_name, read_rows, write_atomic
from safer_steer.metrics import state


class KeptAnswers:
    """A model's answers to one suite, by dialogue and turn."""

    def __init__(self, journal: Path) -> None:
        """Raises `UserError` if the journal is missing or damaged. A row that was torn by a kill is left
        out."""
        if not journal.is_file():
            raise UserError(f"{journal}: no such file; run that bench again first")
        self.journal = journal
        dialogues = [_dialogue(row, journal) for row in read_rows(journal)]
        self.dialogues = {dialogue.id: dialogue for dialogue in dialogues}

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        """The answer that was given.

        Raises:
            ContextFull: the context was full when this turn was asked.
            NotKept: there is no answer, since the model failed or the bench was stopped before.
            UserError: another question was asked.
        """
        record, place = self.dialogues.get(dialogue.id), len(dialogue.turns)
        if record is None or place >= len(record.turns):
            if record is not None and record.stop is StopReason.CONTEXT_FULL:
                raise ContextFull
            raise NotKept(record)
        turn = record.turns[place]
        if turn.user != asked.user:
            raise UserError(
                f"{self.journal}: {dialogue.id} was played from another script than the suite has"
            )
        return Reply(turn.assistant or "", without(turn.meta, *OF_JUDGE))


def _dialogue(row: dict[str, Any], journal: Path) -> Dialogue:
    try:
        return Dialogue.model_validate(row)
    except ValidationError as error:
        raise UserError(f"{journal}: a row is no dialogue: {in_words(error, Dialogue)}") from None


class KeptModel:
    """A model's answers to all suites."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the run's `bench/<model>`."""
        self.folder = folder

    def of(self, suite: Suite) -> KeptAnswers:
        """Its answers to one suite. Raises `UserError` if they are missing or damaged."""
        return KeptAnswers(suite.journal(self.folder))


def kept_models(run: Path) -> list[str]:
    """The models with answers in a run folder.

    Raises:
        UserError: there are none.
    """
    models = sorted({path.parent.name for path in (run / "bench").glob("*/*.jsonl")})
    if not models:
        raise UserError(f"{run}: no answers in it; give the folder of an earlier `safer-steer bench --out`")
    return models


def judging_config(
    run: Path, judges: Sequence[Mapping[str, Any]], keys: Mapping[str, Any] | None = None
) -> Config:
    """The config of a bench that scores the answers kept in `run`: the suites as that run copied them, and
    other judges (settings of a role). Their verdicts are joined by majority, unless `keys` has
    `bench.verdict`; they are also asked whether requests enable harm where the run's were.

    Raises:
        UserError: it is no run folder, has no suites, or the judge's settings do not fit its config; or it
            is an export that was changed.
    """
    config = config_in(run, "an earlier `safer-steer bench --out`")
    _refuse_changed(run)
    files = sorted((run.resolve() / "suites").glob("*/*.jsonl"))
    order = _order(config, run, {file.stem for file in files})
    files.sort(key=lambda file: order.index(file.stem) if file.stem in order else len(order))
    if not files:
        raise UserError(f"{run}: no suites in it; give the folder of an earlier `safer-steer bench --out`")
    bench = {
        "suites": [str(file) for file in files],
        "capability": [],
        "dialogues": None,
        "judged": True,
        "verdict": "majority",
        "typographic": None,  # the variants are among those files
    }
    settings = config.model_dump()
    settings["roles"]["judge"] = [dict(judge) for judge in judges]
    settings["bench"] |= bench
    if config.bench.adaptive:
        intents = run.resolve() / "intents" / "intents.jsonl"
        settings["bench"]["adaptive"] |= {"intents": str(intents), "at_most": None}
    settings["gates"] = {}  # of the run's own judges
    settings["rl"]["rollouts"] |= {"engine": "transformers", "base_url": []}  # no student answers
    settings["limit"] = None  # it would cut the suites a second time
    set_keys(settings, keys or {}, "bench: --set")
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"bench: {in_words(error)}") from None


def _refuse_changed(run: Path) -> None:
    """Raises `UserError` if the files of exported answers are others than were exported."""
    if EXPORTED in Manifest(run).stages and (edits := verify(run)):
        more = f", and {len(edits) - 1} more" if len(edits) > 1 else ""
        raise UserError(
            f"{run}: {edits[0]}{more}; undo that, or delete manifest.json there to judge what there is now"
        )


def _order(config: Config, run: Path, suites: set[str]) -> list[str]:
    """The order in which a run's suites were played, on which intervals depend: that of its config, if it
    names all of them, or that of its results."""
    order = [Path(name).stem for name in config.bench.suites]
    if suites <= set(order):
        return order
    models = Summary.read(run / "summary.json").models.values()
    return [name for model in models for protocol in model.values() for name in protocol.suites]


def forget_other_answers(source: Path, folder: Path) -> bool:
    """Drop dialogues from the journals of a bench in `folder` that judges `source`, if they are not what was
    kept there, or if what had failed there has been played since. Whether there is something to judge."""
    more = False
    for path in sorted((source / "bench").glob("*/*.jsonl")):
        journal = folder / path.relative_to(source)
        if not journal.is_file():
            more = True
            continue
        by_id = {dialogue.id: dialogue for dialogue in read_dialogues(path)}
        dialogues = list(read_dialogues(journal))
        stay = [dialogue for dialogue in dialogues if _begins(dialogue, by_id.get(dialogue.id))]
        if len(stay) < len(by_id):
            more = True
            write_atomic(journal, to_jsonl(stay))
    return more


def _begins(dialogue: Dialogue, record: Dialogue | None) -> bool:
    """Whether a judged dialogue is the one that was kept, or its beginning (an attacker ends at a breach)."""
    if record is None or (state(dialogue) == "failed" and state(record) != "failed"):
        return False
    pairs = zip(dialogue.turns, record.turns, strict=False)
    same = all((one.user, one.assistant) == (other.user, other.assistant) for one, other in pairs)
    return same and len(dialogue.turns) <= len(record.turns)


def judged_folder(run: Path, judges: Iterable[str]) -> Path:
    """Where these judges' results go unless another folder is named."""
    return judged_in(run) / file_name("+".join(judges))


def kept_replies(run: Path) -> list[Path]:
    """The caches of replies of a run, and of the benches that judged its answers; where it is no run, only
    of these benches."""
    own = (run / CACHE,) if is_run(run) else ()
    return [path for path in (*own, *sorted(judged_in(run).glob(f"*/{CACHE}"))) if path.is_file()]
