"""The kinds of tests: each is marked by its folder, its fixtures and what its module uses."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Generator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from _pytest.doctest import DoctestModule
from xdist.scheduler import LoadFileScheduling

__all__ = ["Kinds"]

ROOT = Path(__file__).parents[1]
# The folders whose tests are all of one kind.
FOLDERS = {"template": "template", "invoice_desk": "template", "e2e": "browser"} | dict.fromkeys(
    ("abuse", "tour", "embedded", "cli", "conformance"), "process"
)
# The fixtures that start a process.
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
# The imports of something that starts a process, and the marks of all tests of a module.
STARTERS = re.compile(
    r"^(?:import subprocess\b|from tests\.(?:processes|sentinels|valkey|workshop) import "
    r"(?:[^(\n]|\([^)]*)*?\b(?:(?:start_)?vibetuner|run_(?:code|module|pytest|vibetuner)|Replicated|Valkey|Workshop)\b)",
    re.MULTILINE,
)
MARKED = re.compile(r"^pytestmark = .*\.(?:process|slow)\b", re.MULTILINE)
# The files that take longest come first, so that no core is idle at the end.
LONGEST = ("template", "e2e", "docs", "tour", "cli", "invoice_desk", "testing")
# Folders whose files use one project or one set of processes; each worker would start its own.
TOGETHER = ("tests/e2e/", "tests/tour/")


class Kinds:
    """Marks the tests by kind; in a run without processes, a test that starts one fails.

    Otherwise, `just quick` would become slower with each such test.
    """

    def __init__(self, ignored: list[str], *, without_processes: bool) -> None:
        self._ignored = [ROOT / "tests" / path for path in ignored]
        self._refused = ""
        self._without_processes = without_processes
        if without_processes:
            sys.addaudithook(self._hear)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(
        self, config: pytest.Config, log: Any
    ) -> LoadFileScheduling | None:
        """Give a file, or a folder of those that share what is costly, to one worker."""
        return Together(config, log) if config.getoption("dist") == "loadfile" else None

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        """Disable garbage collection while tests are collected, as modules and tests live on."""
        gc.disable()
        try:
            self._import_in_turn(session.config)
            return (yield)
        finally:
            gc.freeze()
            gc.enable()

    def _import_in_turn(self, config: pytest.Config) -> None:
        """Import the test modules, of which each worker of pytest-xdist begins with others.

        The first import of a module rewrites its assertions, which takes longer than all the rest
        of the collection, and keeps the result for the other workers.
        """
        if worker := getattr(config, "workerinput", None):
            number, workers = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
            for file in in_turn(self._modules(config), number, workers):
                # Its collection will report the error.
                with suppress(Exception, pytest.skip.Exception):
                    import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))

    def _modules(self, config: pytest.Config) -> list[Path]:
        """Return the test modules that the arguments name, in order."""
        named = [config.rootpath / argument.partition("::")[0] for argument in config.args]
        found = {path for one in named for path in [one, *one.rglob("test_*.py")] if path.is_file()}
        return sorted(
            path
            for path in found
            if path.is_relative_to(ROOT / "tests")
            and not any(path.is_relative_to(one) for one in self._ignored)
            and not (self._without_processes and is_left_out(path))
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(
        self, file_path: Path
    ) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
        """Look for doctests only where there are some, and import no file that is left out.

        Each of the two would take long.
        """
        found = yield
        if b">>> " not in file_path.read_bytes():
            found = [one for one in found if not isinstance(one, DoctestModule)]
        if self._without_processes and file_path.suffix == ".py" and is_left_out(file_path):
            found = [one for one in found if isinstance(one, DoctestModule)]
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Mark each test before `-m` is evaluated, and sort the files after they are shuffled."""
        for item in items:
            for folder in FOLDERS.keys() & set(folders_of(item.path)):
                item.add_marker(FOLDERS[folder])
            if FIXTURES & set(getattr(item, "fixturenames", ())) or starts_one(item):
                item.add_marker("process")
        try:
            return (yield)
        finally:
            slow = {item.path for item in items if "slow" in item.keywords}
            installing = [*dict.fromkeys(item.path for item in items if installs(item))]
            ranks = {path: rank(path, slow, installing) for path in {one.path for one in items}}
            items.sort(key=lambda item: ranks[item.path])

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


def starts_one(item: pytest.Item) -> bool:
    """Return whether the module of a test function imports something that starts a process."""
    return isinstance(item, pytest.Function) and imports_starter(item.path)


def installs(item: pytest.Item) -> bool:
    """Return whether a test uses the environment of generated projects."""
    return "mold" in getattr(item, "fixturenames", ())


@cache
def imports_starter(file: Path) -> bool:
    """Return whether a module imports something that starts a process."""
    return STARTERS.search(file.read_text(encoding="utf-8")) is not None


def folders_of(file: Path) -> tuple[str, ...]:
    """Return the names in a path; below the repository, whatever its own folder is called."""
    return file.relative_to(ROOT).parts if file.is_relative_to(ROOT) else file.parts


def is_left_out(file: Path) -> bool:
    """Return whether all test functions of a file start processes or are slow."""
    return (
        not FOLDERS.keys().isdisjoint(folders_of(file))
        or imports_starter(file)
        or MARKED.search(file.read_text(encoding="utf-8")) is not None
    )


def rank(path: Path, slow: set[Path], installing: list[Path]) -> tuple[bool, int, bool, bool]:
    """Return a file's sort key: folders of long files first, and in them those with slow tests.

    The first file that installs a project makes the environment that the others link, so one comes
    first of all, and the others follow after files that don't wait for it. The tests of a file stay
    together, as they share costly fixtures.
    """
    ranks = [n for n, folder in enumerate(LONGEST) if folder in folders_of(path)]
    is_first = path in installing[:1]
    return not is_first, min(ranks, default=len(LONGEST)), path in installing, path not in slow


def in_turn(files: list[Path], number: int, workers: int) -> list[Path]:
    """Return the files in an order in which each of several workers begins with its share."""
    first = len(files) * number // workers
    return files[first:] + files[:first]


def unit_of(nodeid: str) -> str:
    """Return what a worker gets at once: a test's file, or its folder if that stays together."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


class Together(LoadFileScheduling):
    """Gives each unit to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
