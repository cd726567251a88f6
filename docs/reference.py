"""Writes the pages of docs/reference/ from the code: python docs/reference.py

A test holds that the pages are what this writes.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias
from typing import Any, get_args, get_type_hints, is_typeddict

import click
import typer

from safer_steer import dialogue
from safer_steer.cli import app
from safer_steer.config.keys import describe
from safer_steer.dialogue import Dialogue, Seed, StopReason, Turn
from safer_steer.errors import ExitCode
from safer_steer.files.meta import DialogueMeta, SeedMeta, TurnMeta
from safer_steer.report.health.quantities import QUANTITIES
from safer_steer.stages import STAGES

PAGES = Path(__file__).parent / "reference"
NOTE = "<!-- written by docs/reference.py -->\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def config_page() -> str:
    """Every key of the config, a table for each section."""
    sections: dict[str, list[tuple[str, ...]]] = {}
    for key, values, default, kind, description in describe():
        section = key.rpartition(".")[0]
        sections.setdefault(section, []).append((f"`{key}`", values, f"`{default}`", kind, description))
    tables = [
        f"## {f'`{section}`' if section else 'The run'}\n\n"
        + table(("key", "type", "default", "kind", ""), rows)
        for section, rows in sections.items()
    ]
    return (
        f"# The config\n\n{NOTE}\nOne YAML file; an unknown key is an error. `<role>` stands for any role,"
        " `<gate>` for any gate, `[]` for any entry of a list; `roles.judge` may be a list of roles."
        " The kind says what another value means for a run that was begun:"
        " another run (`run`), other calls from now on (`call`), or nothing (`free`). `safer-steer config`"
        " prints the same.\n\n`base: FILE`, or a list of files, at the top of a config names others that it"
        " begins from: what it says itself goes over what they say, section by section, and a list takes the"
        " place of a list. Paths are relative to the file that has them.\n\n" + "\n".join([*tables, gates()])
    )


def gates() -> str:
    """What may be bounded in `gates`."""
    rows = []
    for name, quantity in QUANTITIES.items():
        usual = str(quantity.usual) if quantity.usual else ""
        advice = quantity.advice.replace("{role}", "ROLE")
        rows.append((f"`{name}`", ", ".join(quantity.stages), quantity.what, usual, advice))
    return (
        "## What a gate measures\n\nShares are 0-1. `safer-steer health` and the page warn by themselves"
        " where a band stands here; a gate of that name stops the run by its own.\n\n"
        + table(("gate", "after", "what it is", "`health` warns unless", "what people do"), rows)
    )


def commands_page() -> str:
    """Every command with its arguments and options, and the exit codes."""
    group = typer.main.get_command(app)
    parts = [f"# The commands\n\n{NOTE}"]
    parts += [_command(name, command) for name, command in _commands(group, "safer-steer")]
    codes = [(f"{code:d}", code.meaning) for code in ExitCode]
    return "\n".join([*parts, "## Exit codes\n\n" + table(("code", ""), codes)])


def _commands(group: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    for part, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {part}")
        elif not command.hidden:
            yield f"{name} {part}", command


def _command(name: str, command: click.Command) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([name, *(_argument(p) for p in arguments)])
    about = inspect.cleandoc(command.help or "").split("\n\n")
    rows = [
        (f"`{'`, `'.join(option.opts + option.secondary_opts)}`", getattr(option, "help", "") or "")
        for option in command.params
        if option.param_type_name == "option" and not getattr(option, "hidden", False)
    ]
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in about)
    return f"## `{usage}`\n\n{text}\n" + (f"\n{table(('option', ''), rows)}" if rows else "")


def _argument(argument: click.Parameter) -> str:
    shown = (
        argument.make_metavar(click.Context(click.Command(""))) if not argument.metavar else argument.metavar
    )
    shown = shown.strip("[]") + ("..." if argument.nargs == -1 and not shown.endswith("...") else "")
    return shown if argument.required else f"[{shown}]"


def run_folder_page() -> str:
    """The files of a run folder, and the keys of a row."""
    files = [
        (stage.name, ", ".join(f"`{name}`" for name in stage.writes), stage.summary)
        for stage in STAGES.values()
    ]
    parts = [
        f"# The run folder\n\n{NOTE}\nEach stage writes its own files and folders, and no other stage writes"
        " there. `config.yaml` holds the settings, `manifest.json` what is finished, by hash, and"
        " `cache.sqlite` every paid reply.\n",
        table(("stage", "writes", ""), files),
        "## A row\n\nScripts and dialogues are JSONL, one row a line, in the same form.\n",
    ]
    for kind in (Seed, Dialogue, Turn):
        own = [(f"`{name}`", text) for name, text in _attributes(kind).items()]
        parts.append(f"### {kind.__name__}\n\n{_first_paragraph(kind)}\n\n{table(('key', ''), own)}")
    for kind, keys in (("scripts", SeedMeta), ("dialogues", DialogueMeta), ("turns", TurnMeta)):
        parts.append(f"### `meta` of {kind}\n\n{_first_paragraph(keys)}\n\n{_facts(keys)}")
    stops = [(f"`{StopReason[name].value}`", text) for name, text in _attributes(StopReason).items()]
    parts.append("### Why a dialogue ended\n\n" + table(("`stop` is", ""), stops))
    return "\n".join(parts)


def _facts(keys: type) -> str:
    """The facts of `meta`; those that a dialogue has from its script are in the script's table alone."""
    hints = get_type_hints(keys, include_extras=True)
    inherited = SeedMeta.__annotations__ if keys is DialogueMeta else ()
    rows = [
        (f"`{name}`", f"`{_type(hint.__origin__)}`", *hint.__metadata__)
        for name, hint in hints.items()
        if name not in inherited
    ]
    return table(("key", "type", "written by", ""), rows)


def _type(hint: Any) -> str:
    if is_typeddict(hint):
        return "{" + ", ".join(f"{name}: {_type(of)}" for name, of in get_type_hints(hint).items()) + "}"
    if isinstance(hint, GenericAlias) and any(map(is_typeddict, get_args(hint))):
        return f"{hint.__origin__.__name__}[{', '.join(map(_type, get_args(hint)))}]"
    return (
        hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    )


def _first_paragraph(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _attributes(kind: type) -> dict[str, str]:
    """The attributes of a class as written, each with the text below it."""
    (found,) = (
        node
        for node in ast.parse(inspect.getsource(dialogue)).body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    texts: dict[str, str] = {}
    for node, below in zip(found.body, [*found.body[1:], None], strict=True):
        name = None
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        if name and name != "model_config":
            texts[name] = ast.literal_eval(below.value) if _is_text(below) else ""
    return texts


def _is_text(node: ast.stmt | None) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


WRITERS = {"config.md": config_page, "commands.md": commands_page, "run-folder.md": run_folder_page}
"""The pages, and what writes each."""


def page(name: str) -> str:
    """The text of a page."""
    return re.sub(r"\n{3,}", "\n\n", WRITERS[name]())


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for name in WRITERS:
        (PAGES / name).write_text(page(name), encoding="utf-8")
