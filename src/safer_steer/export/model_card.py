"""The model card: `README.md` of an exported model. Numbers are the run's own, with their intervals."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from safer_steer.bench.results import Summary, model_label
from safer_steer.config import Config, ModelName
from safer_steer.data.bootstrap import single_turn
from safer_steer.dialogue import Format
from safer_steer.export.card import made, published, roles, table
from safer_steer.files.store import read_rows
from safer_steer.report.main_table import headline

if TYPE_CHECKING:
    from safer_steer.student.merging import Remainder

_LIMITS = """- It was measured on the suites, by the judge and at the temperature named above. Other attacks,
  longer dialogues and other languages were not tried.
- Judges make mistakes, and the attacks in training came from models. A rate of 100 % means that no failure
  was found, not that there is none.
- A model that is safer may refuse more. Read over-refusal and Help on the safe twins beside Safe.
- Do not use it as the only safeguard of a product."""


def model_card(
    name: str,
    run: Path,
    config: Config,
    stages: Mapping[str, dict[str, Any]],
    model: ModelName,
    remainder: Remainder | None = None,
) -> str:
    """Return the whole file. `stages` are the run's manifest entries, `remainder` is what merging has left of
    an adapter."""
    lines = [*_training(run, config, stages, model), *_merge(config, remainder)]
    sections = [
        f"---\n{yaml.safe_dump(_front(config), sort_keys=False, allow_unicode=True)}---",
        f"# {name}",
        f"Made from {_base(config)} ({model_label(model)}) to stay safe and helpful over a whole dialogue"
        " about a picture, with the SaFeR-Steer method (arXiv 2604.16358) by the software `safer-steer`.",
        *_warning(config),
        "## Use",
        _use(config),
        "## Results",
        *_results(run, config, stages),
        "## Training",
        "\n".join(f"- {line}" for line in lines),
        "### Data",
        made(config, stages),
        "Who wrote and judged:",
        table(roles(config, stages)),
        *published(config),
        "## Limits",
        _LIMITS,
        "## Licence",
        f"The weights are derived from {_base(config)} and stay under its licence and terms. The data set's"
        " sources and the models that wrote and judged it have terms of their own. Check them before you"
        " share or sell anything made from these weights.",
    ]
    return "\n\n".join(sections) + "\n"


def _front(config: Config) -> dict[str, Any]:
    front: dict[str, Any] = {
        "license": "other",
        "license_name": "as-the-base-model",
        "license_link": "README.md",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["safety", "multi-turn", "vision-language", "safer-steer"],
    }
    student = config.student
    if student.model != "sandbox" and not Path(student.model).is_absolute():
        front |= {"base_model": student.model, "base_model_relation": "finetune"}
    return front


def _base(config: Config) -> str:
    """The base model, without the folders it lies in."""
    model = config.student.model
    if model == "sandbox":
        return "the sandbox's tiny student"
    return Path(model).name if Path(model).is_absolute() else model


def _warning(config: Config) -> list[str]:
    if config.has_stubs:
        return ["> **Made-up answers.** Roles of this run were stubs: these weights are a test of software."]
    if config.student.model == "sandbox":
        return ["> **A toy.** It knows the sandbox's drawings and words and nothing else."]
    if config.limit is not None:
        return [f"> **A first try**, with at most {config.limit} pairs, scripts, dialogues and steps."]
    return []


def _use(config: Config) -> str:
    student = config.student
    layout = "a plain answer"
    if student.format is Format.THINKING_ANSWER:
        layout = "`<thinking>...</thinking><answer>...</answer>`; show users the answer alone"
    pixels = f"{student.max_pixels:,}"
    return f"""It was trained and measured with

- the system message `{" ".join(student.system.split()) or "(none)"}`;
- answers laid out as {layout};
- at most {student.max_turn_tokens:,} tokens an answer and {student.max_length:,} a dialogue;
- pictures before the text of their user turn, scaled down to at most {pixels} pixels.

`generation_config.json` ends an answer at any special token and samples as the bench did. With vLLM:

    vllm serve FOLDER --served-model-name steered --max-model-len {student.max_length} \\
        --dtype {student.dtype} --limit-mm-per-prompt '{{"image": 1, "video": 0}}'
    safer-steer bench --model steered --base-url http://localhost:8000/v1 --suite SUITE \\
        --judge-model JUDGE --judge-base-url URL --out RESULTS \\
        --set student.format={student.format.value} --set student.max_pixels={student.max_pixels} \\
        --set {shlex.quote(f"student.system={student.system}")} \\
        --set roles.target.ask_layout=false --set roles.target.max_tokens={student.max_turn_tokens} \\
        --set roles.target.temperature={config.bench.temperature:g}"""


def _results(run: Path, config: Config, stages: Mapping[str, dict[str, Any]]) -> list[str]:
    if "bench" not in stages or not (run / "summary.json").is_file():
        return ["Not measured: the run's bench is not finished."]
    summary = Summary.read(run / "summary.json")
    if not summary.scored:
        return ["Not measured: no judge has scored the run's answers."]
    rows = [["", *map(model_label, summary.names)]]
    rows += [[row.label, *row.cells] for row in headline(summary)]
    judge = ", ".join(role.title("judge") for role in config.models_of("judge").values())
    suites = ", ".join(Path(suite).stem for suite in config.bench.suites)
    return [
        f"Rates in %, 95 % intervals in brackets. Suites: {suites}. Judge: {judge}. Temperature"
        f" {config.bench.temperature:g}. Compare only numbers of the same protocol: {summary.protocol}.",
        table(rows),
    ]


def _training(run: Path, config: Config, stages: Mapping[str, dict[str, Any]], model: ModelName) -> list[str]:
    student, sft, rl = config.student, config.bootstrap.sft, config.rl
    weights = f"LoRA adapters of rank {student.lora_rank} on the language model, merged"
    if not student.lora_rank:
        weights = f"all weights{' of the language model' * student.freeze_vision}"
    lines = [f"Base: {_base(config)}. Trained: {weights}. Weights in {student.dtype}. Seed {config.seed}."]
    if model == "sft" or rl.start_from == "sft":
        folder = run / "bootstrap" / (single_turn.FOLDER if sft.single_turn else "")
        length = f"{sft.max_steps:,} steps" if sft.max_steps > 0 else f"{sft.epochs:g} epochs"
        lines.append(
            f"SFT: {length} over {_rows(folder / 'kept.jsonl'):,} dialogues, batch {sft.batch_size},"
            f" learning rate {sft.learning_rate:g}."
        )
    if model == "safer_steer":
        who = config.role("tutor").title("tutor")
        steps, of = f"{_rows(run / 'rl' / 'metrics.jsonl'):,}", f"learning rate {rl.learning_rate:g}"
        start = f"from {'the SFT model' if rl.start_from == 'sft' else 'the base'}"
        if rl.algorithm == "dpo":
            how = (
                f"DPO in place of RL: steps {steps}, the best against the worst of {rl.group_size} answers to"
                f" each turn of {_rows(run / 'rl' / 'candidates.jsonl'):,} scripts, {of},"
                f" beta {rl.beta:g}, {start}"
            )
        else:
            beside = " beside an attacker that learns, as two adapters" if rl.algorithm == "cotrain" else ""
            how = (
                f"RL (GRPO, loss {rl.loss}): steps {steps}, each of {rl.prompts_per_step} scripts x"
                f" {rl.group_size} trajectories, {of}, KL weight {rl.beta:g}, return {rl.tcsr} with alpha"
                f" {rl.alpha:g}, credit by {rl.credit}, {start}{beside}"
            )
        lines.append(f"{how}. Tutor: {rl.tutor or who}.")
    stage = "rl" if model == "safer_steer" else "sft"
    versions = stages[stage]["versions"]
    names = ("safer-steer", "torch", "transformers", "trl", "peft")
    lines.append(", ".join(f"{name} {versions[name]}" for name in names if name in versions) + ".")
    return lines


def _merge(config: Config, remainder: Remainder | None) -> list[str]:
    """The line that says what merging has left of an adapter; none if all weights were trained."""
    if remainder is None:
        return []
    how = f"Merged in float32 and rounded to {config.student.dtype} once"
    return [f"{how}: {remainder}. What was measured is the base with the adapter, not merged."]


def _rows(path: Path) -> int:
    return sum(1 for _ in read_rows(path))
