"""A connection that SQLite's thread has closed already is closed without an error."""

from __future__ import annotations

import aiosqlite

from vibetuner.resources.sql_engine import _interrupt_and_close


async def test_a_connection_closed_by_its_thread_is_not_interrupted():
    """The thread may be done before the event loop hears of it."""
    driver = await aiosqlite.connect(":memory:")
    await driver._execute(driver._conn.close)

    await _interrupt_and_close(driver)

    assert not driver._running
