"""Are attackers and judges doing their job? Counted from the rows a run left on disk, so a kill and a resume
lose nothing.

Aligned models decline to attack, write nothing, or repeat themselves; a judge may decline too, or say the
same of everything (docs/method.md, "And what none of the published work measures").
"""

from safer_steer.health.stages import examine
from safer_steer.health.table import Table, tables
from safer_steer.health.warnings import warnings

__all__ = ["Table", "examine", "tables", "warnings"]
