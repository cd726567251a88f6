"""A disk that fills up while replies arrive. A limit on the pages of the cache stands for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from endpoint_server import says
from safer_steer.endpoints.cache import Cache
from served_bench import Models, bench, line, rows, suite


def test_it_ends_in_one_line_and_the_same_command_goes_on(
    tmp_path: Path, url: str, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.does["m"] = says("No. " * 2000)
    out = tmp_path / "out"
    command = ["--model", "m", "--base-url", url, "--suite", suite(tmp_path, 12), "--out", out]
    command += ["--no-judge", "--no-check", "--set", "roles.*.concurrency=4"]
    opened = Cache.__init__

    def on_a_small_disk(cache: Cache, path: Path, shared: bool = False) -> None:
        opened(cache, path, shared)
        cache._db.execute("PRAGMA max_page_count = 16")

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "__init__", on_a_small_disk)
        said = line(bench(*command))
    assert said == (
        f"error: {out}/cache.sqlite: database or disk is full; mend that and keep the file: it holds what was"
        " paid for"
    )
    assert models.now["m"] == 0
    result = bench(*command)
    assert result.exit_code == 0, result.output
    assert len(rows(out)) == 12
