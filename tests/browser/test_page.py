"""The report in a real browser: clicked through, at two widths, in both colour schemes, and with hostile text
in every field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from markdown_it import MarkdownIt
from PIL import Image
from playwright.sync_api import expect

from made_up_run import HOLD, LEAK, SCRIPT, add_techniques, write_jsonl, write_run
from safer_steer.bench.results import LABELS
from safer_steer.dialogue import read_dialogues
from safer_steer.report.comparison import marks_in
from safer_steer.report.main_table import headline
from safer_steer.report.page import write_report
from safer_steer.report.runs import read_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
HOSTILE = (
    '</script><script>window.hit=1</script><img src=//127.0.0.1:9/x onerror="window.hit=1;alert(1)">'
    "<svg onload='window.hit=1'>{{7*7}} &lt; ' \" `"
)
Open = Callable[..., "Page"]


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Open]:
    """Open a report; on leaving, nothing may have been asked of a network, said in a dialog, or gone wrong on
    the console."""
    contexts, trouble = [], []

    def visit(path: Path, width: int = 1280, fragment: str = "", **settings: Any) -> Page:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}, **settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: trouble.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((path.as_uri(), "data:", "blob:"))
                or trouble.append(f"request: {request.url}")
            ),
        )
        page.goto(path.as_uri() + fragment, timeout=120_000)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not trouble


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    write_run(run, dialogues=12)
    return write_report(run)


BROWSER = "#dialogues"


def entries(page: Page) -> list[str]:
    """The ids in the list. All are in sight, and so in the document, only if the list is short."""
    return page.locator(".row .id").all_text_contents()


def follow(page: Page, name: str) -> None:
    """Click a link of the menu. The page follows its address a moment later, in an event of its own."""
    page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
    expect(page.locator("nav [aria-current=page]")).to_have_text(name)


def choose(page: Page, name: str, value: str | None = None, **how: Any) -> None:
    page.get_by_role("combobox", name=name, exact=True).select_option(value, **how)


def test_it_opens_on_the_headline_and_each_view_has_an_address(visit: Open, report: Path) -> None:
    page = visit(report)
    assert page.locator("h1").inner_text() == "Made-up devices"
    safe_and_worst_case = page.locator(".headline").get_by_role("row", name="Multi-turn Safe")
    assert [row.locator("td").count() for row in safe_and_worst_case.all()] == [4, 4]
    assert page.locator("#survival svg").first.is_visible() and page.evaluate("scrollY") == 0
    names = page.locator("nav a").all_inner_texts()
    assert names[:3] == ["Results", "Attacks", "Dialogues"]
    for name in names:
        follow(page, name)
        assert page.locator(".view:visible").count() == 1
        assert page.evaluate("scrollY") == 0
    assert page.locator("figure svg").count() >= 9
    page.go_back()
    expect(page.locator("nav [aria-current=page]")).to_have_text(names[-2])
    inner = visit(report, fragment="#turns")
    assert inner.locator("#results").is_visible() and inner.evaluate("scrollY") > 0


def test_two_models_answers_to_a_script_stand_side_by_side(visit: Open, report: Path) -> None:
    page = visit(report, fragment=BROWSER)
    page.locator(".row", has_text="marked_parts-03").click()
    view = page.locator("#dialogue")
    assert view.locator("h3").inner_text() == "marked_parts-03"
    assert view.locator(".turn > .user .text").all_inner_texts() == SCRIPT[:3]
    first = view.locator(".turn").first
    assert first.locator(".speaker b").all_inner_texts() == ["Base", "SaFeR-Steer"]
    boxes = [column.bounding_box() for column in first.locator(".answer").all()]
    assert len({box["y"] for box in boxes if box}) == 1, "side by side"
    assert len({box["x"] for box in boxes if box}) == 2
    texts = first.locator(".answer > .text").all_inner_texts()
    assert len(texts) == 2 and set(texts) <= {HOLD, LEAK}
    assert "harmlessness 3" in first.locator(".answer").last.inner_text()
    thinking = first.locator("details.thinking").first
    assert thinking.locator(".text").is_visible()
    thinking.locator("summary").click()
    assert not thinking.locator(".text").is_visible()
    choose(page, "Left", label="SFT")
    assert first.locator(".speaker b").all_inner_texts() == ["SFT", "SaFeR-Steer"]
    choose(page, "Left", label="SaFeR-Steer")
    assert first.locator(".speaker b").all_inner_texts() == ["SaFeR-Steer", "SFT"], "never one beside itself"
    page.get_by_role("button", name="Swap left and right").click()
    assert first.locator(".speaker b").all_inner_texts() == ["SFT", "SaFeR-Steer"]
    view.locator(".all button", has_text="Base").click()
    assert first.locator(".speaker b").all_inner_texts() == ["SFT", "Base"]
    choose(page, "Right", label="none")
    assert first.locator(".speaker b").all_inner_texts() == ["SFT"]


def test_a_picture_is_a_thumbnail_and_enlarged_by_a_click(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1)
    for path in (tmp_path / "pictures").glob("*.png"):
        Image.effect_mandelbrot((1000, 800), (-2, -1, 1, 1), 30).save(path)
    page = visit(write_report(tmp_path), fragment=BROWSER)
    thumbnail = page.locator("#dialogue .thumb img").first
    assert thumbnail.is_visible() and thumbnail.evaluate("image => image.naturalWidth") == 128
    assert max(thumbnail.bounding_box()[side] for side in ("width", "height")) <= 112
    thumbnail.click()
    large = page.get_by_role("dialog", name="Picture").get_by_role("img")
    assert (
        large.is_visible() and large.evaluate("image => image.decode().then(() => image.naturalWidth)") == 512
    )
    assert page.locator("#path").inner_text().startswith("pictures/")
    page.keyboard.press("Escape")
    assert not large.is_visible()


def test_a_picture_is_drawn_beside_the_words_it_came_with(visit: Open, tmp_path: Path) -> None:
    """Here each model was shown another one, as an attacker that adapts does."""
    write_run(tmp_path, dialogues=1)
    name = next((tmp_path / "pictures").glob("*.png")).name
    for path in sorted(tmp_path.glob("bench/*/marked_parts.jsonl")):
        row = json.loads(path.read_text())
        row["turns"][1]["images"] = [f"pictures/{name}"] + ["pictures/none.png"] * (path.parent.name == "sft")
        path.write_text(json.dumps(row) + "\n")
    page = visit(write_report(tmp_path), fragment=BROWSER)
    choose(page, "Left", label="SFT")
    page.locator(".row", has_text="marked_parts-00").click()
    first, second = page.locator("#dialogue .turn").nth(0), page.locator("#dialogue .turn").nth(1)
    assert first.locator("img").count() == 0 and first.locator("> .user").count() == 1
    assert second.locator("> .user").count() == 0, "the models were not shown the same"
    assert second.locator(".answer .user .shown img").count() == 2
    assert second.locator(".absent").all_inner_texts() == ["Picture not on this page: pictures/none.png"]
    drawn = second.get_by_alt_text("Picture 1 of turn 2").first
    assert drawn.is_visible() and drawn.evaluate("image => image.complete && image.naturalWidth") == 84


def test_filters_narrow_the_list_and_mark_the_failure(visit: Open, report: Path) -> None:
    page = visit(report, fragment=BROWSER)
    assert page.locator("#status").inner_text() == "48 of 48 scripts."
    choose(page, "Suite", "marked_parts")
    everything = entries(page)
    assert len(everything) == 12
    choose(page, "Outcome", "left:gave_way")
    turns = page.locator("#first option").evaluate_all("options => options.map(option => option.value)")
    assert turns[0] == "" and len(turns) > 2
    seen = []
    for turn in turns[1:]:
        choose(page, "First failure", turn)
        for row in page.locator(".row").all():
            row.click()
            failed = page.locator(f"#dialogue .turn:nth-of-type({turn}) .answer.failure", has_text="Base")
            assert "first failure" in failed.inner_text() and "harmlessness −3" in failed.inner_text()
        seen += entries(page)
    choose(page, "First failure", "")
    assert sorted(seen) == entries(page)
    choose(page, "Outcome", "left:unscored")
    assert entries(page) == ["marked_parts-01"]
    assert "unscored" in page.locator("#dialogue .turn").last.locator(".answer").first.inner_text()
    assert "endpoint: timed out" in page.locator("#dialogue").inner_text()
    choose(page, "Outcome", "left-only")
    assert entries(page)
    for row in page.locator(".row").all():
        assert row.locator(".end.gave_way").all_inner_texts()[0].endswith("Base")
    page.get_by_role("button", name="Clear filters").click()
    assert page.locator("#status").inner_text() == "48 of 48 scripts."
    choose(page, "Kind", "benign")
    assert page.locator("#status").inner_text() == "12 of 48 scripts."
    choose(page, "Kind", "")
    page.get_by_role("searchbox", name="Text").fill("TIDE LOOM")
    assert page.locator("#status").inner_text() == "12 of 48 scripts."
    page.get_by_role("searchbox", name="Text").fill("nowhere to be found")
    assert "No dialogue fits" in page.locator("#dialogue").inner_text()
    page.get_by_role("button", name="Clear filters").click()
    choose(page, "Suite", "marked_recall")
    choose(page, "Outcome", "left:incomplete")
    assert entries(page) == ["marked_recall-01"]
    assert "Base stopped: context full" in page.locator("#dialogue .about").inner_text()
    choose(page, "Outcome", "")
    for suite, outcomes in (
        ("unmarked", {"answered", "over_refused"}),
        ("single_turn_marked_blunt", {"held", "gave_way", "gave_way_breached"}),
    ):
        choose(page, "Suite", suite)
        offered = page.locator("#outcome option").evaluate_all("all => all.map(option => option.value)")
        assert {value.partition(":")[2] for value in offered if ":" in value} <= outcomes
    assert page.locator("#dialogue .turn").count() == 1


def test_a_technique_is_a_filter_and_is_named_at_its_turn(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=4)
    for path in sorted(tmp_path.glob("bench/*/marked_parts.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[1]["meta"] = {"strategy": "false_premise"}
        rows[2]["turns"][1]["meta"]["technique"] = "sunk_cost"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = visit(write_report(tmp_path), fragment=BROWSER)
    choose(page, "Technique", "false premise")
    assert entries(page) == ["marked_parts-01"]
    choose(page, "Technique", "sunk cost")
    assert entries(page) == ["marked_parts-02"]
    assert page.locator("#dialogue .turn").nth(1).locator(".user .badge").inner_text() == "sunk cost"
    follow(page, "Attacks")
    table = page.get_by_role("region", name="By technique")
    assert table.get_by_role("rowheader").all_inner_texts() == ["false premise", "sunk cost"]
    table.get_by_role("row", name="sunk cost").locator("a").first.click()
    expect(page.locator("#dialogues")).to_be_visible()
    assert page.locator("#technique").input_value() == "sunk cost"


def test_a_cell_of_the_heat_map_leads_to_the_dialogues_that_fail_there(visit: Open, report: Path) -> None:
    page = visit(report)
    page.get_by_role("region", name="Safe, attacks").get_by_role("row", name="SFT").locator("a").nth(
        1
    ).click()
    expect(page.locator("#dialogues")).to_be_visible()
    assert page.locator("#first").input_value() == "2" and page.locator("#left").input_value() == "1"
    shown = page.locator(".row .ends")
    assert shown.count() and all(text.startswith("✕2 SFT") for text in shown.all_inner_texts())


def failing_at_once(path: Path) -> int:
    """How many scored dialogues of a file fail at their first turn."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sum(
        row["stop"] == "completed"
        and all(turn["scores"] for turn in row["turns"])
        and row["turns"][0]["scores"]["harmlessness"] < 2
        for row in rows
    )


def test_a_cell_of_many_turns_leads_to_no_dialogue_of_a_single_one(visit: Open, report: Path) -> None:
    bench = report.parent / "bench/base"
    multi = sum(failing_at_once(bench / f"marked_{name}.jsonl") for name in ("parts", "recall"))
    single = failing_at_once(bench / "single_turn_marked_blunt.jsonl")
    assert multi and single
    page = visit(report)
    page.get_by_role("region", name="Safe, attacks").get_by_role("row", name="Base").locator("a").nth(
        0
    ).click()
    expect(page.locator("#status")).to_have_text(f"{multi} of 48 scripts.")
    assert not [id for id in entries(page) if "blunt" in id]
    choose(page, "Protocol", "single_turn")
    assert page.locator("#status").inner_text() == f"{single} of 48 scripts."
    choose(page, "Protocol", "")
    assert page.locator("#status").inner_text() == f"{multi + single} of 48 scripts."


FOLLOWED = """async () => {
  const wrong = [], links = [...document.querySelectorAll(".heat a")];
  for (const link of links) {
    const moved = new Promise((done) => addEventListener("hashchange", done, { once: true }));
    location.hash = link.hash;
    await moved;
    const status = document.getElementById("status").textContent;
    if (link.title !== `Dialogues: ${parseInt(status)}`) wrong.push([link.hash, link.title, status]);
  }
  return [links.length, wrong];
}"""
"""Goes where every cell of the heat maps leads; gives the number of links and those that list other dialogues
than they say."""


@pytest.mark.parametrize("names", ["a", "ab"])
def test_every_cell_lists_as_many_dialogues_as_it_says(visit: Open, tmp_path: Path, names: str) -> None:
    for seed, name in enumerate(names):
        write_run(tmp_path / name, dialogues=12 - 4 * seed)
        add_techniques(tmp_path / name, seed)
    page = visit(write_report(*(tmp_path / name for name in names), page=tmp_path / "page.html"))
    links, wrong = page.evaluate(FOLLOWED)
    assert links > 25 * len(names) and wrong == []
    for at, none in (("#turns", "100"), ("#attacks", "0")):
        empty = page.locator(f"{at} .heat td", has=page.locator("b", has_text=re.compile(f"^{none}$")))
        assert empty.count() and empty.locator("a").count() == 0, "there is nothing to lead to"


@pytest.mark.parametrize(
    "asked",
    [
        {"outcome": "left:gave_way", "suite": "unmarked"},
        {"outcome": "neither:gave_way"},
        {"outcome": "nothing"},
        {"suite": "nothing"},
        {"suite": "unmarked", "protocol": "single_turn"},
        {"protocol": "nothing"},
        {"technique": "nothing", "kind": "benign"},
        {"kind": "nothing"},
        {"first": "9"},
        {"first": "x"},
        {"first": "undefined", "outcome": "left:held"},
    ],
)
def test_an_address_that_asks_for_what_is_not_there_lists_nothing(
    visit: Open, report: Path, asked: dict[str, str]
) -> None:
    page = visit(report, fragment=BROWSER + "".join(f"&{name}={value}" for name, value in asked.items()))
    assert page.locator("#status").inner_text() == "0 of 48 scripts."
    assert {name: page.locator(f"#{name}").input_value() for name in asked} == asked
    assert "No dialogue fits" in page.locator("#dialogue").inner_text()
    page.get_by_role("button", name="Clear filters").click()
    assert page.locator("#status").inner_text() == "48 of 48 scripts."


def test_what_is_chosen_stays_so_where_no_dialogue_has_it(visit: Open, report: Path) -> None:
    page = visit(report, fragment=BROWSER)
    choose(page, "Outcome", "left:gave_way")
    choose(page, "Suite", "unmarked")
    assert page.locator("#status").inner_text() == "0 of 48 scripts."
    assert page.locator("#outcome option:checked").inner_text() == "gave way (0)"
    choose(page, "Suite", "marked_parts")
    assert not page.locator("#outcome option:checked").inner_text().endswith("(0)") and entries(page)


def test_the_keyboard_suffices(visit: Open, report: Path) -> None:
    page = visit(report, fragment=BROWSER)
    title = page.locator("#dialogue h3")
    keys = page.keyboard
    for key, wanted in (("j", "01"), ("j", "02"), ("k", "01")):
        keys.press(key)
        assert title.inner_text() == f"marked_parts-{wanted}"
    page.get_by_role("listbox", name="Dialogues").focus()
    for key, wanted in (
        ("ArrowDown", "marked_parts-02"),
        ("End", "marked_blunt-11"),
        ("Home", "marked_parts-00"),
    ):
        keys.press(key)
        assert title.inner_text() == wanted
        chosen = page.locator('.row[aria-selected="true"]')
        assert chosen.locator(".id").inner_text() == wanted
        assert chosen.get_attribute("id") == page.locator("#list").get_attribute("aria-activedescendant")
    speakers = page.locator("#dialogue .turn").first.locator(".speaker b")
    keys.press("s")
    assert speakers.all_inner_texts() == ["SaFeR-Steer", "Base"]
    keys.press("t")
    assert page.locator("details.thinking[open]").count() == 0
    keys.press("?")
    assert page.get_by_role("dialog", name="Keys and terms").is_visible()
    keys.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    keys.press("/")
    keys.type("jsx?")
    assert page.locator("#search").input_value() == "jsx?", "letters in the field are letters"
    page.locator("#list").focus()
    keys.press("x")
    assert page.locator("#status").inner_text() == "48 of 48 scripts."
    unnamed = page.locator("select, input, button, a").evaluate_all(
        """all => all.filter((one) => one.checkVisibility()
          && !(one.labels?.length || one.innerText || one.ariaLabel
            || one.querySelector("img[alt]"))).length"""
    )
    assert unnamed == 0


def test_an_address_restores_filters_models_and_dialogue(visit: Open, report: Path) -> None:
    page = visit(report, fragment=BROWSER)
    choose(page, "Suite", "marked_recall")
    choose(page, "Left", label="SFT")
    choose(page, "Right", label="Base")
    choose(page, "Outcome", "right:gave_way")
    page.get_by_role("searchbox", name="Text").fill("device")
    page.locator(".row").nth(2).click()
    names = (
        "protocol",
        "suite",
        "kind",
        "category",
        "technique",
        "outcome",
        "first",
        "search",
        "left",
        "right",
    )

    def state(page: Page) -> list[str]:
        title = page.locator("#dialogue h3").inner_text()
        return [title, *(page.locator(f"#{name}").input_value() for name in names)]

    before, listed = state(page), entries(page)
    page.wait_for_url(lambda url: url.endswith(f"&of=marked_recall&id={before[0]}"))
    again = visit(report, fragment=page.evaluate("location.hash"))
    assert state(again) == before and entries(again) == listed
    assert again.locator('.row[aria-selected="true"] .id').inner_text() == before[0]
    follow(again, "Results")
    follow(again, "Dialogues")
    assert state(again) == before, "the view keeps its state"
    odd = visit(
        report, fragment="#dialogues&left=nobody&suite=nothing&first=x&id=marked_parts-07&of=marked_parts"
    )
    assert state(odd) == ["marked_parts-07", *[""] * 8, "0", "2"]
    hidden = visit(report, fragment="#dialogues&suite=unmarked&id=marked_parts-07&of=marked_parts")
    assert state(hidden)[:3] == ["marked_parts-07", "", ""], "a filter that hides the dialogue gives way"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_legible_in_both_schemes(visit: Open, report: Path, width: int, scheme: str) -> None:
    page = visit(report, width=width, color_scheme=scheme)
    for view in page.locator("nav a").all_inner_texts():
        follow(page, view)
        page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert page.evaluate(CONTRAST) == [], f"{view}: text with a contrast below 4.5"
        heights = page.locator("figure svg text:visible").evaluate_all(
            "all => all.map(text => text.getBoundingClientRect().height)"
        )
        assert min(heights, default=10) >= 10, "pixels of the smallest text in a plot"


def test_on_a_phone_a_choice_leads_to_the_dialogue(visit: Open, report: Path) -> None:
    page = visit(report, width=390, fragment=BROWSER)
    page.locator(".row").nth(1).click()
    top = page.locator("#dialogue").bounding_box()["y"]
    assert 0 <= top < 100
    answers = [box.bounding_box() for box in page.locator("#dialogue .turn").first.locator(".answer").all()]
    assert answers[0]["x"] == answers[1]["x"] and answers[0]["y"] < answers[1]["y"], "one below the other"
    page.get_by_role("button", name="Next dialogue").click()
    assert page.locator("#dialogue h3").inner_text() == "marked_parts-02"


@pytest.mark.parametrize("bypass_csp", [False, True])
def test_hostile_text_is_shown_and_does_nothing(visit: Open, tmp_path: Path, bypass_csp: bool) -> None:
    write_run(tmp_path, hostile=HOSTILE, dialogues=2)
    page = visit(write_report(tmp_path), fragment=BROWSER, bypass_csp=bypass_csp)
    for _ in range(8):
        view = page.locator("#dialogue")
        assert view.locator("h3").text_content().endswith(HOSTILE)
        assert view.locator(".user .text").first.text_content() == SCRIPT[0] + HOSTILE
        assert view.locator(".thinking .text").first.text_content().endswith(HOSTILE)
        assert view.locator(".answer > .text").first.text_content().endswith(HOSTILE)
        assert view.locator("img").count() == 1
        page.keyboard.press("j")
    assert "marked_recall" in page.locator("#suite option").nth(2).text_content()
    assert page.locator("#data").get_by_text("unscored" + HOSTILE).count() == 1
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    assert page.locator("script").count() == 4
    assert page.locator("[onload], [onerror]").count() == 0


def test_characters_that_turn_or_hide_text_are_drawn_as_their_numbers(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1, models=("base",))
    text = "abc \u202e\u2066fed\u2069 x\u200by **bold** \U000e0041 שלום 👩\u200d👩"
    for path in tmp_path.glob("bench/base/marked_parts.jsonl"):
        row = json.loads(path.read_text())
        row["turns"][0]["assistant"] = text
        path.write_text(json.dumps(row) + "\n")
    page = visit(write_report(tmp_path), fragment=BROWSER)
    answer = page.locator("#dialogue .answer > .text").first
    assert answer.text_content() == text, "nothing is lost"
    codes = answer.locator(".odd").evaluate_all("all => all.map(odd => odd.dataset.code)")
    assert codes == ["U+202E", "U+2066", "U+2069", "U+200B", "U+E0041"]
    places = answer.evaluate(
        """text => [...text.childNodes].filter((node) => node.nodeType === 3).map((node) => {
          const range = document.createRange();
          range.selectNodeContents(node);
          return range.getBoundingClientRect().x;
        })"""
    )
    assert places == sorted(places), "read from left to right"


def test_several_runs_stand_on_one_page(visit: Open, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, dialogues=4)
    other = tmp_path / "two/bench/base/marked_parts.jsonl"
    other.write_text(other.read_text().replace(HOLD, "Not here.").replace(LEAK, "Not here."))
    page = visit(write_report(tmp_path / "one", tmp_path / "two", page=tmp_path / "both.html"))
    heads = page.locator(".headline tbody th").all_inner_texts()
    assert [" ".join(head.split()) for head in heads] == [
        f"{run} {model}" for run in ("one", "two") for model in ("Base", "SFT", "SaFeR-Steer")
    ]
    page.goto(page.url + BROWSER)
    choose(page, "Right", label="two · Base")
    turn = page.locator("#dialogue .turn").first
    assert turn.locator(".speaker b").all_inner_texts() == ["one · Base", "two · Base"]
    assert turn.locator("> .user").count() == 1, "the same script"
    assert turn.locator(".answer > .text").last.inner_text() == "Not here."
    assert page.locator("#dialogue .top img").count() == 1, "the same picture"
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_what_an_attacker_took_back_stands_collapsed_at_its_turn(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1)
    row = json.loads((tmp_path / "bench/base/marked_parts.jsonl").read_text())
    tried = row["turns"][0] | {"user": "Just say it.", "meta": {"technique": "plea"}}
    row["turns"][1]["meta"] |= {
        "technique": "detour",
        "calls": 3,
        "taken_back": [tried],
        "thought": "It will not.",
    }
    row |= {"id": "intent~0", "meta": {"attacker": "b", "taken_back": [tried, tried]}}
    (tmp_path / "bench/base/adaptive_b.jsonl").write_text(json.dumps(row) + "\n")
    page = visit(write_report(tmp_path), fragment="#dialogues&suite=adaptive_b")
    assert entries(page) == ["intent~0"]
    second = page.locator("#dialogue .turn").nth(1)
    assert "3 attacker calls" in second.inner_text() and "detour" in second.inner_text()
    assert not second.get_by_text("Just say it.").is_visible()
    second.get_by_text("1 attempt taken back").click()
    assert second.get_by_text("Just say it.").is_visible()
    assert "plea" in second.locator(".taken").inner_text()
    assert page.locator("#shown").get_by_text("2 attempts taken back").count() == 1, "after the last turn"
    assert "This model did not play this script." in page.locator("#shown").inner_text()


def test_three_thousand_dialogues_are_listed_within_three_seconds(visit: Open, tmp_path: Path) -> None:
    """Of two models each, with 600 pictures. The time is the browser's own, from the start of the navigation
    until the first dialogue is drawn beside its list; in the best of up to four tries."""
    write_run(tmp_path, dialogues=1, models=("base", "sft"))
    for number in range(600):
        tint = (number % 256, number // 3 % 256, 90)
        Image.effect_noise((400, 300), 60).convert("RGB").point(lambda v, t=tint: v).save(
            tmp_path / "pictures" / f"many-{number}.jpg"
        )
    for path in sorted(tmp_path.glob("bench/*/*.jsonl")):
        if path.stem != "marked_parts":
            path.unlink()
            continue
        row = json.loads(path.read_text())
        rows = [
            row | {"id": f"d{number:04d}", "images": [f"pictures/many-{number % 600}.jpg"]}
            for number in range(3000)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = write_report(tmp_path)
    assert report.stat().st_size > 15_000_000, "pictures up to their limit"
    took: list[float] = []
    while len(took) < 4 and min(took, default=3000) >= 3000:
        page = visit(report, fragment=BROWSER)
        listed = page.wait_for_function("performance.getEntriesByName('dialogues-listed')[0]?.startTime")
        took.append(listed.json_value())
    assert page.locator("#dialogue .turn").count() == 3
    assert page.locator(".row").count() < 40, "only rows in sight are in the document"
    assert page.locator("#status").inner_text() == "3,000 of 3,000 scripts."
    print(f"{report.stat().st_size / 1e6:.0f} MB, listed in {min(took) / 1000:.2f} s")
    assert min(took) < 3000
    page.locator("#list").focus()
    page.keyboard.press("End")
    assert page.locator('.row[aria-selected="true"]').is_visible()
    page.get_by_role("searchbox", name="Text").fill("d2999")
    assert entries(page) == ["d2999"]


def test_the_page_says_when_a_suite_is_cut(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1, models=("base",))
    path = tmp_path / "bench/base/marked_parts.jsonl"
    row = json.loads(path.read_text())
    path.write_text("".join(json.dumps(row | {"id": f"d{number}"}) + "\n" for number in range(3100)))
    page = visit(write_report(tmp_path), fragment=BROWSER)
    assert (
        "The page holds 3,000 of 3,103, drawn by a hash of their ids" in page.locator("#status").inner_text()
    )


def table(page: Page) -> dict[str, tuple[str, list[str]]]:
    """The headline table: by measure the difference, and the models whose rate is bold."""
    rows = page.locator(".headline").evaluate(
        """table => [...table.tBodies[0].rows].map((row) => {
          const [name, ...cells] = [...row.cells], minus = cells.pop().textContent;
          const bold = (cell) => Number(getComputedStyle(cell).fontWeight) > 500;
          const heads = [...table.tHead.rows[0].cells].slice(1).map((head) => head.textContent);
          const better = heads.filter((_, place) => cells[place] && bold(cells[place]));
          return [name.firstChild.textContent, minus, better];
        })"""
    )
    return {name: (minus, bold) for name, minus, bold in rows}


def test_two_models_are_compared_in_the_first_table(visit: Open, report: Path) -> None:
    """Bold says that a model is better, which takes the interval of the difference."""
    run = read_run(report.parent)
    names, rows = run.summary.names, headline(run.summary, None, marks_in([run]))
    page = visit(report)
    for ours, theirs in ((2, 0), (0, 2), (1, 2)):
        choose(page, "Model", names[ours])
        choose(page, "Minus model", names[theirs])
        shown = table(page)
        for row in rows:
            minus = row.minus(ours, theirs)
            better = row.better(minus, ours, theirs)
            wanted = [
                "" if minus.value is None else minus.signed,
                [LABELS[names[better]]] if better is not None else [],
            ]
            assert [*shown[row.label]] == wanted, row.label
    assert table(visit(report, fragment=page.evaluate("location.hash"))) == shown, (
        "the address holds the pair"
    )
    choose(page, "Model", names[2])
    assert page.locator("#theirs").input_value() == names[1], "never one beside itself"
    page.get_by_role("link", name="Their dialogues").click()
    expect(page.locator("#dialogues")).to_be_visible()
    assert [page.locator(f"#{side} option:checked").inner_text() for side in ("left", "right")] == [
        "SFT",
        "SaFeR-Steer",
    ]


def test_bold_goes_the_right_way_round_where_less_is_better(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=40, models=("base", "sft"))
    path = tmp_path / "bench/sft/unmarked.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["turns"][0]["scores"]["refused"] = 1
    write_jsonl(path, rows)
    page = visit(write_report(tmp_path))
    minus, bold = table(page)["Over-refusal"]
    assert minus.startswith("+") and bold == ["Base"]
    minus, bold = table(page)["Multi-turn Safe"]
    assert minus.startswith("+") and bold == ["SFT"]


def test_models_of_several_runs_are_compared_across(visit: Open, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, dialogues=20)
    page = visit(write_report(tmp_path / "one", tmp_path / "two", page=tmp_path / "both.html"))
    choose(page, "Model", label="two · SFT")
    choose(page, "Minus model", label="one · SFT")
    cells = page.locator(".headline tfoot td").all_inner_texts()
    assert cells[0].startswith("+0.0") and page.locator(".headline .better").count() == 0, "the same rows"
    choose(page, "Minus model", label="one · Base")
    column = page.locator(".headline thead th").all_inner_texts().index("Multi-turn Safe")
    better = page.locator(f".headline tbody td:nth-child({column + 1}).better")
    assert better.evaluate("cell => cell.parentElement.cells[0].textContent") == "twoSFT"
    again = visit(tmp_path / "both.html", fragment=page.evaluate("location.hash"))
    assert again.locator("#theirs option:checked").inner_text() == "one · Base"


def with_categories(run: Path) -> None:
    """Every second script has a category that is hostile text, the others have another."""
    write_run(run, hostile=HOSTILE, dialogues=4)
    for path in sorted(run.glob("bench/*/*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for place, row in enumerate(rows):
            row["meta"] = {"category": ("weapons", f"fraud{HOSTILE}")[place % 2]}
        write_jsonl(path, rows)


def test_what_is_listed_is_downloaded_as_rows_of_the_run_folder(visit: Open, tmp_path: Path) -> None:
    with_categories(tmp_path / "run")
    page = visit(write_report(tmp_path / "run"), fragment=BROWSER)
    choose(page, "Category", "weapons")
    choose(page, "Suite", "marked_parts")
    choose(page, "Right", label="SFT")
    assert entries(page) == [f"marked_parts-{number:02d}{HOSTILE}" for number in (0, 2)]
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download JSONL").click()
    file = waiting.value.suggested_filename
    assert re.fullmatch(r"[\w-]+\.jsonl", file) and file.startswith("Made-up-devices")
    waiting.value.save_as(tmp_path / "rows.jsonl")
    rows = read_dialogues(tmp_path / "rows.jsonl")
    assert [(row.id, row.meta["page"]["model"]) for row in rows] == [
        (f"marked_parts-{number:02d}{HOSTILE}", model) for number in (0, 2) for model in ("base", "sft")
    ]
    for row in rows:
        own = row.meta["page"]
        written = json.loads((tmp_path / "run" / own["file"]).read_text().splitlines()[own["row"] - 1])
        assert [row.id, row.intent, row.images, row.stop] == [
            written[key] for key in ("id", "intent", "images", "stop")
        ]
        assert row.meta["category"] == written["meta"]["category"] == "weapons"
        for turn, before in zip(row.turns, written["turns"], strict=True):
            assert [turn.user, turn.assistant, turn.scores] == [
                before[key] for key in ("user", "assistant", "scores")
            ]


def test_a_dialogue_is_copied_as_markdown_that_its_texts_cannot_break(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1, models=("base",))
    attack = (
        "```\n~~~~\n````text\n# heading\n<script>1</script> [x](javascript:1) ![y](//z)\r\n- item `` ` ```"
    )
    path = tmp_path / "bench/base/marked_parts.jsonl"
    row = json.loads(path.read_text())
    row |= {"id": f"`{attack}", "intent": attack, "source": attack, "meta": {"category": attack}}
    row["turns"] = [row["turns"][0] | {"user": attack, "assistant": attack, "scores": {"`x`\n# y": 1}}]
    row["turns"][0]["meta"] = {"technique": attack, "reason": attack}
    write_jsonl(path, [row])
    page = visit(
        write_report(tmp_path),
        fragment=f"{BROWSER}&suite=marked_parts",
        permissions=["clipboard-read", "clipboard-write"],
    )
    page.get_by_role("button", name="Copy as Markdown").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    tokens = MarkdownIt().parse(page.evaluate("navigator.clipboard.readText()"))
    assert [token.content for token in tokens if token.type == "fence"] == [
        attack.replace("\r", "") + "\n"
    ] * 3
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2"]
    inner = {part.type for token in tokens for part in token.children or ()}
    assert inner <= {"text", "code_inline", "softbreak", "strong_open", "strong_close"}
    assert not [token for token in tokens if token.type.startswith("html")]


def test_the_copied_link_opens_the_same_view(visit: Open, tmp_path: Path) -> None:
    with_categories(tmp_path)
    granted = {"permissions": ["clipboard-read", "clipboard-write"]}
    page = visit(write_report(tmp_path), fragment=BROWSER, **granted)
    choose(page, "Category", f"fraud{HOSTILE}")
    choose(page, "Left", label="SFT")
    page.locator(".row").nth(2).click()
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    again = visit(tmp_path / "report.html", fragment="#" + link.partition("#")[2])
    assert link.startswith((tmp_path / "report.html").as_uri())
    for name in ("category", "left", "right"):
        assert again.locator(f"#{name}").input_value() == page.locator(f"#{name}").input_value()
    assert entries(again) == entries(page) and len(entries(page)) == 8
    assert again.locator("#dialogue h3").text_content() == page.locator("#dialogue h3").text_content()


def test_a_link_is_copied_where_the_browser_has_no_clipboard_for_the_page(visit: Open, report: Path) -> None:
    page = visit(report, fragment=BROWSER)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy link").click()
    page.locator("#search").focus()
    page.keyboard.press("Control+V")
    assert page.locator("#search").input_value().startswith(f"{report.as_uri()}{BROWSER}&left=base")
    expect(page.get_by_role("button", name="Copy link")).to_be_visible()


def test_the_rates_are_plotted_above_the_table(visit: Open, report: Path) -> None:
    page = visit(report, width=390)
    names = page.locator(".panels h3").all_inner_texts()
    assert names[:2] == ["Safe", "Help"] and "Over-refusal\nlower is better" in names
    summary = read_run(report.parent).summary
    said = page.get_by_role("img", name=re.compile("^Safe: ")).get_attribute("aria-label")
    rates = [f"{LABELS[name]} {summary.models[name]['multi_turn'].average.safe}" for name in summary.names]
    assert said == f"Safe: {'; '.join(rates)}"
    bottom = page.locator(".panels").evaluate("one => one.getBoundingClientRect().bottom")
    assert bottom < 844, "on a phone's first screen"
    assert bottom < page.locator(".headline").evaluate("one => one.getBoundingClientRect().top")


def test_the_tables_of_attackers_fit_a_screen(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1, models=("sft",))
    add_techniques(tmp_path, seed=1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    [entry] = summary["adaptive"]["sft"].values()
    rate = {"value": 100, "low": 78, "high": 100}
    entry |= {"breach_at": dict.fromkeys("123", rate), "static": rate}
    entry["gap"] = {"value": -10, "low": -23.1, "high": 23.1}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = visit(write_report(tmp_path), fragment="#adaptive")
    boxes = page.locator("#adaptive .health .scroll")
    assert boxes.count() >= 2
    assert boxes.evaluate_all("boxes => boxes.slice(0, 2).every((box) => box.scrollWidth <= box.clientWidth)")


def test_a_run_without_dialogues_is_a_quiet_page(visit: Open, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: early\n")
    page = visit(write_report(tmp_path))
    assert page.locator(".empty").count() == 8
    follow(page, "Dialogues")
    assert "No dialogues" in page.locator(".view:visible").inner_text()


def test_a_script_is_opened_and_read(visit: Open, report: Path) -> None:
    page = visit(report, fragment="#data")
    page.locator("#scripts summary", has_text="red-team").click()
    script = page.locator("#scripts .script", has=page.get_by_text("red_team-0", exact=True))
    assert script.locator("summary .badge").all_inner_texts() == ["1", "1", "2", "4", "5"]
    script.locator("summary").click()
    assert script.locator("li > span.text").all_inner_texts() == SCRIPT
    page.locator("#scripts summary", has_text="dropped").click()
    assert page.get_by_role("cell", name="attack failed", exact=True).first.is_visible()


CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !element.getClientRects().length) continue;
    if (element.matches("script, option")) continue;
    const style = getComputedStyle(element);
    const colour = parse(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [luminance(colour), luminance(behind(element))].sort((x, y) => y - x);
    const name = `${element.tagName} ${element.getAttribute("class")} ${element.textContent.slice(0, 20)}`;
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.add(name);
  }
  return [...faint];
}"""
