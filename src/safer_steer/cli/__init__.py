"""The command line, a module for each sort of command. Heavy imports wait inside the commands, so that
`--help` is quick.

Exit codes: 0 done, 1 `verify` found differences, 2 something the user can mend (one line says what), 3 a
bench that is no result, 130 interrupted.
"""

from __future__ import annotations

import os
import warnings

from safer_steer.cli import stages, bench, data, info, sandbox  # isort: skip  # in the order of the help
from safer_steer.cli.app import app

__all__ = ["app", "bench", "data", "info", "main", "sandbox", "stages"]

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""What libraries say on their own account drowns what a run says."""


def main() -> None:
    """The entry point."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    app()
