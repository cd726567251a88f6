"""The command line, one module per kind of command. Heavy imports are inside the commands, so that `--help`
is fast.
"""

from __future__ import annotations

import os
import traceback
import warnings

from safer_steer.student import processes

from safer_steer.cli import begin, stages, bench, judge_check, chat, experiment, data, info, sandbox  # noqa: F401  # isort: skip  # in the order of the help
from safer_steer.cli.app import app

__all__ = ["app", "main"]

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""Settings that silence libraries, so that their messages do not hide those of the run."""


def main() -> None:
    """The entry point."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app()
    except SystemExit as end:
        if end.code:
            processes.leave(int(end.code))
        raise
    except BaseException:
        processes.leave(1, traceback.format_exc())
        raise
