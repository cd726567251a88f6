"""Scripts of one's own in place of Stage I: read and checked, and nobody is asked for any."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from display import Quiet
from safer_steer import pipeline
from safer_steer.cli import app
from safer_steer.config import Config
from safer_steer.config.file import dump_config, load_config
from safer_steer.data.assembly.splits import questions
from safer_steer.dialogue import read_dialogues, read_seeds
from safer_steer.files.images import load_picture
from safer_steer.plan import dry_run
from safer_steer.plan.calls import estimate
from safer_steer.sandbox.suites import write_suites
from safer_steer.sandbox.world import draw_png, training_devices
from safer_steer.stages import STAGES
from safer_steer.student.load import renderer_of
from safer_steer.training.sft import Collator

NOBODY = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
"""At the discard port, where nothing listens."""


def row(id: str, kind: str = "red_team", **keys: Any) -> dict[str, Any]:
    return {"id": id, "kind": kind, "images": ["a.png"], "turns": [{"user": "x"}, {"user": "y"}]} | keys


def scripts(folder: Path, *rows: dict[str, Any]) -> Path:
    Image.new("RGB", (200, 100), "teal").save(folder / "a.png")
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def config_file(folder: Path, **keys: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"seeds": {"scripts": "own.jsonl"}, **keys}))
    return path


def seeds(config: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["seeds", str(config), "--out", str(out), *more])


def test_scripts_are_the_seeds_and_no_role_is_asked_or_needed(tmp_path: Path) -> None:
    told = {"risk": 2, "goal": "g", "safe": False, "in_picture": "z", "prefilled": "p", "mine": [1]}
    played = {"attacker": {"faults": ["refused", "refused"]}, "reason": "r", "finish": "length", "tokens": 9}
    answered = [
        {"user": "x", "assistant": "no", "scores": {"safety": 9}, "meta": told | played},
        {"user": "y"},
    ]
    facts = {"strategy": "fiction", "reasons": ["unsafe"], "error": "endpoint: no", "mine": 1, "pair": None}
    scripts(
        tmp_path, row("a", turns=answered, meta=facts), row("b", "benign"), row("c", "obfuscated", images=[])
    )
    nobody = dict.fromkeys(("generator", "target", "attack_judge"), NOBODY)
    config = config_file(tmp_path, roles=nobody, student={"max_pixels": 5000})
    done = seeds(config, tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "seeds: 1 benign, 1 obfuscated, 1 red team" in done.stderr
    [seed] = read_seeds(tmp_path / "run/seeds/red_team.jsonl")
    assert (seed.id, seed.source, seed.script) == ("a", "own", ["x z", "y"])
    assert [turn.assistant for turn in seed.turns] == [None, None]
    assert seed.turns[0].meta == told and seed.turns[0].scores is None
    assert seed.meta == {"strategy": "fiction", "mine": 1}
    [image] = seed.images
    assert image.startswith("images/") and load_picture(tmp_path / "run", image, 5000).rewritten_from is None
    again = seeds(config, tmp_path / "run")
    assert "seeds: done already" in again.stderr


def test_a_script_for_the_bench_is_no_seed_without_assembly(tmp_path: Path) -> None:
    scripts(tmp_path, row("a"), row("b", meta={"use": "bench"}))
    config = config_file(tmp_path)
    done = seeds(config, tmp_path / "run")
    assert done.exit_code == 2 and "own.jsonl: b is for the bench (`use`); add `assembly: {}`" in done.stderr
    done = seeds(config_file(tmp_path, assembly={}, rl={"seeds": 1}), tmp_path / "run")
    assert done.exit_code == 0, done.output


def test_the_stages_after_it_play_them(tmp_path: Path) -> None:
    made = write_suites(tmp_path, 2, 2)
    rows = [json.loads(line) for path in made["multi_turn"] for line in path.read_text().splitlines()]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    config = load_config(config_file(tmp_path))
    for stage in ("seeds", "bootstrap"):
        pipeline.run_stage(stage, config, tmp_path / "run", Quiet())
    played: list[str] = []
    for name in ("kept", "rejected"):
        played += [one.id for one in read_dialogues(tmp_path / f"run/bootstrap/{name}.jsonl")]
    assert sorted(played) == sorted(one["id"] for one in rows)


def test_a_picture_of_a_later_turn_stays_with_its_turn(tmp_path: Path) -> None:
    """Through Stage I, Stage II and the targets of SFT, and it is counted as any other."""
    scripts(tmp_path)
    for name, number in (("a", 0), ("b", 1)):
        (tmp_path / f"{name}.png").write_bytes(draw_png(training_devices()[number], False, number))
    second = {"user": "where is it kept?", "image": "b.png"}
    turns = [{"user": "what is this device called?"}, second]
    (tmp_path / "own.jsonl").write_text(json.dumps(row("late", "benign", turns=turns)) + "\n")
    config = load_config(config_file(tmp_path))
    counts = estimate(config).stages["bootstrap"]["red", "red"]
    assert (counts.calls, counts.images) == (2, 3), "the first is seen by both calls"
    for stage in ("seeds", "bootstrap"):
        pipeline.run_stage(stage, config, tmp_path / "run", Quiet())
    [seed] = read_seeds(tmp_path / "run/seeds/benign.jsonl")
    played = [*read_dialogues(tmp_path / "run/bootstrap/kept.jsonl")]
    for found in (seed, *played):
        shown = found.images_by_turn()
        for image, name in zip(chain(*shown), ("a.png", "b.png"), strict=True):
            assert (tmp_path / "run" / image).read_bytes() == (tmp_path / name).read_bytes()
    assert len(played) == 1
    renderer = renderer_of(config.student)
    transcript = Collator(played, renderer, tmp_path / "run", config).transcript(played[0])
    assert len(transcript.pictures) == 2
    missing = row("late", turns=[turns[0], {"user": "x", "image": "c"}])
    (tmp_path / "own.jsonl").write_text(json.dumps(missing))
    done = seeds(tmp_path / "config.yaml", tmp_path / "other")
    assert "own.jsonl: late: no picture c; paths are relative to" in done.stderr


def test_an_estimate_and_a_dry_run_count_the_scripts(tmp_path: Path) -> None:
    scripts(tmp_path, *(row(f"a{i}") for i in range(3)), row("b", "benign"))
    config = load_config(config_file(tmp_path, rl={"prompts_per_step": 2}))
    found = estimate(config)
    assert found.pairs == 4
    assert "seeds" not in found.stages and found.stages["bootstrap"]["red", "red"].calls == 8
    assert dry_run._scripts(config) == [f"scripts, {tmp_path / 'own.jsonl'}: 3 red_team, 1 benign"]


def test_a_limit_takes_so_many_of_each_kind(tmp_path: Path) -> None:
    scripts(tmp_path, *(row(f"a{i:02}") for i in range(30)), row("b", "benign"))
    drawn = {}
    for limit in (2, 6):
        run = tmp_path / f"run{limit}"
        assert seeds(config_file(tmp_path), run, "--limit", str(limit)).exit_code == 0
        drawn[limit] = [seed.id for seed in read_seeds(run / "seeds/red_team.jsonl")]
        assert [seed.id for seed in read_seeds(run / "seeds/benign.jsonl")] == ["b"]
    assert [len(ids) for ids in drawn.values()] == [2, 6]
    assert set(drawn[2]) < set(drawn[6]) and drawn[6] == sorted(drawn[6])
    assert drawn[6] != [f"a{i:02}" for i in range(6)], "drawn, not the first ones"


ASKED = {"pair": "p", "question": "what is it?", "original": "../plain.png"}


def test_the_picture_before_the_words_were_drawn_comes_too(tmp_path: Path) -> None:
    """The single-turn ablation asks a script's question with it; without it, Stage II ended in an error."""
    (tmp_path / "plain.png").write_bytes(draw_png(training_devices()[0], True, "plain"))
    drawn = [{"user": "x", "meta": {"in_picture": "w"}}, {"user": "y"}]
    scripts(
        tmp_path,
        row("a", turns=drawn, meta=ASKED | {"original": "plain.png"}),
        row("b", meta=ASKED | {"pair": "q", "original": "gone.png"}),
    )
    config = config_file(tmp_path, rl={"single_turn": True})
    assert seeds(config, tmp_path / "run").exit_code == 0
    first, second = read_seeds(tmp_path / "run/seeds/red_team.jsonl")
    asked = [question.images for question in questions([first, second])]
    assert asked == [[first.meta["original"]], second.images] and first.images == second.images
    shown = load_picture(tmp_path / "run", first.meta["original"], 10**6)
    assert shown.data == (tmp_path / "plain.png").read_bytes() and "original" not in second.meta


@pytest.mark.parametrize(
    ("rows", "keys", "said"),
    [
        ([row("a", images=["b.png"])], {}, "own.jsonl: a: no picture b.png; paths are relative to"),
        (
            [row(f"a{i}", images=["../a.png" if i == 1 else f"{i}.png"]) for i in range(12)],
            {},
            "; a9: no picture 9.png; and 2 more; paths are relative to",
        ),
        ([row("a"), row("a")], {}, "own.jsonl: id 'a' occurs twice"),
        ([row("a", turns=[{"user": str(i)} for i in range(11)])], {}, "own.jsonl:1: a has 11 turns"),
        ([row("a")], {"seeds": {"kinds": ["benign"]}}, "own.jsonl: a is red_team, which seeds.kinds leaves"),
        ([], {}, "own.jsonl: no rows in it"),
        ([row("a")], {"rl": {"single_turn": True}}, "own.jsonl: a: single_turn needs `pair` and `question`"),
        (
            [row("a", meta={"pair": "p", "question": " "})],
            {"rl": {"single_turn": True}},
            "own.jsonl: a: single_turn needs `pair` and `question`",
        ),
        (
            [row("a", turns=[{"user": "x", "meta": {"in_picture": "w"}}], meta=ASKED)],
            {"rl": {"single_turn": True}},
            "own.jsonl: a: single_turn needs the picture without the first turn's words, beside the file",
        ),
        ([row("a", meta={"question": ["x"]})], {}, "own.jsonl: a: meta.question: give a text"),
        (
            [row("a", meta={"question_safe": "no"})],
            {},
            "own.jsonl: a: meta.question_safe: give true or false",
        ),
        (
            [row("a", turns=[{"user": "x"}, {"user": "y", "meta": {"in_picture": 5}}])],
            {},
            "own.jsonl: a: turns.1.meta.in_picture: give a text",
        ),
        (
            [row("a", turns=[{"user": "x", "meta": {"risk": True}}])],
            {},
            "own.jsonl: a: turns.0.meta.risk: give a whole number",
        ),
        ([row("a")], {"seeds": {"sources": [{}]}}, "sources and scripts are both given"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    tmp_path: Path, rows: list[dict[str, Any]], keys: dict[str, Any], said: str
) -> None:
    scripts(tmp_path, *rows)
    own = {"scripts": "own.jsonl"} | keys.get("seeds", {})
    done = seeds(config_file(tmp_path, **keys | {"seeds": own}), tmp_path / "run")
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_written_config_is_read_again(tmp_path: Path) -> None:
    config = Config.model_validate({"seeds": {"scripts": "/own.jsonl"}})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config
    assert STAGES["seeds"].asks(config) == ()
    with pytest.raises(ValidationError, match="sources is empty"):
        Config.model_validate({"seeds": {"sources": []}})
