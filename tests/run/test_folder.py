"""A run's folder: scripts that were edited after their stage finished are not used in silence."""

from pathlib import Path

import pytest

from display import Quiet
from safer_steer import pipeline
from safer_steer.config import Config
from safer_steer.errors import UserError
from seeds_run import config

SETTINGS = config(4, kinds=["benign"])


def stage(name: str, folder: Path, settings: Config = SETTINGS) -> None:
    pipeline.run_stage(name, settings, folder, Quiet())


def test_an_edited_pool_is_named_and_deleting_it_helps(tmp_path: Path) -> None:
    stage("seeds", tmp_path)
    pool = tmp_path / "seeds" / "benign.jsonl"
    whole = pool.read_text()
    said = r"seeds/benign.jsonl changed since `seeds` finished; restore it, or delete it and run"
    for edited in (
        whole.partition("\n")[2],
        whole.replace("benign", "BENIGN", 1),
    ):  # shorter; as long as before
        pool.write_text(edited)
        for name in ("seeds", "assemble", "bootstrap"):
            with pytest.raises(UserError, match=said):
                stage(name, tmp_path)
    pool.unlink()
    with pytest.raises(UserError, match="`seeds`, which is not finished"):
        stage("assemble", tmp_path)
    stage("seeds", tmp_path)
    stage("assemble", tmp_path)
    assert pool.read_text() == whole


def test_a_folder_with_the_runs_own_input_is_refused(tmp_path: Path) -> None:
    """Or --fresh would delete it."""
    stage("seeds", tmp_path / "first")
    project = tmp_path / "project"
    stage("seeds", project)  # a run worked there once
    script = next((tmp_path / "first" / "seeds").glob("benign.jsonl")).read_text()
    own = project / "suites" / "mine.jsonl"
    own.parent.mkdir()
    own.write_text(script)
    settings = SETTINGS.model_copy(deep=True)
    settings.bench.suites = [str(own)]
    with pytest.raises(UserError, match=r"mine\.jsonl lies where a run writes; choose another folder$"):
        pipeline.run_stage("seeds", settings, project, Quiet(), fresh=True)
    assert own.read_text() == script


def test_a_fresh_start_takes_the_place_of_a_link_and_leaves_what_it_leads_to(tmp_path: Path) -> None:
    """Weights that were moved to another disk. Half of the run would be deleted before the error."""
    folder, disk = tmp_path / "run", tmp_path / "disk"
    stage("seeds", folder)
    (folder / "seeds").rename(disk)
    (folder / "seeds").symlink_to(disk)
    pipeline.run_stage("seeds", SETTINGS, folder, Quiet(), fresh=True)
    assert (folder / "seeds" / "benign.jsonl").is_file() and not (folder / "seeds").is_symlink()
    assert (disk / "benign.jsonl").is_file()


@pytest.mark.parametrize("link", ["judged/x", "judged"])
def test_a_fresh_start_deletes_nothing_of_another_run_that_judged_leads_to(tmp_path: Path, link: str) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    stage("seeds", folder)
    stage("seeds", other / "judged" / "x")
    place = folder / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(other / link)
    (tmp_path / "latest").symlink_to(folder)
    pipeline.run_stage("seeds", SETTINGS, tmp_path / "latest", Quiet(), fresh=True)
    assert (other / "judged" / "x" / "manifest.json").is_file()
    assert (other / "judged" / "x" / "seeds" / "benign.jsonl").is_file()
