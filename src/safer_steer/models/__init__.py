"""Asking models: endpoints (`chat`), the cache, and the student's policy."""
