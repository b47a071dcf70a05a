"""Projects with every combination of answers and databases: checked, run, updated, run again.

``just matrix`` runs these tests; ``just test`` doesn't, as they take ten minutes of a processor.
Projects are updated from the newest release, or from the commit that ``MATRIX_FROM`` names.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from secrets import token_urlsafe

import asyncpg
import httpx2
import pytest

from tests.environments import Mold, copy_types
from tests.postgres import running_postgres
from tests.processes import Command, free_port, interrupt, start_group, wait_for_http
from tests.template.conftest import ROOT, Repository, make_repository, run, write_template
from tests.template.test_update import clear, releases, start, update
from tests.waiting import wait_until
from vibetuner.embedded import status

FIRST = os.environ.get("MATRIX_FROM") or (releases() or ["HEAD"])[-1]
DATABASES = list(product(("sqlite", "postgresql"), ("mongodb", "none")))


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server."""
    with running_postgres() as (url, _):
        yield url


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Make a repository of the template at the former version, v0.0.1, and at this one, v999."""
    repository = make_repository(tmp_path_factory.mktemp("matrix"), runtime=False)
    repository.git("tag", "--delete", "v0.9.0")
    clear(repository.folder)
    archive = ("git", "archive", "--format=tar", FIRST, "copier.yml", "template", "runtime")
    packed = subprocess.run(archive, cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", repository.folder], input=packed, check=True)
    repository.commit("Then", tag="v0.0.1")
    clear(repository.folder)
    write_template(repository.folder)
    repository.commit("Now", tag="v999.0.0")
    return repository


@pytest.mark.parametrize(("sql", "mongodb"), DATABASES)
@pytest.mark.parametrize("example", [True, False], ids=["example", "bare"])
def test_a_new_project(
    template: Repository, mold: Mold, postgres: str, tmp_path: Path,
    *, example: bool, sql: str, mongodb: str,
):  # fmt: skip
    """A new project passes `just check` and runs a task, in development and in production."""
    project = start(template, tmp_path / "my-project", "v999.0.0", example=example)
    mold.lend(project.folder)
    configure(project, make_url(postgres, sql), mongodb)
    assert_passes_check(project, postgres, sql)
    assert_runs(project, example=example)
    assert_runs_in_production(project, example=example)


@pytest.mark.parametrize(("sql", "mongodb"), DATABASES)
@pytest.mark.parametrize("example", [True, False], ids=["example", "bare"])
def test_an_updated_project(
    template: Repository, mold: Mold, postgres: str, tmp_path: Path,
    *, example: bool, sql: str, mongodb: str,
):  # fmt: skip
    """A project of the former version runs, is updated, passes its check, and runs on its data.

    Half of the projects take the option `pre_commit` with the update, so that each pair of answers
    occurs.
    """
    if "\nexample:" not in template.git("show", "v0.0.1:copier.yml") and not example:
        pytest.skip("the former version has no project without the example")
    if sql == "postgresql" and "\npostgres = " not in template.git(
        "show", "v0.0.1:template/pyproject.toml.jinja"
    ):
        pytest.skip("the former version has no extra for PostgreSQL")
    project = start(template, tmp_path / "my-project", "v0.0.1", example=example)
    configure(project, make_url(postgres, sql), mongodb)
    assert_runs(project, example=example)
    project.commit("Lock")

    pre_commit = (sql == "sqlite") == (mongodb == "mongodb")
    update(project, data={"pre_commit": pre_commit})
    assert project.git("diff", "--name-only", "--diff-filter=U") == ""
    assert (project.folder / ".pre-commit-config.yaml").exists() == pre_commit
    uv(project, "sync", "--inexact")
    copy_types(project.folder / ".mypy_cache")
    assert_passes_check(project, postgres, sql)
    assert_runs(project, example=example)
    assert_runs_in_production(project, example=example)


def make_url(server: str, sql: str) -> str:
    """Return DATABASE_URL for a new project: a file, or a database of its own on the server."""
    if sql == "sqlite":
        return "sqlite+aiosqlite:///.vibetuner/app.db"
    name = f"matrix_{free_port()}"
    asyncio.run(execute(server.replace("+asyncpg", ""), f"CREATE DATABASE {name}"))
    return server.replace("/postgres", f"/{name}")


async def execute(server: str, statement: str) -> None:
    connection = await asyncpg.connect(server)
    await connection.execute(statement)
    await connection.close()


def configure(project: Repository, database: str, mongodb: str) -> None:
    """Write .env as a person does, and install what the database needs."""
    lines = (project.folder / ".env.example").read_text("utf-8").splitlines()
    changed = {
        "DATABASE_URL": database,
        "SECRET_KEY": token_urlsafe(48),
        "MAIL_FROM": "shop@example.com",
    }
    if mongodb == "none":
        changed["MONGODB_URL"] = ""
    lines = [
        f"{name}={changed.get(name, value)}" if "=" in line and line[0] != "#" else line
        for line in lines
        for name, _, value in [line.partition("=")]
    ]
    (project.folder / ".env").write_text("\n".join(lines) + "\n", "utf-8")
    uv(project, "sync", *(("--extra", "postgres") if "postgresql" in database else ()))


def assert_passes_check(project: Repository, postgres: str, sql: str) -> None:
    server = {"TEST_DATABASE_URL": postgres} if sql == "postgresql" else {}
    checked = uv(project, "run", "just", "check", **server)
    assert " passed" in checked


def assert_runs(project: Repository, *, example: bool) -> None:
    """Assert that page and worker run a task together, and that no server is left over."""
    port = free_port()
    with running(project, "just", "local-all-with-worker", "--port", str(port)) as command:
        command.wait_for("worker ready", seconds=120)
        press(f"http://127.0.0.1:{port}", example=example)
    wait_until(lambda: not status(project.folder).running, what=lambda: "the servers' end")


def assert_runs_in_production(project: Repository, *, example: bool) -> None:
    """Assert that page and worker run a task as two processes, on servers with an address."""
    port = free_port()
    uv(project, "run", "vibetuner", "services", "up")
    try:
        urls = {one.name: str(one.url) for one in status(project.folder).services}
        variables = {"REDIS_URL": urls["redis"]}
        if "\nMONGODB_URL=\n" not in (project.folder / ".env").read_text("utf-8"):
            variables["MONGODB_URL"] = urls["mongodb"]
        page = ("vibetuner", "run", "prod", "frontend", "--port", str(port))
        worker = ("vibetuner", "run", "prod", "worker")
        with running(project, *page, **variables), running(project, *worker, **variables) as one:
            one.wait_for("worker ready", seconds=60)
            wait_for_http(f"http://127.0.0.1:{port}/health/ready")
            press(f"http://127.0.0.1:{port}", example=example)
    finally:
        uv(project, "run", "vibetuner", "services", "down")


def press(url: str, *, example: bool) -> None:
    """Press the button of the first page, and wait until its task is done."""
    with httpx2.Client(base_url=url, timeout=30, follow_redirects=True) as client:
        before = client.get("/").text.count("Done")
        page = client.post("/exports" if example else "/")
        assert page.status_code == 200, page.text
        if example:
            wait_until(
                lambda: client.get("/").text.count("Done") > before,
                what=lambda: client.get("/").text,
            )
        else:
            task = page.url.params["task"]
            stream = client.get(f"/events/tasks/{task}", headers={"Accept": "text/event-stream"})
            assert "event: complete" in stream.text


@contextmanager
def running(project: Repository, *command: str, **variables: str) -> Iterator[Command]:
    """Run a command in the project, and end it as Ctrl-C does."""
    started = start_group(
        *("uv", "run", "--quiet", *command),
        folder=project.folder,
        log=project.folder.parent / f"log-{free_port()}",
        environment=project.environment | variables,
    )
    try:
        yield started
    finally:
        interrupt(started)


def uv(project: Repository, *arguments: str, **variables: str) -> str:
    """Return the output of a command of uv."""
    environment = project.environment | variables
    done = run(
        "uv", "--quiet", *arguments, cwd=project.folder, environment=environment, seconds=900
    )
    return done.stdout
