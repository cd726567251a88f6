"""SaFeR-Steer: vision-language models that stay safe and helpful over a whole dialogue (arXiv 2604.16358)."""

__version__ = "0.2.0"
