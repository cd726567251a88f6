"""Which keys of `meta` a source text names, and which facts of a run's rows the register does not have."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from safer_steer.files.meta import DialogueMeta, SeedMeta, TurnMeta

DIALOGUE, TURN = (get_type_hints(keys) for keys in (DialogueMeta, TurnMeta))
KEYS = {*get_type_hints(SeedMeta), *DIALOGUE, *TURN}
READS = ("get", "pop", "setdefault")


def named(source: str) -> set[str]:
    """The keys of `meta` that a source text names: `meta["a"]`, `x.meta.get("a")`, `"a" in x["meta"]`,
    `meta={"a": ...}`, `without(x.meta, "a")`."""
    return {key for node in ast.walk(ast.parse(source)) for key in _keys(node)}


def _keys(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Subscript(value, ast.Constant(str(key))) if _is_meta(value):
            yield key
        case ast.Call(ast.Attribute(value, name), [ast.Constant(str(key)), *_]) if name in READS:
            if _is_meta(value):
                yield key
        case ast.Call(ast.Name("only" | "without"), [_, *names]):
            yield from (one.value for one in names if isinstance(one, ast.Constant))
        case ast.Compare(ast.Constant(str(key)), [ast.In() | ast.NotIn()], [value]) if _is_meta(value):
            yield key
        case ast.keyword("meta", value) | ast.Call(ast.Name("Reply" | "Verdict"), [_, value, *_]):
            yield from _written(value)
        case ast.Assign([target], value) if _is_meta(target):
            yield from _written(value)
        case ast.AnnAssign(target, _, value) | ast.AugAssign(target, _, value) if value and _is_meta(target):
            yield from _written(value)


def _written(value: ast.expr) -> Iterator[str]:
    """The keys of the objects of an expression, but not of objects in them."""
    match value:
        case ast.Dict(keys, _):
            yield from (key.value for key in keys if isinstance(key, ast.Constant))
        case ast.BinOp(left, ast.BitOr(), right) | ast.IfExp(_, left, right):
            yield from (*_written(left), *_written(right))


def _is_meta(value: ast.expr) -> bool:
    match value:
        case ast.Name("meta") | ast.Attribute(_, "meta") | ast.Subscript(_, ast.Constant("meta")):
            return True
        case ast.Call(_, [ast.Constant("meta"), *_]) | ast.Call(_, [_, ast.Constant("meta"), *_]):
            return True
        case ast.BoolOp(_, [first, *_]) | ast.Call(ast.Name(), [first]):
            return _is_meta(first)
    return False


def unregistered(run: Path) -> Iterator[str]:
    """What in the `meta` of a run's scripts and dialogues is not in the register, or of another type."""
    for path in sorted(run.rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            row = row.get("dialogue", row) if isinstance(row, dict) else {}
            if "turns" in row and "meta" in row:
                yield from (f"{path.name}: {row['id']}: {what}" for what in _wrong(row))


def _wrong(row: dict[str, Any]) -> Iterator[str]:
    for types, meta in ((DIALOGUE, row["meta"]), *((TURN, turn["meta"]) for turn in row["turns"])):
        for key, fact in meta.items():
            try:
                TypeAdapter(types[key]).validate_python(fact, strict=True)
            except KeyError:
                yield f"{key} is not in the register"
            except ValidationError:
                yield f"{key}: {fact!r} is no {types[key]}"
