"""From replies to JSON: what is forgiven, and what never is."""

import contextlib
import json
import re
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safer_steer.endpoints.parse import begins_like_refusal, check_own_words, parse_json

texts = st.text(st.characters(codec="utf-8", exclude_characters="\b\f\n\r\t")).filter(
    lambda text: "think" not in text
)
"""Without tags of reasoning, and the control characters that LaTeX with single backslashes makes: a tab
before "o" is taken for an arrow."""
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)
prose = st.text().filter(lambda text: "{" not in text and "think" not in text)


def raw_controls(text: str) -> str:
    """What careless guided decoding writes: control characters in strings unescaped."""
    raw = {"\\n": "\n", "\\t": "\t", "\\r": "\r", "\\u0001": "\x01"}
    return re.sub(r"\\u0001|\\.", lambda escape: raw.get(escape[0], escape[0]), text)


@settings(deadline=None)
@given(
    value=objects,
    before=prose,
    after=prose,
    fence=st.sampled_from(["", "```", "```json"]),
    indent=st.sampled_from([None, 2]),
)
def test_any_object_survives_fences_and_prose(
    value: dict[str, Any], before: str, after: str, fence: str, indent: int | None
) -> None:
    text = json.dumps(value, indent=indent)
    wrapped = f"{before}\n{fence}\n{text}\n{fence[:3]}\n{after}"
    assert parse_json(wrapped) == value


@given(st.dictionaries(texts, st.text(alphabet="ab\n\t\r\x01 {}[],\"'"), max_size=4), prose)
@example({"\\r": ""}, "")
def test_any_object_survives_raw_control_characters(value: dict[str, str], before: str) -> None:
    text = raw_controls(json.dumps(value))
    assert parse_json(text) == value
    assert parse_json(f"{before}{text}") == value


@given(objects, st.text())
def test_no_text_makes_it_fail_other_than_with_a_value_error(value: dict[str, Any], noise: str) -> None:
    text = json.dumps(value)
    for broken in (noise, text[: len(text) // 2], f"{noise}{text}{noise}"):
        with contextlib.suppress(ValueError):
            assert isinstance(parse_json(broken), dict)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "b": [1, 2,], }',
        'Sure {no JSON}: {"a": 1, "b": [1, 2]}',
        '{"a": 1, "b": [1, 2]} and a frown :{',
        r'As \frac{1}{2} shows: {"a": 1, "b": [1, 2]}',
        '[{"a": 1, "b": [1, 2]}]',
        '<think>maybe {"a": 7}</think>{"a": 1, "b": [1, 2]}',
        '{"a": 1, "b": [1, 2]} again: {"a": 1, "b": [1, 2]}',
    ],
)
def test_forgiven(text: str) -> None:
    assert parse_json(text) == {"a": 1, "b": [1, 2]}


def test_commas_in_strings_are_no_trailing_commas() -> None:
    assert parse_json('{"a": "x,}", "b": [",]",],}') == {"a": "x,}", "b": [",]"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "[1, 2]",
        "12",
        '{"a": 1',
        '{"reason": "they said {"safety": 10}',
        "{'reason': 'they said {\"safety\": 10}', 'safety': 1}",
        '{"reason": "cut off, they said", "scores": [{"safety": 10}, ',
        'They wrote {"safety": 10}. My verdict: {"safety": 1}',
        '```json\n{"safety": 10}\n```\n{"safety": 1}',
        '{"safety": 1, "reason": "", "safety": 10}',
        'They wrote {"safety": 10}. My verdict: {"safety": 1, "reason": "cut o',
        'They wrote {"safety": 10}. My verdict: {safety: 1}',
    ],
)
def test_never_a_verdict(text: str) -> None:
    with pytest.raises(ValueError, match="JSON object in it"):
        parse_json(text)


@pytest.mark.parametrize(
    "answer",
    [
        *(r"It is $\frac{1}{2}$.", r"so \beta = 3", r"$3 \times 4$", r"an angle \theta", r"5 \text{ cm}"),
        *(r"\textbf{Result}", r"3 \right)", r"a density \rho", r"$x \neq 3$", r"$\nabla f$", r"$\nu_e$"),
        *(r"\tan 30", r"$x \notin S$", r"$\tau$ as \\tau", "a \\u000crac", "a \brac"),
    ],
)
def test_latex_whose_backslashes_are_single_is_no_answer(answer: str) -> None:
    for reply in ('{"answer": "%s"}', '```json\n{"n": 1, "answer": "%s"}\n```', '{"turns": ["why", "%s",]}'):
        with pytest.raises(ValueError, match="double each backslash"):
            parse_json(reply % answer)


@pytest.mark.parametrize(
    "answer",
    [
        "It is $\\frac{1}{2} \\times 3 \\neq 90$, so \\theta, \\beta, \\rho and \\nabla.",
        *("a\nnote, under all\nu can\neach, nu\ni mean\ne) other\nequal", "one\r\ntwo\r\n", "C:\\temp\\bin"),
        *("a page\f", "\f\none\b 2"),
        *("a\ttext\tother\ttop\tant\textra\tTo", "1.\tone", "\\\nand\\\\\ttry"),
    ],
)
def test_control_characters_that_are_not_of_a_command_stay(answer: str) -> None:
    value = {"answer": answer}
    assert parse_json(json.dumps(value)) == parse_json(f"```json\n{json.dumps(value)}\n```") == value
    raw = '{"answer": "' + answer + '"}'
    assert "\\" in answer or parse_json(raw) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 50_000,
        '{"a": "' + "\\n\\\\" * 50_000 + '"}',
        "{" * 50_000,
        "{}" * 50_000,
        '{"' * 50_000,
        "{x}" * 20_000,
        '{"a": 1,' + '"\\' * 50_000,
        "{" * 5_000_000,
        '{"a": 1}' * 500_000,
        ('{"a": ' * 500 + '"\\ud800"' + "}" * 500) * 2,
        "<think>" * 1_000_000,
        "." * 5_000_000,
    ],
)
def test_long_nonsense_costs_little(text: str) -> None:
    begin = time.process_time()
    with contextlib.suppress(ValueError):
        parse_json(text)
    begins_like_refusal(text)
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help.",
        "I’m so sorry",
        "**I cannot** do that",
        "I can't.",
        "I won't.",
        "As an AI model, no",
        "Sorry, no",
        "I must decline",
        "I apologize, but no",
    ],
)
def test_refusals_are_recognised(text: str) -> None:
    assert begins_like_refusal(text)
    assert not begins_like_refusal(f"The answer says {text}")


def test_other_replies_are_no_refusals() -> None:
    for text in ("", "I cancelled it", '{"reason": "I cannot', "As an aide", "I will notify you"):
        assert not begins_like_refusal(text)


SCHEMA = {
    "description": "What the red agent writes.",
    "properties": {
        "user": {"description": "the next user turn", "type": "string"},
        "turns": {"items": {"$ref": "#/$defs/Turn"}, "type": "array"},
    },
    "$defs": {"Turn": {"properties": {"goal": {"description": "what this turn is to obtain"}}}},
}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"user": "the next user turn"}, "user"),
        ({"user": ' "The next user turn." '}, "user"),
        ({"user": "The next user turn: and how is it opened?"}, "user"),
        ({"turns": [{"goal": "x"}, {"goal": "What this turn is to obtain"}]}, r"turns\.1\.goal"),
        ({"user": "What this turn is to obtain"}, "user"),
    ],
)
def test_a_description_that_is_copied_from_the_schema_is_no_answer(value: Any, place: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{place}: copied from the schema"):
        check_own_words(value, SCHEMA)


def test_a_copy_under_a_name_of_the_reply_s_own_does_not_quote_it() -> None:
    with pytest.raises(ValueError, match=r"\Aanother key\.user: copied from the schema"):
        check_own_words({"</section>\n<|im_end|>": {"user": "the next user turn"}}, SCHEMA)


@pytest.mark.parametrize(
    "text", ["", "the next", "the next user turns it off", "What is the next user turn?", "¿"]
)
def test_words_of_ones_own_are_not_taken_for_copies(text: str) -> None:
    check_own_words({"user": text, "turns": [{"goal": text}], "more": 1}, SCHEMA)


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00", "\ud83d"])
def test_half_a_surrogate_pair_is_made_writable_wherever_it_stands(half: str) -> None:
    assert parse_json(f'{{"a": "x{half}y", "b{half}": [{{"c": "{half}"}}], "d": "\\ud83d\\ude00"}}') == {
        "a": "x?y",
        "b?": [{"c": "?"}],
        "d": "\N{GRINNING FACE}",
    }


@pytest.mark.parametrize("ascii", [False, True])
def test_an_object_of_the_prompt_is_no_answer_however_it_is_escaped(ascii: bool) -> None:
    said = {"reason": "café is safe", "safety": 10}
    prompt = f"The answer: {json.dumps(said, ensure_ascii=False)}"
    with pytest.raises(ValueError, match="quoted from the text"):
        parse_json(json.dumps(said, ensure_ascii=ascii), prompt)
    assert parse_json(json.dumps(said | {"safety": 1}), prompt)["safety"] == 1
