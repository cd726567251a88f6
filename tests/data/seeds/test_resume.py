"""Stage I killed with -9 at seeded random moments: it goes on, repeats no finished work, and ends with the
same files."""

import asyncio
import json
import random
from pathlib import Path

import pytest

from killing import killed, lines
from safer_steer.data.seeds import journal, pools
from seeds_run import KILLED, Watched, build, build_killed, config, contents, dropped, pool, refuse_some


def journalled(folder: Path) -> dict[str, bytes]:
    """Whole rows of the journal, by id."""
    rows = {}
    for path in sorted((folder / "seeds/journal").glob("*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                rows[json.loads(line)["id"]] = line
    return rows


def test_killed_again_and_again_it_ends_with_the_same_seeds(tmp_path: Path) -> None:
    asyncio.run(build(KILLED, tmp_path / "whole", whole := Watched(refuse_some)))
    assert {row["reason"] for row in dropped(tmp_path / "whole")} == {"refused"}
    assert any(seed.meta["attempts"] == 2 for seed in pool(tmp_path / "whole", "red_team"))

    rng, folder, calls = random.Random(5), tmp_path / "cut", tmp_path / "calls"
    total, shares = len(whole.calls), (0.02, 0.25, 0.5, 0.75, 0.95)
    before: dict[str, bytes] = {}
    for share in shares:
        at = int(total * (share + rng.uniform(0, 0.04)))
        killed(build_killed, folder, calls, calls=calls, at=at)
        after = journalled(folder)
        assert before.items() <= after.items()  # what was finished stays as it was
        before = after
        assert not (folder / "seeds/benign.jsonl").exists()
    build_killed(folder, calls)

    assert contents(folder) == contents(tmp_path / "whole")
    # Four pairs at once: a benign and an obfuscated call, and an attack of five turns.
    in_flight = 4 * (1 + 1 + 3 + 2 * 5)
    assert total <= len(lines(calls)) <= total + len(shares) * in_flight
    probes = [line for line in lines(calls) if line.startswith("probe ")]
    assert len(probes) <= 24 + len(shares) * 4  # only those in flight are asked again


async def test_a_torn_last_row_is_redone(tmp_path: Path) -> None:
    await build(config(6), tmp_path)
    whole = contents(tmp_path)
    (file,) = (tmp_path / "seeds/journal").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    (tmp_path / "seeds/benign.jsonl").unlink()
    await build(config(6), tmp_path, transport := Watched())
    assert 1 <= len(transport.calls) <= 23
    assert contents(tmp_path) == whole


async def test_more_pairs_than_a_shard_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (journal, pools):
        monkeypatch.setattr(module, "SHARD", 8)
    count = 8 + 5
    await build(config(count, kinds=["benign"], max_turns=3), tmp_path)
    assert [seed.meta["pair"] for seed in pool(tmp_path, "benign")] == [
        f"sandbox-{index:05d}" for index in range(count)
    ]
    assert len(list((tmp_path / "seeds/journal").iterdir())) == 2
