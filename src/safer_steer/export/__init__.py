"""Export a run's data in the formats trainers read (Parquet for the hub and TRL, LLaMA-Factory, verl), with a
data set card and hashes."""
