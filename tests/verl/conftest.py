"""Servers and data of the tests in verl's environment (`make check-verl`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from places import ROOT
from servers import OPTIONS, START_S, VLLM, world

__all__ = ["run", "vllm", "world"]

TOKENS_IN_AND_OUT = [
    *("--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
    *("--max-num-batched-tokens", "16384"),  # a chunked prefill ends the CPU engine if a request has a seed
]


@pytest.fixture(scope="session")
def run() -> Path:
    """A small run with its export, which `make` writes."""
    folder = ROOT / "runs" / "export_check"
    assert (folder / "export").is_dir(), "`make check-verl` writes it"
    return folder


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    """A real vLLM server with the shipped student, for token ids."""
    with VLLM(tmp_path_factory.mktemp("vllm") / "log.txt", [*OPTIONS, *TOKENS_IN_AND_OUT]) as server:
        server.wait("/health", START_S)
        yield server
