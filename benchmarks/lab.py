"""Shared by all benchmarks: a rendered project, its environments, and a fair stopwatch."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from copier import run_copy

ROOT = Path(__file__).resolve().parent.parent
STOPWATCH = Path(__file__).with_name("stopwatch.py")
# Another product on PyPI, installed for `--beside` and thrown away.
EXISTING = "vibetuner"
MEGABYTE = 1_000_000
MEBIBYTE = 1024 * 1024

Command = Sequence[str | Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A line of a table. ``beside`` was measured with ours, ``reported`` is quoted from others.

    A spread is the lowest and the highest of all rounds; ``held`` says if the aim was reached.
    """

    what: str
    ours: float
    unit: str
    aim: str = ""
    held: bool | None = None
    spread: tuple[float, float] | None = None
    beside: float | None = None
    beside_spread: tuple[float, float] | None = None
    reported: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with columns of its own, to compare more than two; cells are Markdown."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Runs:
    """The measurements of several runs of one command."""

    seconds: tuple[float, ...]
    peak: tuple[float, ...]

    @property
    def milliseconds(self) -> float:
        """Return the median wall time."""
        return median(self.seconds) * 1000

    @property
    def mebibytes(self) -> float:
        """Return the median of the peak resident memory."""
        return median(self.peak)


def race(commands: Mapping[str, Command], *, rounds: int, **env: str) -> dict[str, Runs]:
    """Run commands in turn, A B C A B C, so that a busy moment of the machine affects all."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for command in commands.values():
        run_measured(command, env)
    for _ in range(rounds):
        for name, command in commands.items():
            results[name].append(run_measured(command, env))
    return {
        name: Runs(tuple(seconds for seconds, _ in runs), tuple(peak for _, peak in runs))
        for name, runs in results.items()
    }


def run_measured(command: Command, env: dict[str, str]) -> tuple[float, float]:
    """Return seconds and peak mebibytes; fail if the command fails."""
    log = workplace() / "last-run.log"
    stopwatch = (sys.executable, "-I", "-S", STOPWATCH, log)
    shown = subprocess.run(
        [*stopwatch, *command],
        cwd=workplace(),
        env=clean_env(**env),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    code, seconds, peak = map(float, shown.stdout.split())
    if code:
        raise SystemExit(f"{command} failed:\n{log.read_text(errors='replace')}")
    return seconds, peak * (1 if platform.system() == "Darwin" else 1024) / MEBIBYTE


def clean_env(**extra: str) -> dict[str, str]:
    """Return the environment without variables that would distort a figure."""
    unwanted = ("PYTHON", "COVERAGE", "VIRTUAL_ENV", "UV_PROJECT", "UV_RUN")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "UV_NO_PROGRESS": "1", "UV_NO_GITHUB_FAST_PATH": "1", **extra}


@cache
def workplace() -> Path:
    """Return a folder for all files, deleted when this process ends."""
    return Path(_scratch().name)


@cache
def _scratch() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True)


@cache
def sources() -> Path:
    """Copy the template and the runtime to a folder without history."""
    target = workplace() / "sources"
    target.mkdir()
    caches = shutil.ignore_patterns("__pycache__", "*.egg-info", "dist", ".*_cache")
    for name in ("template", "runtime"):
        shutil.copytree(ROOT / name, target / name, ignore=caches)
    shutil.copy(ROOT / "copier.yml", target)
    return target


@cache
def project() -> Path:
    """Render a project with the default answers."""
    target = workplace() / "project"
    run_copy(str(sources()), target, data={"project_name": "My Project"}, defaults=True, quiet=True)
    return target


@cache
def environment(*, dev: bool) -> Path:
    """Install the project as its users do; for production, or with its development tools."""
    target = workplace() / ("dev-env" if dev else "production-env")
    # Installed from a folder, the runtime would be editable; from a release, as here, it is not.
    installed = ("--no-editable-package", "vibetuner-runtime")
    command = ["uv", "sync", "--quiet", *installed, "--python", platform.python_version()]
    subprocess.run(
        command if dev else [*command, "--no-dev"],
        cwd=project(),
        env=clean_env(UV_PROJECT_ENVIRONMENT=str(target)),
        check=True,
    )
    return target


@cache
def existing(*extras: str) -> Path:
    """Install the existing product in an environment of its own."""
    target = workplace() / "-".join(("existing-env", *extras))
    python = target / "bin" / "python"
    wanted = f"{EXISTING}[{','.join(extras)}]" if extras else EXISTING
    commands: tuple[Command, ...] = (
        ("uv", "venv", "--quiet", "--python", platform.python_version(), target),
        ("uv", "pip", "install", "--quiet", "--python", python, wanted),
    )
    for command in commands:
        subprocess.run(command, cwd=workplace(), env=clean_env(), check=True)
    return target


def ask_child(script: Path, *arguments: str | int, folder: Path) -> dict[str, Any]:
    """Run a program of ours and return the JSON that it prints as its last line."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def started(command: Command, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process in the project's folder until the block ends."""
    process = subprocess.Popen(
        command,
        cwd=project(),
        env=clean_env(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
