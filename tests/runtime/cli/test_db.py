"""``vibetuner db``, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

from tests.processes import free_port, run_code, run_vibetuner, vibetuner
from tests.projects import write, write_project
from tests.waiting import eventually
from vibetuner.embedded import Lease
from vibetuner.scaffold.draft import list_templates

MODELS = """
    from datetime import datetime
    from enum import StrEnum

    from sqlalchemy import Column, Enum
    from sqlmodel import Field, SQLModel

    from vibetuner.resources.schema import UtcDateTime


    class Status(StrEnum):
        OPEN = "open"


    class Customer(SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        status: Status = Field(
            default=Status.OPEN, sa_column=Column(Enum(Status, native_enum=False), nullable=False)
        )
        seen_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


    class Order(SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)
        customer_id: int = Field(foreign_key="customer.id")
"""
TUNE = """
    from shop.models import Customer, Order
    from vibetuner import VibetunerApp

    app = VibetunerApp(sql_models=[Order, Customer])
"""
OUTBOX = "from vibetuner.tasks.outbox.sql import Outbox"
MORE = '        city: str = Field(default="", sa_column_kwargs={"server_default": ""})\n'
SQLITE = "sqlite:///.vibetuner/app.db"
INTERRUPTING_HOOK = """
[[tool.alembic.post_write_hooks]]
name = "interrupt"
type = "exec"
executable = "sh"
options = "-c 'kill -INT $PPID' REVISION_SCRIPT_FILENAME"
"""
VERSIONS = "src/shop/migrations/versions"

SCRIPT = """
import shlex, sys
from vibetuner.cli.main import app
from vibetuner.errors import VibetunerError
for command in sys.argv[1:]:
    try:
        app(["db", *shlex.split(command)], standalone_mode=False)
    except VibetunerError as error:
        print(f"error: {error}")
"""

START = """
import asyncio
from vibetuner.cli.schema import make_schema
from vibetuner.logs import configure_logging
configure_logging(debug=True, as_json=False)
asyncio.run(make_schema())
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database of each kind."""
    if request.param == "sqlite":
        return SQLITE
    return make_database(request.getfixturevalue("postgres"))


def make_database(server: str) -> str:
    """Create an empty database on a PostgreSQL server; return its URL."""
    name = f"test_{uuid4().hex[:12]}"
    url = make_url(server).set(drivername="postgresql")

    async def create() -> None:
        connection = await asyncpg.connect(url.render_as_string(hide_password=False))
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    return url.set(database=name).render_as_string(hide_password=False)


def make_project(folder: Path, url: str) -> Path:
    return write_project(
        folder / "shop", {"models.py": MODELS}, tune=TUNE, env=f"DATABASE_URL={url}\n"
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write a project on SQLite, without migrations."""
    return make_project(tmp_path, SQLITE)


def db(project: Path, *commands: str) -> str:
    """Run `vibetuner db …` commands in one process, as a start takes long; return the output."""
    done = run_code(SCRIPT, *commands, folder=project)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def query(project: Path, *statements: str) -> list[object]:
    """Run statements on the project's SQLite file; return the rows of the last."""
    with closing(sqlite3.connect(project / ".vibetuner" / "app.db")) as connection, connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        return rows


def tables(project: Path) -> set[object]:
    return {name for (name,) in query(project, "SELECT name FROM sqlite_schema")}


def add_column(project: Path, line: str = MORE) -> None:
    models = project / "src/shop/models.py"
    models.write_text(models.read_text().replace("    customer_id", f"{line[4:]}    customer_id"))


def versions(project: Path) -> list[Path]:
    return sorted((project / VERSIONS).glob("*.py"), key=lambda path: path.stat().st_mtime_ns)


def test_migrations_are_written_run_checked_and_undone(tmp_path: Path, url: str):
    """Migrations can be written, run, checked and undone on either database."""
    project = make_project(tmp_path, url)
    first = db(project, "revision Start", "check").splitlines()
    add_column(project)
    second = db(
        project, "check", "revision 'Add order.city'", "check", "upgrade", "upgrade", "check"
    ).splitlines()
    back = db(project, "downgrade", "downgrade base", "upgrade", "check").splitlines()

    [start, add] = [path.name.partition("_")[0] for path in versions(project)]
    assert first[-2:] == [f"upgraded to {start} (Start)", "the tables are as the models have them"]
    assert second[0].startswith("error: The models differ from the tables: add_column order.city.")
    assert second[1].startswith("created: src/shop/migrations/versions/")
    assert second[2:4] == ["Next:", "    uv run vibetuner db upgrade"]
    assert second[4:] == [
        "error: Target database is not up to date. Run:  vibetuner db upgrade",
        f"upgraded to {add} (Add order.city)",
        "nothing to do: the database is at that revision",
        "the tables are as the models have them",
    ]
    assert back == [
        f"downgraded from {add} (Add order.city)",
        f"downgraded from {start} (Start)",
        f"upgraded to {start} (Start)",
        f"upgraded to {add} (Add order.city)",
        "the tables are as the models have them",
    ]


def test_a_migration_names_no_code_of_the_project(project: Path):
    """A migration names the database's types, so that models may be moved or removed."""
    db(project, "revision Start")
    text = versions(project)[0].read_text()

    assert "sa.Column('name', sa.String(length=40), nullable=False)" in text
    assert "sa.Column('seen_at', sa.DateTime(timezone=True), nullable=True)" in text
    assert "sqlmodel" not in text
    assert "shop" not in text


def test_without_migrations_missing_tables_are_created(project: Path):
    """Without migrations, `db upgrade` creates missing tables, as does its old name.

    A downgrade is refused.
    """
    upgraded, again, refused = db(project, "upgrade", "create-schema", "downgrade").splitlines()

    assert upgraded == "created: order, customer"
    assert again == "nothing to do: every table is there"
    assert tables(project) == {"order", "customer"}
    assert refused == (
        "error: This project has no migrations. Make the first:  vibetuner db revision 'start'"
    )


def test_a_database_that_was_in_use_takes_the_first_migration_as_done(project: Path):
    """The first migration of a database in use is recorded as done, and its rows stay."""
    db(project, "upgrade")
    query(project, "INSERT INTO customer (id, name, status) VALUES (1, 'Ann', 'OPEN')")
    done = db(project, "revision Start", "check")

    assert "\nstamped " in done
    assert done.endswith("as the models have them\n")
    assert query(project, "SELECT count(*) FROM customer") == [(1,)]


def test_a_database_of_unknown_age_is_left_alone(project: Path):
    """A database with other tables and no revision is left alone; the error names `db stamp`."""
    db(project, "upgrade")
    add_column(project)
    refused = db(project, "revision Start")

    assert "no record of a migration, and column order.city is missing" in refused
    [first] = versions(project)
    assert refused.endswith(f"vibetuner db stamp {first.name.partition('_')[0]}\n")


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path, url: str):
    """A migration that fails undoes those before it, too; once it is corrected, all of them run."""
    project = make_project(tmp_path, url)
    db(project, "revision Start", "downgrade base")
    broken = revision_with(project, 'op.execute("INSERT INTO nowhere VALUES (1)")')
    refused = db(project, "upgrade")
    broken.write_text(broken.read_text().replace("INSERT INTO nowhere VALUES (1)", "SELECT 1"))

    assert refused.startswith("error: A migration has failed, and nothing was changed: ")
    assert "nowhere" in refused
    assert db(project, "upgrade", "check").count("upgraded to ") == 2


def test_a_migration_that_fails_after_a_commit_of_its_own_is_told_apart(
    tmp_path: Path, postgres: str
):
    """Of a migration that fails after an `autocommit_block()`, the error says that a part stays."""
    project = make_project(tmp_path, make_database(postgres))
    db(project, "revision Start")
    revision_with(
        project,
        "with op.get_context().autocommit_block():\n"
        '        op.execute("CREATE INDEX CONCURRENTLY ix ON customer (id)")\n'
        '    op.execute("INSERT INTO nowhere VALUES (1)")',
    )
    refused = db(project, "upgrade")

    assert refused.startswith("error: A migration has failed, and what was committed stays: ")


def test_a_new_column_without_a_value_for_rows_is_refused_with_its_cure(tmp_path: Path, url: str):
    """A column that can't be null, in a table with rows, needs what the error names."""
    project = make_project(tmp_path, url)
    db(project, "revision Start")
    rows = "INSERT INTO customer (id, name, status) VALUES (1, 'Ann', 'OPEN')"
    column = 'sa.Column("note", sa.Text, nullable=False)'
    revision_with(project, f'op.execute("{rows}"); op.add_column("customer", {column})')

    assert db(project, "upgrade").strip().endswith('. Give the new column a server_default="..."')


def test_the_second_of_two_concurrent_upgrades_waits(tmp_path: Path, url: str):
    """Of two concurrent upgrades, as of replicas, the second waits; each migration runs once."""
    project = make_project(tmp_path, url)
    db(project, "revision Start", "downgrade base")
    revision_with(project, "import time; time.sleep(1)")
    with ThreadPoolExecutor() as pool:
        outputs = list(pool.map(lambda _: db(project, "upgrade", "check"), range(2)))

    assert sum(output.count("upgraded to ") for output in outputs) == 2
    assert all(output.endswith("as the models have them\n") for output in outputs)


async def test_a_migration_that_waits_for_a_table_lets_others_read_it(
    tmp_path: Path, postgres: str
):
    """A migration that waits for a long transaction lets pages read, and runs when that has ended.

    Each statement would wait behind it otherwise, for as long as the transaction takes.
    """
    url = await asyncio.to_thread(make_database, postgres)
    project = make_project(tmp_path, url)
    await asyncio.to_thread(db, project, "revision Start")
    revision_with(project, 'op.add_column("customer", sa.Column("note", sa.Text))')
    holder, reader = await asyncpg.connect(url), await asyncpg.connect(url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.fetch("SELECT * FROM customer")
    upgrading = asyncio.create_task(asyncio.to_thread(run_code, SCRIPT, "upgrade", folder=project))

    async def is_waiting() -> bool:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
        return bool(await reader.fetchval(query))

    try:
        await eventually(is_waiting, what=lambda: "the migration")
        await reader.fetch("SELECT * FROM customer", timeout=30)
    finally:
        await transaction.rollback()
        done = await upgrading
        await asyncio.gather(holder.close(), reader.close())

    assert done.stderr.startswith("the migrations wait for another session")
    assert done.stdout.count("upgraded to ") == 1


def test_rows_that_refer_to_a_table_survive_its_change_on_sqlite(project: Path):
    """A change of a table on SQLite keeps the rows that refer to it, or is refused.

    SQLite can't alter a column: the table is copied, dropped and renamed.
    """
    models = project / "src/shop/models.py"
    models.write_text(
        models.read_text().replace('"customer.id")', '"customer.id", ondelete="CASCADE")')
    )
    db(project, "revision Start")
    query(
        project,
        "INSERT INTO customer (id, name, status) VALUES (1, 'Ann', 'OPEN')",
        'INSERT INTO "order" VALUES (1, 1)',
    )
    models.write_text(models.read_text().replace("name: str = F", "name: str | None = F"))
    done = db(project, "revision 'A customer may have no name'", "upgrade", "check")

    assert done.endswith("as the models have them\n")
    assert query(project, 'SELECT id, customer_id FROM "order"') == [(1, 1)]
    revision_with(project, 'op.execute("DELETE FROM customer")')
    assert "A row of order would refer to a row of customer" in db(project, "upgrade")
    assert query(project, "SELECT count(*) FROM customer") == [(1,)]


ALL_TYPES = [
    f"{kind}{number}:{kind}{mark}"
    for kind in ("str", "int", "float", "bool", "date", "datetime", "uuid")
    for number, mark in enumerate(("", "?"))
]
ROUND_TRIP = """
import asyncio
from datetime import UTC, date, datetime
from uuid import UUID
from sqlmodel import select
from vibetuner.config import get_settings
from vibetuner.loader import load_project
from vibetuner.resources.sql import open_session, open_sql
load_project()
from shop.models.event import Event
VALUES = dict(
    str0="text", int0=1, float0=1.5, bool0=True, date0=date(2026, 1, 2), uuid0=UUID(int=1),
    datetime0=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
)
async def main():
    async with open_sql(get_settings()):
        async with open_session() as session:
            session.add(Event(**VALUES))
            await session.commit()
        async with open_session() as session:
            [found] = (await session.exec(select(Event))).all()
        for name, value in VALUES.items():
            assert getattr(found, name) == value, name
asyncio.run(main())
"""


def test_a_generated_model_and_its_migration_agree(tmp_path: Path, url: str):
    """A generated model agrees with its migration, and each type is read as it was stored."""
    env = f"DATABASE_URL={url}\n"
    project = write_project(tmp_path / "shop", {"models/__init__.py": ""}, env=env)
    write(project / "src/shop/migrations/env.py", list_templates()["env.py.jinja"])
    made = run_vibetuner("new", "model", "event", *ALL_TYPES, folder=project)
    done = db(project, "upgrade", "check")
    stored = run_code(ROUND_TRIP, folder=project)

    assert made.returncode == 0, made.stderr
    assert done.splitlines()[-1] == "the tables are as the models have them"
    assert (stored.returncode, stored.stderr) == (0, "")


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
            TUNE.replace("shop.models import Customer, Order", "shop.plain import Order").replace(
                ", Customer", ""
            ),
            "DATABASE_URL=sqlite:///app.db\n",
            "error: sql_models= lists Order, which is not a table. Declare it as "
            "`class Order(SQLModel, table=True)`\n",
        ),
    ],
    ids=["no tables", "no database", "no table"],
)
def test_what_is_missing_is_named(tmp_path: Path, tune: str, env: str, line: str):
    """A missing table or database is named in one line with exit code 1, and no file is made."""
    plain = "from sqlmodel import SQLModel\nclass Order(SQLModel):\n    a: int\n"
    files = {"models.py": MODELS, "plain.py": plain}
    root = write_project(tmp_path / "project", files, tune=tune, env=env)

    done = run_vibetuner("db", "upgrade", folder=root)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert not (root / "app.db").exists()


def test_an_interrupted_revision_leaves_no_file(project: Path):
    """Ctrl-C while a new migration is formatted removes its file."""
    with (project / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(INTERRUPTING_HOOK)

    done = run_vibetuner("db", "revision", "Start", folder=project)

    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "interrupted: no migration was written"
    assert versions(project) == []


def test_any_text_describes_a_revision(project: Path):
    """A description with quotes, backslashes or line breaks is text in the file.

    It can't be empty.
    """
    texts = [r"Move C:\Users to \N", 'Say """hi"""', 'End with "', "two\n  lines"]
    made = db(project, *(f"revision --empty {shlex.quote(text)}" for text in texts))
    assert made.count("created: ") == 4, made
    undone = db(project, "upgrade", "downgrade base").splitlines()[-4:]
    shown = [line.partition("(")[2].removesuffix(")") for line in reversed(undone)]
    assert shown == [*texts[:3], "two lines"]

    refused = db(project, "revision ' '")
    assert refused == "error: Name the change:  vibetuner db revision 'Add orders.total'\n"


def test_nothing_to_write_and_unknown_revisions_are_said_in_one_line(project: Path):
    """A needless revision and an unknown one are refused in one line."""
    db(project, "revision Start")
    again, unknown, _, none_left, empty = db(
        project,
        "revision Again",
        "upgrade cafe",
        "downgrade base",
        "downgrade",
        "revision A --empty",
    ).splitlines()[:5]
    none, _, stamped = db(project, "upgrade ''", "stamp head", "stamp base").splitlines()

    assert again.startswith("error: Nothing to write: ")
    assert unknown == (
        "error: Can't locate revision identified by 'cafe'. "
        "Look for its file in version control:  git log --stat"
    )
    assert none_left.endswith("Fewer are left in that direction. See:  uv run alembic current")
    assert empty.startswith("created: ")
    assert none == "error: That is no revision. See:  vibetuner db --help"
    assert stamped == "stamped base"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def upgrade(: pass", r"{file}:1: syntax error: .+"),
        ("import nosuch", r"{file}:1: ModuleNotFoundError: No module named 'nosuch'\. .+"),
        (
            "revision, down_revision = 'bb', 'aa'",
            r"Revision aa referenced from aa -> bb \(head\), .* is not present\. Look for its file "
            r"in version control:  git log --stat",
        ),
        (
            "revision, down_revision = '{first}', None",
            r"Revision {first} is present more than once\. Give another to a file in .+",
        ),
        (
            "revision, down_revision = 'bb', '{first}'\n\n\ndef upgrade():\n    return nothing",
            r"{file}:5: NameError: name 'nothing' is not defined",
        ),
    ],
    ids=["syntax", "import", "missing", "twice", "run"],
)
def test_a_broken_migration_is_named_in_one_line(project: Path, text: str, problem: str):
    """A migration that is broken, missing or there twice is named, with its file if that is known.

    So it is by the doctor.
    """
    db(project, "revision Start")
    [start] = versions(project)
    names = {"first": start.name[:12], "file": re.escape(str(start.with_name("bb.py")))}
    write(start.with_name("bb.py"), text.format(**names))

    assert re.fullmatch("error: " + problem.format(**names) + "\n", db(project, "upgrade"))
    if "is not defined" not in problem:
        found = tables_in_doctor(project)
        assert re.fullmatch(problem.format(**names), f"{found['text']}. {found['cure']}")


def test_a_start_in_development_creates_or_migrates(project: Path):
    """A start in development creates the tables or migrates them, and warns if the models differ.

    The test of `run dev all` below shows that its processes do so.
    """
    assert "created the tables order, customer" in start(project)
    db(project, "revision Start")
    add_column(project)
    warned = start(project)
    assert "SQL tables differ from the models: column order.city is missing. Run:  " in warned
    assert "vibetuner db revision 'what changed'" in warned
    db(project, "revision 'Add order.city'")
    output = start(project)

    assert "SQL database upgraded to" in output
    assert "differ" not in output


def test_the_table_of_the_last_model_can_be_dropped(project: Path):
    """A revision and a start drop the last table once no model is left."""
    db(project, "revision Start")
    write(project / "src/shop/tune.py", "from vibetuner import VibetunerApp\napp = VibetunerApp()")
    written = db(project, "revision 'Remove all'")
    output = start(project)

    assert written.endswith("Next:\n    uv run vibetuner db upgrade\n")
    assert "SQL database upgraded to" in output
    assert tables(project) == {"alembic_version", "sqlite_autoindex_alembic_version_1"}


def test_the_worker_of_a_fresh_project_waits_for_the_tables_that_the_web_process_makes(
    project: Path, servers: Lease, tmp_path: Path
):
    """A worker in `run dev all` waits for the tables that the web process makes.

    Otherwise its relay, and tasks that wait, would find no table. Only one of the two warns.
    """
    tune = TUNE.replace("import VibetunerApp", f"import VibetunerApp\n    {OUTBOX}")
    write(project / "src/shop/tune.py", tune.replace("Customer]", "Customer, Outbox]"))
    db(project, "revision Start", "downgrade base")
    slow = revision_with(project, "import time; time.sleep(2)")
    add_column(project)
    redis = {"REDIS_URL": servers.urls["redis"], "REDIS_KEY_PREFIX": f"db-{uuid4().hex[:12]}"}
    arguments = ("run", "dev", "all", "--port", str(free_port()))
    with vibetuner(*arguments, folder=project, log=tmp_path / "log", environment=redis) as command:
        command.wait_for("worker ready", seconds=60)
        assert "task_outbox" in tables(project)
        command.wait_for("web app ready", seconds=60)
        command.stop()

    assert "outbox" not in command.output.replace(" task_outbox", "")
    assert command.output.count(f"upgraded to {slow.name[:12]}") == 1
    assert command.output.count("SQL tables differ from the models") == 1


def test_one_of_several_concurrent_processes_creates_the_tables(tmp_path: Path, url: str):
    """Of several processes that create the tables at once, one does, and the others find them."""
    project = make_project(tmp_path, url)
    with ThreadPoolExecutor() as pool:
        outputs = list(pool.map(lambda _: db(project, "upgrade"), range(3)))

    assert sorted(output[:7] for output in outputs) == ["created", "nothing", "nothing"]


def test_the_doctor_names_what_the_tables_lack(project: Path):
    """The doctor names differing tables with the cure: an upgrade, or else a new revision."""
    db(project, "revision Start")
    add_column(project)
    differs = tables_in_doctor(project)
    db(project, "revision 'Add order.city'")
    waits = tables_in_doctor(project)
    db(project, "upgrade")
    well = tables_in_doctor(project)

    assert differs["level"] == waits["level"] == "error"
    assert differs["text"] == "SQL tables differ from the models: column order.city is missing"
    assert differs["cure"] == "vibetuner db revision 'what changed'"
    assert waits["text"] == f"the migration {versions(project)[1].name[:12]} has not run"
    assert waits["cure"] == "vibetuner db upgrade"
    assert (well["level"], well["text"]) == ("ok", "as the models have them")


def test_the_doctor_names_a_server_that_takes_no_writes(tmp_path: Path, postgres: str):
    """The doctor names a PostgreSQL that only reads, as the standby after a failover does."""
    url = make_database(postgres)
    project = make_project(tmp_path, url)
    db(project, "upgrade")

    async def make_read_only() -> None:
        connection = await asyncpg.connect(url)
        name = make_url(url).database
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await connection.close()

    asyncio.run(make_read_only())
    found = tables_in_doctor(project)
    assert found["text"] == "on a read-only server"
    assert found["cure"] == "point DATABASE_URL at the primary"


def test_the_doctor_names_a_migration_whose_file_is_missing(project: Path):
    """The doctor names a migration whose file is missing, as on another branch."""
    db(project, "revision Start")
    [file] = versions(project)
    file.unlink()
    found = tables_in_doctor(project)

    assert found["level"] == "error"
    assert found["text"] == f"No such revision or branch '{file.name[:12]}'"
    assert found["cure"] == "Look for its file in version control:  git log --stat"


PROBE = """
import asyncio
from vibetuner.config import get_settings
from vibetuner.loader import load_project
from vibetuner.resources.table import probe_tables

[probe] = asyncio.run(probe_tables(get_settings(), load_project().sql_models))
print(probe.problem)
"""


def test_readiness_names_the_cure_that_the_doctor_names(project: Path):
    """Readiness names the doctor's cure; in production, the cure is to deploy a migration."""

    def probe(**environment: str) -> str:
        return run_code(PROBE, folder=project, **environment).stdout.strip()

    db(project, "upgrade")
    add_column(project)
    unwritten = probe()
    db(project, "revision Start")
    outdated = probe()
    assert outdated.endswith("Run:  vibetuner db upgrade")
    db(project, "stamp head")
    assert probe() == unwritten
    assert unwritten.endswith(f"Run:  {tables_in_doctor(project)['cure']}")
    assert probe(ENVIRONMENT="production").endswith(
        "Write the migration in development, and deploy it:  vibetuner db revision 'what changed'"
    )


def tables_in_doctor(project: Path) -> dict[str, str]:
    """Return the doctor's finding about the tables."""
    done = run_vibetuner("doctor", "--json", folder=project)
    [found] = [one for one in json.loads(done.stdout)["findings"] if one["area"] == "SQL tables"]
    return found


def start(project: Path) -> str:
    """Bring the tables up to date as a web process does in development, and return its log."""
    done = run_code(START, folder=project)
    assert done.returncode == 0, done.stderr
    return done.stderr


def revision_with(project: Path, statement: str) -> Path:
    """Add a migration that executes a statement."""
    before = versions(project)
    db(project, "revision 'By hand' --empty")
    [path] = set(versions(project)) - set(before)
    path.write_text(path.read_text().replace("\n    pass", f"\n    {statement}", 1))
    return path


def test_help_and_version_need_no_project(tmp_path: Path):
    """Help and version are printed in an empty folder, with an empty environment."""
    bare = run_vibetuner(folder=tmp_path)
    helped = run_vibetuner("db", "--help", folder=tmp_path)
    version = run_vibetuner("--version", folder=tmp_path)

    assert (bare.returncode, "db" in bare.stderr) == (2, True)
    assert (helped.returncode, "revision" in helped.stdout) == (0, True)
    assert (version.returncode, version.stdout.split()[0]) == (0, "vibetuner")
    assert list(tmp_path.iterdir()) == []
