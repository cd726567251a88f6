"""Stage I: turns single-turn pairs into three disjoint pools of user-side scripts
(docs/explanation/method.md, "Stage I")."""
