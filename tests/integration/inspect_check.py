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
from inspect_ai.model import (
    CachePolicy,
    ChatMessage,
    GenerateConfig,
    Model,
    ModelOutput,
    ModelUsage,
    get_model,
)

from safer_steer.bench.measure import measure_models
from safer_steer.bench.protocol import protocol_of, write
from safer_steer.bench.results import Attacked, Summary
from safer_steer.bench.suite_copies import bring_in
from safer_steer.config import Config, Role
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.errors import UserError
from safer_steer.files.images import pictures_in
from safer_steer.inspect_tasks.adaptive import numbers as as_metrics
from safer_steer.inspect_tasks.tasks import bench
from safer_steer.metrics import LOST
from safer_steer.sandbox.agents import SandboxTransport

DIALOGUES = 20
RATES = ("safe", "help", "joint", "over_refusal", "twin_help", "miss", "early", "exact")
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


def played(seen: list[GenerateConfig] | None = None, **own: Any) -> Model:
    """Inspect's mock model, with `Answers`; it reports usage as servers do. `own` are its settings; those of
    every call are added to `seen`."""
    calls = [] if seen is None else seen

    def answer(input: list[ChatMessage], tools: Any, tool_choice: Any, config: GenerateConfig) -> ModelOutput:
        calls.append(config)
        reply = asyncio.run(Answers().complete([*map(as_message, input)]))
        output = ModelOutput.from_content("mockllm/model", reply.text)
        output.usage = ModelUsage(input_tokens=7, output_tokens=5, total_tokens=12)
        return output

    return get_model(
        "mockllm/model", custom_outputs=_apart(answer), config=GenerateConfig(**own), memoize=False
    )


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
    measure_models(config, folder, {"model": lambda: assistant}, [judge], asyncio.run)
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
            for name, rate in (entry | entry.get("timing", {})).items():
                if name in RATES and rate["value"] is not None:
                    ends = {"": "value", "_low": "low", "_high": "high"}
                    found |= {f"{place}/{name}{end}": rate[key] for end, key in ends.items()}
            if (entry.get("survival") or {}).get("median") is not None:
                found[f"{place}/median_survival"] = entry["survival"]["median"]
    return found


def test_the_same_answers_give_the_same_rates(summary: dict[str, Any], tmp_path: Path) -> None:
    log = measured(tmp_path, "grader", grader=played())
    found = numbers(log)
    assert found == wanted(summary)
    assert len({value for name, value in found.items() if name.endswith(("/safe", "/help"))}) > 3
    assert 0 < found["multi_turn/average/early"] < 100, "the marks of the sandbox's turns came along"
    assert found["multi_turn/average/unscored"] > 0, "a judge without a verdict is no pass and no failure"
    assert log.samples
    assert log.stats.model_usage["mockllm/model"].output_tokens % 5 == 0
    sample = next(one for one in log.samples if one.metadata["protocol"] == "multi_turn")
    assert len(sample.messages) == 1 + 2 * len(sample.metadata["script"]["turns"])


def test_the_embedded_judge_needs_no_model(tmp_path: Path) -> None:
    found = numbers(measured(tmp_path, "sandbox"))
    assert found["multi_turn/average/unscored"] == 0 and found["multi_turn/average/n"] == DIALOGUES


def test_several_judges_are_joined_and_a_protocol_is_compared(tmp_path: Path) -> None:
    found = numbers(measured(tmp_path, "sandbox, grader", grader=played()))
    assert found["multi_turn/average/unscored"] == 0, "where one has no verdict, the other has"
    config = Config.model_validate({"bench": {"dialogues": DIALOGUES}})
    bring_in(config.bench.suites, tmp_path, DIALOGUES, config.student.max_pixels)
    protocol = protocol_of(config, tmp_path, "students")
    file = tmp_path / "protocol.yaml"
    write(protocol, Summary(models={}), {}, config, file)
    given = {"format": FORMAT.value, "system": config.student.system, "protocol": str(file)}
    task = bench(dialogues=DIALOGUES, **given)
    assert task.metadata == {"protocol": protocol.sha256}
    with pytest.raises(UserError, match=r"verdict \(majority there, mean here\)"):
        bench(dialogues=DIALOGUES, verdict="mean", **given)
    with pytest.raises(UserError, match=r"differs from it in prompts\.judge_requests"):
        bench(dialogues=DIALOGUES, judge_requests=True, **given)
    with pytest.raises(UserError, match="differs from it in suites"):
        bench(dialogues=DIALOGUES - 1, **given)


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
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Attacked:
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
        [judge],
        asyncio.run,
        attacker=lambda name: ChatModel("attacker", Role(model=name), SandboxTransport(name)),
    )
    return Summary.read(folder / "summary.json").adaptive["model"]["sandbox-b"]


def tried(
    tmp_path: Path,
    attacker: str,
    judge: str = "grader",
    models: dict[str, Model] | None = None,
    at_most: int = DIALOGUES,
    **settings: Any,
) -> EvalLog:
    """What the task measures. `models` has the models that are not `played()`, by role; the one under test
    is `model`."""
    all_models = {"model": played(), "grader": played(), "attacker": played()} | (models or {})
    (log,) = evaluate(
        "safer_steer/adaptive",
        task_args={
            **ADAPTIVE,
            "at_most": at_most,
            "judge": judge,
            "attacker": attacker,
            "format": FORMAT.value,
        },
        model=all_models.pop("model"),
        model_roles=all_models,
        log_dir=str(tmp_path),
        display="none",
        **settings,
    )
    assert log.status == "success", log.error
    return log


def test_the_same_answers_give_the_same_breaches(attacked: Attacked, tmp_path: Path) -> None:
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


def sampling(seen: list[GenerateConfig]) -> set[tuple[float | None, int | None]]:
    """Every temperature and token limit that a model was asked with."""
    return {(config.temperature, config.max_tokens) for config in seen}


@pytest.mark.parametrize("own", [{}, {"temperature": 0.0, "max_tokens": 8000}, {"max_tokens": 8000}])
def test_a_role_keeps_its_own_settings(tmp_path: Path, own: dict[str, Any]) -> None:
    grader: list[GenerateConfig] = []
    attacker: list[GenerateConfig] = []
    models = {"grader": played(grader, **own), "attacker": played(attacker, **own)}
    tried(tmp_path, "attacker", models=models, limit=3, temperature=0.2)
    wanted = {(own.get("temperature", 0.7), own.get("max_tokens", 2048))}
    assert sampling(grader) == sampling(attacker) == wanted
    assert all(config.response_schema for config in [*grader, *attacker])


@pytest.mark.parametrize(
    ("own", "of_evaluation", "wanted"),
    [
        ({}, {}, (0.7, 2048)),
        ({"temperature": 0.0}, {}, (0.0, 2048)),
        ({"temperature": 0.0, "max_tokens": 300}, {"temperature": 0.2}, (0.2, 300)),
    ],
)
@pytest.mark.parametrize("task", ["bench", "adaptive"])
def test_the_model_under_test_keeps_its_own_settings(
    tmp_path: Path, task: str, own: dict[str, Any], of_evaluation: dict[str, Any], wanted: tuple[float, int]
) -> None:
    seen: list[GenerateConfig] = []
    (log,) = evaluate(
        f"safer_steer/{task}",
        task_args={"judge": "sandbox"} | ({"attacker": "sandbox-b"} if task == "adaptive" else {}),
        model=played(seen, **own),
        log_dir=str(tmp_path),
        display="none",
        limit=2,
        **of_evaluation,
    )
    assert log.status == "success", log.error
    assert sampling(seen) == {wanted}


@pytest.mark.parametrize(
    ("place", "policy"),
    [("evaluation", CachePolicy(expiry="2D", scopes={"of": "the user"})), ("model", True)],
)
def test_with_inspects_cache_each_try_is_a_sample_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, policy: bool | CachePolicy
) -> None:
    """The models give every try the same answers, so that all tries of an intent ask the same."""
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))

    def calls(**cache: Any) -> dict[str, list[GenerateConfig]]:
        seen: dict[str, list[GenerateConfig]] = {"model": [], "attacker": []}
        own, of_evaluation = (cache, {}) if place == "model" else ({}, cache)
        models = {role: played(configs, **own) for role, configs in seen.items()}
        tried(tmp_path, "attacker", "sandbox", models, at_most=6, max_samples=1, **of_evaluation)
        return seen

    uncached, first, second = calls(), calls(cache=policy), calls(cache=policy)
    for role in uncached:
        assert len(first[role]) == len(uncached[role]) >= 12
        assert not second[role], "the cache is on"
        policies = [config.cache for config in first[role]]
        assert any(isinstance(one, CachePolicy) and "repeat" in one.scopes for one in policies)
        if isinstance(policy, CachePolicy):
            kept = [(one.expiry, one.scopes["of"]) for one in policies if isinstance(one, CachePolicy)]
            assert kept == [("2D", "the user")] * len(policies)
