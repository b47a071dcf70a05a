"""A check that our own processes listen on our ports."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.request import urlopen

from vibetuner.cli.checks.finding import Finding
from vibetuner.project import ProjectInfo

PORTS = {8000: "web app", 11111: "monitor"}


def check_port(project: ProjectInfo, port: int, what: str) -> Iterator[Finding]:
    """Check that a port is free, or that a process of this project listens on it."""
    owner = _owner(port)
    if owner == project.slug:
        yield Finding("ok", "ports", f"{port}: this project's {what}")
    elif owner is not None:
        other = f"the project {owner}" if owner else "something else"
        text = f"{port}, for the {what}, is taken by {other}"
        yield Finding("warning", "ports", text, "stop it, or choose another with --port")


def _owner(port: int) -> str | None:
    """Return the project that answers on a port; None if nothing listens."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.3):
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=1.5) as answer:
                return str(json.load(answer).get("project", ""))
        except (OSError, ValueError, AttributeError):
            return ""
    return None
