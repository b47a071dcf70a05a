"""The table of resources, and the setting that enables each."""

from __future__ import annotations

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
