"""Speed and memory of the student on a GPU. A Qwen2.5-VL-3B with random weights is built on the spot; nothing
is downloaded. docs/explanation/performance.md has the calls for a card of 80 GB.

python benchmarks/gpu.py PART... --out gpu.json     # one visible GPU, but for `sharding`
python benchmarks/gpu.py table --out gpu.json       # the tables alone; what is missing is not measured
python benchmarks/gpu.py --tiny --out tiny.json     # all of it without a GPU; its numbers mean nothing
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from gpu_parts.bench import CARD, TINY, Bench, Sizes
from gpu_parts.parts import PARTS, table

from safer_steer.files.manifest import versions
from safer_steer.files.store import write_atomic
from safer_steer.student.processes import refuse_data_parallel


def machine(gpu: bool) -> dict[str, Any]:
    """Where it was measured: card and versions."""
    import torch

    card = None
    if gpu:
        properties = torch.cuda.get_device_properties(0)
        card = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    return {"card": card, "cuda": torch.version.cuda, "versions": versions()}


def tables(results: dict[str, Any], sizes: Sizes) -> str:
    """The Markdown of docs/explanation/performance.md, and the calls that measured."""
    lines = []
    for name in PARTS:
        lines += [*table(name, results["rows"], sizes), ""]
    for run in results["runs"]:
        packages = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in run["seconds"].items())
        where = f"on {run['card'] or 'no GPU'}, CUDA {run['cuda']}"
        lines.append(f"- `{run['command']}` {where}: {parts}; {packages}")
    return "\n".join(lines).rstrip()


def measure(bench: Bench, names: list[str], results: dict[str, Any], out: Path) -> bool:
    """Measure these parts, one after the other, and write each row at once. One that fails does not end the
    others; returns whether none has."""
    seconds, whole = {}, True
    for name in names:
        part, begun = PARTS[name], time.monotonic()
        if lacking := part.lacks(bench):
            print(f"{name}: left out; it needs {lacking}", flush=True)
            continue
        try:
            for row in part.measure(bench):
                new = {"part": name, **row}
                same = {key: new[key] for key in ("part", *part.lead)}.items()
                results["rows"] = [old for old in results["rows"] if not same <= old.items()] + [new]
                print(name, json.dumps(row), flush=True)
                write_atomic(out, json.dumps(results, indent=1) + "\n")
        except Exception:  # cards are rare: the other parts are measured all the same
            whole = False
            traceback.print_exc()
        seconds[name] = time.monotonic() - begun
    command = " ".join(["gpu.py", *sys.argv[1:]])
    results["runs"].append({"command": command, "seconds": seconds, **machine(bench.gpu)})
    write_atomic(out, json.dumps(results, indent=1) + "\n")
    return whole


def main() -> None:
    about = [f"  {name:10}{(part.measure.__doc__ or '').splitlines()[0]}" for name, part in PARTS.items()]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["parts:", *about]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", help="parts, or table; default: all parts")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; results are added to it")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="folder for student and runs")
    parser.add_argument("--vllm", help="the Python of vLLM's environment: rollouts are on a server of it")
    parser.add_argument("--verl", help="the Python of verl's environment")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and sizes, for any machine")
    args = parser.parse_args()
    if unknown := set(args.parts) - {*PARTS, "table"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with its server, too
    results: dict[str, Any] = {"rows": [], "runs": []}
    if args.out.exists():
        results = json.loads(args.out.read_text())
    whole = True
    if args.parts != ["table"]:
        bench = Bench(args.tiny, args.work / ("tiny" if args.tiny else "3b"), args.vllm, args.verl)
        if not (bench.gpu or args.tiny):
            parser.error("no GPU here; --tiny tries the program without one")
        names = [name for name in args.parts or PARTS if name in PARTS]
        if names != ["sharding"]:  # which trains in processes of its own
            refuse_data_parallel(bench.device)
        whole = measure(bench, names, results, args.out)
    print(f"\n{tables(results, TINY if args.tiny else CARD)}")
    sys.exit(not whole)


if __name__ == "__main__":
    main()
