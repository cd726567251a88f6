"""The stages of a run, as values: `table.py` lists what each is called, reads, needs, writes and asks, why it
would not start (`checks.py`) and how much it will ask (`forecast.py`)."""

from safer_steer.stages.table import STAGES, TRAINED_BY, Stage, built_on

__all__ = ["STAGES", "TRAINED_BY", "Stage", "built_on"]
