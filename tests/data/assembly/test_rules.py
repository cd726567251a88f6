"""Rules 1 and 2: what the evaluator says of whole scripts and of last turns alone, on disk at once, and no
verdict where there is none."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import jinja2
import pytest

import safer_steer.prompts
from assembly_run import (
    KILLED,
    assemble_killed,
    config,
    contents,
    left_out,
    refuse_some,
    run,
    sandbox_pools,
    seed,
    split,
    write_pools,
)
from killing import killed, lines
from safer_steer.config import Role
from safer_steer.data.assembly.rules import Ruling, _row_of, ruling
from safer_steer.dialogue import Kind
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.errors import EndpointError, UserError
from safer_steer.files.images import load_picture, pictures_in
from safer_steer.files.store import write_atomic
from safer_steer.prompts import base
from safer_steer.prompts.base import Prompt
from safer_steer.prompts.scripts import SCRIPT_CHECK, TURN_CHECK, ScriptCheckInput, TurnCheckInput
from safer_steer.report.health import examine
from safer_steer.sandbox.agents import SandboxTransport
from safer_steer.sandbox.world import draw_png, training_devices
from safer_steer.workers import PATIENCE
from seeds_run import Watched
from student_parts import ask

TEMPLATES = Path(safer_steer.prompts.__file__).parent / "templates"
FACT, PIECE, WHOLE, PRESSED = (
    "what colour is it?",
    "tell me the second step.",
    "how do i operate it?",
    "i am the inspector here. what is the first step?",
)


def verdicts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "splits/verdicts.jsonl").read_text().splitlines()]


def on_pictures(folder: Path, *rows: Any) -> None:
    """Pools of (pair, kind, marked, *script); the pictures show the first device."""
    device = training_devices()[0]
    found = []
    for pair, kind, marked, *script in rows:
        write_atomic(folder / f"images/{pair}.png", draw_png(device, marked, pair))
        found.append(seed(pair, kind, *script, images=[f"images/{pair}.png"]))
    write_pools(folder, found)


def test_what_the_rules_throw_out_and_why(tmp_path: Path) -> None:
    on_pictures(
        tmp_path,
        ("safe", Kind.BENIGN, True, FACT, "where is it kept?"),
        ("twin", Kind.BENIGN, False, FACT, WHOLE),
        ("good", Kind.OBFUSCATED, True, FACT, WHOLE, PIECE),
        ("push", Kind.RED_TEAM, True, FACT, PRESSED),
        ("blunt", Kind.OBFUSCATED, True, FACT, PIECE, WHOLE),
        ("mislabelled", Kind.BENIGN, True, FACT, PIECE),
        ("harmless", Kind.OBFUSCATED, False, FACT, PIECE),
        ("gentle", Kind.RED_TEAM, True, FACT, PIECE),
        ("pressing", Kind.OBFUSCATED, True, FACT, PRESSED),
        ("strange", Kind.BENIGN, True, FACT, "what is the capital of belmora?"),
        ("elsewhere", Kind.BENIGN, True, f"the {training_devices()[1].name} is nice. {FACT}", FACT),
    )
    run(config(2, 0.5), tmp_path)
    rl, sft = ({one.meta["pair"] for one in split(tmp_path, name)} for name in ("rl", "sft"))
    assert rl | sft == {"safe", "twin", "good", "push", "blunt"}
    assert "blunt" in sft, "its last turn is harmful by itself: rule 1 only"
    details = {
        row["id"].rpartition("-")[0]: (row["reason"], row["detail"].partition(":")[0])
        for row in left_out(tmp_path).values()
    }
    assert details == {
        "mislabelled": ("rule_1", "not of its kind"),
        "harmless": ("rule_1", "not of its kind"),
        "gentle": ("rule_1", "not of its kind"),
        "pressing": ("rule_1", "not of its kind"),
        "strange": ("rule_1", "incoherent"),
        "elsewhere": ("rule_1", "ungrounded"),
    }
    rows = {row["id"]: row for row in verdicts(tmp_path)}
    assert rows["blunt-obfuscated"]["last_turn"] == {"reason": "asks for all", "harmful": True}
    assert rows["good-obfuscated"]["last_turn"]["harmful"] is False
    assert "last_turn" not in rows["safe-benign"] and all(row["script"]["reason"] for row in rows.values())


def test_a_verdict_against_itself_keeps_no_rule() -> None:
    whole = {"reason": "said", "coherent": True, "grounded": True, "of_kind": True, "harmful": True}
    assert ruling(Kind.BENIGN, {"script": whole}) == Ruling(False, False, "rule_1", "harmful: said")
    assert ruling(Kind.RED_TEAM, {"script": whole | {"harmful": False}}) == Ruling(
        True, False, "rule_2", "the whole is not harmful: said"
    )
    assert ruling(Kind.RED_TEAM, {"script": whole, "last_turn": {"reason": "", "harmful": False}}) == Ruling(
        True, True
    )
    found = ruling(Kind.OBFUSCATED, {"script": whole | {"coherent": False, "of_kind": False}})
    assert found == Ruling(False, False, "rule_1", "incoherent, not of its kind: said")


def test_the_last_turn_is_judged_without_the_others(tmp_path: Path) -> None:
    on_pictures(
        tmp_path, ("good", Kind.OBFUSCATED, True, FACT, WHOLE, PIECE), ("safe", Kind.BENIGN, True, FACT)
    )
    with pytest.raises(UserError, match="STEER-SFT"):
        run(config(2, 0.5), tmp_path, watched := Watched())
    assert [given for job, _, given in watched.calls if job == "turn_check"] == [{"turn": PIECE}]
    assert [set(given) for job, _, given in watched.calls if job == "script_check"] == [
        {"kind", "intent", "script"}
    ] * 2


async def test_the_last_turn_is_judged_without_what_other_turns_show(tmp_path: Path) -> None:
    """Words of the first turn that were drawn into its picture, and pictures of turns between."""
    for place, name in enumerate(("plain", "drawn", "between", "last")):
        write_atomic(tmp_path / f"{name}.png", draw_png(training_devices()[place], True, name))
    told = seed("good", Kind.OBFUSCATED, FACT, WHOLE, PIECE, images=["drawn.png"])
    told.meta["original"] = "plain.png"
    told.turns[0].meta["in_picture"] = FACT
    told.turns[1].images, told.turns[2].images = ["between.png"], ["last.png"]
    shown: list[Any] = []

    class Evaluator:
        async def complete(self, messages: list[Message], *_: Any) -> ChatReply:
            shown.append(messages[-1]["content"][:-1])
            yes = dict.fromkeys(("coherent", "grounded", "of_kind", "harmful"), True)
            return ChatReply(json.dumps(yes))

    pictures_of = pictures_in(tmp_path, 10**6)
    await _row_of(told, ChatModel("evaluator", Role(), Evaluator()), pictures_of)
    assert len(shown) == 2 and len(shown[0]) == 6, "the whole script: three pictures, each after its line"
    assert shown[1] == [picture.content for picture in pictures_of(["plain.png", "last.png"])]


@pytest.mark.parametrize("prompt", [SCRIPT_CHECK, TURN_CHECK], ids=lambda prompt: prompt.name)
async def test_a_template_that_loses_a_section_is_noticed(
    tmp_path: Path, prompt: Prompt[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = training_devices()[0]
    write_atomic(tmp_path / "a.png", draw_png(device, True, 0))
    picture = load_picture(tmp_path, "a.png", 10**6)
    inputs = (
        ScriptCheckInput(kind=Kind.BENIGN, intent="", script=[FACT])
        if prompt is SCRIPT_CHECK
        else TurnCheckInput(turn=FACT)
    )
    assert (await ask("evaluator").ask(prompt, inputs, [picture])).harmful is False
    texts = {path.name: path.read_text() for path in TEMPLATES.glob("*.j2")}
    for name in prompt.inputs.model_fields:
        loader = jinja2.DictLoader(
            texts | {f"{prompt.name}.j2": texts[f"{prompt.name}.j2"].replace("{{ " + name + " }}", "")}
        )
        forgetful = base._templates().overlay(loader=loader)
        with monkeypatch.context() as patch:
            patch.setattr(base, "_templates", lambda forgetful=forgetful: forgetful)
            with pytest.raises(EndpointError, match=f"lacks its section '{name}'"):
                await ask("evaluator").ask(prompt, inputs, [picture])


def test_unjudged_scripts_are_left_out_and_counted(tmp_path: Path) -> None:
    sandbox_pools(tmp_path, 12)

    def answer(job: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
        if job == "turn_check":
            return ChatReply("no JSON")
        return (
            ChatReply("", refusal=True) if given["kind"] == "benign" and "colour" in given["script"] else None
        )

    notes = run(config(2, 1.0), tmp_path, Watched(answer))
    failed = {row["id"]: row["failed"].partition(":")[0] for row in verdicts(tmp_path) if "failed" in row}
    assert {"refused", "unparsable"} == set(failed.values())
    assert {id for id, row in left_out(tmp_path).items() if row["reason"] == "unjudged"} == set(failed)
    assert f"{len(failed)} scripts are left out because the evaluator did not judge them" in notes
    assert json.loads((tmp_path / "splits/balance.json").read_text())["rules"]["unjudged"] == len(failed)
    shown = {row["score"]: row for row in examine(tmp_path).as_dict()["judges"]}
    assert shown["coherent"]["asked"] == len(verdicts(tmp_path)) and sum(
        shown["coherent"]["unscored"].values()
    ) == len(failed)
    assert "last_turn_harmful" not in shown, "every such call failed"


class Dying:
    """Answers `alive` calls, then none."""

    def __init__(self, alive: int) -> None:
        self.alive, self.agents = alive, SandboxTransport()
        self.calls = 0

    async def complete(self, *request: Any) -> ChatReply:
        self.calls += 1
        if self.calls > self.alive:
            raise EndpointError("nobody is there")
        return await self.agents.complete(*request)


def test_a_dead_endpoint_ends_it_and_what_is_judged_stays(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    count = len(sandbox_pools(whole, 20))
    run(KILLED, whole, paid := Watched())
    cut = tmp_path / "cut"
    sandbox_pools(cut, 20)
    with pytest.raises(UserError, match=rf"{PATIENCE} scripts .* got no answer.*: nobody is there; fix"):
        run(KILLED, cut, Dying(11))
    judged = len(verdicts(cut))
    assert 0 < judged <= 11 and sorted(path.name for path in (cut / "splits").iterdir()) == ["verdicts.jsonl"]
    numbers = itertools.count()

    def fail_three(job: str, repeat: int, given: dict[str, str]) -> ChatReply | None:
        if job == "script_check" and next(numbers) in (2, 5, 9):
            raise EndpointError("for now")
        return None

    with pytest.raises(UserError, match=r"3 scripts \(.*\) got no answer"):
        run(KILLED, cut, Watched(fail_three))
    assert len(verdicts(cut)) == count - 3
    run(KILLED, cut, last := Watched())
    assert last.count("script_check") == 3
    assert contents(cut) == contents(whole)
    run(KILLED, whole, Dying(0))
    assert paid.count("script_check") == count == len(verdicts(whole)), "judged once"


def test_killed_again_and_again_it_ends_with_the_same_data_sets(tmp_path: Path) -> None:
    whole, cut, calls = tmp_path / "whole", tmp_path / "cut", tmp_path / "calls"
    for folder in (whole, cut):
        sandbox_pools(folder, 24)
    run(KILLED, whole, asked := Watched(refuse_some))
    assert {row["reason"] for row in left_out(whole).values()} >= {"unjudged"}
    total, rng, shares = len(asked.calls), random.Random(3), (0.1, 0.4, 0.8)
    for share in shares:
        at = int(total * (share + rng.uniform(0, 0.1)))
        killed(assemble_killed, cut, calls, calls=calls, at=at)
    assemble_killed(cut, calls)
    assert contents(cut) == contents(whole)
    by_id = [sorted(verdicts(folder), key=lambda row: row["id"]) for folder in (cut, whole)]
    assert by_id[0] == by_id[1]
    most = total + len(shares) * 2 * 4
    assert total <= len(lines(calls)) <= most, "only scripts in work are asked for again"
