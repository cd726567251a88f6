"""From published single-turn sets to the kept dialogues of Stage II: sources, seeds, assembly, bootstrap."""
