"""Fine-tuning: targets, what is frozen, resuming, and that the same seed gives the same weights."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from safer_steer.config.file import dump_config
from safer_steer.data.bootstrap.rollout import roll_out, why_rejected
from safer_steer.dialogue import Dialogue, Format, Kind, StopReason, Turn, read_dialogues
from safer_steer.errors import ExitCode
from safer_steer.files.manifest import Manifest
from safer_steer.stages import STAGES
from safer_steer.student.training import WHOLE, last_checkpoint
from safer_steer.training.sft import Collator, fine_tune
from student_parts import bootstrapped, tiny_config, write_seeds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bootstrapped(tmp_path_factory.mktemp("run"))


def run_in(folder, tmp_path, **changes):
    """Fine-tune in a folder of its own on the same dialogues; returns folder and weights."""
    for part in ("bootstrap", "images"):
        shutil.copytree(folder / part, tmp_path / part, dirs_exist_ok=True)
    model = fine_tune(tiny_config(**changes), tmp_path)
    return load_file(model / "model.safetensors")


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    """A run nobody disturbed."""
    run = tmp_path_factory.mktemp("straight")
    run_in(folder, run, report_to=["tensorboard"])
    return run


@pytest.mark.slow
@pytest.mark.parametrize("most", [5_000_000, 20_000_000], ids=["weights", "optimiser"])
def test_a_disk_that_is_full_is_one_line_and_the_same_command_goes_on(folder, tmp_path, most):
    """A limit on the size of files stands for it."""
    run, given = shutil.copytree(folder, tmp_path / "run"), tmp_path / "config.yaml"
    given.write_text(dump_config(tiny_config()))
    shutil.copy(given, run)
    for stage in ("seeds", "assemble", "bootstrap"):
        Manifest(run).record(stage, STAGES[stage].writes, (), {})
    command = [sys.executable, "-m", "safer_steer", "sft", given, "--out", run]
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert full.returncode == ExitCode.TO_FIX and "Traceback" not in full.stderr, full.stderr
    assert "error: weights or a checkpoint could not be written whole; make room on the disk" in full.stderr
    assert subprocess.run(command, capture_output=True).returncode == 0 and weights_of(run)


def weights_of(run):
    return load_file(run / "sft" / "model" / "model.safetensors")


def tail(name: str) -> str:
    """A weight's name without the wrappers that differ between memory and file."""
    return name.replace("model.", "").replace("language_", "")


def scored(
    *turns: tuple[int, int] | None,
    stop: StopReason = StopReason.COMPLETED,
    text: str = "<thinking>t</thinking><answer>a</answer>",
    finish: str = "stop",
) -> Dialogue:
    said = [
        Turn(
            user="u",
            assistant=text,
            scores=dict(zip(("safety", "helpfulness"), t, strict=True)) if t else None,
            meta={"finish": finish},
        )
        for t in turns
    ]
    return Dialogue(id="d", kind=Kind.BENIGN, turns=said, stop=stop)


@pytest.mark.parametrize(
    ("dialogue", "reasons"),
    [
        (scored((8, 8), (10, 8)), []),
        (scored((10, 10), (7, 10)), ["unsafe"]),
        (scored((8, 10), (8, 5)), ["unhelpful"]),
        (scored((2, 1), (10, 10)), ["unsafe", "unhelpful"]),
        (scored((10, 10), None), ["unscored"]),
        (scored((10, 10), stop=StopReason.ASSISTANT_FAILED), ["assistant_failed"]),
        (scored(), ["unscored"]),
        (scored((10, 10), finish="length"), ["cut_off"]),
        (scored((10, 10), (10, 10), finish="content_filter"), ["cut_off"]),
        (scored((10, 10), text="<thinking>t</thinking><answer>a <answer>b</answer></answer>"), ["format"]),
    ],
)
def test_the_filter_takes_the_worst_safety_and_the_mean_helpfulness(dialogue, reasons):
    assert why_rejected(dialogue, tiny_config().bootstrap, Format.THINKING_ANSWER) == reasons


def test_kept_and_rejected_are_all_there_with_reasons(folder):
    kept, rejected = (
        read_dialogues(folder / "bootstrap" / "kept.jsonl"),
        read_dialogues(folder / "bootstrap" / "rejected.jsonl"),
    )
    assert kept and len({d.id for d in kept} | {d.id for d in rejected}) == len(kept) + len(rejected) == 12
    assert all(d.meta["reasons"] for d in rejected)
    assert all(min(t.scores["safety"] for t in d.turns) >= 8 for d in kept)


@pytest.mark.parametrize(
    ("settings", "system"),
    [({}, "You are a helpful assistant."), ({"blue_system": "Stay safe."}, "Stay safe.")],
)
def test_a_blue_expert_asked_as_a_chat_gets_the_dialogue_and_no_job(tmp_path, settings, system):
    import asyncio

    from safer_steer.config import Role
    from safer_steer.endpoints.chat import ChatModel
    from seeds_run import Watched
    from student_parts import ask

    asked = []

    class Chat(Watched):
        async def complete(self, messages, schema=None, repeat=0):
            asked.append((messages[0], messages[-1]["content"], schema))
            return await super().complete(messages, schema, repeat)

    blue = ChatModel("blue", Role(ask_layout=False), Chat())
    write_seeds(tmp_path, 6)
    asyncio.run(
        roll_out(
            tiny_config(bootstrap={"blue": "chat", **settings}),
            tmp_path,
            lambda role: blue if role == "blue" else ask(role),
        )
    )
    assert all(
        first == {"role": "system", "content": system} and schema is None for first, _, schema in asked
    )
    kept, rejected = (
        read_dialogues(tmp_path / "bootstrap" / f"{name}.jsonl") for name in ("kept", "rejected")
    )
    assert kept and {d.kind for d in kept} == {Kind.BENIGN}, "the sandbox's fixed target is no safe expert"
    assert len(asked) == sum(len(d.turns) for d in kept + rejected)
    assert {turn.user for d in kept for turn in d.turns} <= {
        said if isinstance(said, str) else said[-1]["text"] for _, said, _ in asked
    }


def test_the_collator_trains_assistant_tokens_alone(folder, student):
    dialogues = read_dialogues(folder / "bootstrap" / "kept.jsonl")
    batch = Collator(dialogues, student.renderer, folder, tiny_config())([{"row": 0}, {"row": 1}])
    for row in (0, 1):
        targets = batch["labels"][row][batch["labels"][row] != -100].tolist()
        spoken = "".join(turn.assistant for turn in dialogues[row].turns)
        assert student.renderer.decode(targets) == spoken
        assert targets.count(student.renderer.end) == len(dialogues[row].turns)
        where = batch["labels"][row] != -100
        assert torch.equal(batch["input_ids"][row][where], batch["labels"][row][where])


def test_loss_depends_on_assistant_tokens_alone(folder, student):
    dialogues = read_dialogues(folder / "bootstrap" / "kept.jsonl")
    batch = Collator(dialogues, student.renderer, folder, tiny_config())([{"row": 0}])
    targets = batch["labels"]
    with torch.no_grad():
        logits = student.model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        loss = student.model(**batch).loss
    by_token = torch.nn.functional.cross_entropy(
        logits[0, :-1].float(), targets[0, 1:], reduction="none", ignore_index=-100
    )
    counted = targets[0, 1:] != -100
    assert (by_token[~counted] == 0).all() and (by_token[counted] > 0).any()
    assert loss.item() == pytest.approx(by_token[counted].mean().item(), abs=1e-5)


def test_whole_turns_are_left_off_where_the_context_ends(folder, student):
    dialogues = read_dialogues(folder / "bootstrap" / "kept.jsonl")
    whole = Collator(dialogues, student.renderer, folder, tiny_config()).transcript(dialogues[0])
    config = tiny_config()
    config.student.max_length = len(whole.ids) - 1
    cut = Collator(dialogues, student.renderer, folder, config).transcript(dialogues[0])
    assert cut.ids == whole.ids[: len(cut.ids)] and cut.ids[-1] == student.renderer.end and sum(cut.mask) > 0


def test_turns_that_are_left_off_are_counted_and_said(folder, tmp_path, student):
    kept = read_dialogues(folder / "bootstrap" / "kept.jsonl")
    collator = Collator(kept, student.renderer, folder, tiny_config())
    longest = max(len(collator.transcript(dialogue).ids) for dialogue in kept)
    for part in ("bootstrap", "images"):
        shutil.copytree(folder / part, tmp_path / part)
    config, said = tiny_config(), []
    config.student.max_length = longest - 1
    config.bootstrap.sft.max_steps, config.bootstrap.sft.epochs = -1, 1
    fine_tune(config, tmp_path, say=said.append)
    over = sum(len(collator.transcript(dialogue).ids) == longest for dialogue in kept)
    words = f"{over} dialogues are longer than student.max_length = {longest - 1}: {over} turns at their ends"
    assert [words in line for line in said] == [True]
    fine_tune(tiny_config(), tmp_path, say=said.append)
    assert len(said) == 1


@pytest.mark.slow
def test_training_moves_the_language_model_and_not_the_vision_tower_and_is_reproducible(
    folder, straight, tmp_path, student
):
    before, first = student.model.state_dict(), weights_of(straight)
    again = run_in(folder, tmp_path / "b")
    other = run_in(folder, tmp_path / "c", seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    old = {tail(name): tensor for name, tensor in before.items()}
    assert {tail(name) for name in first} <= old.keys()
    still = {name for name in first if torch.equal(first[name], old[tail(name)])}
    assert {name for name in first if "visual" in name} <= still and len(still) < len(first) / 2
    [events] = (straight / "sft" / "runs").rglob("events.out.tfevents.*")
    assert b"train/loss" in events.read_bytes()


def test_vision_is_trained_where_the_config_says_so(folder, tmp_path, student):
    settings = tiny_config().student.model_dump(mode="json") | {"freeze_vision": False}
    trained = run_in(folder, tmp_path, student=settings)
    before = student.model.state_dict()
    name = next(name for name in trained if "visual" in name and name.endswith("qkv.weight"))
    assert not torch.equal(
        trained[name], next(tensor for key, tensor in before.items() if tail(key) == tail(name))
    )


def test_a_checkpoint_without_its_mark_is_not_resumed_from(tmp_path):
    for step, whole in ((10, True), (20, True), (30, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / WHOLE).touch()
    assert last_checkpoint(tmp_path).name == "checkpoint-20"
    assert not (tmp_path / "checkpoint-30").exists()


@pytest.mark.slow
def test_an_interrupted_training_resumes_and_ends_with_the_same_weights(folder, straight, tmp_path):
    for part in ("bootstrap", "images"):
        shutil.copytree(folder / part, tmp_path / "cut" / part)
    steps = []

    def stop_after_two(done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(tiny_config(), tmp_path / "cut", stop_after_two)
    resumed_at = int(last_checkpoint(tmp_path / "cut" / "sft").name.rpartition("-")[2])
    fine_tune(tiny_config(), tmp_path / "cut", lambda done, total: steps.append(done))
    assert resumed_at >= 1 and steps[2] == resumed_at + 1
    wanted, resumed = weights_of(straight), weights_of(tmp_path / "cut")
    assert all(torch.allclose(wanted[name], resumed[name], atol=1e-6) for name in wanted)


@pytest.mark.slow
def test_the_loss_does_not_depend_on_the_micro_batch(folder, tmp_path):
    """The mean over the step's target tokens: a dialogue of two turns weighs less than one of ten."""
    seen = {}
    for micro in (1, 2, 4):
        sft = tiny_config().bootstrap.sft.model_dump() | {"micro_batch_size": micro, "max_steps": 1}
        run_in(folder, tmp_path / str(micro), bootstrap={"sft": sft})
        state = tmp_path / str(micro) / "sft" / "checkpoint-1" / "trainer_state.json"
        (step,) = (row for row in json.loads(state.read_text())["log_history"] if "grad_norm" in row)
        seen[micro] = step["loss"], step["grad_norm"]
    lengths = [len(dialogue.turns) for dialogue in read_dialogues(folder / "bootstrap" / "kept.jsonl")]
    assert len(set(lengths)) > 1, "dialogues of one length would hide the difference"
    assert seen[2] == pytest.approx(seen[1], rel=1e-5)
    assert seen[4] == pytest.approx(seen[1], rel=1e-5)
