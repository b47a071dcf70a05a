"""Settings in files, one a file, as Docker and Kubernetes provide secrets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vibetuner.errors import SettingsError

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
