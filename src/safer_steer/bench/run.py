"""The benchmark's loop is the one of every stage."""

from safer_steer.episodes import play_all as bench

__all__ = ["bench"]
