"""How long does `copier copy --defaults` take?"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from lab import Figure, clean_env, race, sources, workplace

COPIER = Path(sys.executable).with_name("copier")


def measure(*, beside: bool) -> list[Figure]:
    """Measure a copy from a repository at a release tag, as users make it, and from a folder."""
    del beside  # its template is on GitHub, so what others measured is quoted
    cache = workplace() / "copier-cache"
    runs = race(
        {source.name: copy_anew(source, cache) for source in (tagged(), sources())},
        rounds=9,
        COPIER_CACHE_DIR=str(cache),
    )
    return [
        Figure(
            what="`copier copy --defaults`, from a git repository at a release tag",
            ours=runs["tagged"].milliseconds,
            unit="ms",
            reported=1700,
        ),
        Figure(what="the same from a plain folder", ours=runs["sources"].milliseconds, unit="ms"),
    ]


def copy_anew(source: Path, cache: Path) -> list[str | Path]:
    """Copy into a new folder, with nothing cached."""
    target = workplace() / f"copy-of-{source.name}"
    remove = shlex.join(["rm", "-rf", str(target), str(cache)])
    copy = shlex.join([str(COPIER), "copy", "--quiet", "--defaults", str(source), str(target)])
    return ["sh", "-c", f"{remove} && exec {copy}"]


def tagged() -> Path:
    """Commit the sources to a repository, with one tag."""
    target = workplace() / "tagged"
    shutil.copytree(sources(), target)
    who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.com")
    for arguments in (
        ("init", "--quiet"),
        ("add", "--all"),
        (*who, "commit", "--quiet", "--message", "release"),
        ("tag", "v0.1.0"),
    ):
        subprocess.run(["git", *arguments], cwd=target, env=clean_env(), check=True)
    return target
