"""What a run will ask, cost and need in memory, before it starts."""
