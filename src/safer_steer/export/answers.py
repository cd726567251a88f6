"""`safer-steer export --answers`: what models answered, how judges scored it, and by which protocol, so that
anyone can count every number again, or judge the answers anew.

The folder is that of a bench: `safer-steer verify DIR` counts again without a key, and `bench --judge-only
DIR` scores the answers by another judge. Addresses, keys, prices and paths of the machine are left out.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from safer_steer.bench.protocol import FILE as PROTOCOL
from safer_steer.bench.protocol import Protocol, of_students
from safer_steer.bench.protocol import read as read_protocol
from safer_steer.bench.results import EXPORTED, Summary
from safer_steer.config import Config, Role, RoleName
from safer_steer.config.bench import told_by
from safer_steer.config.file import config_in
from safer_steer.errors import UserError
from safer_steer.export.write import facts_of
from safer_steer.files.manifest import Manifest, verify
from safer_steer.files.store import whole_folder, write_atomic
from safer_steer.stages import STAGES

ADDRESS = "http://left-out.invalid/v1"
"""In place of every endpoint's."""
_README = """# Answers and verdicts of {name}

`bench/` has what each model answered and how the judges scored every turn, `suites/` the scripts,
`protocol.yaml` how it was measured, `summary.json` the numbers.

    safer-steer verify .                                # counts every number again; no model, no key
    safer-steer bench --judge-only . --judge-model ...  # scores the same answers by a judge of yours

Protocol: SHA-256 {protocol}. Judges: {judges}. Addresses, keys and prices are left out.
"""


def export_answers(run: Path, to: Path) -> list[str]:
    """Write them to `to`, an empty or new folder; returns what was written, one line each.

    Raises:
        UserError: the run has no finished bench, its files were changed since, or `to` has files.
    """
    manifest = Manifest(run)
    if not (run / "config.yaml").is_file() or not manifest.finished("bench"):
        raise UserError(f"{run}: no finished bench in it; give the folder of a run, or of `bench --out`")
    for line in verify(run):
        if "`bench` finished" in line:
            raise UserError(f"{run}: {line}; run `safer-steer bench` again, which pays for nothing twice")
        if "`bench` ran with" in line:
            raise UserError(f"{run}: {line}; restore it: the export would tell of settings that nobody used")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to}: has files; choose an empty or new folder with --to")
    config = config_in(run)
    with whole_folder(to.absolute()) as part:
        for name in manifest.stages["bench"]["files"]:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / name, part / name)
        held = read_protocol(part / PROTOCOL)
        _ask_as(held, config, part)
        write_atomic(part / "config.yaml", yaml.safe_dump(_settings(config, part), sort_keys=False))
        judges = ", ".join(config.models_of("judge")) if config.bench.judged else "none"
        facts = {"name": config.name, "protocol": held.sha256, "judges": judges}
        write_atomic(part / "README.md", _README.format(**facts))
        contents = ("README.md", "config.yaml", *STAGES["bench"].writes)
        Manifest(part).record(EXPORTED, contents, (), facts_of(run, config.name, manifest.stages))
    dialogues = sum(path.read_bytes().count(b"\n") for path in to.glob("bench/*/*.jsonl"))
    return [f"{dialogues:,} dialogues of {len([*(to / 'bench').iterdir()])} models; judges: {judges}"]


def _ask_as(held: Protocol, config: Config, folder: Path) -> None:
    """Have the config ask as the bench did: a token limit may have been changed since."""
    in_use: dict[RoleName, Any] = {"judge": held.judges, "attacker": held.attackers}
    in_use["target"] = not of_students(folder)
    for name in filter(in_use.get, in_use):
        entry = config.roles.setdefault(name, Role())
        for role in entry if isinstance(entry, list) else [entry]:
            model = config.role(name).model if name == "attacker" else role.model
            for key, value in held.sampling(name, model).items():
                setattr(role, key, value)


def _settings(config: Config, folder: Path) -> dict[str, Any]:
    """Of a config what counting and judging need, with paths relative to the folder."""
    whole = config.model_dump(mode="json", exclude_defaults=True)
    settings: dict[str, Any] = {"name": config.name, "seed": config.seed}
    student = {key: value for key, value in whole.get("student", {}).items() if key != "chat_template"}
    if Path(config.student.model).is_absolute():
        student["model"] = Path(config.student.model).name
    roles: dict[str, Any] = {}
    for name in ("target", "judge", "attacker"):
        entry = whole.get("roles", {}).get(name)
        if isinstance(entry, list):
            roles[name] = [_unaddressed(role) for role in entry]
        elif entry is not None:
            roles[name] = _unaddressed(entry)
    bench = whole.get("bench", {})
    files = {path.stem: path.relative_to(folder).as_posix() for path in folder.glob("suites/*/*.jsonl")}
    suites: list[str] = []  # in the order that they were played in
    for protocols in Summary.read(folder / "summary.json").models.values():
        for protocol in protocols.values():
            suites += [files[name] for name in protocol.suites if files[name] not in suites]
    targets = [_unaddressed(target) for target in bench.get("targets", ())]
    bench |= {"suites": suites, "capability": [], "targets": targets}
    if bench.get("adaptive"):
        bench["adaptive"].pop("intents", None)
        trained = bench["adaptive"].get("trained", ())  # of the paths, what judging needs
        bench["adaptive"]["trained"] = ["/".join(told_by(path)) for path in trained]
    return {**settings, "student": student, "roles": roles, "bench": bench}


def _unaddressed(role: dict[str, Any]) -> dict[str, Any]:
    left_out = ("api_key_env", "price_in", "price_out")
    fields = {key: value for key, value in role.items() if key not in left_out}
    return fields | {"base_url": ADDRESS} if role.get("base_url") else fields
