"""Events between processes: one Redis subscription a web process, which comes back by itself."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.processes import free_port
from vibetuner.config import Settings
from vibetuner.embedded.packages import valkey_binary
from vibetuner.resources.redis import make_client, open_redis
from vibetuner.sse.hub import Event, Hub, Subscriber
from vibetuner.sse.relay import open_relay, publish


class OwnValkey:
    """A server of the test's own, to be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        return Settings(redis_url=f"redis://127.0.0.1:{self.port}", redis_key_prefix="relay")

    async def start(self) -> None:
        command = [valkey_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def tries(self, wanted: int) -> None:
        """Hang up on those who call, until so many have."""
        seen = asyncio.Semaphore(0)

        def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            seen.release()

        async with await asyncio.start_server(hang_up, "127.0.0.1", self.port):
            async with asyncio.timeout(15):
                for _ in range(wanted):
                    await seen.acquire()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[OwnValkey]:
    """Not started yet; gone at the end."""
    server = OwnValkey(tmp_path)
    yield server
    server.kill()


@asynccontextmanager
async def relaying(settings: Settings, hub: Hub) -> AsyncIterator[Subscriber]:
    """A subscriber of the channel ``news`` behind a relay."""
    async with open_redis(settings) as client:
        async with open_relay(client, hub, settings.redis_key_prefix):
            with hub.subscribe("news") as subscriber:
                yield subscriber


async def next_of(subscriber: Subscriber) -> Event | None:
    async with asyncio.timeout(10):
        return await anext(subscriber.events(keepalive=60))


async def until_said(caplog: pytest.LogCaptureFixture, words: str, times: int = 1) -> None:
    async with asyncio.timeout(15):
        while sum(words in message for message in caplog.messages) < times:
            await asyncio.sleep(0.02)


async def test_the_relay_comes_back_with_redis_and_says_so_once_each_way(
    valkey: OwnValkey, caplog: pytest.LogCaptureFixture
):
    """However often it tries in between; a second outage is news again."""
    caplog.set_level(logging.INFO, "vibetuner")
    await valkey.start()
    async with relaying(valkey.settings, Hub()) as subscriber:
        for outage in (1, 2):
            valkey.kill()
            await until_said(caplog, "lost Redis", outage)
            await valkey.tries(2)
            await valkey.start()
            await until_said(caplog, "connected again", outage)

            async with open_redis(valkey.settings) as client:
                await publish(client, "relay:", "news", Event("hello", str(outage)))
            assert await next_of(subscriber) == Event("hello", str(outage))

    words = [message.split(" (")[0] for message in caplog.messages if "relay" in message]
    assert words == ["event relay: lost Redis", "event relay: connected again"] * 2


async def test_a_web_process_starts_while_redis_is_away(
    valkey: OwnValkey, caplog: pytest.LogCaptureFixture
):
    """The relay lets it begin, and joins when Redis is there."""
    caplog.set_level(logging.INFO, "vibetuner")
    hub = Hub()
    async with make_client(valkey.settings) as client, asyncio.timeout(20):
        async with open_relay(client, hub, "relay:"):
            await valkey.start()
            await until_said(caplog, "connected again")
            with hub.subscribe("news") as subscriber:
                await publish(client, "relay:", "news", Event("hello", "you"))
                assert await next_of(subscriber) == Event("hello", "you")


async def test_what_is_published_inside_the_block_arrives(settings: Settings):
    """Any text, in order; the subscription stands when the block begins."""
    texts = ["", "<b>größer</b>", "two\nlines", '"quoted"']
    async with relaying(settings, Hub()) as subscriber, open_redis(settings) as client:
        for text in texts:
            await publish(client, settings.redis_key_prefix, "news", Event("progress", text))

        assert [await next_of(subscriber) for _ in texts] == [Event("progress", t) for t in texts]


async def test_projects_that_share_a_redis_do_not_hear_each_other(settings: Settings):
    """Each has its prefix."""
    async with relaying(settings, Hub()) as subscriber, open_redis(settings) as client:
        await publish(client, "another:", "news", Event("hello", "others"))
        await publish(client, settings.redis_key_prefix, "news", Event("hello", "us"))

        assert await next_of(subscriber) == Event("hello", "us")


@pytest.mark.parametrize("message", ["hello", "5", "null", '["a"]', '["a", 5]', '{"a": 1, "b": 2}'])
async def test_a_message_that_is_not_ours_is_left_out(
    settings: Settings, caplog: pytest.LogCaptureFixture, message: str
):
    """Somebody else's message ends neither the relay nor a browser's stream."""
    async with relaying(settings, Hub()) as subscriber, open_redis(settings) as client:
        await client.publish(f"{settings.redis_key_prefix}sse:news", message)
        await publish(client, settings.redis_key_prefix, "news", Event("hello", "you"))

        assert await next_of(subscriber) == Event("hello", "you")
    assert len([m for m in caplog.messages if "not ours on" in m]) == 1
    assert not any("lost Redis" in m for m in caplog.messages)


async def test_the_relay_ends_with_its_block(settings: Settings):
    """No task goes on listening."""
    hub = Hub()
    before = len(asyncio.all_tasks())
    async with open_redis(settings) as client:
        async with open_relay(client, hub, settings.redis_key_prefix):
            pass
        with hub.subscribe("news") as subscriber:
            await publish(client, settings.redis_key_prefix, "news", Event("hello", "nobody"))
            assert subscriber.queue.empty()
    assert len(asyncio.all_tasks()) == before
