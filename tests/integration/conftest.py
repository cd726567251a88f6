"""The servers of the integration tests (`make test-integration`), started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import OPTIONS, ROLLOUTS, START_S, VLLM, world

__all__ = ["vllm", "world"]


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    """A real vLLM server with the shipped student."""
    with VLLM(tmp_path_factory.mktemp("vllm") / "log.txt", [*OPTIONS, *ROLLOUTS]) as server:
        server.wait("/health", START_S)
        yield server
