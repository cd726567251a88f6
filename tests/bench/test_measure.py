"""The benchmark: judging, the run and its resume, suites, the summary."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from safer_steer.bench.answers import LACKS
from safer_steer.bench.judging import JudgeCritic
from safer_steer.bench.measure import measure_models
from safer_steer.bench.results import Summary
from safer_steer.bench.suites import read_suite
from safer_steer.bench.summary import summarise, unscored_share
from safer_steer.config import Bench, Config, Role
from safer_steer.dialogue import Dialogue, Format, Kind, Seed, StopReason, Turn, read_dialogues
from safer_steer.endpoints.chat import ChatModel
from safer_steer.endpoints.transport import ChatReply, Message
from safer_steer.episode import ContextFull, Reply, Script, Verdict, play
from safer_steer.episodes import play_all
from safer_steer.errors import EndpointError, NoResult, SpendingLimit, UnparsableError, UserError
from safer_steer.files.images import Picture
from safer_steer.intervals import rate
from safer_steer.metrics import average, multi_turn_rates, over_refusal
from safer_steer.prompts.base import sections


async def bench(*args: Any, **settings: Any) -> list[Dialogue]:
    return list(await play_all(*args, **settings))


def seeds(count: int, turns: int = 3) -> list[Seed]:
    return [
        Seed(id=f"d{i:03}", kind=Kind.RED_TEAM, turns=[Turn(user=f"d{i:03} u{t}") for t in range(turns)])
        for i in range(count)
    ]


class Echo:
    """Answers with the question; fails or runs out of context at the questions it is told to."""

    def __init__(
        self, fails: Sequence[str] = (), full: Sequence[str] = (), error: BaseException | None = None
    ) -> None:
        self.fails, self.full, self.error = fails, full, error
        self.asked: list[str] = []
        self.now = self.most = 0

    async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
        self.asked.append(asked.user)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001 * (sum(map(ord, asked.user)) % 3))
        self.now -= 1
        if asked.user in self.fails:
            raise self.error or EndpointError("status 500")
        if asked.user in self.full:
            raise ContextFull
        return Reply(f"<thinking>t</thinking><answer>{asked.user}</answer>")


class Marks:
    """A critic that gives 3 and 3, but cannot score the questions it is told to."""

    immediate = False

    def __init__(self, fails: Sequence[str] = ()) -> None:
        self.fails = fails

    async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
        await asyncio.sleep(0)
        if dialogue.turns[turn].user in self.fails:
            raise UnparsableError("no JSON")
        return Verdict({"harmlessness": 3.0, "helpfulness": 3.0, "refused": 0.0})


# Judging


PICTURE = Picture("p.png", b"bytes", "0" * 64, "image/png")


class Judge:
    """A transport that always scores alike and notes what it was shown: the prompt's sections and the
    pictures."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.pictures: list[int] = []
        self.raw = ""

    async def complete(
        self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
    ) -> ChatReply:
        await asyncio.sleep(0)
        assert messages[0]["content"].startswith("Job: judge")
        parts = messages[-1]["content"]
        self.raw += "".join(part["text"] for part in parts if part["type"] == "text")
        self.seen.append(sections("".join(part["text"] for part in parts if part["type"] == "text")))
        self.pictures.append(sum(part == PICTURE.content for part in parts))
        return ChatReply('{"harmlessness": 1, "helpfulness": 2, "refused": true, "reason": "too short"}')


async def judged(format: Format, *answers: str) -> tuple[Judge, Dialogue]:
    class Says:
        async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
            return Reply(answers[len(dialogue.turns)])

    judge = Judge()
    critic = JudgeCritic(ChatModel("judge", Role(), judge), format, lambda images: [PICTURE for _ in images])
    seed = seeds(1, len(answers))[0].model_copy(update={"images": ["p.png"]})
    return judge, await play(seed, Script(), Says(), critic)


async def test_the_judge_sees_pictures_earlier_turns_and_visible_answers_only() -> None:
    judge, dialogue = await judged(
        Format.THINKING_ANSWER, *(f"<thinking>secret</thinking><answer>a{turn}</answer>" for turn in range(3))
    )
    assert "secret" not in judge.raw
    by_question = {seen["question"]: seen for seen in judge.seen}
    assert set(by_question) == {"d000 u0", "d000 u1", "d000 u2"}
    last = by_question["d000 u2"]
    assert last["answer"] == "a2"
    assert json.loads(last["history"]) == [
        {"user": "d000 u0", "assistant": "a0"},
        {"user": "d000 u1", "assistant": "a1"},
    ]
    assert (
        json.loads(by_question["d000 u0"]["history"]) == []
    )  # no look ahead, though later turns were played
    assert judge.pictures == [1, 1, 1]
    assert dialogue.turns[0].scores == {"harmlessness": 1, "helpfulness": 2, "refused": 1}
    assert dialogue.turns[0].meta["reason"] == "too short"


async def test_the_judge_sees_no_picture_of_a_later_turn_and_is_told_which_turn_shows_which() -> None:
    def shown(images: Iterable[str]) -> list[Picture]:
        return [Picture(image, image.encode(), image, "image/png") for image in images]

    class Notes(Judge):
        async def complete(
            self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
        ) -> ChatReply:
            views.append([part.get("text") or part["image_url"]["url"] for part in messages[-1]["content"]])
            return await super().complete(messages, schema, repeat)

    views: list[list[str]] = []
    seed = seeds(1, 4)[0].model_copy(update={"images": ["p.png"]})
    seed.turns[1].images, seed.turns[3].images = ["q.png"], ["r.png", "p.png"]
    critic = JudgeCritic(ChatModel("judge", Role(), Notes()), Format.PLAIN, shown)
    await play(seed, Script(), Echo(), critic)
    p, q, r = (picture.data_url for picture in shown(["p.png", "q.png", "r.png"]))
    two = ["The user shows a picture with turn 1:", p, "The user shows a picture with turn 2:", q]
    all = [*two, "The user shows 2 pictures with turn 4:", r, p]
    assert sorted(view[:-1] for view in views) == sorted([[p], two, two, all])


async def test_a_judge_that_cannot_be_read_leaves_the_turn_unscored() -> None:
    class Mumbles(Judge):
        async def complete(
            self, messages: list[Message], schema: dict[str, Any] | None = None, repeat: int = 0
        ) -> ChatReply:
            return ChatReply('{"harmlessness": 4, "helpfulness": 2, "refused": false}')

    critic = JudgeCritic(ChatModel("judge", Role(), Mumbles()), Format.PLAIN, lambda _: [])
    dialogue = await play(seeds(1)[0], Script(), Echo(), critic)
    assert [turn.scores for turn in dialogue.turns] == [None] * 3
    assert dialogue.turns[0].meta["unscored"].startswith("unparsable: ")


async def test_a_missing_answer_block_helps_nobody() -> None:
    _, dialogue = await judged(
        Format.THINKING_ANSWER, "<thinking>t</thinking> plain words", "<answer></answer>", "<answer>cut o"
    )
    assert [turn.scores["helpfulness"] for turn in dialogue.turns if turn.scores] == [0, 0, 2]
    assert [turn.scores["harmlessness"] for turn in dialogue.turns if turn.scores] == [1, 1, 1]


async def test_in_the_plain_format_there_is_no_block_to_miss() -> None:
    judge, dialogue = await judged(Format.PLAIN, "plain words", " ")
    assert {seen["question"]: seen["answer"] for seen in judge.seen} == {
        "d000 u0": "plain words",
        "d000 u1": "",
    }
    assert [turn.scores["helpfulness"] for turn in dialogue.turns if turn.scores] == [2, 0]


# The run


async def test_dialogues_come_back_in_order_and_are_journalled(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "model" / "suite.jsonl"
    told: list[tuple[int, int]] = []
    dialogues = await bench(
        seeds(9),
        Echo(),
        Marks(),
        out,
        concurrency=4,
        progress=lambda done, total, failed: told.append((done, total)),
    )
    assert [dialogue.id for dialogue in dialogues] == [seed.id for seed in seeds(9)]
    assert sorted(read_dialogues(out), key=lambda dialogue: dialogue.id) == dialogues
    assert told == [(done, 9) for done in range(10)]


async def test_the_window_is_bounded_and_dialogues_start_in_order(tmp_path: Path) -> None:
    assistant = Echo()
    await bench(seeds(20), assistant, Marks(), tmp_path / "s.jsonl", concurrency=4)
    assert assistant.most == 4
    starts = [question.split()[0] for question in assistant.asked if question.endswith("u0")]
    assert starts == sorted(starts)
    with pytest.raises(ValueError, match="at least one"):
        await bench(seeds(1), assistant, Marks(), tmp_path / "t.jsonl", concurrency=0)


async def test_the_single_turn_protocol_is_one_turn(tmp_path: Path) -> None:
    dialogues = await bench(seeds(3), Echo(), Marks(), tmp_path / "s.jsonl", max_turns=1)
    assert [len(dialogue.turns) for dialogue in dialogues] == [1, 1, 1]


async def test_failures_are_data_and_are_not_played_again(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    assistant = Echo(fails=["d001 u0", "d002 u2"], full=["d003 u1"])
    first = await bench(seeds(6), assistant, Marks(fails=["d004 u1"]), out, concurrency=2)
    completed = StopReason.COMPLETED
    assert [dialogue.stop for dialogue in first] == [
        completed,
        StopReason.ASSISTANT_FAILED,
        StopReason.ASSISTANT_FAILED,
        StopReason.CONTEXT_FULL,
        completed,
        completed,
    ]
    rates = multi_turn_rates(first)
    assert (rates["n"], rates["unscored"], rates["failed"], rates["incomplete"]) == (6, 1, 2, 1)
    again = Echo()
    assert await bench(seeds(6), again, Marks(), out) == first
    assert again.asked == []


async def test_a_larger_suite_plays_what_is_new(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    await bench(seeds(3), Echo(), Marks(), out)
    assistant = Echo()
    told: list[tuple[int, int]] = []
    dialogues = await bench(
        seeds(5), assistant, Marks(), out, progress=lambda done, total, failed: told.append((done, total))
    )
    assert len(dialogues) == 5
    assert {question.split()[0] for question in assistant.asked} == {"d003", "d004"}
    assert told == [(3, 5), (4, 5), (5, 5)]
    assert [dialogue.id for dialogue in await bench(seeds(2), Echo(), Marks(), out)] == ["d000", "d001"]


async def test_a_journal_of_another_script_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    await bench(seeds(2), Echo(), Marks(), out)
    changed = seeds(2)
    changed[1].turns[0].user = "another question"
    with pytest.raises(UserError, match="d001 was played from another script"):
        await bench(changed, Echo(), Marks(), out)
    with pytest.raises(UserError, match="d000 was played from another script"):
        await bench(seeds(2), Echo(), Marks(), out, max_turns=1)
    with pytest.raises(UserError, match="d000 was played from another script"):
        await bench(seeds(2, turns=4), Echo(), Marks(), out)


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), SpendingLimit("10.00 spent")])
async def test_bugs_and_the_money_limit_stop_the_run_and_keep_what_is_done(
    tmp_path: Path, error: BaseException
) -> None:
    out = tmp_path / "s.jsonl"
    with pytest.raises(type(error)):
        await bench(seeds(20), Echo(fails=["d010 u1"], error=error), Marks(), out, concurrency=3)
    done = {dialogue.id for dialogue in read_dialogues(out)}
    assert 7 <= len(done) <= 16  # the other workers would have gone on to all 19
    assistant = Echo()
    assert len(await bench(seeds(20), assistant, Marks(), out)) == 20
    assert done.isdisjoint(question.split()[0] for question in assistant.asked)


BENCH = """
import asyncio, sys
from pathlib import Path
from safer_steer.episodes import play_all as bench
from safer_steer.dialogue import read_seeds
from safer_steer.episode import Reply, Verdict

calls = open(sys.argv[3], "a", buffering=1)

class Assistant:
    async def answer(self, dialogue, asked):
        print(dialogue.id, file=calls)
        await asyncio.sleep(0.005)
        return Reply("a" * 5000)

class Critic:
    immediate = False
    async def judge(self, dialogue, turn, template):
        return Verdict({"harmlessness": 3.0, "helpfulness": 3.0, "refused": 0.0})

asyncio.run(bench(read_seeds(Path(sys.argv[1])), Assistant(), Critic(), Path(sys.argv[2]), concurrency=8))
"""


def test_kill_9_in_mid_bench_redoes_nothing_finished(tmp_path: Path) -> None:
    suite, out, calls = tmp_path / "suite.jsonl", tmp_path / "out.jsonl", tmp_path / "calls.txt"
    suite.write_text("".join(seed.model_dump_json() + "\n" for seed in seeds(300)))
    command = [sys.executable, "-c", BENCH, str(suite), str(out), str(calls)]
    finished: set[str] = set()
    for wanted in (20, 100):
        process = subprocess.Popen(command)
        while process.poll() is None and (out.read_bytes().count(b"\n") if out.exists() else 0) < wanted:
            time.sleep(0.005)
        assert process.poll() is None, "the bench ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert finished.isdisjoint(calls.read_text().split())
        finished |= {json.loads(line)["id"] for line in out.read_bytes().split(b"\n")[:-1]}
        calls.unlink()
    subprocess.run(command, check=True)
    assert finished.isdisjoint(calls.read_text().split())
    ids = [dialogue.id for dialogue in read_dialogues(out)]
    assert sorted(ids) == [seed.id for seed in seeds(300)]


# Suites


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def script(id: str, kind: str = "red_team", turns: int = 2, **more: Any) -> dict[str, Any]:
    return {"id": id, "kind": kind, "turns": [{"user": f"u{turn}"} for turn in range(turns)], **more}


def test_a_suite_is_read_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").touch()
    suite = read_suite(
        write(tmp_path / "marked.jsonl", script("a", images=["pictures/1.png"]), script("b", "obfuscated"))
    )
    assert (suite.name, suite.folder, suite.safe_twins, suite.protocol) == (
        "marked",
        tmp_path,
        False,
        "multi_turn",
    )
    assert [seed.id for seed in suite.seeds] == ["a", "b"]
    twins = read_suite(write(tmp_path / "unmarked.jsonl", script("a", "benign", 1), script("b", "benign", 1)))
    assert (twins.safe_twins, twins.protocol) == (True, "single_turn")


@pytest.mark.parametrize(
    "named", [{"image": "1.png"}, {"image": ["1.png"]}, {"images": "1.png"}, {"images": ["1.png"]}]
)
def test_a_row_with_image_keeps_its_picture(tmp_path: Path, named: dict[str, Any]) -> None:
    (tmp_path / "1.png").touch()
    (seed,) = read_suite(write(tmp_path / "suite.jsonl", script("a", **named))).seeds
    assert seed.images == ["1.png"]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([], "no rows in it"),
        ([script("a"), script("b", turns=0)], ":2: turns"),
        ([script("a"), script("a")], "id 'a' occurs twice"),
        ([script("a"), script("b", images=["none.png"])], "b: no picture none.png"),
        ([script("a", images=["../suite.jsonl"])], "a: ../suite.jsonl: leads out"),
        ([script("a", images=["."])], "a: no picture ."),
        ([script("a", images=["http://127.0.0.1/1.png"])], "a: http://127.0.0.1/1.png: is a web address"),
        ([script("a", images=["data:image/png;base64,aGk="])], "is a web address; addresses are not fetched"),
        ([script("a", images=["x" * 5000])], f"a: '{'x' * 77}...': no usable path"),
        ([script("a", imagess=["1.png"])], "suite.jsonl:1: imagess: unknown key; did you mean `images`?"),
        ([script("a", image=["1.png"], images=["1.png"])], ":1: image: unknown key; did you mean `images`?"),
        ([script("a"), script("b", note=1)], ":2: note: unknown key; the keys are id, kind, source, intent"),
        (
            [{"id": "a", "kind": "red_team", "turns": [{"users": "u"}]}],
            ":1: turns.0.users: unknown key; did you mean `user`?",
        ),
        ([script("a"), script("b", "benign")], "b is benign and a is not"),
    ],
)
def test_a_bad_suite_is_named(tmp_path: Path, rows: list[dict[str, Any]], complaint: str) -> None:
    path = write(tmp_path / "suite.jsonl", *rows)
    with pytest.raises(UserError) as caught:
        read_suite(path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_name_of_the_average_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rename the file"):
        read_suite(write(tmp_path / "average.jsonl", script("a")))


# The summary


def played(
    id: str, *harmlessness: int | None, refused: int = 0, stop: StopReason = StopReason.COMPLETED
) -> Dialogue:
    turns = [
        Turn(
            user="u",
            assistant="a",
            scores=None if mark is None else {"harmlessness": mark, "helpfulness": 3, "refused": refused},
        )
        for mark in harmlessness
    ]
    return Dialogue(id=id, kind=Kind.RED_TEAM, turns=turns, stop=stop)


def test_the_summary_has_the_stable_layout() -> None:
    suites = {
        "a": [played("1", 3, 3), played("2", 3, 0)],
        "b": [played("3", 0, 3), played("4", 3, None), played("5", stop=StopReason.ASSISTANT_FAILED)],
        "unmarked": [played("6", 3, 3, refused=1), played("7", 3, 3)],
    }
    singles = {"a": [played("8", 3)], "unmarked": [played("9", 3)]}
    summary = summarise(
        {"base": {"multi_turn": suites, "single_turn": singles}}, {"unmarked"}, resamples=200, seed=1
    ).as_dict()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    again = {"base": {"multi_turn": suites, "single_turn": singles}}
    assert summary == summarise(again, {"unmarked"}, resamples=200, seed=1).as_dict()
    multi, single = summary["models"]["base"]["multi_turn"], summary["models"]["base"]["single_turn"]
    assert set(multi) == {"a", "b", "unmarked", "average"}
    assert set(multi["a"]) == {
        "n",
        "unscored",
        "failed",
        "incomplete",
        "safe",
        "help",
        "joint",
        "worst",
        "stops",
        "answers",
        "cut_off",
        *LACKS,
        "survival",
        "by_rule",
    }
    assert set(multi["unmarked"]) == set(multi["a"]) | {"over_refusal"}
    assert set(multi["average"]) == set(multi["unmarked"]) | {"twin_help"}
    assert set(single["a"]) == {
        "n",
        "unscored",
        "failed",
        "incomplete",
        "safe",
        "help",
        "worst",
        "stops",
        "answers",
        "cut_off",
        *LACKS,
        "by_rule",
    }
    assert set(multi["a"]["survival"]) >= {"turn", "S", "low", "high", "median"}
    assert multi["a"]["survival"]["S"][:3] == [1, 1, 0.5]
    assert (multi["b"]["n"], multi["b"]["unscored"], multi["b"]["failed"]) == (3, 1, 1)
    assert multi["b"]["stops"] == {"completed": 2, "assistant_failed": 1}
    assert multi["average"]["safe"]["value"] == 25  # 50 and 0; the twins' 100 stays out
    assert multi["average"]["n"] == 5
    assert multi["average"]["over_refusal"]["value"] == 50
    assert multi["average"]["over_refusal"] == over_refusal(suites["unmarked"])
    assert multi["average"]["twin_help"] == rate([(2, 2)]) | {"n": 2}
    assert single["average"]["over_refusal"]["value"] == 0


def test_a_model_that_refuses_everything_is_seen() -> None:
    refuser = {"marked": [played("1", 3, 3, refused=1)], "unmarked": [played("2", 3, 3, refused=1)]}
    average = summarise({"m": {"multi_turn": refuser}}, {"unmarked"}).average("m", "multi_turn")
    assert average and average.over_refusal
    assert average.safe.value == average.over_refusal.value == 100


def test_help_on_several_suites_of_twins_is_their_mean_with_an_interval() -> None:
    vague = Turn(user="u", scores={"harmlessness": 3, "helpfulness": 1})
    helped, not_helped = played("1", 3), Dialogue(id="2", kind=Kind.BENIGN, turns=[vague])
    suites = {"a": [played("3", 3)], "few": [helped, not_helped], "many": [helped] * 9 + [not_helped]}
    summary = summarise(
        {"m": {"multi_turn": suites}, "n": {"multi_turn": {"a": suites["a"]}}}, {"few", "many"}, 500
    )
    found, without = (summary.models[model]["multi_turn"].average.twin_help for model in "mn")
    assert found and without
    assert found.value == pytest.approx((50 + 90) / 2)
    twins = {name: suites[name] for name in ("few", "many")}
    assert dict(found) == average(twins, resamples=500)["help"] | {"n": 12}
    assert found.low and found.high and found.low < 70 < found.high
    assert without.value is None


def test_without_attack_suites_the_average_is_empty() -> None:
    summary = summarise({"m": {"multi_turn": {"unmarked": [played("1", 3)]}}}, {"unmarked"})
    average = summary.average("m", "multi_turn")
    assert average and average.over_refusal
    assert (average.n, average.safe.value, average.over_refusal.value) == (0, None, 0)


def test_unscored_share_is_that_of_the_worst_model_and_counts_failures() -> None:
    good = [played(str(i), 3) for i in range(10)]
    bad = [played("1", None), played("2", stop=StopReason.ASSISTANT_FAILED), *good[2:]]
    assert unscored_share(summarise({"m": {"multi_turn": {"a": good}}}, set())) == 0
    assert (
        unscored_share(
            summarise(
                {"m": {"multi_turn": {"a": good}}, "n": {"multi_turn": {"a": good, "twins": bad}}}, {"twins"}
            )
        )
        == 0.1
    )
    assert unscored_share(summarise({"m": {"multi_turn": {}}}, set())) == 1


# Dialogues that run out of context


@pytest.mark.slow
def test_a_full_context_is_counted_and_neither_unscored_nor_played_again(tmp_path: Path) -> None:
    """Playing it again would give the same: the bench says what to change, and is a result."""
    suite = write(tmp_path / "mine.jsonl", *(script(f"d{i}", turns=3) for i in range(4)))
    config = Config(bench=Bench(suites=[str(suite)], resamples=10))
    judge, said = ChatModel("judge", Role(), Judge()), []

    class Long:
        def __init__(self, fails: bool = False) -> None:
            self.fails, self.asked = fails, 0

        async def answer(self, dialogue: Dialogue, asked: Turn) -> Reply:
            self.asked += 1
            if dialogue.id == "d3" and self.fails:
                raise EndpointError("status 500")
            if dialogue.id in ("d1", "d2") and asked.user == "u2":
                raise ContextFull
            return Reply("<thinking>t</thinking><answer>a</answer>")

    def measured(assistant: Long) -> dict[str, Any]:
        measure_models(
            config, tmp_path / "run", {"m": lambda: assistant}, [judge], asyncio.run, say=said.append
        )
        summary = Summary.read(tmp_path / "run" / "summary.json")
        assert summary.total("incomplete") == 2
        return dict(summary.suites("m", "multi_turn")["mine"])

    with pytest.raises(NoResult, match=r"^25.0% of a model's dialogues"):  # that is d3 alone
        measured(Long(fails=True))
    again = Long()
    entry = measured(again)
    assert again.asked == 3, "d3 is played again, d1 and d2 are not"
    assert (entry["n"], entry["unscored"], entry["failed"], entry["incomplete"]) == (4, 0, 0, 2)
    assert said[1].startswith("2 of 4 dialogues ran out of context")
    assert "student.max_length" in said[1] and "student.max_turn_tokens" in said[1]
    assert len(said) == 2 and "\n" not in said[0], "said too where the bench is no result"


# Safe requests within attacks


async def test_a_planned_risk_reaches_over_refusal_by_turn_from_a_suite_s_file(tmp_path: Path) -> None:
    """Sets other than the sandbox's do not mark a turn as safe; Stage I's plan gives each a risk, and 1 is
    harmless."""
    turns = [{"user": f"u{turn}", "meta": {"risk": risk}} for turn, risk in enumerate((1, 1, 4))]
    rows = [{"id": f"d{i}", "kind": "red_team", "turns": turns} for i in range(3)]
    suite = read_suite(write(tmp_path / "real.jsonl", *rows))

    class Refusals(Marks):
        async def judge(self, dialogue: Dialogue, turn: int, template: str | None) -> Verdict:
            return Verdict({"harmlessness": 3.0, "helpfulness": 2.0, "refused": float(turn > 0)})

    played_on = await bench(suite.seeds, Echo(), Refusals(), tmp_path / "bench.jsonl")
    summary = summarise({"m": {"multi_turn": {suite.name: played_on}}}, set(), resamples=10).as_dict()
    by_turn = summary["models"]["m"]["multi_turn"]["average"]["over_refusal"]["by_turn"]
    assert by_turn == [{"turn": 1, **rate([(0, 3)]), "n": 3}, {"turn": 2, **rate([(3, 3)]), "n": 3}]
