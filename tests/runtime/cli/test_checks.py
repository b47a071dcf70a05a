"""The checks of the doctor, one by one."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path

import pytest

from tests.listeners import open_listener
from tests.processes import vibetuner
from vibetuner.cli.checks import Finding
from vibetuner.cli.checks.diagnosis import diagnose
from vibetuner.cli.checks.outside import check_port
from vibetuner.cli.checks.services import _look_at_redis, check_services
from vibetuner.cli.services import _print_lines
from vibetuner.config import Settings
from vibetuner.embedded.control import ServicesStatus, ServiceStatus
from vibetuner.embedded.folder import User
from vibetuner.project import project_info
from vibetuner.resources.steps import PATIENCE
from vibetuner.resources.table import PROBE_SECONDS


class Health(BaseHTTPRequestHandler):
    """A process that reports the project to which it belongs."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"project": self.server.project}).encode())  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("project", "level", "words"),
    [
        ("corner-shop", "ok", "this project's web app"),
        ("bakery", "warning", "for the web app, is taken by the project bakery"),
        ("", "warning", "for the web app, is taken by something else"),
    ],
)
def test_a_port_may_be_the_projects_own(
    stand_in: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    project: str,
    level: str,
    words: str,
):
    """A port in use is a warning, unless the project's own process uses it; no proxy is asked."""
    stand_in()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        server.project = project  # type: ignore[attr-defined]
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            (found,) = check_port(project_info(), server.server_port, "web app")
        finally:
            server.shutdown()
            serving.join()
    assert found.level == level
    assert words in found.text


@pytest.mark.parametrize(
    "pieces",
    [
        [b"SSH-2.0-OpenSSH_9.6\r\n"],
        [b"-ERR wrong number of arguments for 'get' command\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"],
        [b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 60_000],
        repeat(b" " * 65_536),
        repeat(b" "),
    ],
    ids=["ssh", "Redis", "cut off", "nested", "endless", "slow"],
)
async def test_a_port_may_be_any_programs(stand_in: Callable[..., Path], pieces: Iterable[bytes]):
    """Any program may listen on a port, and speak no HTTP or never end."""
    stand_in()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(4096)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
            writer.close()
            await writer.wait_closed()
        ended.set()

    async with open_listener(serve) as port, asyncio.timeout(30):
        check = partial(check_port, project_info(), port, "web app")
        (found,) = await asyncio.to_thread(lambda: list(check()))
        await ended.wait()

    assert found.text == f"{port}, for the web app, is taken by something else"


def test_a_folder_without_a_project_has_one_finding(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Outside a project, the doctor has one finding, which says where to go."""
    monkeypatch.chdir(tmp_path)
    (found,) = diagnose()
    assert (found.level, found.area) == ("error", "project")
    assert found.text == f"{tmp_path} is in no vibetuner project"


async def test_a_silent_database_holds_the_doctor_no_longer_than_its_limit(
    stand_in: Callable[..., Path],
):
    """A PostgreSQL that accepts connections and says nothing takes three seconds, not eleven."""
    stand_in()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ann@127.0.0.1:{silent.getsockname()[1]}/shop"
        began = time.monotonic()
        (found,) = await check_services(Settings(database_url=url), project_info())

    assert "no answer within 3 s" in found.text
    assert time.monotonic() - began < PROBE_SECONDS + PATIENCE - 1


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1"])
async def test_a_redis_that_is_lost_while_it_is_read_is_a_warning(
    stand_in: Callable[..., Path], url: str
):
    """A server that is lost between two answers is named, and no right is asked for."""
    stand_in()
    settings = Settings(redis_url=url, redis_key_prefix="{shop}:")
    (found,) = await _look_at_redis(settings, project_info())

    assert (found.level, found.area, found.cure) == ("warning", "Redis", "try again")
    assert found.text.startswith("its state can't be read: ")


def test_few_open_files_are_a_warning(shop: Path, environment: dict[str, str], tmp_path: Path):
    """A low limit of open files is a warning.

    The soft limit is raised to the hard one first, as each process does.
    """
    with vibetuner(
        *("doctor", "--json"),
        folder=shop,
        log=tmp_path / "log",
        environment=environment,
        limits={"nofile": (200, 300)},
    ) as command:
        command.process.wait(60)
    findings = [Finding(**one) for one in json.loads(command.output)["findings"]]
    (found,) = [one for one in findings if one.area == "limits"]
    assert found.level == "warning"
    assert found.text.startswith("300 open files, ")
    assert found.cure.startswith("raise the limit of open files: ulimit -n")


def test_a_service_that_failed_is_listed_with_its_log(capsys: pytest.CaptureFixture[str]):
    """The status of services names a failed one with its log, and each user once."""
    failed = ServiceStatus(
        name="redis",
        state="failed",
        url=None,
        pid=None,
        since=None,
        data_bytes=2_500_000,
        log=Path("redis.log"),
        error="no room",
    )
    user = User(pid=7, command="run dev", services=("redis",), since=0.0)
    _print_lines(
        ServicesStatus(
            services=(failed,), users=(user, replace(user, since=1.0)), pinned=True, keeper=None
        )
    )
    assert capsys.readouterr().out.splitlines() == [
        "redis    failed    no room. See redis.log  data 2.5 MB",
        "used by  run dev (pid 7): redis",
        "kept up until:  vibetuner services down",
    ]
