"""Checks concurrently whether each configured outside system answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from vibetuner.config import Settings
from vibetuner.errors import VibetunerError
from vibetuner.resources.table import RESOURCES, Resource

if TYPE_CHECKING:
    from sqlmodel import SQLModel

__all__ = ["PROBE_SECONDS", "Probe", "probe", "probe_tables"]

PROBE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of checking one system; ``problem`` is empty if it answered."""

    name: str
    setting: str
    milliseconds: float
    problem: str = ""


async def probe(settings: Settings, seconds: float = PROBE_SECONDS) -> list[Probe]:
    """Make one round trip to each configured system; return the results in the table's order.

    Args:
        settings: the settings, with URLs of running servers in place of ``embedded``.
        seconds: the time limit of each system.
    """
    configured = [resource for resource in RESOURCES if resource.enabled(settings)]
    for resource in configured:
        resource.load()  # imports the driver, whose time must not count against the system
    return await asyncio.gather(*(_probe(one, settings, seconds) for one in configured))


async def probe_tables(
    settings: Settings, models: Sequence[type[SQLModel]], seconds: float = PROBE_SECONDS
) -> list[Probe]:
    """Compare the SQL tables with the models; return nothing if there is nothing to compare."""
    if not (settings.database_url and models):
        return []
    schema = import_module("vibetuner.resources.schema")  # loads the driver
    began, problem = time.perf_counter(), ""
    try:
        async with asyncio.timeout(seconds):
            if differences := await schema.find_differences(settings, models):
                problem = (
                    f"SQL tables differ from the models: {schema.shorten(differences)}. "
                    "Run:  vibetuner db upgrade"
                )
    except TimeoutError:
        problem = f"SQL tables: no answer within {seconds:g} s. Look at the database's load"
    except VibetunerError as error:
        problem = str(error)
    return [Probe("SQL tables", "", (time.perf_counter() - began) * 1000, problem)]


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
