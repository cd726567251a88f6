"""The report: one self-contained HTML file about a run or several, with tables, plots and the dialogues of
two models side by side.

The page makes no network requests: style, script, plots and pictures are embedded, and its content security
policy allows nothing else. Text from models and data sets reaches the page in only two ways: escaped by
Jinja, or as JSON that the script inserts with `textContent`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from safer_steer.bench.results import LABELS, model_label, parted
from safer_steer.files.store import write_atomic
from safer_steer.report.attacks import adaptive_maps, adaptive_plots, adaptive_tables, by_script
from safer_steer.report.comparison import marks_in, measured_otherwise
from safer_steer.report.cotrain_plots import cotrain_plots
from safer_steer.report.counts import by_turn, cost_table, counts_of, training_checks
from safer_steer.report.dialogues import browser_data
from safer_steer.report.health import examine, gates_table, tables
from safer_steer.report.judge_tables import judge_tables, several_judges, warning
from safer_steer.report.main_table import COUNTS, HOW, by_suite, headline, pairs
from safer_steer.report.measure_tables import measure_tables
from safer_steer.report.plots import (
    main_protocol,
    over_refusal_plot,
    rate_plots,
    survival_plots,
    training_plots,
)
from safer_steer.report.runs import ShownRun, at, corrected_together, read_given, together
from safer_steer.report.scripts import dropped_from, scripts_of
from safer_steer.report.svg import legend

Row = dict[str, Any]
TEMPLATES = Path(__file__).parent / "templates"
COLUMNS = 4
"""With more models than this, the headline table has a row for each instead of a column."""


def write_report(*given: Path, page: Path | None = None) -> Path:
    """Write the report and return its path. The page states what is not available yet.

    Args:
        given: run folders; also folders and files of experiments' results.
        page: the file; by default `report.html` in the folder that is given first.

    Raises:
        UserError: a path is none of these, or a file in it is damaged; names the file.
    """
    runs, experiments = read_given(given)
    first = given[0] if given[0].is_dir() else given[0].parent
    path = page or first / "report.html"
    write_atomic(path, _rendered(runs, experiments, path.resolve()).encode(errors="replace"))
    return path


def _rendered(runs: Sequence[ShownRun], experiments: Sequence[Row], path: Path) -> str:
    summary, browser = together(runs), browser_data(runs, path)
    pictures, rows = browser.pop("pictures"), headline(summary, corrected_together(runs), marks_in(runs))
    parts = [(TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=", ".join(run.title for run in runs[:1]) if len(runs) == 1 else _titled(runs, experiments),
            policy=_policy(*parts),
            style=Markup(parts[0]),
            script=Markup(parts[1]),
            runs=[_of_one(run) for run in runs],
            models=[(run, LABELS.get(model, model)) for run, model in map(parted, summary.names)],
            named=[(name, model_label(name), legend(place)) for place, name in enumerate(summary.names)],
            rates_of=main_protocol(summary),
            rates=rate_plots(summary),
            rows=rows,
            compared=any(row.marks for row in rows) and len(summary.names) > 1,
            otherwise=list(measured_otherwise(runs)),
            how=HOW,
            pairs=_json(pairs(rows)),
            across=len(summary.names) > COLUMNS,
            count_names=COUNTS,
            suites=[
                (suite, protocol.replace("_", "-"), model_label(model), cells)
                for protocol, suite, model, cells in by_suite(summary)
            ],
            measures=measure_tables(summary),
            survival=survival_plots(summary),
            over_refusal=over_refusal_plot(summary),
            by_turn=by_turn(runs),
            attacks=by_script(runs),
            adaptive=adaptive_tables(summary),
            adaptive_maps=adaptive_maps(summary),
            adaptive_plots=adaptive_plots(summary),
            experiments=list(_tables_of(experiments)),
            browser=browser,
            data=_json(browser | {"pictures": pictures["table"]}),
            urls=_json(pictures["urls"]),
        )
    )


def _tables_of(experiments: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Name and tables of each experiment."""
    for one in experiments:
        from safer_steer.experiments import shown  # loads slowly

        yield {"name": str(one.get("name") or "Experiment"), "tables": shown.tables(one)}


def _titled(runs: Sequence[ShownRun], experiments: Sequence[Row]) -> str:
    parts = [_plural(len(runs), "run")] * bool(runs)
    return ", ".join([*parts, *[_plural(len(experiments), "experiment")] * bool(experiments)])


def _of_one(run: ShownRun) -> Row:
    """What the page says of each run on its own."""
    folder, steps = run.folder, run.steps
    models = {model for file in run.bench.values() for model in file}
    training = [*training_plots(steps), *cotrain_plots(folder, steps)]
    checks, counts = training_checks(folder, steps), counts_of(folder)
    scripts, dropped = scripts_of(folder), dropped_from(folder)
    return {
        "name": run.name,
        "title": run.title,
        "facts": _facts(run, models),
        "stubs": ", ".join(stub_roles(run.config)),
        "kept": bool(models),
        "measured": run.summary.scored,
        "bench_only": bool(models) and not (training or checks or counts or scripts or dropped.total),
        "training": training,
        "checks": checks,
        "counts": counts,
        "scripts": scripts,
        "dropped": dropped,
        "health": [*filter(None, [gates_table(folder, run.config)]), *tables(examine(folder))],
        "judge": [*several_judges(run.summary), *judge_tables(run.check)],
        "judge_warning": warning(run.check),
        "cost": cost_table(folder),
    }


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


def stub_roles(config: Row) -> list[str]:
    """The roles of a run's config whose answers were made up."""
    return [
        name for name, role in _roles(config) if at(role, "model") == "stub" and at(role, "base_url") is None
    ]


def _roles(config: Row) -> Iterator[tuple[str, Any]]:
    """The entries of `roles`; a list has several of one name."""
    roles = config.get("roles")
    for name, entry in roles.items() if isinstance(roles, dict) else ():
        yield from ((str(name), role) for role in (entry if isinstance(entry, list) else [entry]))


def _models(config: Row, role: str) -> Iterator[str]:
    for name, entry in _roles(config):
        if name == role and (model := at(entry, "model")):
            yield str(model)


def _facts(run: ShownRun, names: Iterable[str]) -> list[tuple[str, str]]:
    """Facts for the page header. If all measured models are behind endpoints, no student is listed."""
    config, measured = run.config, run.summary.names
    models = measured or list(names)
    students = not models or any(model in LABELS for model in models)
    scripts = sum(len({id for ids in by_model.values() for id in ids}) for by_model in run.bench.values())
    facts = [
        ("student", at(config, "student", "model") if students else None),
        ("endpoint", None if students else _endpoints(config)),
        ("judge", ", ".join(_models(config, "judge")) or None if run.summary.scored else None),
        ("without pictures", _without_eyes(config) or None),
        ("seed", config.get("seed")),
        ("RL steps", len(run.steps) or None),
        (
            "benched",
            f"{_plural(scripts, 'dialogue')} by {_plural(len(set(names)), 'model')}" if scripts else None,
        ),
    ]
    return [(label, str(value)) for label, value in facts if value is not None]


def _endpoints(config: Row) -> str | None:
    """Where the models under test are, each address once."""
    targets = at(config, "bench", "targets") or [at(config, "roles", "target")]
    return ", ".join(dict.fromkeys(url for target in targets if (url := at(target, "base_url")))) or None


def _without_eyes(config: dict[str, Any]) -> str:
    """The roles whose model got no pictures, and what it got in their place."""
    instead = {"caption": "captions", False: "nothing"}
    by_role = [(name, at(role, "pictures")) for name, role in _roles(config)]
    return ", ".join(f"{name} ({instead[form]})" for name, form in by_role if form in ("caption", False))


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
