"""Experiments: variants of one config, each over several training seeds, compared in one table."""
