"""Settings in files, one a file, as Docker and Kubernetes provide secrets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vibetuner.errors import SettingsError

__all__ = ["check_secrets", "find_secret", "secrets_dir"]

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


def check_secrets(names: Iterable[str]) -> None:
    """Raise SettingsError, which names the file, if the secret of a setting can't be read."""
    for path in filter(None, map(find_secret, names)):
        try:
            path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise SettingsError(
                f"{path} can't be read ({reason}). Make it UTF-8 text that this process's user may "
                "read"
            ) from None
