"""Calls to models behind OpenAI-compatible endpoints: client, cache, ledger, rate limit, parsing, and
refusal detection."""
