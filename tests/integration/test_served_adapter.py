"""A bfloat16 student trained with LoRA gives one answer in this process, on a vLLM server with its adapter,
and exported on another.

Greedy, after the same history. In bfloat16 the three compute with other kernels and rounding, so an answer
may part from the policy's where the policy itself has two tokens that are closer than that: `TIE`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from safer_steer.config import SHIPPED, Student
from safer_steer.config.rl import Rollouts
from safer_steer.endpoints.clients import close_all
from safer_steer.sandbox.world import devices, draw
from safer_steer.student.load import LoadedStudent, load_student
from safer_steer.student.policy import Completion, Policy, SampledStudent
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import in_process
from safer_steer.student.vllm_policy import logprobs_at, on_servers, trainer_logits
from servers import COMMON, ROLLOUTS, START_S, VLLM, safer_steer

pytestmark = pytest.mark.timeout(900)

TIE = 0.1
"""Nats by which the policy may prefer its own token to the other one."""
GAP = 0.005
"""Mean absolute difference of the log-probabilities of the policy's own answers."""
QUESTIONS = ("what is it?", "how do i operate it?", "is it dangerous?", "how many steps are there?")
SETTINGS = {"max_turn_tokens": 40, "max_length": 512, "dtype": "bfloat16", "device": "cpu"}
CONFIG = {
    "student": {**SETTINGS, "lora_rank": 8},
    "seeds": {"sources": [{"name": "sandbox", "limit": 16}], "min_turns": 2, "max_turns": 3},
    "bootstrap": {
        "sft": {
            **{"learning_rate": 1e-3, "batch_size": 8, "micro_batch_size": 4, "max_steps": 16},
            "warmup_ratio": 0,
        }
    },
    "rl": {
        **{"prompts_per_step": 2, "group_size": 3, "micro_batch_size": 6, "steps": 2, "max_turns": 3},
        **{"max_completion_tokens": 256, "learning_rate": 1e-3},
    },
}
BFLOAT16 = ["--dtype", "bfloat16", *COMMON[2:], "--generation-config", "vllm", *ROLLOUTS]
"""The last --dtype holds."""


class Answered:
    """A question after its history, the policy's answer to it, and that answer's log-probabilities."""

    def __init__(self, history: Transcript, said: Completion) -> None:
        self.history, self.said = history, said


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to RL; the export of its last model beside it, in `steered`."""
    home = tmp_path_factory.mktemp("served_adapter")
    (home / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    for stage in ("seeds", "assemble", "bootstrap", "sft", "rl"):
        safer_steer(stage, home / "config.yaml", "--out", home / "run")
    print(safer_steer("export", home / "run", "--model", home / "steered"))
    return home / "run"


@pytest.fixture(scope="module")
def student(run: Path) -> LoadedStudent:
    return load_student(Student.model_validate(CONFIG["student"]), run / "rl" / "model")


@pytest.fixture(scope="module")
def answers(student: LoadedStudent) -> list[Answered]:
    """What the policy answers in this process: four questions about each of eight pictures."""

    async def talk_about(policy: Policy, number: int) -> list[Answered]:
        found, talk = [], Transcript(student.renderer)
        for question in QUESTIONS:
            picture = [] if talk.ids else [draw(devices()[number], number % 2 == 1, number)]
            talk.add_user(question, picture)
            said = await policy.reply(talk.copy(), f"{number} {question}")
            found.append(Answered(talk.copy(), said))
            talk.add_assistant(said.token_ids, said.logprobs)
        return found

    async def ask(policy: Policy) -> list[Answered]:
        found = await asyncio.gather(*(talk_about(policy, number) for number in range(8)))
        return [answer for about in found for answer in about]

    settings = Student.model_validate(CONFIG["student"])
    return asyncio.run(
        ask(in_process(SampledStudent(student.model, student.renderer, settings, 0.0, Rollouts(), "")))
    )


def parted(student: LoadedStudent, answers: list[Answered], others: list[Completion]) -> list[float]:
    """For each answer that is another: by how many nats the policy prefers its own first other token."""
    found = []
    for answer, other in zip(answers, others, strict=True):
        ours, theirs = answer.said.token_ids, other.token_ids
        at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        if at is None:
            assert len(ours) == len(theirs)
            continue
        talk = answer.history.copy()
        begin = len(talk.ids) + at
        talk.add_assistant(ours[: at + 1], [0.0] * (at + 1))
        logits = trainer_logits(student.model, talk)[begin - 1].log_softmax(-1)
        found.append(float(logits[ours[at]] - logits[theirs[at]]))
    return found


def asked(
    student: LoadedStudent, settings: Student, saved: str, url: str, answers: list[Answered]
) -> tuple[list[Completion], float]:
    """What a server answers to the same questions, and how far its log-probabilities of the policy's own
    answers are from the policy's."""
    rollouts = Rollouts(engine="vllm", base_url=[url])
    policy = on_servers(SampledStudent(student.model, student.renderer, settings, 0.0, rollouts, saved))

    async def ask() -> tuple[list[Completion], float]:
        try:
            said = await asyncio.gather(
                *(policy.reply(answer.history, str(i)) for i, answer in enumerate(answers))
            )
            talks = [answer.history.copy() for answer in answers]
            for talk, answer in zip(talks, answers, strict=True):
                talk.add_assistant(answer.said.token_ids, answer.said.logprobs)
            scored = await asyncio.gather(*map(policy.score, talks))
            gaps: list[float] = []
            for talk, answer, theirs in zip(talks, answers, scored, strict=True):
                begin, end = len(answer.history.ids), len(talk.ids)
                ours = logprobs_at(trainer_logits(student.model, talk), talk.ids, begin, end, 1.0)
                gaps += [abs(one - other) for one, other in zip(ours, theirs[begin:], strict=True)]
            return said, sum(gaps) / len(gaps)
        finally:
            await close_all()

    return asyncio.run(ask())


def check(
    label: str, student: LoadedStudent, answers: list[Answered], found: tuple[list[Completion], float]
) -> None:
    said, gap = found
    margins = parted(student, answers, said)
    largest = max(margins, default=0)
    print(f"{label}: {len(answers)} answers, {len(margins)} part at a tie of at most {largest:.3f} nats;")
    print(f"the log-probabilities of the policy's answers differ by {gap:.4f} on average")
    assert largest < TIE and gap < GAP


def served(folder: Path, name: str, model: str, work: Callable[[str], None]) -> None:
    """Do `work` with the URL of a server of a model."""
    options = ["--model", model, "--served-model-name", name, *BFLOAT16]
    with VLLM(folder / f"{name}.txt", options) as server:
        server.wait("/health", START_S)
        work(server.url)


def test_one_server_of_the_base_answers_as_every_trained_policy(
    run: Path, student: LoadedStudent, answers: list[Answered], tmp_path: Path
) -> None:
    settings = Student.model_validate(CONFIG["student"])

    def compare(url: str) -> None:
        check(
            "adapter on vLLM",
            student,
            answers,
            asked(student, settings, str(run / "rl" / "model"), url, answers),
        )
        base = load_student(settings)
        said, _ = asked(base, settings, str(SHIPPED), url, answers)
        margins = parted(student, answers, said)
        print(f"base on vLLM: {len(margins)} differ, by up to {max(margins):.3f}")
        assert max(margins) > 2 * TIE, "the adapter makes a difference that a server without it would show"

    served(tmp_path, "base", str(SHIPPED), compare)


def test_the_export_answers_as_the_policy(
    run: Path, student: LoadedStudent, answers: list[Answered], tmp_path: Path
) -> None:
    steered = str(run.parent / "steered")
    settings = Student.model_validate({**SETTINGS, "model": steered})

    def compare(url: str) -> None:
        check("export on vLLM", student, answers, asked(student, settings, steered, url, answers))

    served(tmp_path, "steered", steered, compare)
