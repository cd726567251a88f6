"""How large the package is, and whether a newcomer finds a way in: `python benchmarks/size.py`.

`tests/repository/test_size.py` holds the bounds."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "src" / "safer_steer", ROOT / "tests"
LONGEST_FILE, LONGEST_FUNCTION = 400, 80
"""Lines. A file is read in one sitting, and a function is seen at once."""
PARTICIPLES = (
    "asked chosen done drawn found given heard kept known laid_out lost made meant played read said seen sent"
    " shown taken told wanted written"
)
"""As names they say how a thing was come by, and not what it is."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def trees(folder: Path) -> list[tuple[Path, ast.Module]]:
    """Every module of a folder, parsed."""
    return [(path, ast.parse(path.read_text())) for path in sorted(folder.rglob("*.py"))]


def lines(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text().splitlines())


def long_files(folder: Path) -> list[str]:
    """Files of more than `LONGEST_FILE` lines."""
    return [str(path.relative_to(ROOT)) for path, _ in trees(folder) if lines(path) > LONGEST_FILE]


def long_functions(folder: Path) -> list[str]:
    """Functions of more than `LONGEST_FUNCTION` lines, as file:name."""
    return [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path, tree in trees(folder)
        for node in ast.walk(tree)
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]


def nested_choices(folder: Path) -> list[str]:
    """Conditional expressions inside one another, as file:line."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.IfExp)
        and any(isinstance(part, ast.IfExp) for part in (node.body, node.orelse))
    ]


def comprehensions(folder: Path) -> int:
    """List, set and dict comprehensions, and generators."""
    kinds = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    return sum(isinstance(node, kinds) for _, tree in trees(folder) for node in ast.walk(tree))


def participles(folder: Path) -> list[str]:
    """Local variables that are named by a participle, as file:line name: targets of assignments, loops and
    comprehensions. Fields of classes are none."""
    fields = (
        part
        for _, tree in trees(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.Assign | ast.AnnAssign)
    )
    of_classes, names = {id(name) for part in fields for name in ast.walk(part)}, PARTICIPLES.split()
    return [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.id}"
        for path, tree in trees(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in names
        if id(node) not in of_classes
    ]


def top_names() -> list[str]:
    """What a newcomer sees first: modules and rooms at the package's top."""
    entries = (path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
    return sorted(path.name for path in entries if not path.name.startswith("__"))


@cache
def counts() -> dict[str, float]:
    """The whole in numbers."""
    source = [lines(path) for path, _ in trees(PACKAGE)]
    tests = [lines(path) for path, _ in trees(TESTS)]
    return {
        "lines": sum(source),
        "files": len(source),
        "files under 60 lines": sum(count < 60 for count in source),
        f"files over {LONGEST_FILE} lines": len(long_files(PACKAGE)),
        f"functions over {LONGEST_FUNCTION} lines": len(long_functions(PACKAGE)),
        "names at the top": len(top_names()),
        "comprehensions in 1,000 lines": round(1000 * comprehensions(PACKAGE) / sum(source), 1),
        "nested conditional expressions": len(nested_choices(PACKAGE)),
        "participles as names": len(participles(PACKAGE)),
        "lines of tests": sum(tests),
        "test files over 400 lines": len(long_files(TESTS)),
    }


if __name__ == "__main__":
    print(json.dumps(counts(), indent=1))
    for name in (*long_files(PACKAGE), *long_functions(PACKAGE), *nested_choices(PACKAGE)):
        print(name)
