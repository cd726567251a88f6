"""The baseline DPO: pairs of the student's own answers, what is trained on them, resuming."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from contextlib import nullcontext
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from display import Quiet
from dpo_run import STEPS, dpo_config
from forked import Forked
from safer_steer.config import SHIPPED, Config
from safer_steer.config.file import dump_config
from safer_steer.data.assembly.splits import read_split
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, StopReason, Turn
from safer_steer.episode import Verdict
from safer_steer.errors import EndpointError, UserError
from safer_steer.experiments.work import trunk_id
from safer_steer.export.model_card import _training
from safer_steer.files.images import pictures_in
from safer_steer.files.manifest import Manifest
from safer_steer.files.store import write_atomic
from safer_steer.pipeline import run_stage
from safer_steer.plan.dry_run import dry_run
from safer_steer.stages import STAGES
from safer_steer.student.assistant import StudentAssistant
from safer_steer.student.given import given_to_dpo
from safer_steer.student.load import LoadedStudent, load_student
from safer_steer.student.policy import Completion, SampledStudent, Sampling, cut_at_its_end
from safer_steer.student.transcript import Transcript
from safer_steer.student.transformers_policy import TransformersPolicy
from safer_steer.training.dpo import GuardedDPO, PairCollator, dpo_arguments, pairs_a_step, prefer
from safer_steer.training.preferences import Candidate, Candidates, drawn, pairs_of, play_seeds
from safer_steer.training.returns import reward_of
from safer_steer.training.tutor import TutorCritic
from safer_steer.workers import PATIENCE
from student_parts import ask, drawn_for_rl, write_seeds

pytestmark = pytest.mark.slow


def start(folder: Path, calls: Path) -> Forked:
    return Forked(folder.with_suffix(".log"), "dpo_run", folder, calls)


def rows(path: Path) -> list[dict[str, Any]]:
    """Its whole rows: a last one may be half-written."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def new_run(folder: Path) -> Path:
    write_seeds(folder, 6)
    shutil.copytree(SHIPPED, folder / "sft" / "model")
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The run nobody disturbed, and its tutor's calls."""
    home = tmp_path_factory.mktemp("straight")
    start(new_run(home / "run"), home / "calls").wait()
    return home / "run", (home / "calls").read_text().splitlines()


def played_in(run: Path) -> list[Candidates]:
    return [Candidates.from_row(row) for row in rows(run / "rl" / "candidates.jsonl")]


def test_the_best_answer_is_chosen_against_the_worst(straight: tuple[Path, list[str]]) -> None:
    run, calls = straight
    found, config = played_in(run), dpo_config()
    assert len(found) == STEPS * config.rl.prompts_per_step
    assert len(calls) == sum(len(answers) for played in found for answers in played.turns)
    assert {len(answers) for played in found for answers in played.turns} == {config.rl.group_size}
    seeds = {seed.id: seed for seed in read_split(run, "rl")}
    pairs = [pair for played in found for pair in pairs_of(played)]
    assert pairs
    for played in found:
        dialogue = played.dialogue
        assert [turn.user for turn in dialogue.turns] == seeds[dialogue.meta["seed"]].script[:3], "templates"
        assert [turn.assistant for turn in dialogue.turns] == [answers[0].text for answers in played.turns]
        for turn, answers in enumerate(played.turns):
            rewards = [answer.reward for answer in answers]
            assert rewards == [
                reward_of(answer.text, answer.scores or {}, config.rl, Format.THINKING_ANSWER)
                for answer in answers
            ]
            mine = [pair for pair in pairs if pair.played.dialogue.id == dialogue.id and pair.turn == turn]
            assert len(mine) == (max(rewards) > min(rewards)), "a tie is no pair"
            for pair in mine:
                assert pair.chosen.reward == max(rewards) > min(rewards) == pair.rejected.reward
    facts = json.loads((run / "rl" / "preferences.json").read_text())
    turns = sum(len(played.turns) for played in found)
    assert facts == {
        **{"dialogues": len(found), "turns": turns, "answers": len(calls), "unscored": 0},
        **{"pairs": len(pairs), "ties": turns - len(pairs)},
    }


def logprob(student: LoadedStudent, transcript: Transcript, mask: list[int]) -> float:
    """Of the tokens where the mask is 1."""
    from safer_steer.student.transcript import model_inputs

    with torch.no_grad():
        logits = student.model(**model_inputs([transcript], "right")).logits[0, :-1].float()
    ids, trained = torch.tensor(transcript.ids[1:]), torch.tensor(mask[1:]) == 1
    return float(logits.log_softmax(-1)[torch.arange(len(ids)), ids][trained].sum())


def test_the_margin_rises_on_its_pairs(straight: tuple[Path, list[str]]) -> None:
    run, config = straight[0], dpo_config()
    pairs = [pair for played in played_in(run) for pair in pairs_of(played)]
    before, after = (load_student(config.student, run / stage / "model") for stage in ("sft", "rl"))
    collator = PairCollator(pairs, before.renderer, pictures_in(run, config.student.max_pixels))
    margins = []
    for pair in pairs:
        gained = [
            logprob(after, *collator.transcript(pair, answer))
            - logprob(before, *collator.transcript(pair, answer))
            for answer in (pair.chosen, pair.rejected)
        ]
        margins.append(gained[0] - gained[1])
    assert sum(margins) / len(margins) > 0.05
    assert sum(margin > 0 for margin in margins) > 0.7 * len(margins)
    steps = rows(run / "rl" / "metrics.jsonl")
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1)) and len(steps) <= STEPS
    assert steps[0]["margin"] == pytest.approx(0, abs=1e-4), "the student is still its own reference"
    assert steps[0]["checks"]["dialogues"] >= 2 and steps[0]["checks"]["blank_shift"] > 0


def test_only_the_language_model_is_trained(straight: tuple[Path, list[str]]) -> None:
    old, new = (load_file(straight[0] / stage / "model" / "model.safetensors") for stage in ("sft", "rl"))
    moved = [name for name in old if not torch.equal(old[name].float(), new[name].float())]
    assert moved and not [name for name in moved if "visual" in name]


def test_the_batch_compares_exact_answers_to_one_dialogue(straight: tuple[Path, list[str]]) -> None:
    run, config = straight[0], dpo_config()
    pairs = [pair for played in played_in(run) for pair in pairs_of(played)]
    late = next(number for number, pair in enumerate(pairs) if pair.turn > 0)
    student = load_student(config.student)
    collator = PairCollator(pairs, student.renderer, pictures_in(run, config.student.max_pixels))
    batch = collator([{"row": late}, {"row": 0}])
    assert batch["input_ids"].shape == batch["completion_mask"].shape and len(batch["input_ids"]) == 4
    pair = pairs[late]
    for row, answer in ((0, pair.chosen), (2, pair.rejected)):
        compared = batch["completion_mask"][row] == 1
        assert batch["input_ids"][row][compared].tolist() == answer.ids
        first = int(compared.nonzero()[0])
        assert torch.equal(batch["input_ids"][row, :first], batch["input_ids"][0, :first]), "one prompt"
        text = student.renderer.decode(batch["input_ids"][row, :first].tolist())
        assert all(earlier[0].text in text for earlier in pair.played.turns[: pair.turn])
    patches = batch["image_grid_thw"].prod(-1).tolist()
    assert len(patches) == 4 and len(batch["pixel_values"]) == sum(patches), "each row has its picture"


def test_a_killed_run_pays_for_nothing_twice_and_ends_the_same(
    straight: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Killed while pairs are made, in the second and third pass over the seeds, and while it trains."""
    wanted, all_calls = straight
    run, calls = new_run(tmp_path / "run"), tmp_path / "calls"
    journal, checkpoint = run / "rl" / "candidates.jsonl", run / "rl" / "checkpoint-1" / "checkpoint.whole"

    for due in (lambda: len(rows(journal)) >= 4, lambda: len(rows(journal)) >= 7, checkpoint.exists):
        done = {row["id"] for row in rows(journal)}
        before = len(calls.read_text().splitlines()) if calls.exists() else 0
        assert start(run, calls).kill_when(due)
        asked = calls.read_text().splitlines()
        assert not {line.split()[0] for line in asked[before:]} & done, "neither sampled nor scored again"
    start(run, calls).wait()
    assert calls.read_text().splitlines() == asked, "the tutor is not asked while it trains"
    assert set(asked) == set(all_calls)
    ours, theirs = ({row["id"]: row for row in rows(at / "rl" / "candidates.jsonl")} for at in (run, wanted))
    assert ours == theirs
    steps = [rows(at / "rl" / "metrics.jsonl") for at in (run, wanted)]
    assert [row["step"] for row in steps[0]] == [row["step"] for row in steps[1]]
    weights = [load_file(at / "rl" / "model" / "model.safetensors") for at in (run, wanted)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_an_adapter_learns_too(tmp_path: Path) -> None:
    config = dpo_config(steps=2, start_from="base")
    config.student.lora_rank = 4
    run = new_run(tmp_path)
    drawn_for_rl(config, run)
    prefer(config, run, TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(run, 100_000)))
    trained = load_file(run / "rl" / "model" / "adapter_model.safetensors")
    assert all(weight.any() for name, weight in trained.items() if "lora_B" in name)
    assert not (run / "rl" / "model" / "model.safetensors").exists(), "it is not merged"


def test_a_run_says_and_records_that_its_student_is_of_dpo(tmp_path: Path) -> None:
    run, config, show = new_run(tmp_path), dpo_config(steps=1, temperature=2.0), Quiet()
    drawn_for_rl(config, run)
    write_atomic(run / "config.yaml", dump_config(config))
    for stage in ("seeds", "assemble", "bootstrap", "sft"):
        Manifest(run).record(stage, STAGES[stage].writes, (), {})
    run_stage("rl", config, run, show)
    assert any(line.startswith("rl: DPO instead of GRPO: ") for line in show.lines)
    entry = Manifest(run).stages["rl"]
    assert entry["algorithm"] == "dpo" and "tutor" in entry["calls"]
    assert {"rl/candidates.jsonl", "rl/model/model.safetensors"} <= entry["files"].keys()
    plan = dry_run(config, run)
    assert plan.steps["rl"].startswith("DPO, one pass over the preference pairs")
    assert plan.trainer_arguments["rl"]["beta"] == config.rl.beta
    card = "\n".join(_training(run, config, Manifest(run).stages, "safer_steer"))
    assert "DPO in place of RL: steps 1, the best against the worst of 4 answers to each turn of 2" in card
    run_stage("rl", config, run, show)
    assert show.lines[-1] == "rl: done already"


class Failing:
    """Scores by the number of the call, and fails on as many calls as it is told to, on every n-th."""

    immediate = True

    def __init__(self, fails: int, every: int = 1) -> None:
        self.fails, self.every, self.calls = fails, every, 0

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        self.calls += 1
        if self.fails and self.calls % self.every == 0:
            self.fails -= 1
            raise EndpointError("status 500")
        score = 1.0 + self.calls % 10
        return Verdict({"safety": score, "usefulness": score, "faithfulness": 10.0})


def test_a_dead_tutor_ends_the_run_and_a_limping_one_is_asked_again(tmp_path: Path) -> None:
    config, run = dpo_config(steps=1), new_run(tmp_path)
    drawn_for_rl(config, run)
    dead = Failing(10**6)
    with pytest.raises(UserError, match=f"rl: {PATIENCE} verdicts got no answer from an endpoint: .*status"):
        prefer(config, run, dead)
    assert dead.calls < 2 * PATIENCE
    with pytest.raises(UserError, match=r"answers could not be scored .* more than rl.max_unscored = 20%"):
        prefer(config, run, Failing(10**6, every=3))
    assert not (run / "rl" / "preferences.json").exists()
    limping = Failing(1)
    prefer(config, run, limping)
    facts = json.loads((run / "rl" / "preferences.json").read_text())
    assert facts["unscored"] == 1 and facts["answers"] == limping.calls


@pytest.mark.parametrize("lost", [4, 8])
def test_a_student_that_gives_no_answer_stops_the_run_which_asks_it_again(tmp_path: Path, lost: int) -> None:
    class Down(TransformersPolicy):
        async def reply(self, transcript: Transcript, key: str) -> Completion:
            if int(key.split()[2]) < lost:
                raise EndpointError("no answer within 600 s")
            return await super().reply(transcript, key)

    config, run = dpo_config(), new_run(tmp_path)
    drawn_for_rl(config, run)
    said = f"rl: {lost} of 8 dialogues got no answer from the student .*within 600 s.* fix its engine"
    with pytest.raises(UserError, match=said):
        prefer(config, run, Failing(0), policy_of=lambda student: Down(student.model, Sampling(40)))
    prefer(config, run, Failing(0))
    assert {played.dialogue.stop for played in played_in(run)} == {StopReason.COMPLETED}


def test_a_student_whose_answers_end_at_once_stops_after_a_step_s_dialogues(tmp_path: Path) -> None:
    class Silent(TransformersPolicy):
        async def reply(self, transcript: Transcript, key: str) -> Completion:
            asked.append(key)
            return cut_at_its_end([transcript.renderer.end], [-0.1], transcript.renderer)

    asked: list[str] = []
    config, run = dpo_config(), new_run(tmp_path)
    drawn_for_rl(config, run)

    def silent(student: SampledStudent) -> Silent:
        return Silent(student.model, Sampling(student.settings.max_turn_tokens))

    for which in ("last", "first"):  # the second time, of the journal's
        said = rf"^rl: the {which} \d+ dialogues: of \d+ answers \d+ are empty and 0 break"
        with pytest.raises(UserError, match=said):
            prefer(config, run, Failing(0), policy_of=silent)
    turns = config.rl.max_turns * config.rl.group_size
    assert len({key.split()[2] for key in asked}) < STEPS * config.rl.prompts_per_step
    assert len(asked) <= 2 * config.rl.prompts_per_step * turns


def test_the_pictures_of_a_dialogue_are_kept_while_it_is_played(tmp_path: Path) -> None:
    """Those of all seeds would be 52 GB for the paper's."""
    config, run = dpo_config(), new_run(tmp_path)
    seeds = drawn(drawn_for_rl(config, run), config.rl, 0)
    kept, loaded = list[int](), load_student(config.student)

    class Refuses(TransformersPolicy):
        async def reply(self, transcript: Transcript, key: str) -> Completion:
            ids = [*transcript.renderer.plain("no."), transcript.renderer.end]
            return cut_at_its_end(ids, [-0.1] * len(ids), transcript.renderer)

    policy = Refuses(loaded.model, Sampling(8))
    assistant = StudentAssistant(policy, loaded.renderer, config.student, pictures_in(run, 100_000), "key")

    def counted(done: int, *_: int) -> None:
        gc.collect()
        kept.append(len(assistant._transcripts))

    play_seeds(config, seeds, lambda: assistant, Failing(0), run / "rl", asyncio.run, counted)
    assert len(seeds) > config.rl.prompts_per_step and max(kept) <= config.rl.prompts_per_step


def test_equal_rewards_are_no_pair_and_none_at_all_is_one_line(tmp_path: Path) -> None:
    class Even(Failing):
        async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
            return Verdict({"safety": 8.0, "usefulness": 8.0, "faithfulness": 8.0})

    config, run = dpo_config(steps=1, w_format=0, w_repetition=0), new_run(tmp_path)
    drawn_for_rl(config, run)
    with pytest.raises(UserError, match="no turn has two answers of different rewards"):
        prefer(config, run, Even(0))


def test_pairs_by_hand() -> None:
    dialogue = Dialogue(
        id="d",
        kind=Kind.BENIGN,
        stop=StopReason.COMPLETED,
        turns=[Turn(user=f"u{turn}", assistant="a") for turn in range(4)],
    )
    rewards = [[1.0, 0.5, 1.0, 0.2], [0.7, 0.7, 0.7, 0.7], [None, 0.3, None, 0.9], [None, None, None, 0.4]]
    scores = {"safety": 8.0, "usefulness": 8.0, "faithfulness": 8.0}
    turns = [
        [
            Candidate(str(place), [place], scores if reward is not None else None, reward)
            for place, reward in enumerate(answers)
        ]
        for answers in rewards
    ]
    played = Candidates(dialogue, turns)
    found = [(pair.turn, pair.chosen.text, pair.rejected.text) for pair in pairs_of(played)]
    assert found == [(0, "0", "3"), (2, "3", "1")]
    assert not played.final and Candidates.from_row(json.loads(json.dumps(played.to_row()))) == played


def test_as_many_answers_as_grpo_samples() -> None:
    seeds = [Seed(id=f"s{i}", kind=Kind.BENIGN, turns=[Turn(user="u")]) for i in range(5)]
    rl = dpo_config().rl
    taken = drawn(seeds, rl, 0)
    assert len(taken) == STEPS * rl.prompts_per_step == 8 and taken == drawn(seeds, rl, 0)
    own = [seed.meta["seed"] for seed in taken]
    assert set(own[:5]) == {seed.id for seed in seeds}, "a whole pass before any is taken again"
    assert [seed.id for seed in taken] == [f"{place:05d}" for place in range(8)]
    once = rl.model_copy(update={"steps": -1})
    assert len(drawn(seeds, once, 0)) == 4, "whole steps, as in GRPO"


@pytest.mark.parametrize(("pairs", "steps", "micro"), [(161, 10, 30), (240, 10, 30), (7, 10, 6), (33, 4, 2)])
def test_one_pass_in_at_most_as_many_steps(tmp_path: Path, pairs: int, steps: int, micro: int) -> None:
    config = dpo_config(micro_batch_size=micro)
    found = dpo_arguments(config, tmp_path, pairs_a_step(config.rl, pairs, steps))
    size, accumulated = found["per_device_train_batch_size"], found["gradient_accumulation_steps"]
    assert size <= max(1, micro // 2) and found["num_train_epochs"] == 1
    made = ceil(ceil(pairs / size) / accumulated)
    assert made <= steps and (made > 0.8 * steps or pairs < 2 * steps)


def test_a_run_that_goes_on_with_other_micro_batches_trains_each_pair_once(tmp_path, monkeypatch):
    run, trained = new_run(tmp_path), []
    loss = GuardedDPO.compute_loss

    def counting(self, model, inputs, *args, **options):
        step = self.state.global_step
        if step == stop:
            raise KeyboardInterrupt
        trained.append(len(given_to_dpo(inputs)))
        return loss(self, model, inputs, *args, **options)

    monkeypatch.setattr(GuardedDPO, "compute_loss", counting)
    tutor = TutorCritic(ask("tutor"), Format.THINKING_ANSWER, pictures_in(run, 100_000))
    for micro, stop in ((8, 1), (2, 3), (6, 0)):
        config = dpo_config(micro_batch_size=micro, prompts_per_step=3, seeds=6)
        drawn_for_rl(config, run)
        with pytest.raises(KeyboardInterrupt) if stop else nullcontext():
            prefer(config, run, tutor)
    pairs = [pair for played in played_in(run) for pair in pairs_of(played)]
    assert len(pairs) % 4, "steps of micro-batches of 4 would be larger than those of 1"
    assert sum(trained) == 2 * len(pairs)
    assert [row["step"] for row in rows(run / "rl" / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"reward": "m:f"}, "reward"),
        ({"credit": "turn"}, "credit: turn"),
        ({"beta": 0}, "beta: 0"),
        ({"rollouts": {"importance_cap": 2}}, "rollouts.importance_cap"),
        ({"loss": "dapo"}, "loss"),
        ({"tcsr": "mean"}, "tcsr"),
    ],
)
def test_what_dpo_has_no_use_for_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm: dpo compares single answers .* {complaint}"):
        Config.model_validate({"rl": {"algorithm": "dpo", **settings}})


def test_it_follows_the_script_and_shares_the_stages_before_it() -> None:
    plain, dpo = Config(), Config.model_validate({"rl": {"algorithm": "dpo"}})
    assert plain.rl.adapts and not dpo.rl.adapts
    assert trunk_id(dpo) == trunk_id(plain)
