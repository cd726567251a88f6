"""The servers of the integration tests (`make test-integration`), started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import OPTIONS, ROLLOUTS, START_S, VLLM, Server, sandbox


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    """A real vLLM server with the shipped student."""
    with VLLM(tmp_path_factory.mktemp("vllm") / "log.txt", [*OPTIONS, *ROLLOUTS]) as server:
        server.wait("/health", START_S)
        yield server


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The sandbox's agents behind a real endpoint."""
    with sandbox(tmp_path_factory.mktemp("sandbox") / "log.txt") as server:
        server.wait("/v1/models", 60)
        yield server
