"""Folders of the repository that tests read."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).parent
"""The programs that tests start in processes of their own."""
ROOT = SUPPORT.parent.parent
PACKAGE = ROOT / "src" / "safer_steer"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TIERS = sorted((ROOT / "configs" / "reproduce").glob("*.yaml"))
