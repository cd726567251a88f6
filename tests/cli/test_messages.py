"""Mistakes that a user can make: each ends in one line that says what, where and what to do, with exit code
2, and changes no file."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from display import complaint, safer_steer
from photographs import bomb
from places import ROOT
from safer_steer.config import Config
from safer_steer.config.file import dump_config
from safer_steer.sandbox.world import draw_png, training_devices

NOBODY = "http://127.0.0.1:9/v1"
"""The discard port, at which nothing listens."""
OUT = "config.yaml --out out"
BENCH = "bench --model org/model --out out --judge-model sandbox"
SERVED = f"{BENCH} --base-url {NOBODY} --suite"
INIT = "init new --from-folder"

Row = tuple[str, str, str]
"""A command, the text of its config.yaml, and a part of what it says."""
COMMANDS: list[Row] = [
    # Options
    (
        "bench --out out",
        "",
        "either CONFIG, for the models of a run, or --model, for those behind endpoints, or",
    ),
    ("bench --model m --out out", "", "--model needs --base-url too"),
    (f"{SERVED} good.jsonl --no-judge", "", "--no-judge and --judge-model are both given; give one of them"),
    (
        f"{SERVED} good.jsonl --set roles.target.max_tokens=0",
        "",
        "bench: roles.target.max_tokens: must be at least 1, not 0",
    ),
    (
        f"{SERVED} good.jsonl --set roles.*.timeout_s=0",
        "",
        "bench: roles.target.timeout_s: must be more than 0.0, not 0",
    ),
    (f"{SERVED} good.jsonl --set bench.dialogues=0", "", "bench: bench.dialogues: must be at least 1, not 0"),
    (f"{SERVED} good.jsonl --set bench.adaptive.tries=2", "", "bench.adaptive needs --attacker-model too"),
    (f"run {OUT} --set rl.alpha", "seed: 1", "--set rl.alpha: give KEY=VALUE, for instance bench.dialogues="),
    (f"run {OUT} --set rl.alhpa=1", "seed: 1", "--set: rl.alhpa: unknown key; did you mean `alpha`?"),
    (f"run {OUT} --set rl.alpha=2", "seed: 1", "--set: rl.alpha: must be at most 1.0, not 2"),
    (f"run {OUT} --set seed.x=1", "seed: 1", "--set: seed.x: seed is no section of the config"),
    (f"run {OUT} --set 'rl={{alpha: 1}}'", "seed: 1", "--set: rl is a section of the config; write rl.alpha"),
    (f"run {OUT} --set seeds.scripts=no.jsonl", "seed: 1", "no.jsonl: no such file"),
    ("check config.yaml --stage sedes", "seed: 1", "check: no stage is called sedes; give one of seeds, "),
    ("cost config.yaml --set rl.step=1", "seed: 1", "--set: rl.step: unknown key; did you mean `steps`?"),
    ("cost .", "seed: 1", "is a folder; give its config: "),
    ("cost cost", "", "no such config file; `safer-steer init DIR` writes one"),
    ("health empty", "", "no config.yaml in it"),
    ("chat empty", "", "no run in it; give the folder of"),
    ("chat mine", "", "no run in it; give the folder of"),
    ("export empty", "", "no run in it (no config.yaml); give the folder of a run"),
    ("cross-play .", "seed: 1", "rl.algorithm is grpo; give a run with co-training"),
    (
        f"bootstrap {OUT}",
        "seed: 1",
        "no run in it (no config.yaml); give a run's, or begin with `seeds`",
    ),
    ("export empty --which sft", "", "--which needs --model DIR"),
    (f"report {ROOT}/docs/results --out empty", "", "empty: "),
    (f"report {ROOT}/docs/results --out file/page.html", "", "file"),
    # A suite and the roles
    (f"{SERVED} lost.jsonl", "", "lost.jsonl: a: no picture none.png; paths are relative to"),
    (f"{SERVED} damaged.jsonl", "", "damaged.png: not a readable PNG, JPEG or WebP picture"),
    (f"{SERVED} bomb.jsonl", "", "13300 x 13300 is larger than 175,000,000"),
    (f"{SERVED} outside.jsonl", "", "outside.jsonl: a: ../a.png: leads out of"),
    (f"{SERVED} turnless.jsonl", "", "turnless.jsonl:1: turns: "),
    (f"{SERVED} file", "", "file: no rows in it"),
    (f"{SERVED} none.jsonl", "", "none.jsonl: no such file"),
    (f"{SERVED} empty", "", ": is a folder; give a JSONL file"),
    (
        f"{SERVED} filtered.jsonl",
        "",
        "filtered.jsonl: a was kept because it broke Org/Model, so Org/Model cannot be",
    ),
    (f"{SERVED} good.jsonl", "", f"roles.target: cannot reach {NOBODY}"),
    (f"{SERVED} good.jsonl --api-key-env NO_SUCH_KEY", "", "environment variable NO_SUCH_KEY"),
    (
        f"{BENCH} --base-url localhost --suite good.jsonl",
        "",
        "roles.target: base_url of model org/model is 'localhost'",
    ),
    (
        f"{BENCH} --base-url {NOBODY}/chat/completions --suite good.jsonl",
        "",
        f"is '{NOBODY}/chat/completions'; give the server's address, for instance http://localhost:8000/v1",
    ),
    (
        f"{BENCH} --base-url {NOBODY}#v1 --suite good.jsonl",
        "",
        "#v1'; give the server's address",
    ),
    (
        f"{BENCH} --base-url {NOBODY}?key=secretkey --suite good.jsonl",
        "",
        "roles.target: base_url of model org/model holds a password, or a query after a question mark; leave",
    ),
    # A run
    (f"run {OUT}", "sede: 1", "config.yaml: sede: unknown key; did you mean `seed`?"),
    (
        f"run {OUT}",
        "rl: {seeds: 8}",
        "rl.prompts_per_step: 64 seeds a step, but rl.seeds is 8; change one of them",
    ),
    (f"run {OUT}", "student: {model: ./nothing}", "nothing: no such folder"),
    (f"run {OUT}", "rl: {tutor: 'no_such_module:Tutor'}", "rl.tutor: no_such_module:Tutor: No module named"),
    (f"run {OUT} --stub", "report_to: wandb", "error: report_to: wandb needs its package: pip install wandb"),
    (f"run {OUT}", "seeds: {sources: [{name: own, path: none.jsonl}]}", "none.jsonl: no such file"),
    (
        f"run {OUT}",
        "seeds: {sources: [{name: own, path: pairs.jsonl}]}",
        "roles.generator: the sandbox's agent knows only the sandbox's pictures",
    ),
    (
        f"run {OUT} --dry-run --processes 3",
        "seed: 1",
        "bootstrap.sft.micro_batch_size: a step of 16 cannot be split into micro-batches of 1 on 3 process",
    ),
    (
        f"run {OUT}",
        "bootstrap: {sft: {batch_size: 6, micro_batch_size: 4}}",
        "bootstrap.sft.micro_batch_size: a step of 6 cannot be split into micro-batches of 4 on 1 process",
    ),
    (
        f"run {OUT}",
        "rl: {group_size: 5, prompts_per_step: 8, micro_batch_size: 30}",
        "rl.micro_batch_size: a step of 40 cannot be split into micro-batches of 30 on 1 process",
    ),
    ("seeds config.yaml --out home --fresh", "seed: 1", "home: has files but is not a run"),
    ("seeds config.yaml --out file", "seed: 1", "is a file; give a folder"),
    ("seeds mine/config.yaml --stub --out mine", "", "mine: has files but is not a run"),
    ("seeds mine/config.yaml --stub --out mine --fresh", "", "choose an empty or new folder"),
    (
        "bootstrap begun/config.yaml --out begun",
        "",
        "needs `seeds`, which is not finished; run `safer-steer seeds`",
    ),
    # A folder of one's own
    ("init mine", "", "mine: is not empty; give a new or empty folder"),
    ("init file", "", "is a file"),
    ("init /proc/x", "", "error: /proc/x: No such file or directory; fix that and run the same command"),
    (f"report {ROOT}/docs/results --out /proc/x.html", "", "/proc/x.html.part: No such file or directory"),
    (f"{INIT} none", "", "no such folder; give the folder with your pictures and CSV file"),
    (f"{INIT} empty", "", "give a folder with one CSV file; there is none"),
    (f"{INIT} own/few", "", "pairs.csv: 3 rows with 3 different pictures; give at least 4"),
    (
        f"{INIT} own/alike",
        "",
        "own/alike/pairs.csv: 12 rows with 3 different pictures; give at least 4 pictures, since one in 4",
    ),
    (f"{INIT} own/column", "", "pairs.csv: row 1: colour: "),
    (f"{INIT} own/lost", "", "own/lost/2.png: no such picture"),
    (
        f"{INIT} own/semicolons",
        "",
        "pairs.csv: header: columns are separated by semicolons; separate them by commas",
    ),
    (f"{INIT} own/utf16", "", "pairs.csv: header: not UTF-8; save the file as CSV in UTF-8"),
]
CONFIGS: list[tuple[str, str]] = [
    ("extends: a.yaml", "extends: unknown key; did you mean `base`?"),
    ("xyz: 1", "xyz: unknown key; `safer-steer config` lists the keys"),
    ("rl: {alhpa: 0.3}", "rl.alhpa: unknown key; did you mean `alpha`?"),
    ("seeds: {sources: [{name: a, pth: b}]}", "seeds.sources.0.pth: unknown key; did you mean `path`?"),
    ("bootstrap: {sft: {epoch: 1}}", "bootstrap.sft.epoch: unknown key; did you mean `epochs`?"),
    ("roles: {judge: {modle: x}}", "roles.judge.modle: unknown key; did you mean `model`?"),
    ("rl: {alpha: 1.5}", "rl.alpha: must be at most 1.0, not 1.5"),
    ("rl: {group_size: 1}", "rl.group_size: must be at least 2, not 1"),
    ("rl: {learning_rate: 0}", "rl.learning_rate: must be more than 0"),
    ("seed: many", "seed: must be a whole number, not 'many'"),
    ("rl: {alpha: much}", "rl.alpha: must be a number, not 'much'"),
    ("rl: {single_turn: maybe}", "rl.single_turn: must be true or false, not 'maybe'"),
    ("name: 3", "name: must be text, not 3; put it in quotes"),
    ("rl: 3", "rl: must be a section of keys, not 3"),
    ("seeds: {sources: mine}", "seeds.sources: must be a list, not 'mine'"),
    ("rl: {loss: gspo}", "rl.loss: must be 'dr_grpo', 'grpo' or 'dapo', not 'gspo'"),
    ("report_to: mlflow", "report_to.0: must be 'tensorboard', 'wandb' or 'trackio', not 'mlflow'"),
    ("limit: 0", "limit: must be at least 1, not 0"),
    ("rl: {steps: 0}", "rl.steps: must be at least 1, or -1 for what the data give, not 0"),
    ("bootstrap: {sft: {max_steps: -5}}", "bootstrap.sft.max_steps: must be at least 1, or -1 for what"),
    ("rl: {weights: [0.5, 0.5, 0.5]}", "rl.weights: [0.5, 0.5, 0.5] are no shares"),
    ("rl: {weights: [1.2, -0.4, 0.2]}", "rl.weights: [1.2, -0.4, 0.2] are no shares"),
    ("rl: {tutor: my_tutor}", "rl.tutor: 'my_tutor' is not of the form package.module:Name"),
    ("seeds: {min_turns: 6, max_turns: 4}", "seeds: min_turns is 6 and max_turns 4; "),
    (
        "seeds: {filter_bench: true}\nroles: {target: {model: student}}",
        "seeds.filter_bench: roles.target is the base student, which the bench measures",
    ),
    (
        "seeds: {filter_bench: true}\nstudent: {model: models/Org-VL}\n"
        "roles: {target: {model: org/org-vl, base_url: 'http://x/v1'}}",
        "seeds.filter_bench: roles.target is org/org-vl, which the bench measures",
    ),
    ("roles: {judge: {model: student}}", "roles: judge cannot be `student`"),
    ("roles: {jugde: {}}", "roles.jugde: unknown key; did you mean `judge`?"),
    ("bench: {suites: []}", "bench.suites: needs at least 1 entry"),
    ("bench: {models: [bse]}", "bench.models.0: must be "),
    ("student: {format: xml}", "student.format: must be "),
    ("- a list", "must be a section of keys, not ['a list']"),
    ("a: [1", "config.yaml: no valid YAML: line 1, column 6: cannot be read; close brackets and quotes"),
    ("rl: {alpha: 0.3\nseed: 1", "YAML: line 2, column 5, in what begins in line 1: cannot be read; close"),
    ("seed: 1\nname: a: b", "no valid YAML: line 2, column 8: cannot be read; close brackets and quotes, i"),
    ("name: 2026-13-45", "no valid YAML: month must be in 1..12; put that value in quotes"),
    (
        "seed: 1\nbench:\n  dialogues: 5\n  dialogues: 6",
        "no valid YAML: dialogues occurs twice, in lines 3 and 4",
    ),
    (
        "bench: {dialogues: 5}\nseed: 1\nbench: {temperature: 0}",
        "bench occurs twice, in lines 1 and 3; keep one",
    ),
    ("roles: {red: {pictures: maybe}}", "roles.red.pictures: must be true, false or caption, not 'maybe'"),
    *(
        (text, "is empty; `safer-steer init DIR` writes a config")
        for text in ("", "# a comment", "{}", "---")
    ),
    ("base: gone.yaml", "gone.yaml: no such config file"),
    ("base: [1]", "base: must be a file or a list of files, not 1"),
    ("base: 1", "base: must be a file or a list of files, not 1"),
    ("base: {seed.yaml: 1}", "base: must be a file or a list of files, not {'seed.yaml': 1}"),
    ("rl: {weights: [.nan, 0.5, 0.5]}", "rl.weights.0: must be a finite number, not nan"),
    ("seeds: {noise_sigma: .inf}", "seeds.noise_sigma: must be a finite number, not inf"),
    ("spending_limit: 1e999", "spending_limit: must be a finite number, not '1e999'"),
    (f"name: {'[' * 2000}", "no valid YAML: maximum recursion depth exceeded"),
    ("base: circle.yaml", "config.yaml begins from this file in turn"),
    ("base: config.yaml", "config.yaml begins from this file in turn"),
    ("base: typo.yaml", "typo.yaml: rl.bta: unknown key"),
    ("base: seed.yaml\nrl: {beta: -1}", "config.yaml: rl.beta: must be at least 0"),
]
ROWS = [*COMMANDS, *((f"seeds {OUT}", text, line) for text, line in CONFIGS)]


@pytest.mark.parametrize("key", ["sk-abcdefgh", "hf_abcdefgh"])
@pytest.mark.parametrize(
    "section",
    [
        "roles: {{judge: {{model: m, base_url: 'http://x/v1', api_key_env: {}}}}}",
        "rl: {{rollouts: {{api_key_env: {}}}}}",
        "bench: {{targets: [{{model: m, api_key_env: {}}}]}}",
    ],
)
def test_a_key_in_place_of_its_variable_is_refused_and_not_shown(
    tmp_path: Path, section: str, key: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(section.format(key))
    said = complaint(safer_steer("seeds", path, "--out", tmp_path / "out"))
    assert "api_key_env: is no name of an environment variable; put the key into one" in said
    assert key not in said


def own_folder(folder: Path, count: int, pictures: int = 12, **more: str) -> Path:
    """Pictures, and a CSV file with a row for each pair."""
    folder.mkdir(parents=True)
    rows = []
    for index in range(count):
        Image.new("RGB", (40, 40), (index % pictures * 20, 60, 90)).save(folder / f"{index}.png")
        rows.append({"image": f"{index}.png", "question": f"What is number {index}?"} | more)
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the rows name."""
    folder = tmp_path_factory.mktemp("scene")
    script: dict[str, Any] = {
        "id": "a",
        "kind": "red_team",
        "images": ["a.png"],
        "turns": [{"user": "hello"}],
    }
    suites: dict[str, dict[str, Any]] = {
        "good": {},
        "lost": {"images": ["none.png"]},
        "damaged": {"images": ["damaged.png"]},
        "bomb": {"images": ["bomb.png"]},
        "outside": {"images": ["../a.png"]},
        "turnless": {"turns": []},
        "filtered": {"meta": {"filtered_against": "Org/Model"}},
    }
    for name, changes in suites.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(script | changes) + "\n")
    (folder / "a.png").write_bytes(draw_png(training_devices()[0], True, 0))
    (folder / "damaged.png").write_bytes(b"no picture")
    (folder / "bomb.png").write_bytes(bomb(13_300))
    Image.new("RGB", (84, 84)).save(folder / "foreign.png")
    (folder / "pairs.jsonl").write_text('{"id": "a", "image": "foreign.png", "question": "what?"}\n')
    for name in ("empty", "home/seeds", "begun"):
        (folder / name).mkdir(parents=True)
    (folder / "home/seeds/tomato.txt").write_text("mine")
    (folder / "begun/config.yaml").write_text(dump_config(Config()))
    (folder / "file").touch()
    (folder / "circle.yaml").write_text("base: config.yaml")
    (folder / "typo.yaml").write_text("rl: {bta: 1}")
    (folder / "seed.yaml").write_text("seed: 1")
    assert safer_steer("init", folder / "mine").exit_code == 0
    own_folder(folder / "own/few", 3)
    own_folder(folder / "own/alike", 12, pictures=3)
    own_folder(folder / "own/column", 4, colour="red")
    (own_folder(folder / "own/lost", 4) / "2.png").unlink()
    text = (own_folder(folder / "own/semicolons", 4) / "pairs.csv").read_text()
    (folder / "own/semicolons/pairs.csv").write_text(text.replace(",", ";"))
    (own_folder(folder / "own/utf16", 4) / "pairs.csv").write_text(text, encoding="utf-16")
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.slow
@pytest.mark.parametrize(("command", "config", "line"), ROWS, ids=[f"{row[0]} {row[1]}"[:90] for row in ROWS])
def test_a_mistake_ends_in_one_line_and_changes_no_file(
    scene: Path, monkeypatch: pytest.MonkeyPatch, command: str, config: str, line: str
) -> None:
    monkeypatch.chdir(scene)
    (scene / "config.yaml").write_text(config)
    before = contents(scene)
    assert line in complaint(safer_steer(*shlex.split(command)))
    assert contents(scene) == before
    assert not (scene / "out").exists() and not (scene / "new").exists()
