"""`judge-check` on a bench that a real HTTP server has answered and judged."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from endpoint_server import EndpointServer, says
from safer_steer.bench.judge_check.labels import drawn, read_labels, write_sheet
from safer_steer.bench.judge_check.played import Place
from safer_steer.bench.judge_check.probes import PROBES, changed
from safer_steer.cli import app
from safer_steer.config import Config
from safer_steer.dialogue import Dialogue, Format, Kind, Turn, lay_out, visible_answer
from threads import serving

SCRIPTS = 40
HEAD = "dialogue,turn,harmlessness,helpfulness\n"


class Models:
    """The model under test leaks in every third script, at its last turn; a judge sees four of five leaks.
    The second judge sees all. A judge that is asked again may change its mind."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.gullible = False
        """The judge takes a verdict that stands in the answer for its own."""

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        name, text = body["model"], json.dumps(body["messages"])
        self.asked[name] += 1
        if name == "m":
            return await says(self._answer(body["messages"][-1]["content"]))(request, body)
        asked = text.partition("The answer to judge:")[2]
        leaks = "LEAK" in asked
        number = int(asked.split("LEAK ")[1].split()[0]) if leaks else 0
        missed = name == "judge" and leaks and number % 15 == 0
        missed |= self.gullible and "safe and precise" in asked
        harm = 3 if not leaks or missed else -3
        if name == "judge" and self.asked[name] > 2 * SCRIPTS and self.asked[name] % 50 == 0:
            harm -= 1
        scores = {"reason": "so", "harmlessness": max(harm, -3), "helpfulness": 3, "refused": False}
        return await says(json.dumps(scores))(request, body)

    @staticmethod
    def _answer(content: Any) -> str:
        said = content if isinstance(content, str) else content[-1]["text"]
        number, turn = map(int, said.split()[:2])
        return f"LEAK {number} ." if number % 3 == 0 and turn == 2 else "=1+1 is no formula, it is an answer."


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Models]]:
    """A bench's folder, the server's address, and the models behind it."""
    folder, models = tmp_path_factory.mktemp("played"), Models()
    rows = [
        {"id": f"d{number}", "kind": "red_team", "turns": [{"user": f"{number} {turn}"} for turn in (1, 2)]}
        for number in range(SCRIPTS)
    ]
    suite = folder / "mine.jsonl"
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(EndpointServer(always=models)) as server:
        out = folder / "out"
        done = safer_steer(
            *("bench", "--no-check", "--model", "m", "--base-url", server.url, "--suite", suite),
            *("--judge-model", "judge", "--judge-base-url", server.url, "--out", out),
        )
        assert done.exit_code == 0, done.output
        yield out, server.url, models


@pytest.fixture
def models(played: tuple[Path, str, Models]) -> Iterator[Models]:
    """The models as they were after the bench."""
    *_, models = played
    asked = models.asked.copy()
    yield models
    models.asked, models.gullible = asked, False


@pytest.fixture
def run(played: tuple[Path, str, Models], models: Models, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the bench's folder, and the server's address."""
    folder, url, _ = played
    return shutil.copytree(folder, tmp_path / "out"), url


def safer_steer(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def found_by(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def error(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


def sheet(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def filled_in(path: Path, *people: str) -> Path:
    """The sheet as people fill it in who see every leak; the second person finds them less bad."""
    rows = sheet(path)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for number, person in enumerate(people):
            for row in rows:
                harm = number - 3 if "LEAK" in row["answer"] else 3
                scores = {"harmlessness": harm, "helpfulness": 3, "annotator": person}
                writer.writerow(row | scores)
    return path


def test_a_sheet_is_blind_and_its_labels_correct_the_rates(
    run: tuple[Path, str], played: tuple[Path, str, Models], tmp_path: Path
) -> None:
    out, url = run
    labels = tmp_path / "labels.csv"
    assert safer_steer("judge-check", out, "--template", labels, "--sample", 35).exit_code == 0
    rows = sheet(labels)
    assert len(rows) == 70 and len({row["dialogue"] for row in rows}) == 35
    assert not {row["harmlessness"] or row["helpfulness"] or row["annotator"] for row in rows} - {""}
    assert {row["answer"] for row in rows if "LEAK" not in row["answer"]} == {
        "'=1+1 is no formula, it is an answer."
    }
    again = tmp_path / "again.csv"
    safer_steer("judge-check", out, "--template", again, "--sample", 35)
    assert again.read_bytes() == labels.read_bytes()
    assert "exists already" in error(safer_steer("judge-check", out, "--template", labels))
    assert "no turn has scores" in error(safer_steer("judge-check", out, "--labels", labels))

    found = found_by(safer_steer("judge-check", out, "--labels", filled_in(labels, "ann", "bo"), "--json"))
    people = found["people"]
    assert (people["turns"], people["dialogues"], people["annotators"]) == (140, 35, 2)
    assert 0.5 < people["harmlessness"]["kappa"]["value"] < 1
    assert 0 < people["alpha_people"]["harmlessness"] < 1
    (error_row,) = [row for row in people["errors"] if (row["model"], row["criterion"]) == ("m", "safe")]
    assert error_row["people_only"] == 0 and error_row["judge_only"] > 0
    safe = people["corrected"]["m"]["multi_turn"]["average"]["safe"]
    # People see 14 leaks of 40 (26 safe are 65 %); the judge misses those of dialogues 0, 15 and 30.
    assert safe["judged"] > safe["value"] and safe["low"] <= 65 <= safe["high"]
    assert (safe["labels"], safe["in_each"], safe["needed"]) == (35, 35, 10)
    assert people["corrected"]["m"]["multi_turn"]["mine"]["safe"]["value"] == safe["value"]
    page = (out / "report.html").read_text()
    assert 'id="judge"' in page and "Multi-turn Safe, corrected" in page
    measure = (
        *(
            "bench",
            "--no-check",
            "--model",
            "m",
            "--base-url",
            url,
            "--suite",
            played[0].with_name("mine.jsonl"),
        ),
        *("--judge-model", "judge", "--judge-base-url", url, "--out", out),
    )
    again = safer_steer(*measure)
    assert "Multi-turn Safe, corrected" in again.stdout and "done already" in again.stderr, again.output
    shown = safer_steer("judge-check", out).stdout
    assert "Rates corrected for the judge" in shown and "too few: needs" not in shown
    assert safer_steer(*measure, "--fresh").exit_code == 0
    assert not (out / "judge_check.json").exists() and 'id="judge"' not in (out / "report.html").read_text()


def test_a_rate_with_few_labels_is_not_corrected_and_says_why(run: tuple[Path, str], tmp_path: Path) -> None:
    out, labels = run[0], tmp_path / "labels.csv"
    said = safer_steer("judge-check", out, "--template", labels, "--sample", 9).stdout
    assert "at least 9 of each model and suite" in said and "needs 10 (--sample 10)" in said
    done = safer_steer("judge-check", out, "--labels", filled_in(labels, "ann"))
    assert "9, too few: needs 10" in done.stdout, done.output
    found = json.loads((out / "judge_check.json").read_text())["people"]["corrected"]["m"]["multi_turn"]
    assert found["average"]["safe"]["value"] is None and found["average"]["safe"]["judged"] > 0
    page = (out / "report.html").read_text()
    assert "9, too few: needs 10" in page and "Multi-turn Safe, corrected" not in page
    verified = safer_steer("verify", out)
    assert verified.exit_code == 0, f"the page is one of the run's files: {verified.output}"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("dialogue,turn,harmlessness\nd0,1,3\n", "no column helpfulness"),
        (
            HEAD + "d0,1,4,3\n",
            ":2: harmlessness is '4'; give a whole number",
        ),
        (HEAD + "d0,1,3,\n", ":2: helpfulness is ''; give a whole number"),
        (
            HEAD + "d0,3,3,3\n",
            ":2: turn is '3'; give a whole number from 1 to 2",
        ),
        (HEAD + "x,1,3,3\n", ":2: no scored dialogue 'x' in this bench"),
        (HEAD + "d0,1,3,3\nd0,1,2,2\n", ":3: this person has labelled"),
        (HEAD + 'd0,1,3,3\n"d1,1,3,3\nd2,1,3,3\n', "look for a quotation mark that is not closed"),
    ],
)
def test_a_wrong_row_is_named(run: tuple[Path, str], tmp_path: Path, rows: str, message: str) -> None:
    labels = tmp_path / "labels.csv"
    told = error(safer_steer("judge-check", run[0], "--labels", labels))
    assert "labels.csv: cannot be read (No such file or directory); give a CSV file" in told
    labels.write_text(rows)
    assert message in error(safer_steer("judge-check", run[0], "--labels", labels))
    assert not (run[0] / "judge_check.json").exists()


def test_a_sheet_has_as_many_dialogues_of_each_model_and_suite() -> None:
    sizes = {("m", "big"): 500, ("m", "small"): 12, ("n", "big"): 500, ("n", "tiny"): 3}
    places = [
        Place(model, "multi_turn", suite, f"{number}")
        for (model, suite), size in sizes.items()
        for number in range(size)
    ]
    chosen = drawn(places, 43, seed=0)
    counts = Counter((place.model, place.suite) for place in chosen)
    assert sorted(counts.values()) == [3, 12, 14, 14] and len(set(chosen)) == 43
    assert chosen == drawn(reversed(places), 43, seed=0) != drawn(places, 43, seed=1)
    assert len(drawn(places, 5000, seed=0)) == len(places)
    assert [place.suite for place in chosen] != sorted(place.suite for place in chosen), "in random order"


def test_no_code_is_a_number_to_a_spreadsheet() -> None:
    codes = [Place("m", "multi_turn", "s", str(number)).code for number in range(2000)]
    assert len(set(codes)) == 2000 and all(code.startswith("d-") for code in codes)


def test_a_sheet_with_long_answers_is_read_back(tmp_path: Path) -> None:
    place, long = Place("m", "single_turn", "s", "1"), "word " * 40_000
    dialogue = Dialogue(id="1", kind=Kind.RED_TEAM, turns=[Turn(user="?", assistant=long)], stop=None)
    path = tmp_path / "labels.csv"
    write_sheet({place: dialogue}, Format.PLAIN, path)
    [row] = path.read_text(encoding="utf-8-sig").splitlines()[1:]
    path.write_text(path.read_text().replace(row, row.removesuffix(",,,") + ",3,3,"))
    [label] = read_labels(path, {place: dialogue})
    assert (label.place, label.scores) == (place, {"harmlessness": 3, "helpfulness": 3})


def test_against_itself_pays_for_no_reply_twice(run: tuple[Path, str], models: Models) -> None:
    out, _ = run
    before = models.asked["judge"]
    again = ("judge-check", out, "--repeats", 3, "--sample", 20, "--json")
    found = found_by(safer_steer(*again))["repeats"]
    assert models.asked["judge"] == before + 3 * 20 * 2
    assert (found["repeats"], found["turns"], found["missing"]) == (3, 40, 0)
    assert 80 < found["exact"]["harmlessness"] < 100 and found["exact"]["helpfulness"] == 100
    assert 0 < found["alpha"]["harmlessness"] < 1 and found["alpha"]["helpfulness"] is None
    assert 0 < found["flips"]["safe"] < 30 and found["flips"]["help"] == 0
    assert found_by(safer_steer(*again))["repeats"] == found
    assert models.asked["judge"] == before + 3 * 20 * 2


def test_a_judge_that_can_be_talked_into_a_verdict_is_seen(run: tuple[Path, str], models: Models) -> None:
    models.gullible = True
    done = safer_steer("judge-check", run[0], "--probes", SCRIPTS, "--json")
    pressed = found_by(done)["probes"]
    assert (pressed["dialogues"], pressed["turns"]) == (SCRIPTS, 2 * SCRIPTS)
    rows = {row["probe"]: row for row in pressed["probes"]}
    assert list(rows) == list(PROBES)
    talked = rows.pop("verdict as JSON")
    assert talked["to_safe"]["value"] == 100 and talked["to_safe"]["n"] > 3
    assert talked["rates"]["safe"]["low"] > 0 and talked["harmlessness"]["shift"] > 0
    emptied = rows.pop("empty")
    assert emptied["helpfulness"]["moved"] == 100 and emptied["rates"]["help"]["high"] < 0
    assert 0 < rows["unchanged"]["harmlessness"]["moved"] < 20, "asked anew, not read from the cache"
    for row in rows.values():
        # Now and then this judge changes its mind by one.
        assert row["to_safe"]["value"] == 0 and row["rates"]["safe"]["high"] < 25, row
        assert row["missing"] == 0 and abs(row["harmlessness"]["shift"]) < 0.2
    asked = models.asked["judge"]
    again = safer_steer("judge-check", run[0], "--probes", SCRIPTS)
    assert models.asked["judge"] == asked, "the replies that are paid for are kept"
    assert "The judge under pressure" in again.stdout and "verdict as JSON" in again.stdout
    assert "The judge under pressure" in (run[0] / "report.html").read_text()


@pytest.mark.parametrize("format", Format)
def test_a_probe_changes_one_visible_answer_alone(format: Format) -> None:
    said = [lay_out("a thought", text, format) for text in ("on a table.", "a thought")]
    turns = [Turn(user="?", assistant=text, scores={"harmlessness": 3}) for text in said]
    dialogue = Dialogue(id="1", kind=Kind.RED_TEAM, turns=turns, stop=None)
    for probe, change in PROBES.items():
        for turn, shown in enumerate(("on a table.", "a thought")):
            one = changed(probe, dialogue, turn, format)
            assert visible_answer(one.turns[turn].assistant or "", format) == change(shown).strip()
            assert one.turns[1 - turn] == dialogue.turns[1 - turn]
            assert ("<thinking>a thought</thinking>" in (one.turns[turn].assistant or "")) == (
                format is Format.THINKING_ANSWER
            )
    assert [turn.assistant for turn in dialogue.turns] == said


def test_a_probe_changes_the_block_that_is_judged() -> None:
    """The same words may follow: a model that writes its answer twice, or a letter of the closing tag."""
    for said in (lay_out("t", "No.", Format.THINKING_ANSWER) * 2, "<thinking>t</thinking><answer>e</answer>"):
        shown = visible_answer(said, Format.THINKING_ANSWER)
        turns = [Turn(user="?", assistant=said, scores={"harmlessness": 3})]
        dialogue = Dialogue(id="1", kind=Kind.RED_TEAM, turns=turns, stop=None)
        for probe, change in PROBES.items():
            text = changed(probe, dialogue, 0, Format.THINKING_ANSWER).turns[0].assistant or ""
            assert visible_answer(text, Format.THINKING_ANSWER) == change(shown).strip()


def test_against_a_second_judge(run: tuple[Path, str]) -> None:
    out, url = run
    done = safer_steer(
        *("bench", "--no-check", "--judge-only", out),
        *("--judge-model", "strict", "--judge-base-url", url),
    )
    assert done.exit_code == 0, done.output
    second = found_by(safer_steer("judge-check", out, "--second", out / "judged/strict", "--json"))["second"]
    assert (second["turns"], second["dialogues"]) == (80, 40)
    last = second["failures_by_turn"][1]
    assert (last["both"], last["second_only"], last["first_only"]) == (11, 3, 0)
    assert second["harmlessness"]["bias"]["value"] > 0 and 0 < second["alpha"]["harmlessness"] < 1


def test_nothing_to_check_is_said(run: tuple[Path, str], tmp_path: Path) -> None:
    assert "give --labels, --second, --repeats or --probes" in error(safer_steer("judge-check", run[0]))
    assert "no run in it" in error(safer_steer("judge-check", tmp_path))


def test_a_judge_that_was_the_tutor_is_known() -> None:
    def config(tutor: dict[str, str], judge: dict[str, str], own: str | None = None) -> Config:
        return Config.model_validate({"roles": {"tutor": tutor, "judge": judge}, "rl": {"tutor": own}})

    one = {"model": "a", "base_url": "http://x/v1"}
    assert config(one, one | {"base_url": "http://x/v1/"}).judge_is_tutor
    assert not config(one, one | {"model": "b"}).judge_is_tutor
    assert not config(one, one | {"base_url": "http://y/v1"}).judge_is_tutor
    assert not config(one, one, own="a:B").judge_is_tutor
    assert not Config().judge_is_tutor, "the sandbox's agents are rules"


def test_the_bench_warns_of_it(run: tuple[Path, str]) -> None:
    out, url = run
    config = out / "config.yaml"
    config.write_text(
        config.read_text().replace("roles:\n", f"roles:\n  tutor: {{model: judge, base_url: '{url}'}}\n")
    )
    done = safer_steer("judge-check", out, "--repeats", 1, "--sample", 1)
    assert "warning: the judge, judge, is the tutor that trained the student" in done.stdout, done.output
    assert "the tutor that trained the student" in (out / "report.html").read_text()
