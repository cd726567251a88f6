"""Co-training: an attacker and the student learn in turns, as two LoRA adapters of one frozen base
(docs/explanation/cotrain.md)."""
