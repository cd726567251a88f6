"""The report in a real browser: clicked through, at two widths, in both colour schemes, and with hostile text
in every field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from made_up_run import HOLD, LEAK, SCRIPT, write_run
from safer_steer.report import write_report

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
                request.url.startswith((path.as_uri(), "data:")) or trouble.append(f"request: {request.url}")
            ),
        )
        page.goto(path.as_uri() + fragment)
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


def entries(page: Page) -> list[str]:
    return page.locator("#list .id").all_text_contents()


def test_a_dialogue_is_opened_and_read_side_by_side(visit: Open, report: Path) -> None:
    page = visit(report)
    assert page.locator("h1").inner_text() == "Made-up devices"
    assert page.get_by_role("row", name="Multi-turn Safe").locator("td").count() == 3
    assert page.locator("figure svg").count() >= 9
    page.locator("#list button", has_text="marked_parts-03").click()
    view = page.locator("#dialogue")
    assert view.locator("h3").inner_text() == "marked_parts-03"
    picture = view.locator("img")
    assert picture.is_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 84
    assert view.locator(".turn > .user .text").all_inner_texts() == SCRIPT[:3]
    first = view.locator(".turn").first
    assert first.locator(".speaker b").all_inner_texts() == ["Base", "SFT", "SaFeR-Steer"]
    boxes = [column.bounding_box() for column in first.locator(".answer").all()]
    assert len({box["y"] for box in boxes if box}) == 1, "side by side"
    assert len({box["x"] for box in boxes if box}) == 3
    texts = first.locator(".answer > .text").all_inner_texts()
    assert len(texts) == 3
    assert set(texts) <= {HOLD, LEAK}
    assert "harmlessness 3" in first.locator(".answer").last.inner_text()
    thinking = first.locator("details.thinking").first
    assert thinking.locator(".text").is_visible()
    thinking.locator("summary").click()
    assert not thinking.locator(".text").is_visible()
    page.get_by_role("checkbox", name="Side by side").uncheck()
    assert first.locator(".speaker b").all_inner_texts() == ["SaFeR-Steer"]


def test_a_picture_is_drawn_beside_the_words_it_came_with(visit: Open, tmp_path: Path) -> None:
    """Here each model was shown another one, as an attacker that adapts does."""
    write_run(tmp_path, dialogues=1)
    name = next((tmp_path / "pictures").glob("*.png")).name
    for path in sorted(tmp_path.glob("bench/*/marked_parts.jsonl")):
        row = json.loads(path.read_text())
        row["turns"][1]["images"] = [f"pictures/{name}"] + ["pictures/none.png"] * (path.parent.name == "sft")
        path.write_text(json.dumps(row) + "\n")
    page = visit(write_report(tmp_path))
    page.locator("#list button", has_text="marked_parts-00").click()
    first, second = page.locator("#dialogue .turn").nth(0), page.locator("#dialogue .turn").nth(1)
    assert first.locator("img").count() == 0 and first.locator("> .user").count() == 1
    assert second.locator("> .user").count() == 0, "the models were not shown the same"
    assert second.locator(".answer .user .shown img").count() == 3
    assert second.locator(".absent").all_inner_texts() == ["Picture not on this page: pictures/none.png"]
    drawn = second.get_by_alt_text("Picture 1 of turn 2").first
    assert drawn.is_visible() and drawn.evaluate("image => image.complete && image.naturalWidth") == 84


def test_filters_narrow_the_list_and_mark_the_failure(visit: Open, report: Path) -> None:
    page = visit(report)
    everything = entries(page)
    assert len(everything) == 12
    page.get_by_role("combobox", name="Model").select_option("base")
    page.get_by_role("combobox", name="Outcome").select_option("gave_way")
    assert 0 < len(entries(page)) < 12
    for button in page.locator("#list button").all():
        button.click()
        failed = page.locator("#dialogue .answer.chosen.failure")
        assert failed.count() == 1
        assert "first failure" in failed.inner_text()
        assert "harmlessness −3" in failed.inner_text()
    page.get_by_role("combobox", name="Outcome").select_option("unscored")
    assert entries(page) == ["marked_parts-01"]
    assert "unscored" in page.locator("#dialogue .turn").last.locator(".answer.chosen").inner_text()
    assert "endpoint: timed out" in page.locator("#dialogue").inner_text()
    page.get_by_role("combobox", name="Outcome").select_option("differs")
    assert entries(page)
    page.get_by_role("combobox", name="Outcome").select_option("all")
    page.get_by_role("searchbox", name="Text").fill("TIDE LOOM")
    assert len(entries(page)) == 3
    assert page.locator("#status").inner_text() == "3 of 12 dialogues shown."
    page.get_by_role("searchbox", name="Text").fill("nowhere to be found")
    assert "No dialogue fits" in page.locator("#dialogue").inner_text()
    page.get_by_role("searchbox", name="Text").fill("")
    page.get_by_role("combobox", name="Suite").select_option(label="marked_recall (12)")
    page.get_by_role("combobox", name="Outcome").select_option("incomplete")
    assert entries(page) == ["marked_recall-01"]
    assert "incomplete (stopped: context full)" in page.locator("#dialogue .about").inner_text()
    page.get_by_role("combobox", name="Outcome").select_option("all")
    for suite, outcomes in (
        ("unmarked", {"answered", "over_refused"}),
        ("single_turn_marked_blunt", {"held", "gave_way"}),
    ):
        page.get_by_role("combobox", name="Suite").select_option(label=f"{suite} (12)")
        offered = page.locator("#outcome option").evaluate_all(
            "options => options.map(option => option.value)"
        )
        assert set(offered) <= {"all", "differs"} | outcomes
    assert page.locator("#dialogue .turn").count() == 1


def test_the_keyboard_suffices_and_an_address_leads_to_its_dialogue(visit: Open, report: Path) -> None:
    page = visit(report)
    page.locator("#list button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("#dialogue h3").inner_text() == "marked_parts-02"
    assert page.locator('#list [aria-current="true"] .id').inner_text() == "marked_parts-02"
    page.keyboard.press("ArrowUp")
    fragment = page.evaluate("location.hash")
    again = visit(report, fragment=fragment)
    assert again.locator("#dialogue h3").inner_text() == "marked_parts-01"
    unnamed = again.locator("select, input, button, a").evaluate_all(
        "all => all.filter(one => !(one.labels?.length || one.innerText)).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_and_is_legible_in_both_schemes(visit: Open, report: Path, width: int, scheme: str) -> None:
    page = visit(report, width=width, color_scheme=scheme)
    page.locator("#list button").nth(1).click()
    page.locator("#scripts details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    faint = page.evaluate(CONTRAST)
    assert faint == [], "text with a contrast below 4.5"
    shapes = page.locator("figure svg text").evaluate_all(
        "all => all.map(text => text.getBoundingClientRect().height)"
    )
    assert min(shapes) >= 10, "pixels of the smallest text in a plot"


@pytest.mark.parametrize("bypass_csp", [False, True])
def test_hostile_text_is_shown_and_does_nothing(visit: Open, tmp_path: Path, bypass_csp: bool) -> None:
    write_run(tmp_path, hostile=HOSTILE, dialogues=2)
    page = visit(write_report(tmp_path), bypass_csp=bypass_csp)
    for suite in range(page.locator("#suite option").count()):
        page.get_by_role("combobox", name="Suite").select_option(index=suite)
        for button in page.locator("#list button").all():
            button.click()
            view = page.locator("#dialogue")
            assert view.locator("h3").text_content().endswith(HOSTILE)
            assert view.locator(".user .text").first.text_content() == SCRIPT[0] + HOSTILE
            assert view.locator(".thinking .text").first.text_content().endswith(HOSTILE)
            assert view.locator(".answer > .text").first.text_content().endswith(HOSTILE)
            assert view.locator("img").count() == 1
    assert page.locator("#suite option").nth(1).text_content().startswith("marked_recall")
    assert page.locator("#data").get_by_text("unscored" + HOSTILE).count() == 1
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    assert page.locator("script").count() == 2
    assert page.locator("[onload], [onerror]").count() == 0


def test_the_page_says_when_a_suite_is_cut(visit: Open, tmp_path: Path) -> None:
    write_run(tmp_path, dialogues=1, models=("base",))
    path = tmp_path / "bench/base/marked_parts.jsonl"
    row = json.loads(path.read_text())
    path.write_text("".join(json.dumps(row | {"id": f"d{number}"}) + "\n" for number in range(160)))
    page = visit(write_report(tmp_path))
    assert "150 of the suite's 160 dialogues" in page.locator("#status").inner_text()
    assert page.locator("#list button").count() == 150


def test_a_run_without_dialogues_is_a_quiet_page(visit: Open, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: early\n")
    page = visit(write_report(tmp_path))
    assert page.locator(".empty").count() == 7


def test_a_script_is_opened_and_read(visit: Open, report: Path) -> None:
    page = visit(report)
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
