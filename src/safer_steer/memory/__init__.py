"""Estimates a run's GPU memory from the model's config before anything is loaded; see
docs/how-to/memory.md."""
