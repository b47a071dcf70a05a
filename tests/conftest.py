"""Real servers for every test: one Valkey and one document server a session, on free ports."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import cache

import httpcore2
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.clusters import Clustered
from tests.kinds import Kinds
from tests.postgres import running_postgres
from vibetuner.embedded import Lease, join

# Other tests read these or run them as projects; they hold no doctests.
collect_ignore = ["runtime/tasks/typed_tasks.py", "tour/project", "invoice_desk/app"]

# On a busy machine, the duration of an example says nothing about the code.
PATIENT = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.register_profile("patient", PATIENT)
# `just quick` tries fewer examples than `just test`.
hypothesis_settings.register_profile("quick", PATIENT, max_examples=25)


def pytest_configure(config: pytest.Config) -> None:
    """Register the kinds of tests, and handle Ctrl-C, which a job started by `&` ignores."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    without_processes = "not process" in config.option.markexpr
    hypothesis_settings.load_profile("quick" if without_processes else "patient")
    config.pluginmanager.register(Kinds(collect_ignore, without_processes=without_processes))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return three workers a core, because many tests wait for a process or a clock.

    A run without processes gets one per core: its tests don't wait, and each worker takes seconds
    to collect them.

    PYTEST_XDIST_AUTO_NUM_WORKERS, which xdist reads, names another number.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = os.cpu_count() or 2
    return cores if "not process" in config.option.markexpr else cores * 3


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Read the system's certificates once; each httpx2.get() does, for 40 ms of processor time.

    Tests call it until a server answers, and slow down the start for which they wait.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lease]:
    """Start a Valkey and a MongoDB-protocol server with data in a temporary folder.

    If TEST_REDIS_URL is set, it replaces the Valkey.
    """
    with join(tmp_path_factory.mktemp("servers"), ["redis", "mongodb"], command="pytest") as lease:
        if other := os.environ.get("TEST_REDIS_URL"):
            lease.urls["redis"] = other
        yield lease


@pytest.fixture(scope="session")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clustered]:
    """Start a Cluster of three shards; a test that breaks it must heal it."""
    with Clustered(tmp_path_factory.mktemp("cluster")) as clustered:
        yield clustered


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Yield the URL of an empty PostgreSQL database; skip if PostgreSQL is not installed."""
    with running_postgres() as (url, _):
        yield url
