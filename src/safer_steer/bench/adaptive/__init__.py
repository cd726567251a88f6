"""The adaptive bench: an attacker in the user's seat, that sees the answers (docs/how-to/adaptive.md)."""
