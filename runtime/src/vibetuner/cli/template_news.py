"""Finds the versions of the template, and the changelog's sections for them."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from vibetuner.errors import CommandError

ANSWERS = ".copier-answers.yml"
TOOL_SECONDS = 180
SHORT_FORMS = {
    r"^git\+": "",
    r"^gh:/?(.*?)(\.git)?$": r"https://github.com/\1.git",
    r"^gl:/?(.*?)(\.git)?$": r"https://gitlab.com/\1.git",
}


@dataclass(frozen=True, slots=True)
class News:
    """The project's version, the one it could update to, and the changelog of that one.

    ``next`` is empty if the template has no releases.
    """

    present: str
    next: str
    changelog: str


def check_committed(root: Path) -> None:
    """Raise CommandError unless everything is committed, so that an update can be undone."""
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise CommandError(
            "The project is in no git repository, so there would be no way back. First:  "
            "git init && git add --all && git commit --message Start"
        )
    changed = run_tool("git", "status", "--porcelain", cwd=root).splitlines()
    if clashes := [line[3:] for line in changed if "U" in line[:2] or line[:2] in {"AA", "DD"}]:
        raise CommandError(
            f"Lines of {', '.join(clashes)} are in conflict: choose one side of each, and commit. "
            "Or go back:  git reset --hard && git clean --force -d && uv sync"
        )
    if changed:
        names = ", ".join(line[3:] for line in changed[:3]) + (", …" if len(changed) > 3 else "")
        raise CommandError(
            f"Commit or stash your changes first ({names}); then there is a way back"
        )


def fetch_news(root: Path, version: str = "") -> News:
    """Return what is new in the template's repository for this project.

    Raises CommandError if the project is not tied to a version, or the repository can't be reached.
    """
    answers = read_answers(answers_of(root))
    present, source = answers.get("_commit", ""), answers.get("_src_path", "")
    if not present or not source:
        raise CommandError(
            f"{ANSWERS} names no version: this project was made from a folder. Make it follow a "
            "repository:  uvx copier recopy --vcs-ref v… gh:org/vibetuner-template"
        )
    versions, others = fetch_versions(source)
    newest = max(versions, key=version_number, default="")
    target = version or newest
    if target in {present, ""}:
        return News(present, target, "")
    if target not in versions | others:
        known = (
            f"the newest is {newest}" if newest else f"its branches: {', '.join(sorted(others))}"
        )
        raise CommandError(f"The template has no version {target}; {known}")
    with TemporaryDirectory() as folder:
        clone = ("clone", "--quiet", "--no-checkout", "--branch", target, "--")
        run_tool("git", *clone, _git_url(source), folder, cwd=root)
        changelog = run_tool("git", "show", "HEAD:CHANGELOG.md", cwd=Path(folder))
        return News(present, target, changelog)


def sections_between(changelog: str, present: str, target: str) -> str:
    """Return the changelog's sections after one version, up to and including another.

    >>> text = "# C\\n\\n## [0.3.0]\\nc\\n\\n## [0.2.0] - 2026\\nb\\n\\n## [0.1.0]\\na\\n\\n[x]: y"
    >>> print(sections_between(text, "v0.1.0", "v0.2.0"))
    ## [0.2.0] - 2026
    b
    """
    found = re.findall(r"(?ms)^(## \[v?(\d[^]]*)\].*?)(?=^## |^\[[^]]+\]: |\Z)", changelog)
    low, high = version_number(present), version_number(target)
    wanted = (text for text, version in found if low < version_number(version) <= high)
    return "\n\n".join(text.strip() for text in wanted)


def _git_url(source: str) -> str:
    """Return the name that git has for a template's source.

    >>> _git_url("gh:org/vibetuner-template")
    'https://github.com/org/vibetuner-template.git'
    """
    for short, long in SHORT_FORMS.items():
        source = re.sub(short, long, source)
    return str(Path(source).expanduser()) if source.startswith("~") else source


def fetch_versions(source: str, seconds: float = TOOL_SECONDS) -> tuple[set[str], set[str]]:
    """Return the released versions among a repository's tags, and its other tags and branches."""
    asked = ("ls-remote", "--tags", "--heads", "--refs", "--", _git_url(source))
    listed = run_tool("git", *asked, cwd=Path.cwd(), seconds=seconds)
    names = set(re.findall(r"refs/(?:tags|heads)/(\S+)$", listed, re.MULTILINE))
    tags = set(re.findall(r"refs/tags/(v?\d+(?:\.\d+)+)$", listed, re.MULTILINE))
    return tags, names - tags


def version_number(version: str) -> tuple[int, ...]:
    """Return a version's numbers, for comparison.

    >>> version_number("v0.2.0") < version_number("v0.10.0-3-g12ab")
    True
    """
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def answers_of(root: Path) -> str:
    """Return the answers that a project was made with, as YAML; empty without a template."""
    path = root / ANSWERS
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def read_answers(text: str) -> dict[str, str]:
    """Return the source of a project: ``_src_path`` and ``_commit``."""
    # Copier wraps a long line at a space.
    found = re.findall(r"(?m)^(_\w+): (.+(?:\n +.+)*)$", text)
    return {name: re.sub(r"\n +", " ", value).strip().strip("'\"") for name, value in found}


def run_tool(*command: str, cwd: Path, seconds: float = TOOL_SECONDS) -> str:
    """Return the output of a command, which gets no terminal to ask on.

    Raises:
        CommandError: it is not installed, fails, or takes too long; the message has its reason.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise CommandError(f"{error.filename} is not installed. Install it, and repeat") from None
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"{' '.join(command[:2])} took more than {seconds:g} s. Check the network, and repeat"
        ) from None
    except OSError as error:
        raise CommandError(f"{' '.join(command[:2])} did not work: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        reason = next((line for line in lines if line.startswith("fatal: ")), lines[-1])
        raise CommandError(
            f"{' '.join(command[:2])} did not work: {reason.removeprefix('fatal: ')}"
        )
    return done.stdout
