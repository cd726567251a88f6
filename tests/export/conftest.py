"""One run folder with its export, for all tests of exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from export_run import write_run
from safer_steer.export.write import export


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("export") / "run"
    write_run(folder)
    export(folder, folder / "export")
    return folder
