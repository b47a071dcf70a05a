"""A web server of the event stream benchmark: ``python sse_servers.py KIND REDIS_URL PORT``.

``ours`` is `sse_endpoint` with replay and bounded queues; the others are sse-starlette with a Redis
subscription for each client, and with one that all clients share. All run under plain uvicorn.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

PREFIX = "bench:"


def ours(url: str) -> FastAPI:
    from vibetuner.config import Settings
    from vibetuner.redis.client import open_resource
    from vibetuner.sse import sse_endpoint
    from vibetuner.sse.history import History
    from vibetuner.sse.hub import get_hub
    from vibetuner.sse.relay import open_relay

    settings = Settings(redis_url=url, redis_key_prefix=PREFIX)

    @asynccontextmanager
    async def lifespan(_app: FastAPI):
        async with open_resource(settings, None) as client:
            with get_hub().serving():
                async with open_relay(History(client, settings), get_hub()):
                    yield

    app = FastAPI(lifespan=lifespan)

    @sse_endpoint("/events/{channel}", router=app.router)
    async def events(channel: str) -> str:
        return channel

    return app


def one_each(url: str) -> FastAPI:
    from redis.asyncio import Redis
    from sse_starlette.sse import EventSourceResponse

    client = Redis.from_url(url, decode_responses=True, max_connections=5000)
    app = FastAPI()

    @app.get("/events/{channel}")
    async def events(channel: str):
        async def stream():
            async with client.pubsub() as messages:
                await messages.subscribe(f"{PREFIX}plain:{channel}")
                yield {"comment": "open"}
                async for message in messages.listen():
                    if message["type"] == "message":
                        yield {"event": "n", "data": message["data"]}

        return EventSourceResponse(stream())

    return app


def shared(url: str) -> FastAPI:
    from redis.asyncio import Redis
    from sse_starlette.sse import EventSourceResponse

    queues: dict[str, set[asyncio.Queue[str]]] = {}

    async def relay() -> None:
        async with Redis.from_url(url, decode_responses=True).pubsub() as messages:
            await messages.psubscribe(f"{PREFIX}plain:*")
            async for message in messages.listen():
                if message["type"] == "pmessage":
                    channel = message["channel"].rpartition(":")[2]
                    for queue in queues.get(channel, ()):
                        queue.put_nowait(message["data"])

    @asynccontextmanager
    async def lifespan(_app: FastAPI):
        task = asyncio.create_task(relay())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/events/{channel}")
    async def events(channel: str):
        async def stream():
            queue: asyncio.Queue[str] = asyncio.Queue()
            queues.setdefault(channel, set()).add(queue)
            try:
                yield {"comment": "open"}
                while True:
                    yield {"event": "n", "data": await queue.get()}
            finally:
                queues[channel].discard(queue)

        return EventSourceResponse(stream())

    return app


def used() -> dict[str, float]:
    """Return seconds of the processor, and resident memory in KiB."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return {"cpu": usage.ru_utime + usage.ru_stime, "kib": int(pages) * 4}


def main() -> None:
    kind, url, port = sys.argv[1:]
    app = {"ours": ours, "each": one_each, "shared": shared}[kind](url)

    @app.get("/used")
    async def tell() -> dict[str, float]:
        return json.loads(json.dumps(used()))

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
