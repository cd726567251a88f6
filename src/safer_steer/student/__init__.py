"""The student: weights, exact tokens, sampling, and the code shared by both trainings."""
