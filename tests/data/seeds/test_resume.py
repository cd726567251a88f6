"""Stage I killed with -9 at seeded random moments: it goes on, repeats no finished work, and ends with the
same files."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from places import SUPPORT
from safer_steer.data.seeds.pools import SHARD
from seeds_run import KILLED, Watched, build, config, contents, dropped, pool, refuse_some

PROGRAM = SUPPORT / "seeds_run.py"


def journalled(folder: Path) -> dict[str, bytes]:
    """Whole rows of the journal, by id."""
    rows = {}
    for path in sorted((folder / "seeds/journal").glob("*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                rows[json.loads(line)["id"]] = line
    return rows


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def test_killed_again_and_again_it_ends_with_the_same_seeds(tmp_path: Path) -> None:
    await build(KILLED, tmp_path / "whole", whole := Watched(refuse_some))
    assert {row["reason"] for row in dropped(tmp_path / "whole")} == {"refused"}
    assert any(seed.meta["attempts"] == 2 for seed in pool(tmp_path / "whole", "red_team"))

    rng, folder, calls = random.Random(5), tmp_path / "cut", tmp_path / "calls"
    command = [sys.executable, str(PROGRAM), str(folder), str(calls)]
    kills, total = 0, len(whole.calls)
    before: dict[str, bytes] = {}
    for share in (0.02, 0.25, 0.5, 0.75, 0.95):
        until = int(total * (share + rng.uniform(0, 0.04)))
        process = subprocess.Popen(command)
        while process.poll() is None and len(lines(calls)) < until:
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        after = journalled(folder)
        assert before.items() <= after.items()  # what was finished stays as it was
        before = after
        assert not (folder / "seeds/benign.jsonl").exists()
    assert kills == 5
    subprocess.run(command, check=True)

    assert contents(folder) == contents(tmp_path / "whole")
    in_flight = 4 * (
        1 + 1 + 3 + 2 * 5
    )  # four pairs at once: a benign and an obfuscated call, and an attack of five turns
    assert total <= len(lines(calls)) <= total + kills * in_flight
    asked = [line.split() for line in lines(calls)]
    probes = [repeat for job, repeat in asked if job == "probe"]
    assert len(probes) <= 24 + kills * 4  # only those in flight are asked again


async def test_a_torn_last_row_is_redone(tmp_path: Path) -> None:
    await build(config(6), tmp_path)
    whole = contents(tmp_path)
    (journal,) = (tmp_path / "seeds/journal").iterdir()
    journal.write_bytes(journal.read_bytes()[:-20])
    (tmp_path / "seeds/benign.jsonl").unlink()
    await build(config(6), tmp_path, transport := Watched())
    assert 1 <= len(transport.calls) <= 23
    assert contents(tmp_path) == whole


async def test_more_pairs_than_a_shard_holds(tmp_path: Path) -> None:
    count = SHARD + 30
    await build(config(count, kinds=["benign"], max_turns=3), tmp_path)
    assert [seed.meta["pair"] for seed in pool(tmp_path, "benign")] == [
        f"sandbox-{index:05d}" for index in range(count)
    ]
    assert len(list((tmp_path / "seeds/journal").iterdir())) == 2
