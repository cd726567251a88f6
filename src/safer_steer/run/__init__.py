"""A run: its folder and lock, the checks before it starts, its plan, its progress display, and its
roles."""
