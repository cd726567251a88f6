"""`fsdp_on_cpu`, and each forward pass of the trainer says in which number type its log-probabilities are."""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState

from fsdp_on_cpu import with_fsdp
from safer_steer.cli import main
from safer_steer.training.trainers import MeasuredTrainer

as_it_is = MeasuredTrainer._get_per_token_logps_and_entropies


def saying(self: MeasuredTrainer, *arguments: Any, **keywords: Any) -> Any:
    found = as_it_is(self, *arguments, **keywords)
    print(f"log-probabilities: {found[0].dtype}", flush=True)
    return found


if __name__ == "__main__":
    AcceleratorState.__init__ = with_fsdp  # type: ignore[method-assign]
    MeasuredTrainer._get_per_token_logps_and_entropies = saying  # type: ignore[method-assign]
    main()
