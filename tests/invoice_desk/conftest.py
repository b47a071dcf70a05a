"""The invoice desk: its project, database, web process, workers and mail server."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.environments import render
from tests.processes import Command, Site, free_port, run_vibetuner, vibetuner, wait_for_http
from tests.runtime.services.conftest import SmtpServer, running
from tests.template import conftest as template
from vibetuner.config import Settings, using_settings
from vibetuner.embedded import Lease
from vibetuner.tasks.worker import TaskWorker

mold, plain = template.mold, template.plain

APP = Path(__file__).parent / "app"
# Files of a project without the example that the desk does not need. One is the test of the
# generated batch, which expects a batch that makes no documents.
UNUSED = (
    "src/invoice_desk/tasks/count.py",
    "tests/test_home.py",
    "tests/tasks/test_documents.py",
)


@dataclass(frozen=True)
class Desk:
    """The invoice desk's project, and the environment variables of its processes."""

    root: Path
    variables: dict[str, str]

    def run(self, *arguments: str) -> str:
        """Run a command of `vibetuner`, and return its standard output."""
        done = run_vibetuner(*arguments, folder=self.root, **self.variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def process(self, *arguments: str, **variables: str) -> Iterator[Command]:
        """Run `vibetuner run prod …` beside the block."""
        log = self.root / f"{arguments[0]}-{free_port()}.log"
        with vibetuner(
            *("run", "prod", *arguments, "--port", str(free_port())),
            folder=self.root,
            log=log,
            environment=self.variables | variables,
        ) as command:
            yield command

    @contextmanager
    def worker(self, **variables: str) -> Iterator[Command]:
        """Run a worker beside the block, which begins once the worker is ready."""
        with self.process("worker", **variables) as command:
            command.wait_for("worker ready", seconds=60)
            yield command

    def sql(self, script: str) -> list[tuple[object, ...]]:
        """Run SQL statements, and return the rows of a SELECT."""
        path = self.variables["DATABASE_URL"].removeprefix("sqlite+aiosqlite:///")
        with closing(sqlite3.connect(path, timeout=20)) as database:
            if script.startswith("SELECT"):
                return database.execute(script).fetchall()
            database.executescript(script)
        return []

    def begin_with(self, invoices: int, due: str = "2099-01-31") -> None:
        """Empty the tables, and insert the invoices I-1, I-2, … up to a number."""
        values = ", ".join(
            f"('I-{n}', 'Ann Lee', 'ann-{n}@example.com', 1250, '{due}')"
            for n in range(1, invoices + 1)
        )
        tables = ("uploads", "invoices")
        columns = "number, customer, email, cents, due"
        self.sql(
            "".join(f"DELETE FROM {table};" for table in tables)
            + (f"INSERT INTO invoices ({columns}) VALUES {values};" if invoices else "")
        )

    async def run_task(self, name: str) -> object:
        """Enqueue a task, and return its result."""
        names = Settings.model_fields.keys()
        values = {name.lower(): value for name, value in self.variables.items()}
        settings = Settings(**{name: values[name] for name in names & values.keys()})
        with using_settings(settings):
            async with TaskWorker(settings) as queue:
                task = await queue.enqueue_unsafe(name)
                return (await task.result(timeout=60)).result

    def listed(self, what: str, task: str) -> list[dict[str, object]]:
        """Return the tasks or dead letters of a task's name."""
        found = json.loads(self.run(what, "list", "--task", task, "--json"))
        return list(found[what.replace("dead-", "")])


@pytest.fixture(scope="session")
def desk(plain: Path, servers: Lease, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Return the project, with its migration written and run."""
    root = render(plain, tmp_path_factory.mktemp("desk") / "invoice-desk", example=False)
    made = run_vibetuner("new", "batch", "documents", folder=root)
    assert made.returncode == 0, made.stderr
    for path in UNUSED:
        (root / path).unlink()
    shutil.copytree(APP, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    variables = {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": f"desk-{os.getpid()}",
        "DATABASE_URL": f"sqlite+aiosqlite:///{root / 'desk.db'}",
        "SECRET_KEY": "a key that the desk's processes share, and nobody else",
        "BANK_SECRET": "shared with the bank",
        "MAIL_FROM": "desk@example.com",
        "WORKER_IDLE_TIMEOUT": "1",
    }
    desk = Desk(root, variables)
    desk.run("db", "revision", "Add the invoices")
    desk.run("db", "upgrade")
    return desk


@pytest.fixture(scope="session")
def site(desk: Desk) -> Iterator[Site]:
    """Yield the project's web process."""
    port = free_port()
    with vibetuner(
        *("run", "prod", "frontend", "--port", str(port)),
        folder=desk.root,
        log=desk.root / "web.log",
        environment=desk.variables,
    ) as command:
        url = f"http://127.0.0.1:{port}"
        wait_for_http(f"{url}/health", seconds=60)
        yield Site(command, url)


@dataclass
class FlakySmtp(SmtpServer):
    """An SMTP server that defers each tenth recipient once, and has no mailbox ann-7."""

    put_off: set[str] = field(default_factory=set)
    has_refused: bool = False

    def refusal(self, line: str) -> str | None:
        address = re.fullmatch(r"RCPT TO:<(.+)>.*", line)
        if address is None:
            return None
        if address[1] == "ann-7@example.com":
            self.has_refused = True
            return "550 5.1.1 no such user"
        if address[1].endswith("3@example.com") and address[1] not in self.put_off:
            self.put_off.add(address[1])
            return "451 4.7.1 greylisted, try again in 1 second"
        return None


@pytest.fixture
async def smtp() -> AsyncIterator[FlakySmtp]:
    """Yield an SMTP server that defers and refuses some recipients."""
    async with running(FlakySmtp()) as server:
        yield server
