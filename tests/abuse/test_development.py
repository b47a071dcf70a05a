"""The development server on a network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.abuse.conftest import WithinLimits, started
from tests.processes import children_of, free_port, vibetuner, wait_for_http
from tests.projects import write_project

pytestmark = pytest.mark.slow


def test_development_answers_its_own_machine_and_keeps_its_files_to_itself(
    tmp_path: Path, within_limits: WithinLimits
):
    """`run dev` refuses foreign host names, and only its user can read what it stores.

    That holds while a page of another site asks again and again under its own name.
    """
    folder = write_project(tmp_path / "shop")
    environment = {"REDIS_URL": "embedded", "ALLOWED_HOSTS": "tunnel.example"}
    with started(tmp_path, "web", mode="dev", **environment) as web:
        wait_for_http(f"{web.url}/health", seconds=60)
        [web.pid] = (
            child
            for child in children_of(web.pid)
            if b"vibetuner.cli.child" in Path(f"/proc/{child}/cmdline").read_bytes()
        )
        hosts = ("localhost", f"shop.localhost:{web.port}", "evil.example", "tunnel.example")

        def look(host: str) -> int:
            headers = {"Host": host}
            return httpx2.get(f"{web.url}/debug/tasks", headers=headers, timeout=30).status_code

        with within_limits(web, log=100_000), ThreadPoolExecutor(8) as pool:  # a line a request
            rebound = [pool.submit(look, "evil.example") for _ in range(200)]
            answers = {host: look(host) for host in hosts}
            assert {one.result() for one in rebound} == {400}
        modes = {
            path.relative_to(folder): path.stat().st_mode & 0o777
            for path in (folder / ".vibetuner", *(folder / ".vibetuner" / "services").rglob("*"))
        }

    assert answers == {
        "localhost": 200,
        f"shop.localhost:{web.port}": 200,
        "evil.example": 400,
        "tunnel.example": 404,
    }
    assert modes[Path(".vibetuner")] == 0o700
    data = Path(".vibetuner/services/redis/appendonlydir")
    assert data in modes
    assert modes[data] & 0o077 == 0
    assert modes[Path(".vibetuner/services/keeper.log")] == 0o600
    assert {mode & 0o077 for path, mode in modes.items() if path.suffix == ".lock"} == {0}


def test_listening_to_the_network_is_logged(tmp_path: Path):
    """`run dev --host 0.0.0.0` logs a warning, and hides the dashboard from other machines."""
    folder, port = write_project(tmp_path / "shop"), free_port()
    with vibetuner(
        *("run", "dev", "frontend", "--host", "0.0.0.0", "--port", str(port)),
        folder=folder,
        log=tmp_path / "log",
        environment={},
    ) as command:
        command.wait_for("other machines reach this web app on 0.0.0.0", seconds=60)
        command.wait_for("web app ready", seconds=60)
        url = f"http://127.0.0.1:{port}/debug/tasks/debug.css"
        assert httpx2.get(url).status_code == 200
        assert httpx2.get(url, headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 404
