"""A student behind vLLM is measured as the same student in this process is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from safer_steer.config import SHIPPED
from safer_steer.dialogue import read_dialogues
from servers import MODEL, OPTIONS, ROOT, VLLM, Server, safer_steer

pytestmark = pytest.mark.timeout(900)

DIALOGUES = 20
"""Of each group: 80 dialogues, 224 answers. In 1,120 answers (100 of each group) none differed. Over 20 of
each group, the best token's logit leads by 7e-4 or more, and 32-bit sums taken in another order differ by
about 1e-5: so no answer may differ."""
TOKENS = 48


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bench of the base student in a process of ours, greedy."""
    home = tmp_path_factory.mktemp("in_process")
    student = {"max_turn_tokens": TOKENS, "max_length": 768, "dtype": "float32", "device": "cpu"}
    config = {
        "student": student,
        "bench": {"suites": ["sandbox"], "models": ["base"], "dialogues": DIALOGUES, "temperature": 0},
    }
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    safer_steer("bench", home / "config.yaml", "--out", home / "run")
    return home / "run"


def bench(vllm: VLLM, out: Path, *more: object) -> Path:
    """The bench of the served student, greedy; the sandbox's judge."""
    model = (
        "--model",
        MODEL,
        "--base-url",
        vllm.url,
        "--set",
        "student.format=thinking_answer",
        "--set",
        f"roles.target.max_tokens={TOKENS}",
        "--set",
        "roles.target.temperature=0",
        "--set",
        "roles.*.concurrency=16",
    )
    safer_steer(
        "bench",
        *model,
        "--suite",
        "sandbox",
        "--set",
        f"bench.dialogues={DIALOGUES}",
        "--judge-model",
        "sandbox",
        "--out",
        out,
        *more,
    )
    return out


def test_over_http_every_answer_score_and_rate_is_as_in_process(
    vllm: VLLM, in_process: Path, tmp_path: Path
) -> None:
    before = vllm.answered, vllm.pictures
    served = bench(vllm, tmp_path / "run", "--set", "roles.target.ask_layout=false", "--no-check")
    answers = differing = 0
    journals = sorted((in_process / "bench" / "base").glob("*.jsonl"))
    assert len(journals) == 8
    for journal in journals:
        ours = {dialogue.id: dialogue for dialogue in read_dialogues(journal)}
        theirs = {
            dialogue.id: dialogue for dialogue in read_dialogues(served / "bench" / MODEL / journal.name)
        }
        assert ours.keys() == theirs.keys()
        for id, dialogue in ours.items():
            for mine, other in zip(dialogue.turns, theirs[id].turns, strict=True):
                answers += 1
                differing += (mine.assistant, mine.scores, mine.meta["tokens"]) != (
                    other.assistant,
                    other.scores,
                    other.meta["completion_tokens"],
                )
    print(f"\n{answers} answers, {differing} differ")
    assert answers == 224
    assert differing == 0
    assert summary(served)[MODEL] == summary(in_process)["base"]
    assert vllm.answered - before[0] == answers
    assert vllm.pictures - before[1] == answers, "every request carries its dialogue's picture"


def test_asked_for_a_layout_it_was_not_trained_to_be_asked_for_it_is_another_model(
    vllm: VLLM, in_process: Path, tmp_path: Path
) -> None:
    served = bench(vllm, tmp_path / "run")
    said = [
        {
            (journal.name, dialogue.id): [turn.assistant for turn in dialogue.turns]
            for journal in (run / "bench" / name).glob("*.jsonl")
            for dialogue in read_dialogues(journal)
        }
        for run, name in ((in_process, "base"), (served, MODEL))
    ]
    differing = sum(said[0][key] != said[1][key] for key in said[0])
    print(f"\nof {len(said[0])} dialogues, {differing} differ")
    assert said[0].keys() == said[1].keys() and differing


def test_an_endpoint_may_call_its_model_what_it_likes(world: Server, tmp_path: Path) -> None:
    """`sandbox` with a base_url is asked there, and not answered in this process."""
    common = (
        "--set",
        "student.format=thinking_answer",
        "--suite",
        "sandbox",
        "--set",
        "bench.dialogues=5",
        "--judge-model",
        "sandbox",
        "--judge-base-url",
        world.url,
    )
    safer_steer("bench", "--model", "sandbox", "--base-url", world.url, *common, "--out", tmp_path / "run")
    calls = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]["bench"]["calls"]
    assert (tmp_path / "run" / "cache.sqlite").is_file(), "replies from an endpoint are kept"
    assert calls["target"]["calls"] and calls["judge"]["calls"]


def test_the_documented_command_is_the_one_that_is_tested() -> None:
    [command] = re.findall(
        r"^    (.venv-vllm/bin/python .*?)\n\n",
        (ROOT / "docs/how-to/serving.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == [".venv-vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    options = [str(SHIPPED.relative_to(ROOT)) if word == str(SHIPPED) else word for word in OPTIONS]
    assert " ".join(options) in " ".join(words)


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())["models"]
    return found
