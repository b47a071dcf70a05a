"""Asks every configured outside system, at the same time, whether it answers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from vibetuner.config import Settings
from vibetuner.errors import VibetunerError
from vibetuner.resources.table import RESOURCES, Resource

__all__ = ["PROBE_SECONDS", "Probe", "probe"]

PROBE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of a look at one system; ``problem`` is empty where it has answered."""

    name: str
    setting: str
    milliseconds: float
    problem: str = ""


async def probe(settings: Settings, seconds: float = PROBE_SECONDS) -> list[Probe]:
    """One round trip to each configured system, in the table's order.

    Args:
        settings: with the URLs of running servers where they said ``embedded``.
        seconds: how long any of them may take.
    """
    configured = [resource for resource in RESOURCES if resource.enabled(settings)]
    for resource in configured:
        resource.load()  # which takes a while, and is no fault of the system's
    return await asyncio.gather(*(_probe(one, settings, seconds) for one in configured))


async def _probe(resource: Resource, settings: Settings, seconds: float) -> Probe:
    began, problem = time.perf_counter(), ""
    try:
        async with asyncio.timeout(seconds):
            await resource.check(settings)
    except TimeoutError:
        name = resource.setting.upper()
        problem = f"{resource.name}: no answer within {seconds:g} s. Start it, or correct {name}"
    except VibetunerError as error:
        problem = str(error)
    return Probe(resource.name, resource.setting, (time.perf_counter() - began) * 1000, problem)
