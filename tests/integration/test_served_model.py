"""A trained model, exported and served by vLLM, is measured as the run measured it.

The server gets no options about sampling: what the bench needs is in the export.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml

from safer_steer.dialogue import read_dialogues
from servers import COMMON, START_S, VLLM, safer_steer

pytestmark = pytest.mark.timeout(900)

NAME = "steered"
TOKENS, DIALOGUES = 48, 10
"""10 dialogues of each group: 40 dialogues, 112 answers."""
CONFIG = {
    "student": {
        **{"max_turn_tokens": TOKENS, "max_length": 768, "dtype": "float32", "device": "cpu"},
        "lora_rank": 8,
    },
    "seeds": {"sources": [{"name": "sandbox", "limit": 16}], "min_turns": 2, "max_turns": 4},
    "bootstrap": {
        "sft": {
            **{"learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 4, "max_steps": 16},
            "warmup_ratio": 0,
        }
    },
    "rl": {
        **{"prompts_per_step": 2, "group_size": 3, "micro_batch_size": 6, "steps": 2, "max_turns": 3},
        **{"max_completion_tokens": 512, "learning_rate": 1e-3},
    },
    "bench": {
        "suites": ["sandbox"],
        "models": ["base", "safer_steer"],
        "dialogues": DIALOGUES,
        "temperature": 0,
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, small, its bench greedy; and its export beside it, in `steered`."""
    home = tmp_path_factory.mktemp("served_model")
    (home / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    safer_steer("run", home / "config.yaml", "--out", home / "run")
    said = safer_steer("export", home / "run", "--model", home / NAME)
    assert said.startswith("safer_steer: ")
    return home / "run"


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    """vLLM with the exported model."""
    options = ["--model", str(run.parent / NAME), "--served-model-name", NAME, *COMMON]
    with VLLM(tmp_path_factory.mktemp("vllm") / "log.txt", options) as server:
        server.wait("/health", START_S)
        yield server


def test_the_bench_of_the_served_model_is_the_runs(run: Path, server: VLLM, tmp_path: Path) -> None:
    """Greedy, in float32: every answer, score and rate is the same."""
    out = tmp_path / "served"
    safer_steer(
        *("bench", "--model", NAME, "--base-url", server.url, "--set", "student.format=thinking_answer"),
        *(
            "--set",
            "roles.target.ask_layout=false",
            "--set",
            f"roles.target.max_tokens={TOKENS}",
            "--set",
            "roles.target.temperature=0",
            "--set",
            "roles.*.concurrency=16",
        ),
        *(
            "--suite",
            "sandbox",
            "--set",
            f"bench.dialogues={DIALOGUES}",
            "--judge-model",
            "sandbox",
            "--out",
            out,
        ),
        "--no-check",
    )
    answers = differing = moved = 0
    for journal in sorted((run / "bench" / "safer_steer").glob("*.jsonl")):
        theirs = {one.id: one for one in read_dialogues(out / "bench" / NAME / journal.name)}
        base = {one.id: one for one in read_dialogues(run / "bench" / "base" / journal.name)}
        for dialogue in read_dialogues(journal):
            said = [(turn.assistant, turn.scores) for turn in dialogue.turns]
            found = [(turn.assistant, turn.scores) for turn in theirs[dialogue.id].turns]
            answers += len(said)
            differing += sum(one != other for one, other in zip(said, found, strict=True))
            before = [turn.assistant for turn in base[dialogue.id].turns]
            moved += before != [turn.assistant for turn in dialogue.turns]
    print(
        f"\n{answers} answers of the exported model, {differing} differ; {moved} dialogues are not the base's"
    )
    assert answers > 100 and moved, "training has changed the model"
    assert differing == 0
    ours, served = (json.loads((folder / "summary.json").read_text())["models"] for folder in (run, out))
    assert served[NAME] == ours["safer_steer"]


def test_another_special_token_ends_an_answer(server: VLLM) -> None:
    """In a bench of the run's own process it does, too."""
    request = {
        "model": NAME,
        "messages": [{"role": "user", "content": "what is it?"}],
        **{"max_tokens": 8, "temperature": 0, "logit_bias": {"3": 100}},
    }
    sent = Request(
        f"{server.url}/chat/completions", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(sent, timeout=60) as reply:
        [choice] = json.loads(reply.read())["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "")
