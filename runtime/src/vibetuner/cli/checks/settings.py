"""Checks of the settings, for the doctor and ``vibetuner run prod``."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import SecretStr

from vibetuner.cli.checks import Finding, grave
from vibetuner.cli.ports import open_files, raise_open_files
from vibetuner.config import Settings

FRESH_KEY = 'make one with:  python -c "import secrets; print(secrets.token_urlsafe(48))"'
SHORTEST_KEY = 32
SHORTEST_TOKEN = 20
FEWEST_CHARACTERS = 10
FEW_FILES = 1024
# Beginnings of placeholders; "for development" is the key in the template's compose.dev.yml.
WEAK = ("change", "secret", "example", "password", "test", "xxx", "for development")


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Report settings that are missing, weak, or not fit for production.

    >>> weak = Settings(environment="production", secret_key="changeme" * 5)
    >>> [finding.text for finding in check_settings(weak) if finding.level == "error"]
    ['SECRET_KEY is weak']
    """
    in_production = settings.environment == "production"
    if in_production and settings.debug:
        text = "DEBUG=true in production shows source code and values to every visitor"
        yield Finding("error", "settings", text, "set DEBUG=false, or run with --allow-debug")
    if settings.secret_key is None:
        if in_production:
            text = "SECRET_KEY is empty, and production signs what it stores"
            yield Finding("error", "settings", text, FRESH_KEY)
        else:
            text = "SECRET_KEY is empty; development signs with a key of its own"
            yield Finding("note", "settings", text, FRESH_KEY)
    elif _is_weak(settings.secret_key, SHORTEST_KEY):
        yield Finding(grave(settings), "settings", "SECRET_KEY is weak", FRESH_KEY)
    if settings.debug_access_token is None:
        if in_production:
            text = "DEBUG_ACCESS_TOKEN is empty: nobody can open /debug"
            yield Finding("note", "settings", text, FRESH_KEY)
    elif _is_weak(settings.debug_access_token, SHORTEST_TOKEN):
        yield Finding(grave(settings), "settings", "DEBUG_ACCESS_TOKEN is weak", FRESH_KEY)


def check_limits(settings: Settings) -> Iterator[Finding]:
    """Report the limits of a web process: connections, and the size of a request."""
    raise_open_files()
    files = open_files()
    text = (
        f"{files} open files, {settings.connections_per_client or 'any number of'} connections a "
        f"client, {settings.max_body.human_readable(decimal=True)} a request"
    )
    if files < FEW_FILES:
        cure = "raise the limit of open files: ulimit -n, LimitNOFILE= or ulimits: nofile:"
        yield Finding("warning", "limits", text, cure)
    else:
        yield Finding("ok", "limits", text)


def _is_weak(secret: SecretStr, shortest: int) -> bool:
    text = secret.get_secret_value().strip()
    few = len(set(text)) < FEWEST_CHARACTERS
    return len(text) < shortest or few or text.lower().startswith(WEAK)
