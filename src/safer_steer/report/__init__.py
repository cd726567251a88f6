"""What a run found, for people: the table, the plots, and one HTML page to read the dialogues on."""

from safer_steer.report.page import write_report
from safer_steer.report.table import console_table

__all__ = ["console_table", "write_report"]
