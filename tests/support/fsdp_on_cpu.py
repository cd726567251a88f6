"""The command line with FSDP2 on the CPU, for tests.

accelerate takes FSDP for DDP where there is no GPU, and the product refuses that. FSDP2 itself runs over
gloo, so here the state of accelerate is told that it is there.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from safer_steer.cli import main

as_it_is = AcceleratorState.__init__


def with_fsdp(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **keywords: Any) -> None:
    as_it_is(self, *arguments, fsdp_plugin=fsdp_plugin, **keywords)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    AcceleratorState.__init__ = with_fsdp  # type: ignore[method-assign]
    main()
