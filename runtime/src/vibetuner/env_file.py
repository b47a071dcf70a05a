"""The lines of `.env`, and a way to show URLs without their secrets."""

from __future__ import annotations

import re
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


def find_value(path: Path, name: str) -> str:
    """Return a variable's last value, whatever its case; empty if it is not set."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    bindings = parse_stream(StringIO(text))
    found = [item.value or "" for item in bindings if (item.key or "").lower() == name.lower()]
    return found[-1] if found else ""


def mask_url(url: str) -> str:
    """Mask the part of a URL before the ``@``, and the value of any ``password=``.

    >>> mask_url("redis://ann:secret@cache:6379/0?password=x")
    'redis://***@cache:6379/0?password=***'
    """
    url = re.sub(r"(?i)(password=)[^&]*", r"\1***", url)
    # Up to the last @, so that a URL with a bare @ or without a scheme shows nothing either.
    return re.sub(r"(?s)^([\w+.-]*://)?.*@", r"\1***@", url)
