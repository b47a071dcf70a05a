"""Everything that the doctor looks at, as much as possible at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from coredis.exceptions import RedisError

from vibetuner.cli.checks.finding import Finding, of_message
from vibetuner.cli.checks.project import PORTS, check_port, check_settings, check_tune
from vibetuner.cli.checks.redis import check_redis
from vibetuner.cli.checks.template import check_drift, check_version
from vibetuner.config import EMBEDDED, Settings, get_settings
from vibetuner.embedded import running_services
from vibetuner.errors import VibetunerError, first_line
from vibetuner.project import project_info
from vibetuner.resources.probe import PROBE_SECONDS, probe

__all__ = ["diagnose"]


async def diagnose() -> list[Finding]:
    """What is well, and what is not, in the order in which to mend it."""
    try:
        project = project_info()
        settings = get_settings()
    except VibetunerError as error:
        return [of_message("project", str(error))]
    parts = await asyncio.gather(
        _services(settings),
        _apart(lambda: check_version(project)),
        _apart(lambda: check_drift(project)),
        *(_apart(partial(check_port, project, port, what)) for port, what in PORTS.items()),
    )
    # Last, as to load the project keeps the loop from hearing that a service answers.
    own = [*check_tune(project), *check_settings(settings)]
    return own + [finding for part in parts for finding in part]


async def _apart(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    return await asyncio.to_thread(lambda: list(check()))


async def _services(settings: Settings) -> list[Finding]:
    live = running_services(settings)
    stopped = [name for name in ("redis_url", "mongodb_url") if getattr(live, name) == EMBEDDED]
    findings = [
        Finding("note", name, "embedded, and not running", "any command that needs it starts it")
        for name in (one.removesuffix("_url") for one in stopped)
    ]
    asked = live.model_copy(update=dict.fromkeys(stopped))
    probes = await probe(asked)
    # What is left of the three seconds; a Redis that answers so slowly is told of as it is.
    left = PROBE_SECONDS - max((one.milliseconds for one in probes), default=0.0) / 1000
    for one in probes:
        if one.problem:
            findings.append(of_message(one.name, one.problem))
        else:
            findings.append(Finding("ok", one.name, f"answers in {one.milliseconds:.0f} ms"))
            if one.setting == "redis_url":
                findings += await _bounded(check_redis(asked, project_info()), max(left, 0.5))
    return findings


async def _bounded(check: Awaitable[list[Finding]], seconds: float) -> list[Finding]:
    try:
        async with asyncio.timeout(seconds):
            return await check
    except (RedisError, OSError, TimeoutError) as error:
        text = f"it can't be looked at: {first_line(error)}"
        return [Finding("warning", "Redis", text, "give its user the right to INFO")]
