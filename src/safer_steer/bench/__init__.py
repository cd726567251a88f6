"""The measurement: suites of scripts, the judge, the run, and the summary (docs/explanation/method.md,
"Evaluation")."""
