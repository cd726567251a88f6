"""Measure a model behind an OpenAI-compatible endpoint.

usage: safer-steer sandbox serve --port 8100 &
       python examples/measure_endpoint.py http://127.0.0.1:8100/v1 runs/measured
"""

import sys
from pathlib import Path

from safer_steer.bench.results import Summary
from safer_steer.config import Bench, Config, Role, Student
from safer_steer.dialogue import Format
from safer_steer.run.display import Display
from safer_steer.run.measuring import bench_endpoints


def measure(base_url: str, out: Path) -> Summary:
    """Play the sandbox's suites against the model, have every turn judged, and return the summary."""
    model = Role(model="sandbox", base_url=base_url, max_tokens=960)
    judge = Role(model="sandbox")  # for pictures of your own, name a model and its base_url
    config = Config(
        name="measured",
        student=Student(format=Format.THINKING_ANSWER),  # or PLAIN: how the model lays out its answers
        roles={"target": model, "judge": judge},
        bench=Bench(suites=["sandbox"], dialogues=10),  # or JSONL files of your own
    )
    with Display() as show:
        bench_endpoints(config, out, show, name="my-model")
    return Summary.read(out / "summary.json")


if __name__ == "__main__":
    average = measure(sys.argv[1], Path(sys.argv[2])).models["my-model"]["multi_turn"].average
    for name in ("safe", "help", "over_refusal"):
        print(f"{name}: {getattr(average, name)}")
