"""Reports of a run's results: the table, the plots, and one HTML page with the dialogues."""

from safer_steer.report.main_table import console_table
from safer_steer.report.page import write_report

__all__ = ["console_table", "write_report"]
