"""What the repository keeps of the paper."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safer_steer.files.store import canonical

RECORD = Path(__file__).parents[2] / "docs" / "paper" / "pith_record.json"
HASH = "7c94875667dba44dd7227cd8c0a0257580243f89bf2e37c6043c5ed0a04e4bde"
"""The record's canonical hash, as its registry gives it (schema pith-number/v1.0)."""


def test_the_papers_record_is_the_registered_one() -> None:
    record = json.loads(RECORD.read_bytes())
    assert record["source"] == {"kind": "arxiv", "id": "2604.16358", "version": 2}
    line = canonical(record).removesuffix("\n")
    assert hashlib.sha256(line.encode()).hexdigest() == HASH
