"""Settings that a test changes by value."""

from __future__ import annotations

import pytest

from vibetuner.config import get_settings
from vibetuner.errors import SettingsError
from vibetuner.testing import SettingsOverride
from vibetuner.testing.fixtures import overriding

pytestmark = pytest.mark.usefixtures("in_a_project")


def test_a_value_holds_until_the_end():
    """Overridden values apply until the block's end, and a later value replaces an earlier one."""
    before = get_settings()

    with overriding() as settings:
        settings(debug=True, worker_concurrency="3")
        settings(worker_concurrency=4)
        assert (get_settings().debug, get_settings().worker_concurrency) == (True, 4)
        assert settings.debug

    assert get_settings() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"redis_ur": "x"}, r"^There is no setting named redis_ur\. Did you mean redis_url=\?$"),
        ({"zzz": 1}, "^There is no setting named zzz. See vibetuner.config.Settings$"),
        ({"worker_concurrency": 0}, "^worker_concurrency= takes a whole number, 1 to 10000$"),
        ({"environment": "production", "redis_url": "embedded"}, "environment=production$"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    vibetuner_settings: SettingsOverride, values: dict[str, object], message: str
):
    """A wrong value is refused by its name, and the settings stay as they were."""
    before = get_settings()

    with pytest.raises(SettingsError, match=message):
        vibetuner_settings(**values)

    assert get_settings() is before
