"""Does the package resolve in one environment with other trainers? Nothing is installed.

usage: python engines_check.py UV    (`make check-engines` runs it)

Each pinned engine is resolved alone, with the core, and with the core and the extra `student`.
Prints the table of docs/start/install.md. Exit code 1 if an engine resolves alone and not beside the package.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
SHOWN = ("transformers", "torch")
ENGINES = (
    ("verl==0.9.1", "3.11"),
    ("verl[vllm]==0.9.1", "3.11"),
    ("verl[sglang]==0.9.1", "3.11"),
    ("ms-swift==4.6.0", "3.11"),
    ("skyrl==0.4.0", "3.12"),
    ("skyrl[fsdp]==0.4.0", "3.12"),
    ("openrlhf==0.11.0", "3.11"),
    ("openrlhf[vllm]==0.11.0", "3.11"),
)
"""An engine as pip is given it, and the Python it is resolved for: SkyRL asks for 3.12."""


@dataclass(frozen=True)
class Resolution:
    """The versions an environment would have, by package. Empty where none fits: `why` is the reason."""

    versions: dict[str, str]
    why: str = ""

    def __str__(self) -> str:
        shown = [f"{name} {self.versions[name]}" for name in SHOWN if name in self.versions]
        return ", ".join(shown) if self.versions else "does not resolve"


def main(uv: str) -> int:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    core, student = project["dependencies"], project["optional-dependencies"]["student"]
    failed = 0
    reasons = []
    print("| engine | Python | alone | with the core | with the core and `[student]` |")
    print("|---|---|---|---|---|")
    for engine, python in ENGINES:
        alone, *ours = (resolve(uv, python, [engine, *beside]) for beside in ([], core, core + student))
        print(f"| `{engine}` | {python} | {alone} | {ours[0]} | {ours[1]} |", flush=True)
        failed += bool(alone.versions) and not all(found.versions for found in ours)
        reasons += [f"{engine}: {found.why}" for found in (alone, *ours) if found.why][:1]
    print(*reasons, sep="\n", file=sys.stderr)
    return min(failed, 1)


def resolve(uv: str, python: str, requirements: list[str]) -> Resolution:
    """What these requirements come to on Linux with that version of Python."""
    quiet = ["--quiet", "--no-header", "--no-annotate"]
    machine = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_35"]
    command = [uv, "pip", "compile", *quiet, *machine, "-"]
    done = subprocess.run(command, input="\n".join(requirements), capture_output=True, text=True)
    if done.returncode:
        return Resolution({}, " ".join(done.stderr.split())[:400])
    pins = (line.split(" ")[0].split("==") for line in done.stdout.splitlines() if "==" in line)
    return Resolution(dict(pins))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
