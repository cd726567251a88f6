"""The adaptive part of the bench: which dialogues each attacker plays, and what they came to
(docs/how-to/adaptive.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

from safer_steer.bench.adaptive.attacker import attackers_of
from safer_steer.bench.adaptive.intents import Intent, read_intents, tries_of
from safer_steer.bench.adaptive.kept import KeptAttack
from safer_steer.bench.adaptive.results import ANY, Script, of_any, of_attacker, of_scripts
from safer_steer.bench.adaptive.trained import folder_of
from safer_steer.bench.adaptive.user import PICTURES, AdaptiveUser, checked_techniques
from safer_steer.bench.journals import journal_of
from safer_steer.bench.kept import KeptAnswers, KeptModel
from safer_steer.bench.results import Attacked
from safer_steer.bench.suite_copies import copied, moved
from safer_steer.bench.suites import Suite, decode_pictures
from safer_steer.bench.watch import Watch, WatchedUser
from safer_steer.config import Adaptive, Config
from safer_steer.config.bench import name_of
from safer_steer.config.file import config_in
from safer_steer.config.keys import NOT_FILES
from safer_steer.config.named import load_named
from safer_steer.data.sources.load import draw, draw_order
from safer_steer.dialogue import Dialogue, Seed, each_row, to_jsonl
from safer_steer.endpoints.chat import ChatModel
from safer_steer.episode import Rewinding
from safer_steer.errors import UserError
from safer_steer.files.images import Trial, pictures_in
from safer_steer.files.store import file_name, write_atomic
from safer_steer.metrics import ProtocolName, averaged

INTENTS = "intents"
"""Folder and file of a run's intents."""


@dataclass(frozen=True)
class Attack:
    """The dialogues of one attacker with one model."""

    name: str
    seeds: list[Seed]
    user: Rewinding
    kept: KeptAttack | None = None
    """The same, if it also gives the model's answers, which an earlier bench kept."""

    def journal(self, folder: Path) -> Path:
        """Where they are kept, in the model's folder `bench/<model>`."""
        return journal_of(folder, "adaptive", self.name)


def bring_in_intents(
    adaptive: Adaptive, folder: Path, suites: Sequence[Suite], max_pixels: int
) -> list[Intent]:
    """Copy the intents and their pictures into the run, as `intents/intents.jsonl`.

    Without a file of intents, they are those of the multi-turn attacks in `suites`, which are in the run
    already: one of each suite in turn. At most `adaptive.at_most` are taken. Those of a file are drawn,
    balanced over their categories; those of a suite that is a file are taken in the order of such a draw.

    Raises:
        UserError: the file is unusable (see `read_intents`), or no suite has an attack with an intent.
    """
    if adaptive.intents:
        path = Path(adaptive.intents)
        intents = draw(
            read_intents(path), lambda intent: intent.id, adaptive.at_most, 0, lambda seed: seed.category
        )
        attacked = Suite(INTENTS, list(intents), path.parent, False)
    else:
        if adaptive.at_most:
            suites = [replace(suite, seeds=_in_turn(suite)) for suite in suites]
        attacked = Suite(INTENTS, _of_suites(suites)[: adaptive.at_most], folder, False)
    brought = copied(attacked, folder / INTENTS, max_pixels, lambda file: each_row(file, Intent))
    write_atomic(intents_file(folder), to_jsonl(brought.seeds))
    return _of_run(brought, folder)


def intents_file(folder: Path) -> Path:
    """Where a run keeps its intents."""
    return folder / INTENTS / f"{INTENTS}.jsonl"


def _of_run(brought: Suite, folder: Path) -> list[Intent]:
    """The intents with picture paths that are relative to the run's folder."""
    return [seed for seed in moved(brought, folder, INTENTS).seeds if isinstance(seed, Intent)]


def checked_intents(
    config: Config, suites: Sequence[Suite], trial: Trial | None = None, kept: bool = False
) -> list[Suite]:
    """The file of intents as a suite, if there is one, its pictures decoded and tried on the student. Loads
    attackers of one's own, unless what they said was `kept`.

    Raises:
        UserError: what `bring_in_intents` and `attacks_on` raise, as far as it can be told before a run.
    """
    adaptive = config.bench.adaptive
    assert adaptive
    checked_techniques(adaptive.techniques)
    for trained in adaptive.trained if not kept else ():
        folder_of(trained)
    for name in adaptive.own if not kept else ():
        load_named("bench.adaptive.own", name)
    if adaptive.intents is None:
        if not set(NOT_FILES) & set(config.bench.suites):
            _of_suites(suites)
        return []
    path = Path(adaptive.intents)
    suite = Suite(path.stem, list(read_intents(path)), path.parent, False)
    decode_pictures([suite], trial)
    return [suite]


def _of_suites(suites: Sequence[Suite]) -> list[Seed]:
    """The intents of the suites' multi-turn attacks; those of a typographic variant are the same."""
    texts = averaged({suite.name: suite.seeds for suite in suites})
    attacks = [
        suite
        for suite in suites
        if suite.name in texts and suite.protocol == "multi_turn" and not suite.safe_twins
    ]
    ids = Counter(seed.id for suite in attacks for seed in suite.seeds)
    by_suite = [[_of_script(suite.name, seed, ids[seed.id] > 1) for seed in suite.seeds] for suite in attacks]
    intents: list[Seed] = [intent for intent in chain(*zip_longest(*by_suite)) if intent]
    if not intents:
        raise UserError(
            "bench.adaptive: no attack script with an `intent` in bench.suites; name a file of intents"
            " (bench.adaptive.intents)"
        )
    return intents


def _in_turn(suite: Suite) -> list[Seed]:
    """The scripts in an order whose beginning is a fair part of them. The embedded suites have such a one."""
    if suite.embedded:
        return suite.seeds
    return draw_order(suite.seeds, lambda seed: seed.id, 0, lambda seed: seed.category)


def _of_script(suite: str, seed: Seed, twice: bool) -> Intent | None:
    if not seed.intent:
        return None
    return Intent(
        id=f"{suite}.{seed.id}" if twice else seed.id,
        kind=seed.kind,
        source=seed.source,
        intent=seed.intent,
        images=seed.images,
        turns=seed.turns,
        meta={"script_of": [suite, seed.id]},
    ).bare()


def attacks_on(
    config: Config,
    intents: list[Intent],
    ask: Callable[[str], ChatModel],
    folder: Path,
    watch: Watch,
) -> list[Attack]:
    """The attackers' dialogues, the same for every model. `ask` gives the role `attacker` with another model;
    `folder` is the run's.

    Raises:
        UserError: an attacker of one's own cannot be imported, or a technique is unknown.
    """
    adaptive = config.bench.adaptive
    assert adaptive
    attacks, pictures_of = [], pictures_in(folder, config.student.max_pixels)
    for label, (attacker, model) in attackers_of(config, ask).items():
        name = file_name(label)
        user = AdaptiveUser(attacker, model, adaptive, config.student.format, pictures_of, folder)
        seeds = tries_of(intents, name, adaptive.turns, adaptive.tries)
        attacks.append(Attack(name, seeds, WatchedUser(user, watch, f"the attacker {label}")))
    return attacks


def kept_intents(run: Path) -> list[Intent]:
    """The intents that a run was attacked with, as it keeps them."""
    file = intents_file(run)
    return _of_run(Suite(INTENTS, list(each_row(file, Intent)), file.parent, False), run)


def kept_attacks(model: KeptModel, folder: Path) -> list[Attack]:
    """All tries of the run that the model was measured in, with what its attackers said in them. The pictures
    that they had drawn are copied to `folder`.

    Raises:
        UserError: a journal is missing or damaged.
    """
    run = model.folder.parent.parent
    config = config_in(run)
    adaptive, attacks = config.bench.adaptive, list[Attack]()
    if adaptive is None:
        return attacks
    intents = kept_intents(run)
    for picture in sorted((run / PICTURES).glob("*.png")):
        write_atomic(folder / PICTURES / picture.name, picture.read_bytes(), sync=False)
    for name in map(file_name, [*config.attacker_roles(), *map(name_of, adaptive.trained), *adaptive.own]):
        attacker = KeptAttack(KeptAnswers(journal_of(model.folder, "adaptive", name)).dialogues)
        seeds = attacker.seeds(tries_of(intents, name, adaptive.turns, adaptive.tries))
        attacks.append(Attack(name, seeds, attacker, attacker))
    return attacks


def adaptive_summary(
    results: Mapping[str, Mapping[str, list[Dialogue]]],
    scripted: Mapping[str, Mapping[ProtocolName, Mapping[str, list[Dialogue]]]],
    twins: Set[str],
    intents: Sequence[Intent],
    config: Config,
) -> dict[str, dict[str, Attacked]]:
    """The key `adaptive` of `summary.json`.

    Args:
        results: the attackers' dialogues, by model and attacker.
        scripted: the suites' dialogues, by model, protocol and suite; `twins` are suites of safe twins.
    """
    adaptive = config.bench.adaptive
    assert adaptive
    turns, draws = adaptive.turns, (config.bench.resamples, config.seed)
    by_model: dict[str, dict[str, Attacked]] = {}
    for model, by_attacker in results.items():
        multi_turn = scripted[model].get("multi_turn", {})
        attacks = {name: rows for name, rows in averaged(multi_turn).items() if name not in twins}
        of_intents = scripts_of(intents, attacks, turns)
        paired = bool(of_intents)
        marks = of_intents or {
            f"{suite} {id}": script
            for suite, rows in attacks.items()
            for id, script in of_scripts(rows, turns).items()
        }
        entries = {
            attacker: of_attacker(dialogues, marks, paired, turns, *draws)
            for attacker, dialogues in by_attacker.items()
        }
        if len(entries) > 1:
            entries[ANY] = of_any(list(by_attacker.values()), marks, paired, turns, *draws)
        by_model[model] = {attacker: Attacked.model_validate(entry) for attacker, entry in entries.items()}
    return by_model


def scripts_of(
    intents: Iterable[Intent], attacks: Mapping[str, list[Dialogue]], turns: int
) -> dict[str, Script]:
    """For each intent that is a script's, what that script came to within so many turns, by the intent's id.
    Scripts without a result are left out.

    Args:
        attacks: a model's dialogues on the attack suites, by suite.
    """
    suites = {name: of_scripts(rows, turns) for name, rows in attacks.items()}
    scripts_by_intent = {}
    for intent in intents:
        suite, id = intent.meta.get("script_of", ("", ""))
        if (script := suites.get(suite, {}).get(id)) is not None:
            scripts_by_intent[intent.id] = script
    return scripts_by_intent
