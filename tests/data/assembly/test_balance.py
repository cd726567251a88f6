"""The balance of the data sets in words, whatever a data set calls its sources and categories."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from safer_steer.data.assembly.balance import balance_of, in_words, literal
from safer_steer.data.assembly.candidates import Candidate
from safer_steer.dialogue import Kind
from safer_steer.export.card import table


def of(source: str = "", category: str = "") -> Candidate:
    return Candidate("a", Kind.RED_TEAM, source, category, False, "pair", "", 3, "order", 0)


def table_of(*candidates: Candidate, notes: tuple[str, ...] = ()) -> str:
    balance: dict[str, Any] = {"notes": notes, "bench": "", "rules": {}, "left_out": {}}
    return in_words(balance | {"splits": {"sft": balance_of(candidates)}})


def test_numbers_come_by_value_then_words_and_numbers_that_no_number_holds() -> None:
    names = ["9", "10", "120", "7" * 5000, "weapons"]
    text = table_of(*(of(category=name) for name in reversed(names)))
    places = [text.index(f"\n| {name} | 1 |") for name in names]
    assert places == sorted(places)


LIVE = "![x](https://evil/t.png) <img src=x> [Download](https://evil/) **now** _now_ a|b ``c`` https://evil"
MARKDOWN = MarkdownIt("commonmark").enable("table")


def parts(text: str) -> list[Token]:
    tokens = MARKDOWN.parse(text)
    return [*tokens, *(part for token in tokens for part in token.children or ())]


@pytest.mark.parametrize("name", [LIVE, f"a\n\n# b\n\n{LIVE}\n", f"a\\| {LIVE} \\"])
def test_what_a_data_set_says_is_text_in_cells_and_notes(name: str) -> None:
    cells = [["source", "sft"], [name, "3"]]
    for text in (table_of(of(name, name), notes=(f"STEER-Bench has no attacks of {name}",)), table(cells)):
        inline = [part for part in parts(text) if part.type not in ("text", "code_inline")]
        assert not {part.type for part in inline} & {"image", "link_open", "html_inline", "html_block"}
        assert not any(part.type in ("strong_open", "em_open") for part in inline)
        assert sum(part.type == "heading_open" for part in inline) == text.startswith("# Balance")
        codes = [part.content for part in parts(text) if part.type == "code_inline"]
        assert codes and all("https://evil/t.png" in code and "``c``" in code for code in codes)


@given(st.text(st.sampled_from("a1_*`[]()<>!|\\:/.&~$#@-+= \n\x1b")))
@example("``")
def test_a_cell_stays_one_cell_of_text(text: str) -> None:
    tokens = parts(f"| a | b |\n|---|---|\n| {literal(text)} | 1 |\n")
    assert sum(token.type == "td_open" for token in tokens) == 2 and tokens[-1].content == "1"
    assert all(token.type.split("_")[0] in MADE for token in tokens)


MADE = ("table", "thead", "tbody", "tr", "th", "td", "inline", "text", "code")


@pytest.mark.parametrize(
    "name", ["VLGuard", "pair_in_rl", "org/Model-7B v1.5", "93.1 [90.2, 95.0]", "–", "`1f`"]
)
def test_plain_names_and_numbers_stand_as_they_are(name: str) -> None:
    assert literal(name) == name
