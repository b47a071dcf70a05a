"""The files of settings, `.env` and secrets; URLs without secrets, and cures of wrong ones."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from vibetuner.errors import SettingsError

# Servers for development, which a URL with the value `embedded` starts, and real ones.
REAL_SERVERS = {"REDIS_URL": "redis://valkey:6379", "MONGODB_URL": "mongodb://mongo:27017"}
# The reasons that servers give, in their own words, and the cures that a restart is not.
CURES = (
    (
        r'WRONGPASS|NOAUTH|(?i:authentication (failed|required))|role ".*" does not exist',
        "Correct the user and the password in {}",
    ),
    (r"READONLY", "Point {} at the primary, or at Sentinels"),
    (r'database ".*" does not exist', "Create it, or correct {}"),
)


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


# Docker's folder; SECRETS_DIR names another.
DEFAULT_DIR = "/run/secrets"


def secrets_dir() -> Path | None:
    """Return the folder of secrets, if there is one."""
    folder = Path(os.environ.get("SECRETS_DIR") or DEFAULT_DIR)
    return folder if folder.is_dir() else None


def find_secret(name: str) -> Path | None:
    """Return the file that holds a setting, whatever the case of its name."""
    folder = secrets_dir()
    files = folder.iterdir() if folder else ()
    return next((file for file in files if file.name.lower() == name.lower()), None)


def read_secrets(names: Iterable[str]) -> dict[str, str]:
    """Return the settings that files hold.

    Raises:
        SettingsError: a file can't be read, or is a link to outside of the folder; the message
            names it.
    """
    return {name: _read(path) for name in names if (path := find_secret(name))}


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
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


def explain_unusable(system: str, name: str, url: str, reason: str, *, environment: str) -> str:
    """Return the message for a server that can't be used: its address, the reason, the cure.

    Args:
        system: the server's name.
        name: the setting that has its URL.
        url: the URL.
        reason: the server's or the driver's words.
        environment: ENVIRONMENT; production has no embedded servers.

    >>> explain_unusable(
    ...     "Redis", "REDIS_URL", "redis://:guess@cache", "WRONGPASS invalid password.",
    ...     environment="production",
    ... )
    "Redis at redis://***@cache can't be used: WRONGPASS invalid password. \
Correct the user and the password in REDIS_URL"
    """
    found = [cure.format(name) for pattern, cure in CURES if re.search(pattern, reason)]
    usual = f"Start it, or correct {name}"
    if name in REAL_SERVERS and environment != "production":
        usual = f"Start it, correct {name}, or set {name}=embedded in development"
    if url.startswith("sqlite"):
        usual = f"Correct {name}, or the rights of its folder"
    cure = [*found, usual][0]
    return f"{system} at {mask_url(url)} can't be used: {reason.rstrip('.')}. {cure}"


def explain_embedded(name: str) -> str:
    """Return the message for an embedded server in production.

    >>> explain_embedded("REDIS_URL").rpartition(":  ")[2]
    'REDIS_URL=redis://valkey:6379'
    """
    return (
        f"{name}=embedded is for development and tests; ENVIRONMENT=production needs the URL of a "
        f"real server. Set, for example:  {name}={REAL_SERVERS[name]}"
    )
