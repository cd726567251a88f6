"""The bench as Inspect tasks, in an environment of its own (`make check-inspect`): the same answers give the
same rates as `safer-steer bench`, to the last digit."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import eval as evaluate
from inspect_ai.log import EvalLog
from inspect_ai.model import ChatMessage, GenerateConfig, Model, ModelOutput, ModelUsage, get_model

from safer_steer.bench.measure import measure_models
from safer_steer.config import Config, Role
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.images import pictures_in
from safer_steer.inspect_tasks.adaptive import numbers as as_metrics
from safer_steer.metrics import LOST
from safer_steer.sandbox.agents import SandboxTransport

DIALOGUES = 20
RATES = ("safe", "help", "joint", "over_refusal", "twin_help")
FORMAT = Config().student.format


class Answers:
    """Model and judge: the sandbox's agents. On half of the pictures, the model refuses and offers something
    else; on a few, the judge gives no valid verdict."""

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        picture = next(
            part["image_url"]["url"]
            for message in messages
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] == "image_url"
        )
        number = int(hashlib.sha256(picture.encode()).hexdigest(), 16)
        judging = "Job: judge" in str(messages[0]["content"])
        if judging and number % 19 == 0:
            return ChatReply("no verdict")
        if not judging and number % 2:
            return ChatReply("<thinking>no</thinking><answer>i cannot help with that.</answer>")
        return await SandboxTransport().complete(messages, schema, repeat)


def as_message(message: ChatMessage) -> Message:
    """Inspect's message as the endpoints' clients send it."""
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts = [
        {"type": "text", "text": part.text}
        if part.type == "text"
        else {"type": "image_url", "image_url": {"url": part.image}}
        for part in message.content
    ]
    return {"role": message.role, "content": parts}


def played() -> Model:
    """Inspect's mock model, with `Answers`; it reports usage as servers do."""

    def answer(input: list[ChatMessage], tools: Any, tool_choice: Any, config: GenerateConfig) -> ModelOutput:
        reply = asyncio.run(Answers().complete([*map(as_message, input)]))
        output = ModelOutput.from_content("mockllm/model", reply.text)
        output.usage = ModelUsage(input_tokens=7, output_tokens=5, total_tokens=12)
        return output

    return get_model("mockllm/model", custom_outputs=_apart(answer), memoize=False)


def _apart(answer: Any) -> Any:
    """`asyncio.run` needs a thread without a loop."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    return lambda *arguments: pool.submit(answer, *arguments).result()


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What our bench measures."""
    folder = tmp_path_factory.mktemp("run")
    config = Config.model_validate({"bench": {"dialogues": DIALOGUES, "max_unscored": 1}})
    target = ChatModel("target", Role(), Answers())
    judge = ChatModel("judge", Role(), Answers())
    pictures_of, format = pictures_in(folder, config.student.max_pixels), config.student.format
    assistant = ChatAssistant(target, pictures_of, format=format)
    measure_models(config, folder, {"model": lambda: assistant}, judge, asyncio.run)
    return dict(json.loads((folder / "summary.json").read_text())["models"]["model"])


def measured(tmp_path: Path, judge: str, **roles: Model) -> EvalLog:
    """What the task measures, named as its users name it."""
    (log,) = evaluate(
        "safer_steer/bench",
        task_args={"dialogues": DIALOGUES, "judge": judge, "format": FORMAT.value},
        model=played(),
        model_roles=roles,
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success", log.error
    return log


def numbers(log: EvalLog) -> dict[str, float]:
    assert log.results
    (score,) = log.results.scores
    return {name: metric.value for name, metric in score.metrics.items()}


def wanted(summary: dict[str, Any]) -> dict[str, float]:
    """The rates and counts of our summary, under the task's names."""
    found: dict[str, float] = {}
    for protocol, suites in summary.items():
        for suite, entry in suites.items():
            place = f"{protocol}/{suite}"
            found |= {f"{place}/{name}": entry[name] for name in ("n", *LOST)}
            for name in RATES:
                if entry.get(name) and entry[name]["value"] is not None:
                    ends = {"": "value", "_low": "low", "_high": "high"}
                    found |= {f"{place}/{name}{end}": entry[name][key] for end, key in ends.items()}
            if (entry.get("survival") or {}).get("median") is not None:
                found[f"{place}/median_survival"] = entry["survival"]["median"]
    return found


def test_the_same_answers_give_the_same_rates(summary: dict[str, Any], tmp_path: Path) -> None:
    log = measured(tmp_path, "grader", grader=played())
    found = numbers(log)
    assert found == wanted(summary)
    assert len({value for name, value in found.items() if name.endswith(("/safe", "/help"))}) > 3
    assert found["multi_turn/average/unscored"] > 0, "a judge without a verdict is no pass and no failure"
    assert log.samples
    assert log.stats.model_usage["mockllm/model"].output_tokens % 5 == 0
    sample = next(one for one in log.samples if one.metadata["protocol"] == "multi_turn")
    assert len(sample.messages) == 1 + 2 * len(sample.metadata["script"]["turns"])


def test_the_embedded_judge_needs_no_model(tmp_path: Path) -> None:
    found = numbers(measured(tmp_path, "sandbox"))
    assert found["multi_turn/average/unscored"] == 0 and found["multi_turn/average/n"] == DIALOGUES


def test_a_judge_must_be_named(tmp_path: Path) -> None:
    (log,) = evaluate(
        "safer_steer/bench",
        task_args={"dialogues": 5},
        model=played(),
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "error" and log.error and "grader" in log.error.message


ADAPTIVE = {"turns": 4, "take_backs": 2, "tries": 2}


class Unrepeated(Answers):
    """Inspect's mock model is not told which of several samples it gives."""

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        return await super().complete(messages, schema)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What our adaptive bench measures."""
    folder = tmp_path_factory.mktemp("attacked")
    bench = {"dialogues": DIALOGUES, "max_unscored": 1, "adaptive": ADAPTIVE | {"attackers": ["sandbox-b"]}}
    config = Config.model_validate({"bench": bench})
    target = ChatModel("target", Role(), Unrepeated())
    judge = ChatModel("judge", Role(), Unrepeated())
    assistant = ChatAssistant(target, pictures_in(folder, config.student.max_pixels), format=FORMAT)
    measure_models(
        config,
        folder,
        {"model": lambda: assistant},
        judge,
        asyncio.run,
        attacker=lambda name: ChatModel("attacker", Role(model=name), SandboxTransport(name)),
    )
    return dict(json.loads((folder / "summary.json").read_text())["adaptive"]["model"]["sandbox-b"])


def tried(tmp_path: Path, attacker: str, judge: str = "grader", **settings: Any) -> EvalLog:
    (log,) = evaluate(
        "safer_steer/adaptive",
        task_args={
            **ADAPTIVE,
            "at_most": DIALOGUES,
            "judge": judge,
            "attacker": attacker,
            "format": FORMAT.value,
        },
        model=played(),
        model_roles={"grader": played(), "attacker": played()},
        log_dir=str(tmp_path),
        display="none",
        **settings,
    )
    assert log.status == "success", log.error
    return log


def test_the_same_answers_give_the_same_breaches(attacked: dict[str, Any], tmp_path: Path) -> None:
    log = tried(tmp_path, "sandbox-b")
    found = numbers(log)
    assert found == as_metrics(attacked)
    assert 0 < found["breach_at/1"] < 100 and found["taken_back"] > 0 and found["unscored"] > 0
    assert found["n_intents"] <= DIALOGUES and found["n"] == 2 * DIALOGUES
    assert log.samples
    kept = [one for one in log.samples if one.scores and one.scores["breaches"].value["breached"]]  # type: ignore
    assert len(kept) == sum(
        found[name] for name in found if name.startswith("technique/") and name.endswith("/breached")
    )


def test_a_model_of_inspect_attacks(tmp_path: Path) -> None:
    """The mock model answers the attacker's job as the embedded agent A."""
    found = numbers(tried(tmp_path, "attacker", judge="sandbox", limit=6))
    assert found["n"] == 6 and found["calls"] > 6 and found["refused"] == 0
    assert any(name.startswith("technique/opening/") for name in found)
