"""Asking models behind OpenAI-compatible endpoints: client, cache, ledger, pace, parsing, and replies that
decline."""
