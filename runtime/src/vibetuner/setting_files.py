"""The files that settings are in: `.env`, and secrets, one a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from vibetuner.errors import SettingsError


def check_env_file(path: Path) -> None:
    """Raise for a file that can't be read, or a line that is not ``NAME=value``.

    Raises:
        SettingsError: the message names the file, and the line if there is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError(
            f"{path} can't be read ({reason}). Make it a UTF-8 text file that you may read"
        ) from None
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            raise SettingsError(
                f"{path}:{binding.original.line}: not a NAME=value line. Quote the value, or start "
                "the line with # to make it a comment"
            )


def read_env_file(path: Path) -> dict[str, str | None]:
    """Return the variables of a file, with each ``${NAME}`` replaced; none if there is no file."""
    return dotenv_values(path, encoding="utf-8") if path.exists() else {}


def given(variables: Mapping[str, str | None]) -> dict[str, str]:
    """Return the variables that are not empty, by their names in lower case.

    White space around a value doesn't count: a secret of Kubernetes often ends with a line break,
    and a line of a file from Windows with a carriage return.

    >>> given({"REDIS_URL": "redis://cache\\n", "DEBUG": " ", "SMTP_URL": None})
    {'redis_url': 'redis://cache'}
    """
    stripped = ((name.lower(), (value or "").strip()) for name, value in variables.items())
    return {name: value for name, value in stripped if value}


# Docker's folder; SECRETS_DIR names another.
DEFAULT_DIR = "/run/secrets"


def find_secret(name: str) -> Path | None:
    """Return the file that holds a setting, whatever the case of its name."""
    return _list_secrets().get(name.lower())


def read_secrets(names: Iterable[str]) -> dict[str, str]:
    """Return the settings that files hold; an empty file counts as none.

    Raises:
        SettingsError: the folder or a file can't be read, or is a link to outside of the folder;
            the message names it.
    """
    found = _list_secrets()
    texts = {name: _read(found[name]) for name in names if name in found}
    return {name: text for name, text in texts.items() if text}


def _list_secrets() -> dict[str, Path]:
    """Return the files in the folder of secrets by their names in lower case."""
    named = os.environ.get("SECRETS_DIR")
    folder = Path(named or DEFAULT_DIR)
    try:
        return {file.name.lower(): file for file in sorted(folder.iterdir())}
    except OSError as error:
        if not named and isinstance(error, FileNotFoundError):
            return {}
        raise SettingsError(
            f"{folder}, the folder of secrets, can't be read ({error.strerror}). Make it one that "
            "this process's user may read, or correct SECRETS_DIR"
        ) from None


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        is_inside = path.parent.resolve() in path.resolve().parents
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError(
            f"{path} can't be read ({reason}). Make it UTF-8 text that this process's user may read"
        ) from None
    if not is_inside:
        raise SettingsError(
            f"{path} is a link to {path.resolve()}, outside of the folder of secrets. Put the file "
            "itself there"
        )
    return text
