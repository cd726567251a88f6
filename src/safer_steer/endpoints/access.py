"""Where a role's endpoint is and which key opens it."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from safer_steer.config import Role
from safer_steer.errors import UserError


def checked_url(role: Role) -> str:
    """The role's base_url. Raises `UserError` if it is no address, or holds a password."""
    url = (role.base_url or "").strip()
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if "@" in (parts.netloc if usable else url):
        raise UserError(
            f"base_url of model {role.model} holds a password; put the key in an environment variable"
            " and name the variable in api_key_env"
        )
    if not usable:
        raise UserError(
            f"base_url of model {role.model} is {url!r}; give the endpoint's address,"
            " for instance http://localhost:8000/v1"
        )
    return url


def key(role: Role) -> str:
    """The role's key from the environment; "none" if it names no variable.

    Raises:
        UserError: the variable is empty, or what it holds cannot be a key.
    """
    if role.api_key_env is None:
        return "none"
    found = os.environ.get(role.api_key_env, "").strip()
    named = f"environment variable {role.api_key_env} (api_key_env of model {role.model})"
    if not found:
        raise UserError(f"{named} is not set; export the key in it")
    if not found.isascii() or not found.isprintable():
        raise UserError(f"{named} holds characters that no key has; copy the key again")
    return found
