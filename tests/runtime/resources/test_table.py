"""The table of resources, and the setting that enables each."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vibetuner.config import Settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.resources.table import RESOURCES


async def test_each_resource_is_enabled_by_its_setting_and_can_be_checked(settings: Settings):
    """Each resource is enabled by its setting, and its check reaches a real server."""
    for resource in RESOURCES:
        assert resource.enabled(settings)
        await resource.check(settings)


def test_nothing_is_enabled_by_itself(fresh: None):
    """No resource is enabled by default."""
    assert not any(resource.enabled(Settings()) for resource in RESOURCES)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("Redis", {"redis_url": "redis://127.0.0.1:1"}),
        ("MongoDB", {"mongodb_url": "mongodb://h:port"}),
        ("SQL database", {"database_url": "sqlite:////dev/null/x.db"}),
    ],
)
async def test_a_failed_check_names_its_resource(
    refused_by_sqlite: None, name: str, broken: dict[str, str]
):
    """A failed check names its resource."""
    (resource,) = (one for one in RESOURCES if one.name == name)
    with pytest.raises(ServiceUnavailable, match=f"^{name} at "):
        await resource.check(Settings(**broken))


@pytest.mark.parametrize("name", ["Redis", "MongoDB"])
async def test_an_embedded_server_that_does_not_run_is_named(fresh: None, name: str):
    """A check of an embedded server that nothing has started names the command that shows why."""
    (resource,) = (one for one in RESOURCES if one.name == name)
    with pytest.raises(ServiceUnavailable) as refused:
        await resource.check(Settings(**{resource.setting: "embedded"}))

    assert str(refused.value) == (
        f"Embedded {name} can't be used: it is not running. "
        "See its state and its log:  vibetuner services status"
    )


async def test_a_limit_that_passes_at_any_point_of_a_check_is_reported(tmp_path: Path):
    """A check that its limit cuts off, even while it closes the connection, is not cancelled.

    The doctor ended with a traceback when a slow database answered just before the limit.
    """
    settings = Settings(database_url=f"sqlite+aiosqlite:///{tmp_path}/app.db")

    for turns in range(1, 300):
        limit = asyncio.timeout(None)
        check = asyncio.create_task(check_within(limit, settings))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not check.done():
            limit.reschedule(0)
        assert await asyncio.wait_for(check, 30) in {"answered", "too late"}


async def check_within(limit: asyncio.Timeout, settings: Settings) -> str:
    """Check the SQL database until ``limit``; return how that ended."""
    try:
        async with limit:
            await RESOURCES[2].check(settings)
    except TimeoutError:
        return "too late"
    return "answered"
