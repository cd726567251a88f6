"""The input of Stage I: single-turn pairs of a picture and a question, from published sets, the user's own
files, or the sandbox.

Two concerns are kept independent: *where rows come from* (`text_files`, `arrow`, found by `find_splits`) and
*what a row means* (one file a published set in `sets/`, `own` for other names). `load` combines them.
docs/how-to/data.md is the user documentation.
"""

from safer_steer.data.sources.load import Skipped, label, left_out_in_words, load_pairs, pairs_of
from safer_steer.data.sources.pair import Pair, check_picture, is_large, picture_hash, picture_of

__all__ = [
    "Pair",
    "Skipped",
    "check_picture",
    "is_large",
    "label",
    "left_out_in_words",
    "load_pairs",
    "pairs_of",
    "picture_hash",
    "picture_of",
]
