"""The fixtures run in the event loop of the test, whatever scope that has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.processes import run_pytest
from tests.projects import write, write_project

pytestmark = pytest.mark.slow

JOBS = """
    from vibetuner.tasks.worker import get_worker

    worker = get_worker()
    ran = []


    @worker.task()
    async def note(text: str) -> str:
        ran.append(text)
        return text
"""
TUNE = """
    from shop.jobs import note
    from vibetuner import VibetunerApp

    app = VibetunerApp(tasks=[note])
"""
# The test runs twice, so that the second run meets what the first has left in a shared loop.
TESTS = """
    import pytest
    from shop.jobs import note, ran
    from sqlalchemy import text


    class TestShop:
        MARK

        @pytest.mark.parametrize("time", ["first", "second"])
        async def test_worker_and_database(self, vibetuner_worker, vibetuner_sql, time):
            task = await note.enqueue(time)
            await vibetuner_worker.run_until_idle()
            assert (await task.result(1)).result == ran[-1] == time
            async with vibetuner_sql.connect() as connection:
                assert (await connection.execute(text("SELECT 1"))).scalar() == 1
"""
BACKEND = """
    import pytest


    @pytest.fixture(scope="SCOPE")
    def anyio_backend():
        return "asyncio"
"""
SCOPES = ("function", "class", "module", "package", "session")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project whose tests use the worker's and the database's fixtures."""
    root = write_project(tmp_path / "project", {"jobs.py": JOBS}, tune=TUNE)
    with (root / "pyproject.toml").open("a") as file:
        file.write(
            '[tool.pytest.ini_options]\nfilterwarnings = ["error"]\npythonpath = ["src"]\n'
            'asyncio_default_fixture_loop_scope = "function"\n'
        )
    return root


def passed(project: Path, *options: str) -> int:
    """Return the number of tests of the project that pass; all must."""
    done = run_pytest(*options, folder=project)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^(\d+) passed in ", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return int(found[1])


def test_every_loop_scope_of_pytest_asyncio(project: Path):
    """Tests with every loop scope of pytest-asyncio pass in one run."""
    for scope in SCOPES:
        mark = f'pytestmark = pytest.mark.asyncio(loop_scope="{scope}")'
        write(project / "tests" / f"test_{scope}.py", TESTS.replace("MARK", mark))

    assert passed(project) == 2 * len(SCOPES)


@pytest.mark.parametrize("fixtures", ["function", "session"])
def test_the_scope_of_tests_may_be_the_projects_default(project: Path, fixtures: str):
    """The worker's and the database's fixtures run in the test's loop with every default scope."""
    write(project / "tests" / "test_default.py", TESTS.replace("MARK", ""))

    assert passed(
        project,
        "-o", "asyncio_mode=auto",
        "-o", "asyncio_default_test_loop_scope=session",
        "-o", f"asyncio_default_fixture_loop_scope={fixtures}",
    ) == 2  # fmt: skip


@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_every_scope_of_anyios_backend(project: Path, scope: str):
    """Tests that use the fixtures pass with an `anyio_backend` of every scope."""
    write(project / "tests" / "conftest.py", BACKEND.replace("SCOPE", scope))
    write(
        project / "tests" / "test_any.py", TESTS.replace("MARK", "pytestmark = pytest.mark.anyio")
    )

    assert passed(project) == 2
