"""Real processes and servers for the embedded services, and a folder for each test."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from coredis import Redis
from pymongo import AsyncMongoClient

from tests.processes import is_gone as has_ended
from tests.waiting import wait_until
from vibetuner import embedded

USER = """
import json, sys
from pathlib import Path
from vibetuner.embedded import join
with join(Path(sys.argv[1]), sys.argv[3:], command=sys.argv[2]) as lease:
    print(json.dumps(lease.urls), flush=True)
    sys.stdin.read()
"""


class UserProcess:
    """A process that uses the services until it is told to leave."""

    def __init__(self, root: Path, services: Collection[str], command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", USER, str(root), command, *services],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._urls: dict[str, str] = {}
        self.pid = self._process.pid

    @property
    def urls(self) -> dict[str, str]:
        """Return the URLs of the process's services, once it has joined."""
        if not self._urls:
            self._urls = json.loads(self._process.stdout.readline())
        return self._urls

    def leave(self) -> None:
        self._process.communicate(timeout=60)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class World:
    """A project's folder, its users, and the visible state of its servers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".vibetuner" / "services"
        self._users: list[UserProcess] = []

    def user(self, *services: str, command: str = "test user") -> UserProcess:
        user = UserProcess(self.root, services or ("redis", "mongodb"), command)
        self._users.append(user)
        return user

    def status(self) -> embedded.ServicesStatus:
        return embedded.status(self.root)

    def service(self, name: str) -> embedded.ServiceStatus:
        return next(service for service in self.status().services if service.name == name)

    def pids(self) -> list[int]:
        """Return the ids of the keeper and of its servers."""
        seen = self.status()
        pids = [seen.keeper, *(service.pid for service in seen.services)]
        return [pid for pid in pids if pid]

    def kill(self, pid: int | None) -> None:
        """Kill the keeper, or one of its servers."""
        assert pid in self.pids()
        os.kill(pid, signal.SIGKILL)

    def stopped(self) -> bool:
        seen = self.status()
        return seen.keeper is None and {one.state for one in seen.services} == {"stopped"}

    def close(self) -> None:
        for user in self._users:
            user.kill()
        embedded.down(self.root, force=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield a new project's folder; the processes in it end with the test."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], object]:
    """Return a function that waits for a condition, 30 seconds at most."""
    return partial(wait_until, seconds=30)


@pytest.fixture
def is_gone() -> Callable[[int], bool]:
    """Return a function that returns whether a process has ended."""
    return has_ended


@pytest.fixture
def is_closed() -> Callable[[str], bool]:
    """Return a function that returns whether nothing listens at a URL."""

    def is_closed(url: str) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", urlsplit(url).port)) != 0

    return is_closed


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis[str]]:
    async with Redis.from_url(url, decode_responses=True) as client:
        yield client


@pytest.fixture
def write() -> Callable[..., object]:
    """Return a function that writes a value to every service of some URLs."""

    async def write(urls: dict[str, str], value: str) -> None:
        if "redis" in urls:
            async with open_redis(urls["redis"]) as redis:
                await redis.set("key", value)
        if "mongodb" in urls:
            async with AsyncMongoClient(urls["mongodb"]) as mongo:
                await mongo.shop.orders.insert_one({"value": value})

    return write


@pytest.fixture
def read() -> Callable[..., object]:
    """Return a function that reads the values of :func:`write`."""

    async def read(urls: dict[str, str]) -> dict[str, str | None]:
        values: dict[str, str | None] = {}
        if "redis" in urls:
            async with open_redis(urls["redis"]) as redis:
                values["redis"] = await redis.get("key")
        if "mongodb" in urls:
            async with AsyncMongoClient(urls["mongodb"]) as mongo:
                document = await mongo.shop.orders.find_one({})
                values["mongodb"] = document["value"] if document else None
        return values

    return read
