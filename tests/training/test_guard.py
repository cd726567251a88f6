"""The guard in RL: blindness, another engine and stale weights stop the run with one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from broken import SOME, Blind, Deaf, Verbose, unseeing
from family_run import Scoring, config_of, write_seeds
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Kind, Turn
from safer_steer.errors import UserError
from safer_steer.student.load import load_student
from safer_steer.student.policy import Completion, PolicyOf, SampledStudent, Sampling, cut_at_its_end
from safer_steer.student.renderer import Renderer
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import TransformersPolicy, in_process
from safer_steer.training import grpo, refusals
from safer_steer.training.rollouts import Rollouts

GIVEN_OTHERWISE = ["qwen2_5_vl", "gemma3", "smolvlm", "lfm2_vl", "internvl", "mistral3", "gemma4"]
"""One family for each way in which TRL hands pictures on: by grids, one a row, a row a dialogue, by shapes,
by tiles, by sizes, by positions."""


def run(
    family: str,
    folder: Path,
    *pictures: int,
    steps: int = 1,
    every: int = 1,
    policy_of: PolicyOf = in_process,
) -> list[dict[str, Any]]:
    """The numbers of each step of a run whose seeds have so many pictures each."""
    write_seeds(folder, *pictures)
    config = config_of(family, folder)
    config.rl.steps, config.student.check_every = steps, every
    train(config, folder, policy_of)
    return [json.loads(row) for row in (folder / "rl/metrics.jsonl").read_text().splitlines()]


def train(config: Config, folder: Path, policy_of: PolicyOf = in_process) -> None:
    grpo.reinforce(
        config, folder, Scoring(), value=lambda dialogue: float(dialogue.id[-1]), policy_of=policy_of
    )


def test_it_looks_at_the_first_step_and_every_so_many(tmp_path: Path) -> None:
    rows = run("qwen2_5_vl", tmp_path, 1, 2, steps=3, every=2)
    assert [row.get("checks", {}).get("dialogues") for row in rows] == [4, None, 4]


def test_dialogues_without_pictures_pass_and_are_counted(tmp_path: Path) -> None:
    [row] = run("qwen2_5_vl", tmp_path, 0, 0)
    checks = row["checks"]
    assert (checks["dialogues"], checks["with_pictures"], checks["rendered_again"]) == (4, 0, 4)
    assert (checks["blank_shift"], checks["picture_tokens"], checks["picture_features"]) == (None, 0, 0)
    assert checks["engine_gap"] < 1e-5


@pytest.mark.slow
def test_the_checks_leave_training_as_it_is(tmp_path: Path) -> None:
    weights = []
    for name, every in (("checked", 1), ("unchecked", 0)):
        rows = run("qwen2_5_vl", tmp_path / name, 1, 2, steps=2, every=every)
        assert all(("checks" in row) is (every == 1) for row in rows)
        weights.append(load_file(tmp_path / name / "rl/model/model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


Sabotage = Callable[[pytest.MonkeyPatch], None]


def lose_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the trainer's side: the ids keep their picture tokens, and the loss falls."""
    prompts = grpo.prompts_of
    monkeypatch.setattr(grpo, "prompts_of", lambda *args: prompts(*args).map(lambda row: {"images": []}))


def breaking(kind: type[Renderer]) -> Sabotage:
    """The renderer breaks after it was proved."""

    def sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
        whole = grpo.renderer_of

        def renderer_of(*args: Any) -> Renderer:
            renderer = whole(*args)
            renderer.__class__ = kind
            return renderer

        monkeypatch.setattr(grpo, "renderer_of", renderer_of)

    return sabotage


def cut_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Rollouts.__call__

    def cut(self: Rollouts, *args: Any) -> dict[str, Any]:
        played = play(self, *args)
        for name in ("completion_ids", "logprobs", "env_mask"):
            played[name] = [row[:-3] for row in played[name]]
        return played

    monkeypatch.setattr(Rollouts, "__call__", cut)


LOST = r"picture tokens: the ids of dialogue 00000-\d{4} have \d+, but 0 positions"
SABOTAGE: list[tuple[str, Sabotage, str]] = [
    *((family, lose_images, LOST) for family in GIVEN_OTHERWISE),
    # The student answers blind, and the trainer sees.
    *(
        (family, breaking(Blind), "engine: .* the engine gets its pictures at other positions")
        for family in SOME
    ),
    ("qwen2_5_vl", breaking(Deaf), "picture tokens: "),
    ("smolvlm", breaking(Deaf), "picture tokens: "),
    (
        "qwen2_5_vl",
        breaking(Verbose),
        r"template: the chat template renders dialogue 00000-\d{4} otherwise than it",
    ),
    ("qwen2_5_vl", cut_ids, "ids: the trainer feeds ids that belong to no dialogue"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "sabotage", "complaint"), SABOTAGE)
def test_a_dialogue_that_is_not_seen_as_it_is_shown(
    family: str, sabotage: Sabotage, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    with pytest.raises(UserError, match=f"^rl: step 1: {complaint}") as stopped:
        run(family, tmp_path, 1, 2)
    assert "\n" not in str(stopped.value) and not (tmp_path / "rl/model").exists()


class Elsewhere:
    """Samples for ids in which the pictures stand a token later than in the transcript's."""

    def __init__(self, student: SampledStudent) -> None:
        self.policy, self.token = in_process(student), student.model.config.image_token_id

    async def reply(self, transcript: Transcript, key: str) -> Completion:
        ids = transcript.ids
        start = ids.index(self.token)
        end = next(place for place in range(start, len(ids)) if ids[place] != self.token)
        order = [*range(start), end, *range(start, end), *range(end + 1, len(ids))]
        moved = transcript.copy()
        moved.ids = [ids[place] for place in order]
        for name, row in transcript.aligned.items():
            filled = row + [0] * (len(ids) - len(row))
            moved.aligned[name] = [filled[place] for place in order]
        return await self.policy.reply(moved, key)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_an_engine_whose_picture_tokens_stand_elsewhere(family: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"^rl: step 1: engine: its log-probabilities of dialogue 00000-\d{4} differ from the trainer's"
        r" by 0\.[\d]+ on average \(at most 0.0001 in float32; blanking its pictures shifts them by 0\.\d+\):"
        r" the engine gets its pictures at other positions.*, or choose another student\.model if this one"
        r" does not ignore padding; ",
    ):
        run(family, tmp_path, 1, 2, policy_of=Elsewhere)


def stale(student: SampledStudent) -> TransformersPolicy:
    """An engine that keeps the weights with which the training began."""
    return in_process(replace(student, model=load_student(student.settings, Path(student.saved)).model))


def test_weights_that_were_not_synchronised(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^rl: step 2: engine: .* the engine's weights are not those of this step"
    ):
        run("qwen2_5_vl", tmp_path, 1, 2, steps=2, policy_of=stale)
    assert not list((tmp_path / "rl/rollouts").iterdir()), "what it sampled is not trained on later"


@pytest.mark.slow
def test_trajectories_from_the_journal_are_not_held_against_the_engine(tmp_path: Path) -> None:
    """A step is repeated after a kill; meanwhile the learning rate was raised, say."""
    write_seeds(tmp_path, 1, 2)
    config = config_of("qwen2_5_vl", tmp_path)
    config.rl.steps, config.student.check_every = 2, 1

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grpo.reinforce(config, tmp_path, Scoring(), stop, lambda dialogue: float(dialogue.id[-1]))
    journal = tmp_path / "rl/rollouts/00000-000.jsonl"
    rows = [json.loads(row) for row in journal.read_text().splitlines()]
    journal.write_text(
        "".join(json.dumps(row | {"logprobs": [-9.0] * len(row["logprobs"])}) + "\n" for row in rows)
    )
    train(config, tmp_path)
    first, second = [
        json.loads(row)["checks"] for row in (tmp_path / "rl/metrics.jsonl").read_text().splitlines()
    ]
    assert first["engine_gap"] is None and second["engine_gap"] < 1e-5


def test_a_base_that_has_not_learned_to_see(tmp_path: Path) -> None:
    """Its projector is zero, so that the pictures reach the model and say nothing."""
    write_seeds(tmp_path, 1, 2)
    config = config_of("qwen2_5_vl", tmp_path)
    unseeing("qwen2_5_vl", tmp_path / "base")
    with pytest.raises(
        UserError,
        match=r"^rl: step 1: blank pictures: .* by 0 in 4 dialogue.* but this model ignores pictures",
    ):
        train(config, tmp_path)


def opening_with(token: str) -> PolicyOf:
    """A student that opens every answer with this token, as a model does that was trained to reason."""

    class Reasoning(TransformersPolicy):
        async def reply(self, transcript: Transcript, key: str) -> Completion:
            renderer = transcript.renderer
            opening = renderer.tokenizer.convert_tokens_to_ids(token)
            assert opening != renderer.tokenizer.unk_token_id
            return cut_at_its_end([opening, *renderer.plain("Is it red?")], [-0.1] * 20, renderer)

    return lambda student: Reasoning(student.model, Sampling(student.settings.max_turn_tokens))


SILENT = [("gemma4", "<|channel>"), ("mistral3", "[THINK]")]


@pytest.mark.parametrize(("family", "token"), SILENT)
def test_a_student_whose_answers_end_at_once(family: str, token: str, tmp_path: Path) -> None:
    """Every answer is empty, the loss is 0, and nothing else shows it."""
    with pytest.raises(
        UserError,
        match=r"^rl: step 1: of 8 answers 8 are empty and 0 break off .*student\.chat_template: FILE, or",
    ) as stopped:
        run(family, tmp_path, 1, 1, policy_of=opening_with(token))
    assert "\n" not in str(stopped.value) and not (tmp_path / "rl/model").exists()


def test_a_step_in_which_no_dialogue_with_a_picture_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dialogues without an answer show their pictures all the same."""
    monkeypatch.setattr(refusals, "MOST_SILENT", 1.0)
    with pytest.raises(
        UserError, match=r"^rl: step 1: trained tokens: none of the 4 dialogue\(s\) with pictures"
    ):
        run("gemma4", tmp_path, 1, 1, policy_of=opening_with("<|channel>"))


def test_few_silent_answers_stop_nothing() -> None:
    turns = [Turn(user="What?", assistant=said, meta={"finish": "marker"}) for said in ("It is", "")]
    turns += [Turn(user="What?", assistant="Red."), Turn(user="What?", assistant="Red.")]
    dialogue = Dialogue(id="d", kind=Kind.BENIGN, turns=[*turns, Turn(user="Unanswered?")])
    refusals.refuse_silence([dialogue], "step 1")
    dialogue.turns[2].assistant = " "
    with pytest.raises(UserError, match="of 4 answers 2 are empty and 1 break off at a special token"):
        refusals.refuse_silence([dialogue], "step 1")
