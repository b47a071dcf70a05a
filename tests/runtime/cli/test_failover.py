"""Commands, the doctor and the monitor's page, before, during and after a failover."""

from __future__ import annotations

import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx2
import pytest

from tests.clusters import PREFIX, Clustered
from tests.processes import free_port, run_vibetuner, vibetuner, wait_for_http
from tests.projects import write_shop
from tests.sentinels import Replicated
from tests.valkey import FOLLOWS_WITHIN
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def test_all_of_them_follow_to_the_next_primary(tmp_path: Path):
    """Commands, doctor and monitor follow a failover without a restart.

    While there is no primary, a command fails with one line.
    """
    shop, port = write_shop(tmp_path / "shop"), free_port()
    with Replicated(tmp_path, down_after=60_000) as servers:
        environment = {
            "REDIS_URL": servers.url,
            "REDIS_KEY_PREFIX": "failover",
            "SECRET_KEY": "Wq9-tests-4kJx81_ZrtPq0-LmNv7-Yb3c5",
            "ENVIRONMENT": "test",
            "ENQUEUE_DURABLE": "true",
        }

        def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
            return run_vibetuner(*arguments, folder=shop, seconds=60, **environment)

        with vibetuner(
            *("run", "prod", "worker", "--port", str(port)),
            folder=shop,
            log=tmp_path / "log",
            environment=environment,
        ) as worker:
            worker.wait_for("worker ready", seconds=60)
            page = f"http://127.0.0.1:{port}/debug/tasks"
            wait_for_http(page, seconds=60)
            before = json.loads(
                typed("tasks", "enqueue", "add", "--args", "[1, 2]", "--json").stdout
            )
            old = servers.primary

            servers.kill(old)
            during = typed("tasks", "stats")
            assert (during.returncode, during.stderr.count("\n")) == (1, 1)
            assert during.stderr.startswith("error: Redis at redis+sentinel://")
            servers.notice_after(1500)
            servers.wait_for_promotion(old)

            wait_until(lambda: typed("worker-health").returncode == 0, what=lambda: worker.output)
            shown = typed("tasks", "show", before["id"], "--json")
            assert (shown.returncode, json.loads(shown.stdout)["arguments"]) == (
                0,
                {"a": "1", "b": "2"},
            )
            wait_until(
                lambda: httpx2.get(page, timeout=20).status_code == 200,
                what=lambda: f"the page\n{worker.output}",
            )
            wait_until(lambda: typed("tasks", "enqueue", "which_process").returncode == 0)
            doctor = json.loads(typed("doctor", "--json").stdout)["findings"]
            texts = [one["text"] for one in doctor if one["area"] == "Redis"]
            assert "each enqueue waits for 1 replica" in texts
            assert not [one for one in doctor if one["level"] == "error"]
            assert worker.output.count("the Redis primary is now") >= 1


@pytest.mark.parametrize("fleet", [Replicated, Clustered])
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_commands_go_on_within_seconds_of_a_promotion(
    tmp_path: Path, fleet: type[Replicated | Clustered], how: str
):
    """Commands that are typed one after the other work again within seconds of the promotion.

    What a command takes anyway is measured before, in the same way, and subtracted.
    """
    shop, commands = write_shop(tmp_path / "shop"), ("tasks stats", "tasks list", "doctor")
    with fleet(tmp_path) as servers, ThreadPoolExecutor() as pool:
        environment = {
            "REDIS_URL": servers.url,
            "REDIS_KEY_PREFIX": PREFIX.strip(":"),
            "SECRET_KEY": "Wq9-tests-4kJx81_ZrtPq0-LmNv7-Yb3c5",
            "ENVIRONMENT": "test",
        }

        def repeat(command: str, enough: Event) -> tuple[float, float]:
            """Run a command until it works, once it is enough; return its last times."""
            while True:
                began = time.monotonic()
                done = run_vibetuner(*command.split(), folder=shop, **environment)
                text = done.stdout + done.stderr
                assert "Traceback" not in text
                if enough.is_set() and not re.search(r"can't be used|not answered", text):
                    return began, time.monotonic()

        once, promoted = Event(), Event()
        once.set()
        usual = [ended - began for began, ended in pool.map(repeat, commands, [once] * 3)]
        running = [pool.submit(repeat, command, promoted) for command in commands]
        old = servers.primary
        getattr(servers, how)(old)
        moment = servers.wait_for_promotion(old)
        promoted.set()
        late = [one.result()[1] - moment - took for one, took in zip(running, usual, strict=True)]
        assert max(late) < FOLLOWS_WITHIN, dict(zip(commands, late, strict=True))
