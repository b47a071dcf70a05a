"""Checks of the project's template version, and of the files that the template manages."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from vibetuner.cli.checks.finding import Finding
from vibetuner.cli.template_news import git_url, read_answers
from vibetuner.project import ProjectInfo

__all__ = ["check_drift", "check_version"]

ANSWERS = ".copier-answers.yml"
SECONDS = 2.5
MANAGED = (
    ".devcontainer", ".dockerignore", ".editorconfig", ".env.example", ".github/workflows/ci.yml",
    ".gitignore", ".just", "Dockerfile", "compose.dev.yml", "compose.prod.yml", "pyproject.toml",
)  # fmt: skip
VERSION = re.compile(r"refs/tags/v(\d+)\.(\d+)\.(\d+)$")


def check_version(project: ProjectInfo) -> Iterator[Finding]:
    """Compare the template's version with the newest known one."""
    path = project.root / ANSWERS
    answers = read_answers(path.read_text(encoding="utf-8")) if path.is_file() else {}
    commit, source = answers.get("_commit", ""), answers.get("_src_path", "")
    if not commit or not source:
        return
    newest = _newest(source)
    if newest is None:
        yield Finding("note", "template", f"version {commit}; its newest is not known from here")
    elif (found := _parse(commit)) is not None and found < newest:
        text = f"version {commit}; there is v{'.'.join(map(str, newest))}"
        yield Finding("note", "template", text, "uvx copier update")
    else:
        yield Finding("ok", "template", f"version {commit}, the newest known")


def check_drift(project: ProjectInfo) -> Iterator[Finding]:
    """Report managed files that were changed by hand."""
    if drifted := _drifted(project.root):
        names = ", ".join(drifted[:5]) + (" …" if drifted[5:] else "")
        cure = "keep your own in justfile, src/ or a compose override; copier update merges them"
        yield Finding("note", "template", f"changed since the template wrote them: {names}", cure)


def _newest(source: str) -> tuple[int, ...] | None:
    listed = _git(["ls-remote", "--tags", "--", git_url(source)])
    versions = [_version(line) for line in listed.splitlines()]
    return max(filter(None, versions), default=None)


def _version(line: str) -> tuple[int, ...] | None:
    match = VERSION.search(line)
    return tuple(map(int, match.groups())) if match else None


def _parse(commit: str) -> tuple[int, ...] | None:
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", commit)
    return tuple(map(int, match.groups())) if match else None


def _drifted(root: Path) -> list[str]:
    """Return managed files that differ from the commit that last changed the answers."""
    written = _git(["log", "-1", "--format=%H", "--", ANSWERS], root).strip()
    if not written:
        return []
    return _git(["diff", "--name-only", "--relative", written, "--", *MANAGED], root).splitlines()


def _git(arguments: list[str], folder: Path | None = None) -> str:
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
