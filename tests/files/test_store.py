"""Journals and whole-or-absent files, under kill -9 too."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safer_steer.errors import UserError
from safer_steer.files.store import Journal, content_id, inside, locked, whole_folder, write_atomic


def test_a_journal_remembers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    with Journal(path) as journal:
        journal.append({"id": "a", "text": "ü\n\u2028"})
        journal.append({"id": "b"})
        assert "a" in journal
        assert "c" not in journal
    with Journal(path) as journal:
        assert [row["id"] for row in journal] == ["a", "b"]
        assert journal.rows["a"]["text"] == "ü\n\u2028"
        journal.append({"id": "c", "text": "\N{SNOWMAN}"})
        assert [journal.rows[id] for id in ("c", "b")] == [{"id": "c", "text": "\N{SNOWMAN}"}, {"id": "b"}], (
            "read from where they stand, in bytes"
        )
        assert len(journal) == 3
    assert [json.loads(line)["id"] for line in path.read_text("utf-8").split("\n")[:-1]] == ["a", "b", "c"]


def test_a_row_is_readable_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"id": "a"})
    assert (tmp_path / "journal.jsonl").read_bytes() == b'{"id": "a"}\n'
    journal.close()


def test_nothing_is_journalled_twice(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append({"id": "a"})
        with pytest.raises(ValueError, match="journalled already"):
            journal.append({"id": "a"})


def test_a_torn_last_line_is_cut_off_wherever_it_tore(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first, last = b'{"id": "a"}\n', '{"id": "b", "text": "äö"}\n'.encode()
    for kept in range(len(last) + 1):
        path.write_bytes(first + last[:kept])
        with Journal(path) as journal:
            assert ("b" in journal) is (kept == len(last))
            if "b" not in journal:
                journal.append({"id": "b"})
        with Journal(path) as journal:
            assert list(journal.rows) == ["a", "b"]


def test_a_bad_line_in_the_middle_is_the_users_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for line in (b"oops", b"[1]", b"{}", b'"a"'):
        path.write_bytes(b'{"id": "a"}\n' + line + b'\n{"id": "b"}\n')
        with pytest.raises(UserError, match=r"journal.jsonl:2: "):
            Journal(path)


@pytest.mark.parametrize("link", ["bench/m/x.jsonl", "bench/m", "bench"])
def test_a_journal_that_a_link_leads_out_of_its_run_is_neither_cut_nor_written(
    tmp_path: Path, link: str
) -> None:
    for name in ("run/bench/m", "other/bench/m"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    victim = tmp_path / "other" / "bench" / "m" / "x.jsonl"
    victim.write_text("one line without an end")
    place = tmp_path / "run" / link
    if place.is_dir():
        shutil.rmtree(place)
    place.symlink_to(tmp_path / "other" / link)
    with pytest.raises(UserError, match=r"run/bench/m/x.jsonl: is no plain file of "):
        Journal(tmp_path / "run" / "bench" / "m" / "x.jsonl")
    assert victim.read_text() == "one line without an end"


def test_a_run_that_a_link_leads_to_and_files_that_runs_share_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "run" / "bench" / "x.jsonl"
    write_atomic(tmp_path / "disk" / "run" / "config.yaml", "name: a")
    path.parent.mkdir()
    (tmp_path / "first.jsonl").write_text('{"id": "a"}\n')
    path.hardlink_to(tmp_path / "first.jsonl")
    (tmp_path / "above").symlink_to("disk")
    (tmp_path / "latest").symlink_to("disk/run")
    for folder in ("above/run", "latest"):
        with Journal(tmp_path / folder / "bench" / "x.jsonl") as journal:
            assert list(journal.rows) == ["a"]


def test_a_lock_that_is_a_link_makes_no_file_elsewhere_and_a_pipe_does_not_wait(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"run/\.lock: is no plain file of .*; put the file itself there"):
        locked(tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "latest").symlink_to("new")
    (tmp_path / "new").mkdir()
    locked(tmp_path / "latest").close()
    (tmp_path / "new" / ".lock").unlink()
    os.mkfifo(tmp_path / "new" / ".lock")  # to open it is to wait for somebody who reads
    with pytest.raises(UserError, match="is no plain file of"):
        locked(tmp_path / "new")


def test_half_a_surrogate_pair_is_journalled_as_a_question_mark(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append({"id": "a", "text": "x\ud800"})
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert journal.rows["a"]["text"] == "x?"


APPENDER = """
import sys
from pathlib import Path
from safer_steer.files.store import Journal
journal = Journal(Path(sys.argv[1]))
print(len(journal), flush=True)
for number in range(len(journal), 10**6):
    journal.append({"id": str(number), "text": "x" * 200_000})
"""


def test_kill_9_while_appending_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    found = 0
    for seed in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert int(process.stdout.readline()) >= found
        time.sleep(random.Random(seed).uniform(0.01, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Journal(path) as journal:
            assert list(journal.rows) == [str(number) for number in range(len(journal))]
            assert all(row["text"] == "x" * 200_000 for row in journal)
            assert len(journal) > found
            found = len(journal)


def test_write_atomic_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_a_folder_is_not_written_and_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_write_goes_through_no_link(tmp_path: Path) -> None:
    """A run folder from somebody else may have one where the part of a file is written."""
    (tmp_path / "victim").write_text("mine")
    for name in ("report.html", "report.html.part"):
        (tmp_path / name).symlink_to("victim")
    write_atomic(tmp_path / "report.html", "new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "report.html").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "victim"]
    assert not (tmp_path / "report.html").is_symlink()


def as_a_folder(part: Path) -> None:
    part.mkdir()
    (part / "thesis.txt").touch()


def as_a_link(part: Path) -> None:
    as_a_folder(part.parent / "mine")
    part.symlink_to("mine")


@pytest.mark.parametrize("make", [as_a_folder, as_a_link, Path.touch])
def test_a_folder_is_not_written_over_another_that_stands_in_its_way(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "x.part")
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(UserError, match=r"x\.part: has other files \(.*; move it away$"),
        whole_folder(tmp_path / "x"),
    ):
        pass
    assert sorted(tmp_path.rglob("*")) == before


HALF = """
import os, sys
from pathlib import Path
from safer_steer.files.store import whole_folder
with whole_folder(Path(sys.argv[1])) as part:
    (part / "half.txt").touch()
    os.kill(os.getpid(), 9)
"""


def test_a_folder_that_an_error_left_half_is_absent(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "x") as part:
        (part / "half.txt").touch()
        raise ZeroDivisionError
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_a_killed_process_left_half_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "x"
    killed = subprocess.run([sys.executable, "-c", HALF, str(path)])
    assert killed.returncode == -signal.SIGKILL and [*tmp_path.glob("x.part/*/half.txt")]
    with whole_folder(path) as part:
        (part / "whole.txt").touch()
    assert [*tmp_path.rglob("*.*")] == [path / "whole.txt"]


def test_inside_gives_paths_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    assert inside(tmp_path, "pictures/1.png") == tmp_path.resolve() / "pictures" / "1.png"


WAYS_OUT = [
    "../secret",
    "pictures/../../secret",
    "/etc/passwd",
    "way/out/secret",
    "nul\0",
    "x" * 5000,
    "https://host/1.png",
]
if sys.version_info < (3, 13):  # from there on a loop of links resolves to itself and is simply no file
    WAYS_OUT.append("loop/x")


@pytest.mark.parametrize("relative", WAYS_OUT)
def test_inside_refuses_ways_out(tmp_path: Path, relative: str) -> None:
    folder = tmp_path / "folder"
    (folder / "way").mkdir(parents=True)
    (folder / "way" / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(UserError):
        inside(folder, relative)


def test_a_link_that_stays_inside_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path, "link/1.png") == tmp_path.resolve() / "real" / "1.png"


def test_content_ids_follow_the_content_alone() -> None:
    parts: dict[str, Any] = {"a": 1, "b": ["ü", None]}
    assert content_id(parts) == content_id(dict(reversed(parts.items())))
    assert len(content_id(parts)) == 16
    assert (
        len(
            {
                content_id("ab"),
                content_id("a", "b"),
                content_id("a"),
                content_id(["a"]),
                content_id(1),
                content_id("1"),
            }
        )
        == 6
    )
