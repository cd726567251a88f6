"""The single-turn ablation: it trains on the requests that matter, and on as much of them as the multi-turn
set holds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from display import Quiet
from safer_steer import pipeline
from safer_steer.data.assembly.splits import draw_from_pools, questions
from safer_steer.data.bootstrap.rollout import roll_out
from safer_steer.data.bootstrap.single_turn import in_words, matched
from safer_steer.dialogue import Dialogue, Kind, Seed, Turn, read_dialogues
from safer_steer.errors import UserError
from safer_steer.files.manifest import Manifest, verify
from safer_steer.sandbox.language import understand
from safer_steer.sandbox.world import from_png
from safer_steer.student.load import LoadedStudent
from safer_steer.training.sft import Collator
from seeds_run import Watched, build, config, pool
from student_parts import ask, tiny_config, write_seeds

SETTINGS = {
    "seeds": {"sources": [{"limit": 16}], "min_turns": 2, "max_turns": 3},
    "bootstrap": {"sft": {"batch_size": 4, "micro_batch_size": 4, "max_steps": 1, "single_turn": True}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Stages I and II of the sandbox, with a step of training, and what they said."""
    folder, show = tmp_path_factory.mktemp("single") / "run", Quiet()
    for stage in ("seeds", "bootstrap", "sft"):
        pipeline.run_stage(stage, tiny_config(**SETTINGS), folder, show)
    return folder, show.lines


def harmful(folder: Path, dialogues: list[Dialogue], turns: int) -> int:
    """Dialogues that ask for the procedure of a marked device in one of their first turns."""
    found = 0
    for dialogue in dialogues:
        _, marked = from_png((folder / dialogue.images[0]).read_bytes())
        asked = [understand(turn.user) for turn in dialogue.turns[:turns]]
        found += marked and any(request is None or request.procedural for request in asked)
    return found


def test_the_harmful_requests_are_in_the_single_turn_set(run: tuple[Path, list[str]]) -> None:
    folder, _ = run
    several = read_dialogues(folder / "bootstrap" / "kept.jsonl")
    single = read_dialogues(folder / "bootstrap" / "single_turn" / "kept.jsonl")
    rejected = read_dialogues(folder / "bootstrap" / "single_turn" / "rejected.jsonl")
    risky = [dialogue for dialogue in several if dialogue.kind is not Kind.BENIGN]
    assert harmful(folder, risky, 10) == len(risky) > 5
    assert harmful(folder, several, 1) == 0, "the first turns are harmless by design"
    assert harmful(folder, single, 1) >= 6 and len(single) + len(rejected) == 16
    for dialogue in single:
        assert len(dialogue.turns) == 1 and dialogue.turns[0].user == dialogue.meta["question"]
        assert dialogue.id == f"{dialogue.meta['pair']}-question"
        assert dialogue.intent == "learn how the device is operated"
        assert (dialogue.kind is Kind.BENIGN) is dialogue.meta["question_safe"]
        assert dialogue.turns[0].scores["safety"] >= 8
    pictures = {dialogue.meta["pair"]: dialogue.images for dialogue in several}
    for dialogue in single:
        assert dialogue.images == pictures.get(dialogue.meta["pair"], dialogue.images)


def test_as_many_assistant_tokens_as_in_the_multi_turn_set(
    run: tuple[Path, list[str]], student: LoadedStudent
) -> None:
    folder, said = run
    found = json.loads((folder / "sft" / "single_turn.json").read_text())
    settings = tiny_config(**SETTINGS)

    def tokens(*place: str) -> list[int]:
        dialogues = read_dialogues(folder.joinpath("bootstrap", *place, "kept.jsonl"))
        batches = Collator(dialogues, student.renderer, folder, settings)
        return [int((batches([{"row": row}])["labels"] != -100).sum()) for row in range(len(dialogues))]

    several, single = tokens(), tokens("single_turn")
    assert found["multi_turn"] == {"dialogues": len(several), "assistant_tokens": sum(several)}
    told = found["single_turn"]
    assert abs(told["assistant_tokens"] - sum(several)) <= max(single) / 2
    assert told["distinct"] == len(single) < told["dialogues"]
    assert told["passes"] == round(told["dialogues"] / len(single), 2)
    assert f"sft: {in_words(found)}" in said
    assert any(line.startswith("bootstrap: ") and " single turn kept" in line for line in said)
    stages = Manifest(folder).stages
    made = {f"bootstrap/single_turn/{name}.jsonl" for name in ("journal", "kept", "rejected")}
    assert made <= set(stages["bootstrap"]["files"]) and "sft/single_turn.json" in stages["sft"]["files"]
    assert not verify(folder)


async def test_nobody_rewrites_a_question_and_what_is_played_is_not_played_again(tmp_path: Path) -> None:
    await build(config(8, max_turns=3), tmp_path)
    settings = tiny_config(bootstrap={"sft": {"single_turn": True}})
    draw_from_pools(settings, tmp_path)

    async def calls() -> dict[str, int]:
        watched = {role: Watched() for role in ("red", "blue", "evaluator")}
        seen: list[tuple[int, int, int]] = []

        def asked(role: str):
            model = ask(role)
            model.transport = watched[role]
            return model

        await roll_out(settings, tmp_path, asked, lambda *done: seen.append(done))
        assert seen[-1][0] == seen[-1][1] and len({total for _, total, _ in seen}) == 1
        return {role: len(transport.calls) for role, transport in watched.items()}

    first = await calls()
    assert first["blue"] == first["evaluator"] == first["red"] + 8
    assert await calls() == {"red": 0, "blue": 0, "evaluator": 0}


async def test_a_question_for_each_pair_that_is_played(tmp_path: Path) -> None:
    await build(config(6, max_turns=3), tmp_path)
    scripts = [seed for kind in ("red_team", "benign", "obfuscated") for seed in pool(tmp_path, kind)]
    asked = questions(scripts)
    assert sorted(one.id for one in asked) == sorted({f"{seed.meta['pair']}-question" for seed in scripts})
    intents = {one.intent for one in asked}
    assert intents == {"learn how the device is operated"}, "whichever script of the pair is met first"
    assert questions(scripts[:1])[0].kind is Kind.OBFUSCATED
    assert not any({"strategy", "attack_scores", "attempts"} & set(one.meta) for one in asked)
    assert [one.turns[0].meta for one in asked if one.kind is Kind.BENIGN] == [{"risk": 1}] * 3
    unknown = {"pair": "p", "question": "q?"}
    script = Seed(id="p-benign", kind=Kind.BENIGN, intent="t", turns=[Turn(user="u")], meta=unknown)
    (asked,) = questions([script])
    assert (asked.id, asked.kind, asked.script) == ("p-question", Kind.OBFUSCATED, ["q?"]), "counts as risky"
    assert asked.turns[0].meta == {}


def test_seeds_without_their_question_are_told(tmp_path: Path) -> None:
    write_seeds(tmp_path)
    with pytest.raises(UserError, match="benign-0: its seed does not have its pair's question"):
        asyncio.run(roll_out(tiny_config(bootstrap={"sft": {"single_turn": True}}), tmp_path, ask))
    assert not (tmp_path / "bootstrap").exists()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 2000), st.integers(0, 3))
def test_the_match_is_as_near_as_whole_dialogues_allow(tokens: list[int], wanted: int, seed: int) -> None:
    taken = matched(tokens, wanted, seed)
    off = abs(sum(tokens[index] for index in taken) - wanted)
    assert off <= max(tokens) / 2 or len(taken) == 1
    passes = [taken[begin : begin + len(tokens)] for begin in range(0, len(taken), len(tokens))]
    assert all(one == passes[0][: len(one)] for one in passes) and len(set(passes[0])) == len(passes[0])
    assert taken == matched(tokens, wanted, seed)
