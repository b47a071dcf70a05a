"""``vibetuner db``."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes import free_port, run_vibetuner, vibetuner
from tests.projects import write_project

TUNE = """
    from sqlmodel import Field, SQLModel

    from vibetuner import VibetunerApp


    class Order(SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)


    class Customer(SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)


    app = VibetunerApp(sql_models=[Order, Customer])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    env = "DATABASE_URL=sqlite:///.vibetuner/app.db\n"
    return write_project(tmp_path / "project", tune=TUNE, env=env)


def tables(project: Path) -> set[str]:
    with closing(sqlite3.connect(project / ".vibetuner" / "app.db")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}


def test_create_schema_makes_what_is_missing_and_says_what_it_made(project: Path):
    """From any folder of the project; a second time there is nothing to do."""
    first = run_vibetuner("db", "create-schema", folder=project / "src")
    second = run_vibetuner("db", "create-schema", folder=project)

    assert (first.returncode, first.stdout) == (0, "created: order, customer\n")
    assert (second.returncode, second.stdout) == (0, "nothing to do: every table is there\n")
    assert tables(project) == {"order", "customer"}
    assert first.stderr == second.stderr == ""


@pytest.mark.parametrize(
    ("tune", "env", "line"),
    [
        (
            "from vibetuner import VibetunerApp\napp = VibetunerApp()\n",
            "DATABASE_URL=sqlite:///app.db\n",
            "error: tune.py lists no tables. Add to VibetunerApp(...) there:  "
            "sql_models=[YourModel]\n",
        ),
        (
            TUNE,
            "",
            "error: SQL database not configured. Add to .env:  "
            "DATABASE_URL=sqlite+aiosqlite:///.vibetuner/app.db\n",
        ),
        (
            TUNE.replace("class Order(SQLModel, table=True)", "class Order(SQLModel)"),
            "DATABASE_URL=sqlite:///app.db\n",
            "error: sql_models= lists Order, which is not a table. Declare it as "
            "`class Order(SQLModel, table=True)`\n",
        ),
    ],
    ids=["no tables", "no database", "no table"],
)
def test_create_schema_says_what_is_missing(tmp_path: Path, tune: str, env: str, line: str):
    """One line, exit code 1, and nothing is made."""
    root = write_project(tmp_path / "project", tune=tune, env=env)

    done = run_vibetuner("db", "create-schema", folder=root)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert not (root / "app.db").exists()


def test_a_first_start_in_development_makes_the_schema(project: Path, tmp_path: Path):
    """And says so, once."""
    arguments = ("run", "dev", "frontend", "--port", str(free_port()))
    with vibetuner(*arguments, folder=project, log=tmp_path / "log", environment={}) as command:
        command.wait_for("web app ready")
        command.stop()

    assert tables(project) == {"order", "customer"}
    assert command.output.count("created the tables order, customer") == 1


def test_help_and_version_need_no_project(tmp_path: Path):
    """Nor an environment."""
    bare = run_vibetuner(folder=tmp_path)
    helped = run_vibetuner("db", "--help", folder=tmp_path)
    version = run_vibetuner("--version", folder=tmp_path)

    assert (bare.returncode, "db" in bare.stderr) == (2, True)
    assert (helped.returncode, "create-schema" in helped.stdout) == (0, True)
    assert (version.returncode, version.stdout.split()[0]) == (0, "vibetuner")
    assert list(tmp_path.iterdir()) == []
