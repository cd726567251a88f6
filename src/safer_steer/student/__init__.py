"""The student: its weights, its exact tokens, how it answers, and what both trainings share."""
