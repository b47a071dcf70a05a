"""Finds the versions of the template, and the changelog's sections for them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from vibetuner.errors import CommandError

__all__ = ["News", "check_committed", "fetch_news", "git_url", "read_answers", "sections_between"]

ANSWERS = ".copier-answers.yml"
GIT_SECONDS = 120
SHORT_FORMS = {
    r"^git\+": "",
    r"^gh:/?(.*?)(\.git)?$": r"https://github.com/\1.git",
    r"^gl:/?(.*?)(\.git)?$": r"https://gitlab.com/\1.git",
}


@dataclass(frozen=True, slots=True)
class News:
    """The project's version, the one it could update to, and the changelog of that one."""

    present: str
    next: str
    changelog: str


def check_committed(root: Path) -> None:
    """Raise CommandError unless everything is committed, so that an update can be undone."""
    changed = _git("status", "--porcelain", cwd=root).splitlines()
    if changed:
        names = ", ".join(line[3:] for line in changed[:3]) + (", …" if len(changed) > 3 else "")
        raise CommandError(
            f"Commit or stash your changes first ({names}); then there is a way back"
        )


def fetch_news(root: Path, version: str = "") -> News:
    """Return what is new in the template's repository for this project.

    Raises:
        CommandError: the project is not tied to a version, or the repository can't be reached.
    """
    path = root / ANSWERS
    answers = read_answers(path.read_text(encoding="utf-8") if path.is_file() else "")
    present, source = answers.get("_commit", ""), git_url(answers.get("_src_path", ""))
    if not present or not source:
        raise CommandError(
            f"{ANSWERS} names no version: this project was made from a folder. Make it follow a "
            "repository:  uvx copier recopy --vcs-ref v… gh:org/vibetuner-template"
        )
    versions, others = _fetch_names(source)
    target = version or max(versions, key=_number, default=present)
    if target == present:
        return News(present, present, "")
    if target not in versions | others:
        raise CommandError(
            f"The template has no version {target}; the newest is "
            f"{max(versions, key=_number, default='none')}"
        )
    with TemporaryDirectory() as folder:
        _git(
            "clone", "--quiet", "--no-checkout", "--branch", target, "--", source, folder, cwd=root
        )
        return News(present, target, _git("show", "HEAD:CHANGELOG.md", cwd=Path(folder)))


def sections_between(changelog: str, present: str, target: str) -> str:
    """Return the changelog's sections after one version, up to and including another.

    >>> text = "# C\\n\\n## [0.3.0]\\nc\\n\\n## [0.2.0] - 2026\\nb\\n\\n## [0.1.0]\\na\\n\\n[x]: y"
    >>> print(sections_between(text, "v0.1.0", "v0.2.0"))
    ## [0.2.0] - 2026
    b
    """
    found = re.findall(r"(?ms)^## \[v?(\d[^]]*)\].*?(?=^## |^\[[^]]+\]: |\Z)", changelog)
    texts = re.findall(r"(?ms)^## \[v?\d[^]]*\].*?(?=^## |^\[[^]]+\]: |\Z)", changelog)
    low, high = _number(present), _number(target)
    wanted = [t for v, t in zip(found, texts, strict=True) if low < _number(v) <= high]
    return "\n\n".join(text.strip() for text in wanted)


def git_url(source: str) -> str:
    """Return the name that git has for a template's source.

    >>> git_url("gh:org/vibetuner-template")
    'https://github.com/org/vibetuner-template.git'
    """
    for short, long in SHORT_FORMS.items():
        source = re.sub(short, long, source)
    return str(Path(source).expanduser()) if source.startswith("~") else source


def _fetch_names(source: str) -> tuple[set[str], set[str]]:
    """Return the released versions among the template's tags, and its other tags and branches."""
    listed = _git("ls-remote", "--tags", "--heads", "--refs", "--", source, cwd=Path.cwd())
    names = set(re.findall(r"refs/(?:tags|heads)/(\S+)$", listed, re.MULTILINE))
    tags = set(re.findall(r"refs/tags/(v?\d+(?:\.\d+)+)$", listed, re.MULTILINE))
    return tags, names - tags


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def read_answers(text: str) -> dict[str, str]:
    """Return the source of a project: ``_src_path`` and ``_commit``."""
    # Copier wraps a long line at a space.
    found = re.findall(r"(?m)^(_\w+): (.+(?:\n +.+)*)$", text)
    return {name: re.sub(r"\n +", " ", value).strip().strip("'\"") for name, value in found}


def _git(*arguments: str, cwd: Path) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"git {arguments[0]} did not work: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise CommandError(f"git {arguments[0]} did not work: {lines[0].removeprefix('fatal: ')}")
    return done.stdout
