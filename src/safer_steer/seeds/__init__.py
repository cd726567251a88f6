"""Stage I: single-turn pairs become three disjoint pools of user-side scripts (docs/method.md, "Stage I")."""
