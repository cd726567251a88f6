"""The embedded test world: fictional devices, agents that know its rules, and a tiny student. Harm is
measured exactly and is harmless in reality."""
