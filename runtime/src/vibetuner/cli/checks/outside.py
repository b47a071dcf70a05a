"""Checks of what is around the project's code: ports, the template's version, its files."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from vibetuner.cli.checks import Finding
from vibetuner.cli.template_news import (
    ANSWERS,
    answers_of,
    fetch_versions,
    read_answers,
    run_tool,
    version_number,
)
from vibetuner.errors import CommandError
from vibetuner.project import ProjectInfo

PORTS = {8000: "web app", 11111: "monitor"}
PORT_SECONDS = 1.5
MOST_BYTES = 65_536


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
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.3) as connection:
        try:
            body = _ask_health(connection).partition(b"\r\n\r\n")[2]
            return str(json.loads(body).get("project", ""))
        except (OSError, ValueError, AttributeError, RecursionError):
            return ""
    return None


def _ask_health(connection: socket.socket) -> bytes:
    """Return the beginning of the response to GET /health.

    Anything may listen on the port. A library would ask a proxy, follow redirects, and read on as
    long as something arrives.
    """
    deadline = time.monotonic() + PORT_SECONDS
    host = b"Host: 127.0.0.1:%d" % connection.getpeername()[1]
    connection.sendall(b"GET /health HTTP/1.1\r\n%b\r\nConnection: close\r\n\r\n" % host)
    response = b""
    while len(response) < MOST_BYTES:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        if not (piece := connection.recv(MOST_BYTES)):
            break
        response += piece
    return response


SECONDS = 2.5
# Without pyproject.toml, into which `uv add` writes.
MANAGED = (
    ".devcontainer", ".dockerignore", ".editorconfig", ".env.example", ".github/workflows/ci.yml",
    ".gitignore", ".just", "Dockerfile", "compose.dev.yml", "compose.prod.yml",
)  # fmt: skip
RELEASE = re.compile(r"v?\d+\.\d+\.\d+")


def check_version(project: ProjectInfo) -> Iterator[Finding]:
    """Compare the template's version with the newest known one."""
    answers = read_answers(answers_of(project.root))
    commit, source = answers.get("_commit", ""), answers.get("_src_path", "")
    if not commit or not source:
        return
    try:
        newest = max(fetch_versions(source, SECONDS)[0], key=version_number, default="")
    except CommandError:
        yield Finding("note", "template", f"version {commit}; its newest is not known from here")
        return
    if not newest:
        yield Finding("ok", "template", f"commit {commit} of a template without releases")
    elif RELEASE.match(commit) and version_number(commit) < version_number(newest):
        text = f"version {commit}; there is {newest}"
        yield Finding("note", "template", text, "just template-update")
    else:
        yield Finding("ok", "template", f"version {commit}, the newest known")


def check_drift(project: ProjectInfo) -> Iterator[Finding]:
    """Report managed files that differ from the commit that last changed the answers."""
    git = partial(run_tool, "git", cwd=project.root, seconds=SECONDS)
    try:
        written = git("log", "-1", "--format=%H", "--", ANSWERS).strip()
        diff = ("diff", "--name-only", "--relative", written, "--", *MANAGED)
        drifted = git(*diff).splitlines() if written else []
    except CommandError:
        return
    if drifted:
        names = ", ".join(drifted[:5]) + (" …" if drifted[5:] else "")
        cure = "keep your own in justfile, src/ or a compose override; copier update merges them"
        yield Finding("note", "template", f"changed since the template wrote them: {names}", cure)
