"""How the package holds together: it is quick to import, and imports run one way."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from places import PACKAGE
from safer_steer.errors import EXTRAS

TOP = {"__main__", "cli", "pipeline", "plan", "run"}
"""Modules that put a run together: nothing below may import them."""
FORWARD = [
    "data.sources",
    "data.seeds",
    "data.assembly",
    "data.bootstrap",
    "training",
    "bench.adaptive",
    "bench",
    "bench.judge_check",
    "report.health",
    "report",
    "export",
]
"""Rooms in the order the data takes; each may use what comes before it."""
CORE = {
    "dialogue",
    "rewards",
    "metrics",
    "intervals",
    "episode",
    "workers",
    "errors",
    "files.meta",
    "files.store",
}
"""Modules that know no room, and of files only how they are stored and what `meta` holds."""


def imports(path: Path, everywhere: bool) -> set[str]:
    """The package's modules that a file imports, without "safer_steer."; on its top level alone, or inside
    functions too."""
    found: set[str] = set()

    def look(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "safer_steer":
                module = (node.module or "").removeprefix("safer_steer").lstrip(".")
                for name in node.names:
                    deeper = f"{module}.{name.name}".lstrip(".")
                    found.add(deeper if is_module(deeper) else module)
            elif isinstance(node, ast.Import):
                found.update(
                    name.name.removeprefix("safer_steer.")
                    for name in node.names
                    if name.name.startswith("safer_steer.")
                )
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                if everywhere:
                    look(node.body)
            elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for part in ("body", "orelse", "finalbody"):
                    look([child for child in getattr(node, part, []) if isinstance(child, ast.stmt)])

    look(ast.parse(path.read_text()).body)
    return found - {""}


def is_module(name: str) -> bool:
    path = PACKAGE / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def modules() -> dict[str, Path]:
    named = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path
        for path in PACKAGE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def place(module: str) -> int | None:
    """Where a module stands in `FORWARD`, by its innermost room that is listed; None if none is."""
    parts = module.split(".")
    rooms = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((FORWARD.index(one) for one in rooms if one in FORWARD), None)


def test_nothing_below_imports_what_puts_a_run_together() -> None:
    upward = {
        (name, used)
        for name, path in modules().items()
        if room(name) not in TOP
        for used in imports(path, everywhere=True)
        if room(used) in TOP
    }
    assert not upward


def test_data_moves_forward_only() -> None:
    backward = {
        (name, used)
        for name, path in modules().items()
        for used in imports(path, everywhere=True)
        if (here := place(name)) is not None and (there := place(used)) is not None and there > here
    }
    assert not backward


def test_the_core_knows_no_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {"data", "endpoints", "student", "files", "run", "sandbox", "prompts"} <= rooms
    assert not {
        (name, used)
        for name in CORE
        for used in imports(modules()[name], everywhere=True)
        if room(used) in rooms and used not in CORE
    }


def test_there_is_no_cycle() -> None:
    graph = {name: imports(path, everywhere=False) - {name} for name, path in modules().items()}
    assert any(graph.values())
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_test_sees_every_kind_of_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "from safer_steer.run import agents\n"
        "import safer_steer.run.folder\n"
        "from safer_steer.endpoints.chat import ChatModel\n"
        "if TYPE_CHECKING:\n    from safer_steer.store import Journal\n"
        "class A:\n    def f(self):\n        from safer_steer.config import Config\n"
    )
    assert imports(file, everywhere=False) == {"run.agents", "run.folder", "endpoints.chat"}
    assert imports(file, everywhere=True) == {"run.agents", "run.folder", "endpoints.chat", "store", "config"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "import safer_steer",
        "import sys; sys.argv = ['safer-steer', '--help']; from safer_steer.cli import main; main()",
    ],
)
def test_start_is_quick_and_light(statement: str) -> None:
    """Against a library that it does not load, since seconds depend on the machine and on what else it
    does."""
    heavy = {
        "aiohttp",
        "jinja2",
        "openai",
        "pandas",
        *(module for modules in EXTRAS.values() for module in modules),
    }
    loaded = f"print('loaded', *{heavy} & set(sys.modules), file=sys.stderr)"
    told = f"import atexit, sys; atexit.register(lambda: {loaded})"

    def seconds(code: str) -> float:
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = os.times()
        assert code == "import torch" or done.stderr.strip() == "loaded"
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds(f"{told}; {statement}") for _ in range(3)) < seconds("import torch") / 2
