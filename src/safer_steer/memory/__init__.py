"""What a run will take of a GPU's memory, estimated from the model's config before anything is loaded:
docs/memory.md."""
