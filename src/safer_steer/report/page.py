"""`report.html`: one self-contained file with the table, plots, counts, and dialogues of all models side by
side.

The page makes no network requests: style, script, plots and pictures are embedded, and its content security
policy allows nothing else. Text from models and data sets reaches the page in only two ways: escaped by
Jinja, or as JSON that the script inserts with `textContent`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from safer_steer.dialogue import Kind
from safer_steer.errors import UserError
from safer_steer.health import examine, tables
from safer_steer.judge_check.found import corrected_rates, read_check
from safer_steer.judge_check.table import judge_tables, warning
from safer_steer.report.checks import training_checks
from safer_steer.report.dialogues import Row, browser_data, count_by
from safer_steer.report.plots import over_refusal_plot, survival_plots, training_plots
from safer_steer.report.scripts import dropped_from, scripts_of
from safer_steer.report.table import (
    COUNTS,
    LABELS,
    Summary,
    at,
    by_suite,
    headline,
    model_label,
    model_names,
    number,
)
from safer_steer.store import read_rows, write_atomic

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder and return its path. The page states what is not available yet.

    Raises:
        UserError: `run` is not a run folder, or a file in it is damaged; names the file.
    """
    if not any((run / name).exists() for name in ("config.yaml", "summary.json", "bench")):
        raise UserError(
            f"{run}: no run folder (no config.yaml, summary.json or bench in it);"
            " give the folder of `safer-steer run --out`"
        )
    config, summary = _config(run / "config.yaml"), _summary(run / "summary.json")
    steps = list(read_rows(run / "rl" / "metrics.jsonl"))
    browser, judge = browser_data(run), read_check(run)
    models = model_names(summary)
    style, script = (
        (TEMPLATES / "page.css").read_text(encoding="utf-8"),
        (TEMPLATES / "page.js").read_text(encoding="utf-8"),
    )
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            name=str(config.get("name") or run.resolve().name),
            facts=_facts(config, browser, steps, models),
            stubs=", ".join(stub_roles(config)),
            policy=_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            models=[model_label(model) for model in models],
            rows=headline(summary, corrected_rates(judge)),
            count_names=COUNTS,
            suites=[
                (suite, protocol.replace("_", "-"), model_label(model), cells)
                for protocol, suite, model, cells in by_suite(summary)
            ],
            survival=survival_plots(summary),
            over_refusal=over_refusal_plot(summary),
            training=training_plots(steps),
            checks=training_checks(run, steps),
            counts=_counts(run, steps),
            scripts=scripts_of(run),
            dropped=dropped_from(run),
            health=tables(examine(run)),
            judge=judge_tables(judge),
            judge_warning=warning(judge),
            browser=browser,
            labels={model: model_label(model) for model in browser["models"]},
            data=_json(browser | {"labels": [[model, model_label(model)] for model in browser["models"]]}),
        )
    )
    path = run / "report.html"
    write_atomic(path, page.encode(errors="replace"))
    return path


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    return environment


def _policy(style: str, script: str) -> str:
    """Content security policy: only this style and script, by hash, and embedded pictures."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}';"
        " base-uri 'none'; form-action 'none'"
    )


def _json(data: Any) -> Markup:
    """ASCII JSON, escaped so that `</script>` or `<!--` in a text cannot end the script element."""
    return Markup(
        json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path}: no valid YAML; copy the run's config back") from None
    return data if isinstance(data, dict) else {}


def stub_roles(config: dict[str, Any]) -> list[str]:
    """The roles of a run's config whose answers were made up."""
    roles = config.get("roles")
    if not isinstance(roles, dict):
        return []
    return [
        str(name)
        for name, role in roles.items()
        if at(role, "model") == "stub" and at(role, "base_url") is None
    ]


def _summary(path: Path, stage: str = "bench") -> Summary:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_bytes())
    except ValueError:
        raise UserError(f"{path}: no valid JSON; remove it and run `safer-steer {stage}` again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: no JSON object; remove it and run `safer-steer {stage}` again")
    return data


def _facts(
    config: dict[str, Any], browser: dict[str, Any], steps: list[Row], models: list[str]
) -> list[tuple[str, str]]:
    """Facts for the page header. If all measured models are behind endpoints, no student is listed."""
    played = models or browser["models"]
    students = not played or any(model in LABELS for model in played)
    facts = [
        ("student", at(config, "student", "model") if students else None),
        ("endpoint", None if students else at(config, "roles", "target", "base_url")),
        ("judge", at(config, "roles", "judge", "model") if models else None),
        ("without pictures", _without_eyes(config) or None),
        ("seed", config.get("seed")),
        ("RL steps", len(steps) or None),
        (
            "benched",
            _plural(sum(suite["total"] for suite in browser["suites"]), "dialogue")
            + f" by {_plural(len(browser['models']), 'model')}"
            if browser["suites"]
            else None,
        ),
    ]
    return [(label, str(value)) for label, value in facts if value is not None]


def _without_eyes(config: dict[str, Any]) -> str:
    """The roles whose model got no pictures, and what it got in their place."""
    instead = {"caption": "captions", False: "nothing"}
    roles = config.get("roles")
    found = {name: at(role, "pictures") for name, role in roles.items()} if isinstance(roles, dict) else {}
    return ", ".join(
        f"{name} ({instead[sent]})" for name, sent in found.items() if sent in ("caption", False)
    )


def _counts(run: Path, steps: list[Row]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Tables of counts: seeds by kind, data sets, the Stage II filter with its reasons, RL stop reasons and
    strategies."""
    seeds = [
        (kind.replace("_", "-"), sum(1 for _ in read_rows(path)))
        for kind in map(str, Kind)
        if (path := run / "seeds" / f"{kind}.jsonl").is_file()
    ]
    kept = sum(1 for _ in read_rows(run / "bootstrap" / "kept.jsonl"))
    reasons = count_by(read_rows(run / "bootstrap" / "rejected.jsonl"), "reasons", "reason", "rejected")
    bootstrap = [("kept", kept)] * bool(kept or reasons) + [
        (f"rejected: {reason}", count) for reason, count in reasons.most_common()
    ]
    tables = [
        ("Seeds by kind", seeds),
        ("Scripts by data set", _assembled(run)),
        ("Bootstrap filter", bootstrap),
    ]
    tables += [
        (title, _added_up(steps, key))
        for title, key in (("RL stop reasons", "stop"), ("RL attack strategies", "strategies"))
    ]
    return [(title, rows) for title, rows in tables if rows]


def _assembled(run: Path) -> list[tuple[str, int]]:
    """Size of each data set, and the number left out by reason."""
    balance = _summary(run / "splits" / "balance.json", "assemble")
    splits, left_out = balance.get("splits"), balance.get("left_out")
    rows = (
        [(name, int(number(at(split, "scripts")) or 0)) for name, split in splits.items()]
        if isinstance(splits, dict)
        else []
    )
    reasons: Counter[str] = Counter()
    for counts in left_out.values() if isinstance(left_out, dict) else ():
        reasons.update(
            {name: int(number(count) or 0) for name, count in counts.items()}
            if isinstance(counts, dict)
            else {}
        )
    return rows + [(f"left out: {name.replace('_', ' ')}", count) for name, count in reasons.most_common()]


def _added_up(steps: list[Row], key: str) -> list[tuple[str, int]]:
    total: Counter[str] = Counter()
    for row in steps:
        counts = row.get(key)
        if isinstance(counts, dict):
            total.update({str(name): int(number(count) or 0) for name, count in counts.items()})
    return [(name.replace("_", " "), count) for name, count in total.most_common() if count]


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
