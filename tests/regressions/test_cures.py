"""Error messages suggest a cure that fits the command, the environment and the project."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.processes import free_port, run_vibetuner
from vibetuner.cli.ports import listen
from vibetuner.errors import CommandError


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "name"), [("dev", "development"), ("prod", "production")])
def test_a_missing_worker_is_reported_with_the_same_cure_everywhere(
    shop: Path, environment: dict[str, str], mode: str, name: str
):
    """Each command suggests `run dev worker` in development and `run prod worker` in production."""
    environment["ENVIRONMENT"] = name
    enqueued = run_vibetuner(
        "tasks", "enqueue", "add", "--args", "[1, 2]", folder=shop, **environment
    )
    task_id = enqueued.stdout.split()[0]

    for command in (["doctor"], ["worker-health"], ["tasks", "stats"], ["tasks", "why", task_id]):
        done = run_vibetuner(*command, folder=shop, **environment)
        assert f"vibetuner run {mode} worker" in done.stdout + done.stderr, command


@pytest.mark.slow
def test_production_refuses_the_embedded_redis(shop: Path, environment: dict[str, str]):
    """`run prod worker` refuses REDIS_URL=embedded, even if ENVIRONMENT is development."""
    environment |= {"REDIS_URL": "embedded", "ENVIRONMENT": "development"}

    done = run_vibetuner("run", "prod", "worker", folder=shop, **environment)

    assert done.returncode == 1
    assert done.stderr.startswith("error: REDIS_URL=embedded is for development and tests")


@pytest.mark.slow
def test_an_unknown_task_is_named(shop: Path, environment: dict[str, str]):
    """`tasks list --task` reports an unknown task and suggests a similar name.

    For a known task that has not run yet, the list is empty.
    """
    missing = run_vibetuner("tasks", "list", "--task", "fails_twise", folder=shop, **environment)
    idle = run_vibetuner("tasks", "list", "--task", "add", "--json", folder=shop, **environment)

    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr == (
        "error: The project has no task fails_twise. Did you mean fails_twice?\n"
    )
    assert (idle.returncode, json.loads(idle.stdout)) == (3, {"tasks": [], "next": None})


def test_the_error_for_a_taken_port_names_a_free_one():
    """The error for a taken port suggests a free one, which may not be the next number."""
    with ExitStack() as stack:
        first = stack.enter_context(listen("127.0.0.1", free_port()))
        port = first.getsockname()[1]
        with suppress(CommandError):  # another process has it, which is as good
            stack.enter_context(listen("127.0.0.1", port + 1))
        with pytest.raises(CommandError) as caught:
            listen("127.0.0.1", port, cure="Or:  run --port {port}")

    free = int(str(caught.value).rpartition(" ")[2])
    assert free > port + 1
    listen("127.0.0.1", free).close()


def test_an_address_of_another_machine_needs_another_host():
    """The error for an address of another machine suggests another host, not another port."""
    with pytest.raises(CommandError, match=r"can't be used: .*\. Name an address of this machine"):
        listen("203.0.113.1", 8000)
