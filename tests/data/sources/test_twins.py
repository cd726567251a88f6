"""A set's harmful samples and their harmless twins: who is whose, also in a draw."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from published import MM_SAFETYBENCH_PLUS
from published_trees import one_table
from safer_steer.bench.suites import draw_suite, read_suite
from safer_steer.cli import app
from safer_steer.dialogue import Seed


def written(tmp_path: Path, *options: str) -> list[list[Seed]]:
    """The attacks of MM-SafetyBench++, and their twins."""
    path, out = one_table(tmp_path / "plus", MM_SAFETYBENCH_PLUS), tmp_path / "out/s.jsonl"
    arguments = ["mm_safetybench_plus", "--path", str(path), "--out", str(out), *options]
    done = CliRunner().invoke(app, ["suite", *arguments])
    assert done.exit_code == 0, done.output
    return [read_suite(out.with_name(name)).seeds for name in ("s.jsonl", "s_safe.jsonl")]


def test_twins_are_paired_by_place_and_name_each_other(tmp_path: Path) -> None:
    attacks, twins = written(tmp_path)
    assert [seed.meta["twin"] for seed in attacks] == [seed.id for seed in twins]
    assert [seed.meta["twin"] for seed in twins] == [seed.id for seed in attacks]
    for attack, twin in zip(attacks, twins, strict=True):
        assert twin.script[0] == attack.script[0].replace("broken", "used")
    assert attacks[0].id == "mm_safetybench_plus-Gen-rings-0000"


def test_a_row_that_cannot_be_read_is_not_skipped_where_rows_are_paired_by_place(tmp_path: Path) -> None:
    """Nobody knows which request it was, so all rows after it would have another's twin."""
    import pyarrow
    import pyarrow.parquet

    path = one_table(tmp_path / "plus", MM_SAFETYBENCH_PLUS)
    file = next(path.rglob("*.parquet"))
    table = pyarrow.parquet.read_table(file)
    texts = [text.encode() for text in table["question"].to_pylist()]
    broken = pyarrow.array([b"\xff", *texts[1:]], pyarrow.binary()).view(pyarrow.string())
    column = table.schema.get_field_index("question")
    pyarrow.parquet.write_table(table.set_column(column, "question", broken), file)
    arguments = ["--path", str(path), "--out", str(tmp_path / "s.jsonl"), "--bad-rows", "skip"]
    done = CliRunner().invoke(app, ["suite", "mm_safetybench_plus", *arguments])
    assert done.exit_code == 2, done.output
    assert "row 1: not UTF-8; it cannot be skipped: the set's rows are twins by their place" in " ".join(
        done.output.split()
    )


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_draw_takes_twins_together(tmp_path: Path, limit: int) -> None:
    attacks, twins = written(tmp_path, "--limit", str(limit))
    assert len(attacks) == limit
    assert [seed.meta["twin"] for seed in attacks] == [seed.id for seed in twins]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_bench_draws_the_same_pairs_of_both_suites(tmp_path: Path, limit: int) -> None:
    written(tmp_path)
    attacks, twins = (
        draw_suite(read_suite(tmp_path / f"out/{name}.jsonl"), limit).seeds for name in ("s", "s_safe")
    )
    assert len(attacks) == limit
    assert [seed.meta["twin"] for seed in attacks] == [seed.id for seed in twins]
