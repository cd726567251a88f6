"""One process of `sharding`, which torchrun starts: python sharded.py WORK TINY OUT"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "tests" / "support")]

from gpu_parts.bench import WEIGHTS, Bench
from gpu_parts.training import sft_steps

from safer_steer.student import processes, sharding

work, tiny, out = sys.argv[1:]
bench = Bench(tiny == "True", Path(work))
if not bench.gpu:
    from accelerate.state import AcceleratorState

    from fsdp_on_cpu import with_fsdp

    AcceleratorState.__init__ = with_fsdp
count = processes.count()
if count == 1:  # where it splits nothing, the package leaves it out
    sharding.processes = SimpleNamespace(count=lambda: 2, first=lambda: True)
with processes.joined(bench.device), Path(out).open("a") as file:
    for weights in WEIGHTS:
        row = sft_steps(bench, weights, bench.sizes.lengths[0], 2 * count, sharding="full")
        if processes.first():
            print(json.dumps({"weights": weights, "processes": count, **row}), file=file, flush=True)
