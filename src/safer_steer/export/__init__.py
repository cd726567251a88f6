"""Hand-over: a run's data in the forms that trainers read (Parquet for the hub and TRL, LLaMA-Factory, verl),
with a card and hashes."""
