"""The embedded world: fictional devices, agents that know its rules, and a tiny student. Harm is exact here
and nobody can be hurt."""
