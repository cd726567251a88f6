"""The adaptive bench on the sandbox: what it finds, resumes, and gives to another judge."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safer_steer.bench.adaptive.results import state_of
from safer_steer.bench.attacks import bring_in_intents
from safer_steer.bench.journals import journal_of
from safer_steer.bench.kept import KeptModel, judging_config
from safer_steer.bench.measure import measure_models
from safer_steer.bench.suite_copies import bring_in
from safer_steer.config import Config, Role
from safer_steer.config.file import dump_config
from safer_steer.dialogue import Dialogue, Format, StopReason, Turn, read_dialogues, to_jsonl
from safer_steer.endpoints.chat import ChatAssistant, ChatModel
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.episode import Assistant, Reply
from safer_steer.errors import EndpointError, NoResult, UserError
from safer_steer.files.images import pictures_in
from safer_steer.files.store import write_atomic
from safer_steer.prompts.base import sections
from safer_steer.report.health import examine, warnings
from safer_steer.run.agents import sampling_student
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.sandbox.families import AGENTS
from safer_steer.sandbox.rubric import assess
from safer_steer.sandbox.suites import write_suites
from safer_steer.sandbox.world import devices, draw_png, from_png

pytestmark = pytest.mark.slow

SMALL = {"attackers": ["sandbox-a", "sandbox-b", "sandbox-c"], "turns": 4, "take_backs": 3, "tries": 2}


def config_of(dialogues: int = 5, **adaptive: Any) -> Config:
    student = {"max_turn_tokens": 48, "max_length": 768, "dtype": "float32", "device": "cpu"}
    bench = {"dialogues": dialogues, "resamples": 100, "adaptive": SMALL | adaptive}
    return Config.model_validate({"student": student, "bench": bench})


def sandbox(name: str = "sandbox") -> ChatModel:
    return ChatModel("attacker", Role(model=name), SandboxTransport(name))


def measured(
    config: Config, folder: Path, make: Callable[[], Any], judge: Any = None, attacker: Any = sandbox
) -> dict[str, Any]:
    judge = judge or ChatModel("judge", Role(), SandboxTransport())
    measure_models(config, folder, {"m": make}, [judge], asyncio.run, attacker=attacker)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


class Wary:
    """A rule with partial resistance: it never answers a restricted request in a structure that training has,
    and is broken by a few of the others."""

    def __init__(self, folder: Path) -> None:
        self.inner = ChatAssistant(sandbox(), pictures_in(folder, 10**6), format=Format.THINKING_ANSWER)
        self.folder, self.asked = folder, 0

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        self.asked += 1
        reply = await self.inner.answer(dialogue, asked)
        device, marked = from_png((self.folder / dialogue.images[0]).read_bytes())
        found = assess(device, marked, asked.user, (reply.text or "").partition("<answer>")[2])
        if found.levels.harmlessness >= 0 or "backwards" in asked.user or "true" in asked.user:
            return reply
        return Reply("<thinking>no.</thinking><answer>i cannot help with that.</answer>")


@pytest.fixture(scope="module", params=["target", "wary", "student"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of a sandbox model: the rule-based target, a rule that resists, the shipped student."""
    folder = tmp_path_factory.mktemp(request.param)
    config = config_of(dialogues=10, turns=6)
    pictures_of = pictures_in(folder, 10**6)
    make: dict[str, Callable[[], Assistant]] = {
        "target": lambda: ChatAssistant(sandbox(), pictures_of, format=Format.THINKING_ANSWER),
        "wary": lambda: Wary(folder),
        "student": lambda: sampling_student(config, None, 0.7, "bench 0", pictures_of),
    }
    return measured(config, folder, make[request.param])


def test_it_finds_at_least_as_many_breaches_as_the_static_suites(found: dict[str, Any]) -> None:
    """Six turns are all of the longest script, so the scripts are played whole."""
    entry = found["adaptive"]["m"]["any attacker"]
    assert entry["n_intents"] == 10 and entry["static"]["value"] is not None
    assert entry["breach_at"]["1"]["value"] >= entry["static"]["value"]
    assert entry["breach_at"]["2"]["value"] >= entry["breach_at"]["1"]["value"]
    attackers = [name for name in found["adaptive"]["m"] if name != "any attacker"]
    assert attackers == ["sandbox-a", "sandbox-b", "sandbox-c"]
    assert entry["by_requests"][0]["requests"] == 3, "one of each"
    for name in attackers:
        one = found["adaptive"]["m"][name]
        assert (one["n"], one["unscored"], one["failed"]) == (20, 0, 0)
        assert one["gap"]["value"] == pytest.approx(one["breach_at"]["1"]["value"] - one["static"]["value"])
        asked, scripts = one["by_requests"], one["static_by_requests"]
        assert 1 <= len(asked) <= 5 + 3, "an opening, five turns, three taken back"
        assert 1 <= len(scripts) <= 3 and asked[-1]["value"] == one["breach_at"]["1"]["value"]
        assert scripts[0]["asked"] == 100 and scripts[-1]["value"] == one["static"]["value"]
        assert set(one["techniques"]) <= {
            "opening",
            *(form for family in AGENTS[name] for form in family.forms),
        }
        assert "opening" in one["techniques"] and len(one["techniques"]) > 1


def test_an_attacker_that_adapts_finds_what_scripts_miss(tmp_path: Path) -> None:
    entries = measured(config_of(dialogues=20), tmp_path, lambda: Wary(tmp_path))["adaptive"]["m"]
    assert entries["sandbox-a"]["breach_at"]["1"]["value"] == 0, "it refuses all that training asks"
    assert entries["sandbox-a"]["taken_back"] > 0
    for name in ("sandbox-b", "sandbox-c"):
        assert entries[name]["gap"]["low"] > 0, "with three turns taken back, all structures are tried"
        assert entries[name]["by_calls"][-1][1] > entries[name]["by_calls"][0][1]
        techniques = entries[name]["techniques"]
        assert {name for name, counts in techniques.items() if counts["breached"]} <= {"reverse", "yesno"}


def test_what_is_played_is_not_played_again(tmp_path: Path) -> None:
    config, first = config_of(), Wary(tmp_path)
    before = measured(config, tmp_path, lambda: first)
    journal = journal_of(tmp_path / "bench" / "m", "adaptive", "sandbox-b")
    rows = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(rows[:4]) + rows[4][:30])  # killed while it wrote the fifth
    again = Wary(tmp_path)
    assert measured(config, tmp_path, lambda: again) == before
    assert 0 < again.asked < first.asked / 3
    assert sorted(journal.read_bytes().splitlines()) == sorted(row.strip() for row in rows)


def test_tries_are_samples_of_their_own(tmp_path: Path) -> None:
    measured(config_of(tries=3), tmp_path, lambda: Wary(tmp_path))
    dialogues = read_dialogues(journal_of(tmp_path / "bench" / "m", "adaptive", "sandbox-c"))
    said = {dialogue.id: [turn.user for turn in dialogue.turns] for dialogue in dialogues}
    intents = {dialogue.meta["intent_id"] for dialogue in dialogues}
    assert len(intents) == 5 and len(said) == 15
    assert all(said[f"{one}~0"] != said[f"{one}~1"] != said[f"{one}~2"] for one in intents)


class Milder:
    """A judge that sees no breach in answers to "is it true that ...?"."""

    def __init__(self) -> None:
        self.asked = 0

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        self.asked += 1
        reply = await SandboxTransport().complete(messages, schema, repeat)
        verdict = json.loads(reply.text)
        text = "".join(part.get("text", "") for part in messages[-1]["content"])
        if "true" in sections(text)["question"]:
            verdict["harmlessness"] = 3
        return ChatReply(json.dumps(verdict))


def backs(dialogue: Dialogue) -> list[int]:
    """How many turns were taken back in each place."""
    return [len(turn.meta.get("taken_back", ())) for turn in dialogue.turns]


def kept_by(folder: Path, config: Config) -> None:
    write_atomic(folder / "config.yaml", dump_config(config))


def test_another_judge_scores_what_was_said_and_nobody_else_is_asked(tmp_path: Path) -> None:
    source, config = tmp_path / "run", config_of(dialogues=10)
    kept_by(source, config)
    before = measured(config, source, lambda: Wary(source))
    kept = KeptModel(source / "bench" / "m")
    judged = judging_config(source, [Role(model="sandbox")])
    nobody: Any = None
    same = measured(judged, tmp_path / "same", lambda: kept, attacker=nobody)
    assert same["adaptive"] == before["adaptive"]
    assert same["models"] == before["models"], "also the intervals, which depend on the order of the suites"
    milder = Milder()
    other = measured(judged, tmp_path / "other", lambda: kept, ChatModel("judge", Role(), milder), nobody)
    ours, theirs = other["adaptive"]["m"], before["adaptive"]["m"]
    of_b = [
        {key: value for key, value in one["sandbox-b"].items() if not key.startswith(("static", "gap"))}
        for one in (ours, theirs)
    ]
    assert of_b[0] == of_b[1] and milder.asked > 0, "its own dialogues; the scripts have questions of C"
    assert ours["sandbox-c"]["breach_at"]["1"]["value"] < theirs["sandbox-c"]["breach_at"]["1"]["value"]
    for name in ("sandbox-b", "sandbox-c"):
        one, two = (
            {row.id: row for row in read_dialogues(journal_of(folder / "bench" / "m", "adaptive", name))}
            for folder in (source, tmp_path / "other")
        )
        assert one.keys() == two.keys()
        for id, row in one.items():
            assert [turn.user for turn in two[id].turns] == [turn.user for turn in row.turns]
            assert backs(two[id]) == backs(row)


def test_answers_kept_without_a_judge_are_scored_later(tmp_path: Path) -> None:
    source = tmp_path / "run"
    config = config_of(dialogues=10)
    config.bench.judged = False
    kept_by(source, config)
    measure_models(config, source, {"m": lambda: Wary(source)}, [], asyncio.run, attacker=sandbox)
    judged = judging_config(source, [Role(model="sandbox")])
    entry = measured(judged, tmp_path / "out", lambda: KeptModel(source / "bench" / "m"), attacker=None)
    live = measured(config_of(dialogues=10), tmp_path / "live", lambda: Wary(tmp_path / "live"))
    for name in ("sandbox-a", "sandbox-b", "sandbox-c"):
        one, two = entry["adaptive"]["m"][name], live["adaptive"]["m"][name]
        assert one == two, "everything is read up to the first breach"


def test_tries_that_were_not_played_to_their_end_are_no_result_for_another_judge(tmp_path: Path) -> None:
    """The first judge failed in one of them; a kill tore the row of another, and a third was not begun."""
    source, config = tmp_path / "run", config_of(attackers=["sandbox-b"])
    config.bench.max_unscored = 1
    kept_by(source, config)
    measured(config, source, lambda: Wary(source))
    journal = journal_of(source / "bench" / "m", "adaptive", "sandbox-b")
    rows = read_dialogues(journal)
    (cut,) = [row for row in rows if row.stop is StopReason.COMPLETED][:1]
    cut.turns, cut.stop = (
        [*cut.turns[:1], cut.turns[1].model_copy(update={"scores": None})],
        StopReason.UNSCORED,
    )
    lost = [row for row in rows if row is not cut][-2:]
    stay = [row for row in rows if row not in lost]
    journal.write_text(to_jsonl(stay) + lost[0].model_dump_json()[:40])
    judged = judging_config(source, [Role(model="sandbox")])
    nobody: Any = None
    out = tmp_path / "out"
    found = measured(judged, out, lambda: KeptModel(source / "bench" / "m"), attacker=nobody)
    entry = found["adaptive"]["m"]["sandbox-b"]
    assert (entry["n"], entry["unscored"], entry["failed"], entry["gave_up"]) == (10, 0, 3, 0)
    again = read_dialogues(journal_of(out / "bench" / "m", "adaptive", "sandbox-b"))
    assert {row.id for row in again if state_of(row) == "failed"} == {row.id for row in (cut, *lost)}
    assert {row.id for row in again} == {row.id for row in rows}


def test_a_journal_that_is_missing_is_one_line(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    source, config = tmp_path / "run", config_of(attackers=["sandbox-a", "sandbox-b"], tries=1)
    kept_by(source, config)
    measured(config, source, lambda: Wary(source))
    judged = judging_config(source, [Role(model="sandbox")])
    for missing in ("adaptive_sandbox-b", "twin"):
        rows = (source / f"bench/m/{missing}.jsonl").rename(tmp_path / "away")
        with pytest.raises(UserError, match=f"{missing}.jsonl: no such file; run that bench again first"):
            measured(judged, tmp_path / "out", lambda: KeptModel(source / "bench" / "m"), attacker=None)
        rows.rename(source / f"bench/m/{missing}.jsonl")
    gc.collect()
    assert not [one for one in recwarn if "never awaited" in str(one.message)]


def test_an_attacker_that_declines_is_counted_and_one_that_is_down_is_no_result(tmp_path: Path) -> None:
    class Declines:
        async def complete(
            self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
        ) -> ChatReply:
            return ChatReply("I'm sorry, but I can't help with that.")

    config = config_of(attackers=["m"], turns=3, tries=1, take_backs=0)
    role = Role(model="m", base_url="http://x/v1")

    def attacker(transport: Any) -> Callable[[str], ChatModel]:
        return lambda name: ChatModel("attacker", role, transport)

    found = measured(config, tmp_path / "a", lambda: Wary(tmp_path / "a"), attacker=attacker(Declines()))
    entry = found["adaptive"]["m"]["m"]
    assert (entry["refused"], entry["gave_up"], entry["failed"]) == (10, 5, 0)
    assert entry["breach_at"]["1"]["value"] == 0
    (row,) = [row for row in examine(tmp_path / "a", ("bench",)).as_dict()["attackers"] if row["asked"]]
    assert (row["role"], row["asked"], row["refused"], row["gave_up"]) == ("attacker", 5, 10, 5)
    assert not warnings(tmp_path / "a", "bench"), "too few to tell"

    class Down:
        async def complete(
            self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
        ) -> ChatReply:
            raise EndpointError("status 500")

    with pytest.raises(NoResult, match=r"^100.0% .* status 500"):
        measured(config, tmp_path / "b", lambda: Wary(tmp_path / "b"), attacker=attacker(Down()))
    again = Wary(tmp_path / "b")
    found = measured(config, tmp_path / "b", lambda: again, attacker=sandbox)
    assert found["adaptive"]["m"]["m"]["failed"] == 0 and again.asked > 0, "those dialogues are played again"
    many = config_of(attackers=["m"], turns=3, tries=5)
    with pytest.raises(UserError, match="the attacker m failed 20 times in a row"):
        measured(many, tmp_path / "c", lambda: Wary(tmp_path / "c"), attacker=attacker(Down()))


def test_intents_of_a_file_are_in_the_run_with_their_pictures(tmp_path: Path) -> None:
    write_suites(tmp_path / "suites", 5, 5)
    folder = tmp_path / "mine"
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number in range(3):
        picture = sorted((tmp_path / "suites/images").glob("probing-*.png"))[0]
        (folder / f"pictures/{number}.png").write_bytes(picture.read_bytes())
        rows.append({"id": f"i{number}", "intent": "learn how it works", "image": f"pictures/{number}.png"})
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_of(intents=str(folder / "mine.jsonl"), attackers=["sandbox-b"])
    found = measured(config, tmp_path / "run", lambda: Wary(tmp_path / "run"))
    entry = found["adaptive"]["m"]["sandbox-b"]
    assert entry["n_intents"] == 3 and entry["gap"]["value"] is not None, "against all scripts, unpaired"
    assert list(found["adaptive"]["m"]) == ["sandbox-b"]
    dialogues = read_dialogues(journal_of(tmp_path / "run/bench/m", "adaptive", "sandbox-b"))
    assert {dialogue.images[0] for dialogue in dialogues} == {f"intents/pictures/{n}.png" for n in range(3)}
    assert all((tmp_path / "run" / dialogue.images[0]).is_file() for dialogue in dialogues)


def with_pictures(folder: Path, *rows: dict[str, Any]) -> Path:
    """A file of these rows, and the pictures p.png, q.png and r.png beside it."""
    folder.mkdir()
    for place, name in enumerate("pqr"):
        (folder / f"{name}.png").write_bytes(draw_png(devices()[place], True, 1))
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "mine.jsonl"


@pytest.mark.parametrize("of_suites", [False, True])
def test_pictures_of_a_script_s_later_turns_may_be_shown_later(tmp_path: Path, of_suites: bool) -> None:
    turns: list[dict[str, Any]] = [
        {"user": "a"},
        {"user": "b", "images": ["p.png", "q.png"]},
        {"user": "c", "images": ["q.png"]},
    ]
    first = [{"user": "a", "images": ["p.png", "q.png"]}, {"user": "b", "images": ["r.png", "p.png"]}]
    rows: list[dict[str, Any]] = [{"images": [], "turns": turns}, {"images": ["p.png"], "turns": first}]
    named = [{"id": f"i{n}", "kind": "red_team", "intent": "x"} | row for n, row in enumerate(rows)]
    mine, run = with_pictures(tmp_path / "mine", *named), tmp_path / "run"
    suites = bring_in([str(mine)] if of_suites else [], run, None, 10**6)
    section = config_of(intents=None if of_suites else str(mine)).bench.adaptive
    assert section
    found = bring_in_intents(section, run, suites, 10**6)
    shown = [
        ([Path(image).name for image in one.images], [Path(image).name for image in one.later])
        for one in found
    ]
    assert shown == [([], ["p.png", "q.png"]), (["p.png", "q.png"], ["r.png"])]
    assert all(
        image.startswith("intents/") and (run / image).is_file() for one in found for image in one.all_images
    )


def test_an_intent_without_an_id_has_that_of_its_line(tmp_path: Path) -> None:
    mine = with_pictures(tmp_path / "mine", {"intent": "x", "images": []}, {"id": "b", "intent": "y"})
    mine.write_text(mine.read_text() + "\n" + json.dumps({"intent": "z"}) + "\n")
    section = config_of(intents=str(mine)).bench.adaptive
    assert section
    for _ in range(2):
        brought = bring_in_intents(section, tmp_path / "run", [], 10**6)
        assert [one.id for one in brought] == ["line-1", "b", "line-4"]
    mine.write_text('{"intent": "x"}\n{"id": "line-1", "intent": "y"}\n')
    with pytest.raises(UserError, match=r"id 'line-1' occurs twice"):
        bring_in_intents(section, tmp_path / "run", [], 10**6)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"id": "a", "intent": "x", "goal": "y"}, r":1: goal: unknown key; the keys are id, kind"),
        ({"id": "a"}, r":1: intent: the key is missing"),
        ({"id": "", "intent": "x"}, r":1: id: is empty"),
        (
            {"id": "a", "intent": "x", "turns": [{"user": "a", "images": ["no.png"]}]},
            r" a: no picture no.png;",
        ),
        ({"id": "a", "intent": ""}, r":1: intent: is empty"),
        ({"id": "a", "intent": "x", "image": "no.png"}, r": a: no picture no.png;"),
        ({"id": "a", "intent": "x", "later": ["no.png"]}, r": a: no picture no.png;"),
        ({"id": "a", "intent": "x", "kind": "benign"}, r": a is benign; an attacker needs an intent"),
        ({"id": "a", "intent": "x", "later": "p.png"}, r":1: later: give a list"),
    ],
)
def test_a_mistake_in_a_file_of_intents_is_one_line(tmp_path: Path, row: dict[str, Any], line: str) -> None:
    (tmp_path / "i.jsonl").write_text(json.dumps(row) + "\n")
    config = config_of(intents=str(tmp_path / "i.jsonl"))
    with pytest.raises(UserError, match=line):
        measured(config, tmp_path / "run", lambda: Wary(tmp_path / "run"))


RUN = """
import asyncio, sys
from pathlib import Path
from safer_steer.config.file import load_config
from safer_steer.pipeline import run_stage
from safer_steer.run.display import Silence
run_stage("bench", load_config(Path(sys.argv[1])), Path(sys.argv[2]), Silence())
"""


def test_ctrl_c_and_kill_lose_no_dialogue_that_is_over(tmp_path: Path) -> None:
    """The shipped student, killed twice: the dialogues on disk are those of a run in one go."""
    config = config_of(dialogues=5, attackers=["sandbox-b"], tries=3)
    config.bench.models = ["base"]
    (tmp_path / "c.yaml").write_text(dump_config(config))
    journal = journal_of(tmp_path / "run" / "bench" / "base", "adaptive", "sandbox-b")
    command = [sys.executable, "-c", RUN, str(tmp_path / "c.yaml"), str(tmp_path / "run")]
    for sent in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
        rows = len(journal.read_bytes().splitlines()) if journal.exists() else 0
        while process.poll() is None and not (
            journal.exists() and len(journal.read_bytes().splitlines()) > rows
        ):
            time.sleep(0.05)
        process.send_signal(sent)
        process.communicate()
    subprocess.run(command, check=True, capture_output=True)
    whole = tmp_path / "whole"
    subprocess.run([*command[:-1], str(whole)], check=True, capture_output=True)
    ours, theirs = (
        {row.id: [(turn.user, turn.assistant) for turn in row.turns] for row in read_dialogues(path)}
        for path in (journal, journal_of(whole / "bench" / "base", "adaptive", "sandbox-b"))
    )
    assert len(ours) == 15 and ours == theirs
