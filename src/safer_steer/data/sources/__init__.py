"""The input of Stage I: single-turn pairs of a picture and a question, from published sets, the user's own
files, or the sandbox.

Two concerns are kept independent: *where rows come from* (`text_files`, `arrow`, found by `find_splits`) and
*what a row means* (a function a published set in `sets/`, `columns.samples` for other names). `load` combines
them. docs/how-to/data.md is the user documentation.
"""
