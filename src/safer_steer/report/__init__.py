"""Reports of a run's results: the table, the plots, and one HTML page with the dialogues.

Every command comes by here for its tables (`fitted_table`), so nothing is imported.
"""
