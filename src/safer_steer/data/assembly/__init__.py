"""STEER-SFT, STEER-RL and STEER-Bench: disjoint data sets from the scripts of Stage I
(docs/explanation/method.md, "Data sets the pipeline yields")."""
