"""Are attackers and judges doing their job? Counted from the rows a run left on disk, so killing and resuming
a run loses no counts.

Aligned models refuse to attack, write nothing, or repeat themselves. A judge may also refuse, or give
everything the same score (docs/explanation/method.md, "What the published code gets wrong"). And a group of
trajectories whose returns are all equal teaches nothing (docs/explanation/method.md, "Stage III").
"""

from safer_steer.report.health.gates import gates_table
from safer_steer.report.health.quantities import warnings
from safer_steer.report.health.stages import examine
from safer_steer.report.health.tables import Table, tables

__all__ = ["Table", "examine", "gates_table", "tables", "warnings"]
