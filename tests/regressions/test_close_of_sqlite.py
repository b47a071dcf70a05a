"""Closing an SQLite connection that its thread has closed already raises no error."""

from __future__ import annotations

import aiosqlite

from vibetuner.resources.sql_engine import _interrupt_and_close


async def test_a_connection_closed_by_its_thread_is_not_interrupted():
    """Closing a connection stops its thread, even if the thread has closed it already."""
    driver = await aiosqlite.connect(":memory:")
    await driver._execute(driver._conn.close)

    await _interrupt_and_close(driver)

    assert not driver._running
