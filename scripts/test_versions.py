"""Runs tests on other Pythons and the oldest dependencies: ``just test-versions 3.12 lowest``.

Each has an environment of its own in ``build/versions``. ``lowest`` is the oldest Python that we
support with the oldest version of each dependency that ``pyproject.toml`` allows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "versions"
OLDEST = "3.11"
VERSIONS = (OLDEST, "3.12", "3.13", "3.14", "lowest")
PACKAGES = ("--group", "dev", "--editable", "runtime[embedded,postgres,speed]")
#: The tests that depend on the interpreter and on libraries, and not on the template or on tools.
TESTS = (
    *("runtime/src", "tests/regressions", "tests/runtime"),
    *("--ignore=tests/runtime/cli", "--ignore=tests/runtime/embedded"),
    *("-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"),
)


def main() -> None:
    """Run pytest on the versions named first, with the remaining arguments."""
    words = sys.argv[1:]
    named = [word for word in words if word in VERSIONS]
    options = words[len(named) :]
    if words[: len(named)] != named:
        sys.exit(f"name versions before pytest's arguments. Type:  just test-versions {OLDEST}")
    versions = named or [version for version in VERSIONS if is_installed(version)]
    failed = [version for version in versions if not passes(version, options or TESTS)]
    sys.exit(f"failed on {', '.join(failed)}" if failed else 0)


def python_of(version: str) -> str:
    """Return the interpreter's version."""
    return OLDEST if version == "lowest" else version


def is_installed(version: str) -> bool:
    """Return whether the interpreter is on this machine, and report one that is not."""
    found = subprocess.run(
        ["uv", "python", "find", "--quiet", python_of(version)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if found.returncode:
        print(f"left out: Python {version} is not installed", flush=True)
    return not found.returncode


def passes(version: str, options: list[str] | tuple[str, ...]) -> bool:
    """Install a version's environment and return whether the tests pass in it."""
    folder, python = FOLDER / version, python_of(version)
    resolution = "lowest-direct" if version == "lowest" else "highest"
    install = ["pip", "install", "--quiet", "--python", folder, "--resolution", resolution]
    for command in (
        ["venv", "--quiet", "--clear", "--python", python, folder],
        [*install, *PACKAGES],
    ):
        if subprocess.run(["uv", *command], cwd=ROOT, check=False).returncode:
            return False
    print(f"on {version}", flush=True)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return not subprocess.run(
        [folder / "bin" / "python", "-m", "pytest", *options],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        check=False,
    ).returncode


if __name__ == "__main__":
    main()
