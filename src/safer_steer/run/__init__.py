"""A run: its folder and lock, what is looked at before it starts, its plan, its progress, and who plays which
part."""
