"""The errors of a worker that waiting cures."""

from __future__ import annotations

import pytest
from coredis.exceptions import RedisError

from vibetuner.cli.worker import _outage
from vibetuner.errors import ServiceUnavailable


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ServiceUnavailable("Redis is away"), "Redis is away"),
        (ExceptionGroup("", [ServiceUnavailable("Redis is away")]), "Redis is away"),
        (ExceptionGroup("", [RedisError("gone"), OSError("reset")]), "lost Redis (gone)"),
        (ExceptionGroup("", [ExceptionGroup("", [OSError("reset")])]), "lost Redis (reset)"),
        (ExceptionGroup("", [OSError("reset"), ValueError("ours")]), None),
        (ValueError("ours"), None),
    ],
)
def test_only_an_outage_is_waited_for(error: Exception, words: str | None):
    """A worker waits for the end of an outage only; any other error ends it."""
    assert _outage(error) == words
