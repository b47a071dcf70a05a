"""Each fault at the start is one line that names the cure, and an exit code."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.processes import free_port, run_vibetuner, vibetuner
from tests.projects import SHOP, SHOP_TUNE, write, write_project
from vibetuner.embedded import Lease

Refused = Callable[..., str]
WORKER = ("run", "prod", "worker")
KEY = "a key that the tests share, and nobody else"
STOPS = re.compile(r"^(web|worker) +\| .*(received SIGTERM; stopping|worker stopped)$")
NOWHERE = {"REDIS_URL": "redis://127.0.0.1:1", "SECRET_KEY": KEY}


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Run ``vibetuner …`` in a project; return its only line, without ``error: ``."""

    def run(root: Path, *arguments: str, code: int = 1, **environment: str) -> str:
        if arguments[0] == "run" and not {"--port", "--help"} & set(arguments):
            arguments = (*arguments, "--port", str(free_port()))
        done = run_vibetuner(*arguments, folder=root, **environment)
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("error: "), done.stderr
        assert done.returncode == code
        assert "hunter2" not in done.stderr
        return lines[0].removeprefix("error: ")

    return run


@pytest.fixture
def real(servers: Lease) -> dict[str, str]:
    return {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": f"bad-{uuid4().hex[:12]}",
        "SECRET_KEY": KEY,
    }


# Outside systems


@pytest.mark.parametrize("arguments", [("dev", "worker"), ("dev", "all"), ("prod", "worker")])
def test_without_redis_url_there_is_no_worker(
    shop: Path, refused: Refused, arguments: tuple[str, str]
):
    """Without REDIS_URL, a worker is refused with the message of the guide."""
    assert refused(shop, "run", *arguments) == (
        "Background tasks: Redis not configured. Add to .env:  REDIS_URL=redis://localhost:6379"
    )


@pytest.mark.parametrize("arguments", [("dev", "worker"), ("prod", "frontend")])
def test_redis_that_is_down_at_the_start(shop: Path, refused: Refused, arguments: tuple[str, str]):
    """An unreachable Redis is named with its address, without its password, and with the cures."""
    url = "redis://ann:hunter2@127.0.0.1:1"
    line = refused(shop, "run", *arguments, **{**NOWHERE, "REDIS_URL": url})

    assert line.startswith("Redis at redis://***@127.0.0.1:1 can't be used: ")
    cures = {
        "dev": "Start it, correct REDIS_URL, or set REDIS_URL=embedded in development",
        "prod": "Start it, or correct REDIS_URL",  # production has no embedded server
    }
    assert line.endswith(f". {cures[arguments[0]]}")


def test_redis_that_is_down_is_reported_once_for_all_processes(shop: Path):
    """`run dev all` reports an unreachable Redis once for both of its processes."""
    done = run_vibetuner(
        "run", "dev", "all", "--port", str(free_port()), folder=shop, **NOWHERE
    )  # fmt: skip

    assert done.returncode == 1
    # The other process ends by the same error, or is stopped before it has met it.
    lines = [line for line in done.stderr.splitlines() if not STOPS.search(line)]
    assert len(lines) == 1, done.stderr
    assert "error: Redis at redis://127.0.0.1:1 can't be used" in lines[0]


def test_mongodb_that_is_down_at_the_start_stops_the_web_app(
    shop: Path, refused: Refused, real: dict[str, str]
):
    """A web process ends if MongoDB can't be used, so that no visitor finds out first."""
    url = "mongodb://ann:hunter2@127.0.0.1:1/shop"
    line = refused(shop, "run", "prod", "frontend", **real, MONGODB_URL=url)

    assert line.startswith("MongoDB at mongodb://***@127.0.0.1:1/shop can't be used: ")
    assert line.endswith(". Start it, or correct MONGODB_URL")


def test_a_worker_waits_for_mongodb_and_reports_it_once(
    shop: Path, real: dict[str, str], tmp_path: Path
):
    """A worker reports an unreachable MongoDB once and waits for it; a signal ends the wait."""
    arguments = (*WORKER, "--port", str(free_port()))
    environment = {**real, "MONGODB_URL": "mongodb://ann:hunter2@127.0.0.1:1/shop"}
    log = tmp_path / "log"
    with vibetuner(*arguments, folder=shop, log=log, environment=environment) as command:
        command.wait_for("MongoDB at mongodb://***@127.0.0.1:1/shop can't be used")
        assert command.stop() == 0

    assert command.output.count("trying again") == 1
    assert "Traceback" not in command.output
    assert "hunter2" not in command.output


def test_a_database_that_cannot_be_opened(shop: Path, refused: Refused, real: dict[str, str]):
    """A database file where no file can be is named with the cure."""
    line = refused(
        shop, "run", "prod", "frontend", **real, DATABASE_URL="sqlite:////dev/null/shop.db"
    )

    assert line.startswith("SQL database at sqlite+aiosqlite:////dev/null/shop.db can't be used: ")
    assert line.endswith(". Correct DATABASE_URL, or the rights of its folder")


# Settings


@pytest.mark.parametrize("part", ["all", "frontend", "worker"])
def test_development_refuses_a_url_that_can_not_be_meant(shop: Path, refused: Refused, part: str):
    """`run dev` refuses an invalid REDIS_URL before it starts a process.

    A process would only wait for a change of the code.
    """
    line = refused(shop, "run", "dev", part, **{**NOWHERE, "REDIS_URL": "redis://cache:port"})
    assert line.startswith("REDIS_URL=redis://***: the port is no number. Write 6379")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://ann:hunter2@cache", "http://***@cache"),
        ("ann:hunter2@cache:6379", "***@cache:6379"),
        ("http://cache", "http://***"),
        ("cache:6379", "***"),
    ],
)
@pytest.mark.parametrize(
    "command", [["tasks", "list"], ["worker-health"], ["run", "prod", "worker"]], ids=" ".join
)
def test_every_command_has_the_same_words_for_a_redis_url(
    shop: Path, refused: Refused, url: str, shown: str, command: list[str]
):
    """Every command reports an invalid REDIS_URL alike, without its password.

    The health check of a container reads it without the settings' library.
    """
    line = refused(shop, *command, **{**NOWHERE, "REDIS_URL": url})

    assert line.startswith(f"REDIS_URL={shown}: the scheme is unknown. There are redis://, redi")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("MONGODB_URL", "mongo://ann:hunter2@db", "'mongo://***@db' in the environment"),
        ("DATABASE_URL", "mysql://ann:hunter2@db/x", "'mysql://***@db/x' in the environment"),
        ("SMTP_URL", "http://ann:hunter2@mail", "a value that is not shown in the environment"),
        ("WORKER_CONCURRENCY", "many", "'many' in the environment"),
        ("ENVIRONMENT", "staging", "'staging' in the environment"),
        ("DEBUG", "perhaps", "'perhaps' in the environment"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(
    shop: Path, refused: Refused, name: str, value: str, shown: str
):
    """A wrong value is named with what is expected, and without a password."""
    line = refused(shop, "db", "create-schema", **{name: value})

    assert line.startswith(f"{name}: expected ")
    assert line.endswith(f", found {shown}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ".env can't be read (Is a directory). Make it a UTF-8 text file"),
        ("MAIL_FROM=Böhm".encode("latin-1"), ".env can't be read (not UTF-8). Make it a UTF-8"),
        (b"DEBUG=true\nhunter2 is = my password\n", ".env:2: not a NAME=value line. Quote the"),
    ],
    ids=["a folder", "another encoding", "no NAME=value"],
)
def test_an_env_file_that_cannot_be_read(
    shop: Path, refused: Refused, content: bytes | None, words: str
):
    """An unreadable `.env` is named with the line and the cure."""
    if content is None:
        (shop / ".env").mkdir()
    else:
        (shop / ".env").write_bytes(content)

    assert words in refused(shop, "run", "dev", "worker")


@pytest.mark.parametrize("name", ["REDIS_URL", "MONGODB_URL"])
def test_embedded_services_are_refused_in_production(shop: Path, refused: Refused, name: str):
    """Production refuses an embedded service by its variable, and names what to set."""
    line = refused(shop, *WORKER, **{**NOWHERE, name: "embedded"})

    assert line.startswith(f"{name}=embedded is for development and tests; ENVIRONMENT=production")
    assert re.search(rf"Set, for example:  {name}=(redis|mongodb)://\w+:\d+", line), line


@pytest.mark.parametrize("key", ["", " " * 40])
def test_production_needs_a_secret(shop: Path, refused: Refused, key: str):
    """Production refuses an empty SECRET_KEY, and names the command that makes one."""
    line = refused(shop, *WORKER, REDIS_URL="redis://127.0.0.1:1", SECRET_KEY=key)

    assert line.startswith("SECRET_KEY is empty, and production signs what it stores. Make one")


def published_key() -> str:
    """Return the key in the template's compose.dev.yml, which everybody can read."""
    text = (Path(__file__).parents[3] / "template" / "compose.dev.yml").read_text()
    found = re.search(r"\$\{SECRET_KEY:-(.+)\}", text)
    assert found
    return found[1]


@pytest.mark.parametrize("key", ["x", "changeme" * 6, "ab" * 30, published_key()])
def test_production_refuses_a_weak_key(shop: Path, refused: Refused, key: str):
    """Production refuses a weak SECRET_KEY, and names the command that makes one."""
    line = refused(shop, *WORKER, REDIS_URL="redis://127.0.0.1:1", SECRET_KEY=key)

    assert line.startswith("SECRET_KEY is weak. Make one with:  python -c")


def test_production_refuses_a_weak_token(shop: Path, refused: Refused):
    """Production refuses a weak DEBUG_ACCESS_TOKEN, and names the command that makes one."""
    line = refused(shop, *WORKER, **NOWHERE, DEBUG_ACCESS_TOKEN="letmein")

    assert line.startswith("DEBUG_ACCESS_TOKEN is weak. Make one with:  python -c")


def test_production_refuses_debug_until_it_is_allowed(shop: Path, refused: Refused):
    """Production refuses DEBUG=true, unless --allow-debug is given."""
    line = refused(shop, *WORKER, **NOWHERE, DEBUG="true")
    assert line == (
        "DEBUG=true in production shows source code and values to every visitor. "
        "Set DEBUG=false, or run with --allow-debug"
    )

    allowed = run_vibetuner(*WORKER, "--allow-debug", folder=shop, **NOWHERE, DEBUG="true")
    assert "every visitor sees source code and values" in allowed.stderr
    assert "Redis at redis://127.0.0.1:1 can't be used" in allowed.stderr


def test_development_refuses_a_production_environment(shop: Path, refused: Refused):
    """`run dev` refuses to start where ENVIRONMENT=production is set."""
    line = refused(shop, "run", "dev", ENVIRONMENT="production", **NOWHERE)

    assert line == "ENVIRONMENT=production is set here. Use `vibetuner run prod`, or unset it"


# The project


def test_outside_a_project(refused: Refused, tmp_path: Path):
    """Every command that needs a project names how to get into one."""
    for command in (WORKER, ("run", "dev"), ("db", "create-schema"), ("services", "status")):
        line = refused(tmp_path, *command)
        assert line.startswith(f"{tmp_path} is in no vibetuner project. Go to one, or make one: ")


BROKEN: dict[str, tuple[dict[str, str], str | None, str]] = {
    "missing": ({}, None, "No tune.py in "),
    "syntax": ({}, "app = (\n", "src/shop/tune.py:1: syntax error: "),
    "import": ({}, "import nothing_like_it\n", "src/shop/tune.py:1: ModuleNotFoundError: No mod"),
    "misspelt": ({}, "from vibetuner import VibetunerApp\napp = VibetunerApp(task=[])\n",
                 "src/shop/tune.py:2: TypeError: VibetunerApp.__init__() got an unexpected keyword "
                 "argument 'task'. Did you mean tasks=?"),
    "wrong type": ({}, "app = {}\n", "expected `app = VibetunerApp(...)`, found a dict named app"),
    "no list": ({}, "from vibetuner import VibetunerApp\napp = VibetunerApp(tasks=print)\n",
                "src/shop/tune.py:2: TypeError: tasks= takes a list"),
    "not listed": (SHOP, SHOP_TUNE.replace("[add, ", "["), "The task add ("),
    "not imported": ({"tasks/__init__.py": "", "tasks/hidden.py": SHOP["jobs.py"]},
                     "from vibetuner import VibetunerApp\napp = VibetunerApp()\n",
                     "shop/tasks/hidden.py:"),
    "broken task": ({"tasks/__init__.py": "", "tasks/hidden.py": "def f(:\n"},
                    "from vibetuner import VibetunerApp\napp = VibetunerApp()\n",
                    "shop/tasks/hidden.py:1: syntax error"),
    "no task": (SHOP, SHOP_TUNE.replace("[add, ", "[add, print, "),
                "tune.py lists print, which is not a task. Decorate it with @worker.task(), or"),
    "twice": (SHOP, SHOP_TUNE.replace("[add, ", "[add, add, "),
              "tune.py lists add more than once. Keep one"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_tune_that_is_broken_or_untrue(tmp_path: Path, refused: Refused, what: str):
    """A broken or untrue tune.py is named with file, line and cure, before Redis is used."""
    files, tune, words = BROKEN[what]
    root = write_project(tmp_path / "project", files, tune=tune)

    assert words in refused(root, *WORKER, **NOWHERE)


def test_a_part_that_cannot_start_stops_the_other(tmp_path: Path, real: dict[str, str]):
    """A part that can't start stops the other one, and its error is printed once."""
    files, tune, words = BROKEN["not listed"]
    root = write_project(tmp_path / "project", files, tune=tune)

    done = run_vibetuner("run", "dev", "all", "--port", str(free_port()), folder=root, **real)

    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert line.startswith(f"worker | error: {words}")
    assert "Traceback" not in done.stderr


SURPRISE = """
    from contextlib import asynccontextmanager

    from vibetuner import VibetunerApp


    @asynccontextmanager
    async def lifespan():
        raise LookupError("nobody\\nthought of this")
        yield


    app = VibetunerApp(frontend_lifespan=lifespan)
"""


@pytest.mark.parametrize("database", ["0\nx", "\x1b[31mx"])
def test_a_value_in_an_error_breaks_no_line_and_sends_no_command(
    shop: Path, refused: Refused, database: str
):
    """A value that an error shows neither breaks its line nor sends the terminal a command."""
    line = refused(shop, "tasks", "list", REDIS_URL=f"redis://h/{database}")

    assert line.startswith("REDIS_URL=redis://h/")
    assert line.isprintable()


def test_a_surprise_is_one_line_too_unless_one_is_debugging(tmp_path: Path, refused: Refused):
    """An unexpected error is one line; DEBUG=true, which the line names, shows its traceback."""
    root = write_project(tmp_path / "project", tune=SURPRISE)
    arguments = ("run", "prod", "frontend", "--port", str(free_port()))

    assert refused(root, *arguments, SECRET_KEY=KEY) == (
        "LookupError: nobody (set DEBUG=true to see where)"
    )
    debugging = run_vibetuner(
        *arguments, "--allow-debug", folder=root, SECRET_KEY=KEY, DEBUG="true"
    )
    assert debugging.returncode == 1
    assert "tune.py" in debugging.stderr
    assert "LookupError: nobody" in debugging.stderr


def test_two_tunes(shop: Path, refused: Refused):
    """A project with two files tune.py is refused with an error that names both."""
    write(shop / "src" / "market" / "tune.py", "")

    line = refused(shop, *WORKER, **NOWHERE)

    assert "more than one tune.py: src/market/tune.py and src/shop/tune.py. Keep one" in line


# The command line


@pytest.mark.parametrize("arguments", [("dev", "all"), ("prod", "frontend")])
def test_a_port_in_use(shop: Path, refused: Refused, arguments: tuple[str, str]):
    """A port in use is refused with a higher one that is free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(shop, "run", *arguments, "--port", str(port), **NOWHERE)

    start, _, free = line.rpartition(" ")
    assert start == (
        f"Port {port} on 127.0.0.1 can't be used: Address already in use. "
        f"Stop what uses it, or:  vibetuner run {' '.join(arguments)} --port"
    )
    assert port < int(free) <= 65535


def test_a_host_that_is_none(shop: Path, refused: Refused):
    """A host name that can't be resolved is refused."""
    line = refused(shop, "run", "prod", "frontend", "--host", "nowhere.invalid", **NOWHERE)

    assert line.startswith("Port ")
    assert "on nowhere.invalid can't be used: " in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "dev", "--prot", "1"), "No such option: --prot"),
        (("run",), "Missing argument 'mode'"),
        (("run", "test", "all"), "Invalid value for 'mode'"),
        (("run", "dev", "everything"), "Invalid value for 'part'"),
        (("run", "dev", "--port", "99999"), "Invalid value for '--port'"),
        (("run", "dev", "--workers", "0"), "Invalid value for '--workers'"),
        (("start",), "No such command 'start'"),
        (("db", "drop-schema"), "No such command 'drop-schema'"),
        (("doctr",), "No such command 'doctr'. Did you mean 'doctor'? See:"),
    ],
)
def test_an_unknown_word_is_refused_with_the_command_that_explains(
    shop: Path, refused: Refused, arguments: tuple[str, ...], words: str
):
    """An unknown word is refused with the command whose help lists the known ones."""
    line = refused(shop, *arguments, code=2)

    assert line.startswith(words)
    assert line.endswith("--help")


def test_ctrl_c_while_it_still_loads_is_no_traceback():
    """Ctrl-C while the command line is imported ends the process without output."""
    code = (
        "import sys\n"
        "from vibetuner.__main__ import main\n"
        "class CtrlC:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'vibetuner.cli.main':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, CtrlC())\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")
