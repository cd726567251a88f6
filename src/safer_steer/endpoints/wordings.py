"""What servers say when they decline a request, and what it means: a table, with the place each wording is
from.

It is looked up in errors alone: an HTTP status that is no 2xx, or an error object in the body
(`answers.complaint`). The text of a reply may hold any of these words. An error that no row knows means
what its status means. Another server's wording is a new row here, and a new line in
tests/endpoints/test_wordings.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class Meaning(Enum):
    """What has to change before another request can succeed."""

    CONTEXT = auto()
    """The messages, and the room asked for, are too long for the model."""
    FILTERED = auto()
    """The host's own filter declined these messages."""
    ACCOUNT = auto()
    """The account has no money left, or is locked. The request is not at fault."""
    TOO_LARGE = auto()
    """This request alone exceeds the rate limit. Waiting does not help."""
    LIMIT_NAME = auto()
    """The token limit must be called `max_completion_tokens`."""
    SCHEMA = auto()
    """The schema of the answer is not taken in this form."""
    PICTURES = auto()
    """The model takes no pictures."""
    PARAMETER = auto()
    """A parameter of sampling is not taken; the error names it."""


REJECTED = (400, 413, 422)


@dataclass(frozen=True)
class Wording:
    """One row. An error fits if it has one of the statuses, and the code (as `code` or as `type`) or the
    words (anywhere in its `param` and message, in upper or lower case)."""

    server: str
    """Who says so, and where that is written."""
    meaning: Meaning
    code: str = ""
    words: str = ""
    statuses: tuple[int, ...] = REJECTED


def _rows(meaning: Meaning, *rows: tuple[Any, ...]) -> list[Wording]:
    """Rows given as server, code, words, and statuses if they are not `REJECTED`."""
    return [Wording(row[0], meaning, row[1], row[2], *row[3:]) for row in rows]


WORDINGS: tuple[Wording, ...] = (
    *_rows(
        Meaning.CONTEXT,
        ("OpenAI, chat completions: error.code", "context_length_exceeded", ""),
        ("OpenAI, DeepSeek, vLLM (entrypoints/openai/serving_engine.py)", "", "maximum context length is"),
        ("vLLM, renderers/params.py", "", "the model's context length is only"),
        ("vLLM, v1/engine/input_processor.py", "", "is longer than the maximum model length of"),
        ("vLLM, v1/engine/processor.py (pictures)", "", "is too long to fit into the model"),
        ("SGLang, srt/managers/tokenizer_manager.py", "", "exceeds the model's maximum context length of"),
        ("SGLang, the same place; Together", "", "is longer than the model's context length"),
        ("llama.cpp, tools/server: error.type", "exceed_context_size_error", ""),
        ("llama.cpp, tools/server of 2025", "", "exceeds the available context size", (400, 500)),
        ("llama-cpp-python, llama_chat_format.py (pictures)", "", "Prompt exceeds n_ctx", (400, 500)),
        ("Ollama", "", "exceeded max context length"),
        ("LM Studio", "", "is greater than the context length"),
        ("Hugging Face TGI, router/src/validation.rs", "", "`inputs` tokens + `max_new_tokens` must be"),
        ("Anthropic", "", "prompt is too long:"),
        ("Anthropic", "", "exceed context limit"),
        ("Gemini", "", "exceeds the maximum number of tokens allowed"),
        ("Mistral", "", "too large for model with"),
        ("xAI", "", "maximum prompt length is"),
        ("Groq", "", "reduce the length of the messages or completion"),
        ("Moonshot", "", "exceeded model token limit"),
        ("MiniMax", "", "context window exceeds limit"),
        ("DashScope, error codes: InvalidParameter", "", "Range of input length should be"),
        ("LiteLLM, proxy", "", "ContextWindowExceededError"),
    ),
    *_rows(
        Meaning.FILTERED,
        ("Azure OpenAI, content filtering: error.code; Moonshot: error.type", "content_filter", "", (400,)),
        ("OpenAI: error.code", "content_policy_violation", "", (400,)),
        ("OpenAI, reasoning models: code invalid_prompt", "", "violating our usage policy", (400,)),
        ("OpenRouter, errors: moderation", "", "requires moderation on", (403,)),
        ("Anthropic", "", "blocked by content filtering policy", (400,)),
        ("DashScope, compatible mode: error.code", "data_inspection_failed", "", (400,)),
        ("DashScope, error codes", "DataInspectionFailed", "", (400,)),
        ("DeepSeek", "", "Content Exists Risk", (400,)),
        ("Zhipu, error codes", "1301", "", (400,)),
        ("LiteLLM, proxy", "", "ContentPolicyViolationError", (400,)),
    ),
    *_rows(
        Meaning.ACCOUNT,
        ("OpenAI, error codes: 429", "insufficient_quota", "", (403, 429)),
        ("OpenAI: error.code", "billing_hard_limit_reached", "", (400, 429)),
        ("Moonshot, error codes: 429", "exceeded_current_quota_error", "", (403, 429)),
        ("Zhipu, error codes", "1113", "", (400, 429)),
        ("Anthropic", "", "credit balance is too low", (400, 403)),
        ("DashScope, error codes", "Arrearage", "", (400, 403)),
    ),
    *_rows(Meaning.TOO_LARGE, ("OpenAI, rate limits", "", "Request too large", (413, 429))),
    *_rows(
        Meaning.LIMIT_NAME,
        ("OpenAI, reasoning models: max_tokens", "", "Use 'max_completion_tokens' instead", (400,)),
    ),
    *_rows(
        Meaning.SCHEMA,
        (
            "OpenAI, Azure, DeepSeek, llama.cpp, LM Studio: the name of the field",
            "",
            "response_format",
            (400, 404, 422, 500, 501),
        ),
        ("Groq, and gateways: the value of its `type`", "", "json_schema", (400, 404, 422, 500, 501)),
        ("Groq, structured outputs", "", "does not support response format", (400,)),
        ("vLLM, v1/structured_output/backend_xgrammar.py", "", "not supported by xgrammar", (400, 500)),
        ("vLLM, v1/structured_output/backend_guidance.py", "", "Grammar error:", (400, 500)),
        ("llama.cpp, tools/server: samplers", "", "failed to parse grammar", (400,)),
        ("SGLang, srt/managers/scheduler.py", "", "Invalid grammar request", (400, 500)),
        ("Hugging Face TGI, router/src/validation.rs", "", "grammar is not supported"),
        ("Hugging Face TGI, router/src/validation.rs", "", "grammar is not valid"),
    ),
    *_rows(
        Meaning.PICTURES,
        ("vLLM, --limit-mm-per-prompt", "", "At most 0 image(s) may be provided", (400,)),
        ("vLLM, entrypoints/chat_utils.py", "", "is not a multimodal model", (400,)),
        ("llama.cpp, tools/server: no --mmproj", "", "image input is not supported", (400, 500)),
        ("OpenAI", "", "image_url is only supported by certain models", (400,)),
        ("OpenRouter, provider routing", "", "No endpoints found that support image input", (400, 404)),
        ("DeepSeek", "", "unknown variant `image_url`, expected `text`", (400, 422)),
        ("Mistral: code 3051", "", "Image input is not enabled for this model", (400, 422)),
        ("servers with FastAPI: content is a string", "", "content: Input should be a valid string"),
        ("Groq", "", "content must be a string", (400,)),
    ),
    *_rows(
        Meaning.PARAMETER,
        ("OpenAI, reasoning models: error.code", "unsupported_value", "", (400,)),
        ("OpenAI, reasoning models: error.code", "unsupported_parameter", "", (400,)),
        ("Azure OpenAI, the same without a code", "", "Unsupported value: ", (400,)),
        ("Azure OpenAI, the same without a code", "", "Unsupported parameter: ", (400,)),
        ("OpenAI", "", "Unrecognized request argument supplied: ", (400,)),
        ("Anthropic", "", "is deprecated for this model", (400,)),
        ("Anthropic", "", "cannot both be specified for this model", (400,)),
        ("LiteLLM, proxy: UnsupportedParamsError", "", "does not support parameters: ", (400,)),
        ("Mistral, and servers with FastAPI", "", "Extra inputs are not permitted"),
    ),
)
"""In the order in which they are tried: an error may fit two, as where OpenAI declines `response_format` with
the code of an unsupported parameter."""


def wording_of(status: int, text: str, codes: tuple[str, ...]) -> Wording | None:
    """The first row that an error fits; None if none does. `text` is the error's `param` and `message`,
    `codes` its `code` and `type`. A 2xx is the status of an error object whose own is not known."""
    for row in WORDINGS:
        if status not in row.statuses and not 200 <= status < 300:
            continue
        if row.code in codes if row.code else row.words.casefold() in text.casefold():
            return row
    return None
