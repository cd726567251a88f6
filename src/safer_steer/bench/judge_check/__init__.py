"""How far the judge of a bench can be trusted: against people, against itself, against another judge
(docs/how-to/judge.md)."""
