"""The kinds of tests: each is marked by its folder, its fixtures and what its module uses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from _pytest.doctest import DoctestModule

from tests import processes, sentinels, valkey, workshop

__all__ = ["Kinds"]

# A folder whose tests are all of one kind.
FOLDERS = {"template": "template", "invoice_desk": "template", "e2e": "browser"} | dict.fromkeys(
    ("abuse", "tour", "embedded", "cli", "conformance"), "process"
)
# A fixture, and something of a module, that starts a process.
FIXTURES = {
    "servers",
    "postgres",
    "clustered",
    "server",
    "valkey",
    "plain",
    "vibetuner_worker",
    "vibetuner_db",
    "certificate",
}
STARTERS = (
    *(subprocess, processes.vibetuner, processes.run_vibetuner),
    *(processes.run_code, processes.run_pytest),
    *(valkey.Valkey, sentinels.Replicated, workshop.Workshop),
)
# The files that take longest come first, so that no core is idle at the end.
LONGEST = ("template", "e2e", "docs", "tour", "cli", "testing")


class Kinds:
    """Marks the tests; a run of those without a process refuses one to each of them.

    Without that, `just quick` would become slow one test at a time.
    """

    def __init__(self, markers: str) -> None:
        self._refused = ""
        if "not process" in markers:
            sys.addaudithook(self._hear)

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(
        self, file_path: Path
    ) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
        """Look for doctests only where there are some; to look takes long."""
        found = yield
        if b">>> " in file_path.read_bytes():
            return found
        return [one for one in found if not isinstance(one, DoctestModule)]

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Mark each test before `-m` is looked at, and sort the files after they are shuffled."""
        for item in items:
            for folder in FOLDERS.keys() & set(item.path.parts):
                item.add_marker(FOLDERS[folder])
            if FIXTURES & set(getattr(item, "fixturenames", ())) or starts_one(
                getattr(item, "module", None)
            ):
                item.add_marker("process")
        try:
            return (yield)
        finally:
            slow = {item.path for item in items if "slow" in item.keywords}
            items.sort(key=lambda item: rank(item.path, slow))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._refused = item.nodeid
        try:
            return (yield)
        finally:
            self._refused = ""

    def _hear(self, event: str, _arguments: object) -> None:
        if self._refused and event in {"subprocess.Popen", "os.posix_spawn", "os.fork"}:
            raise RuntimeError(f"mark {self._refused} with @pytest.mark.process")


@cache
def starts_one(module: ModuleType | None) -> bool:
    """Return whether a module of tests uses something that starts a process."""
    return any(value is one for value in vars(module or pytest).values() for one in STARTERS)


def rank(path: Path, slow: set[Path]) -> tuple[int, bool]:
    """Return a file's sort key: folders of long files first, and in them those with slow tests.

    A file stays together, as its tests share what is costly.
    """
    ranks = [n for n, folder in enumerate(LONGEST) if folder in path.parts]
    return min(ranks, default=len(LONGEST)), path not in slow
