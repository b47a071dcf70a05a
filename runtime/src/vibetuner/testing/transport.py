"""The transport of ``vibetuner_client``, which passes an event stream on while it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from httpx2 import ASGITransport, AsyncByteStream, Request, Response

EVENTS = b"text/event-stream"


class StreamingTransport(ASGITransport):
    """Calls an app like httpx2's transport, which would wait for the end of an event stream."""

    async def handle_async_request(self, request: Request) -> Response:
        """Return the response once it is complete, or once an event stream begins."""
        call = _Call(self.app)
        response = await ASGITransport(call).handle_async_request(request)
        if call.has_begun.is_set():
            response.stream = call
        return response


class _Call(AsyncByteStream):
    """A call of the app, and the bytes of its event stream."""

    def __init__(self, app: Any) -> None:
        self.has_begun = asyncio.Event()
        self._app = app
        self._sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the app to its end, or until an event stream has begun."""
        is_stream = has_body = False

        async def receive_all() -> Any:
            nonlocal has_body
            if has_body:
                await self._left.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            has_body = not message.get("more_body")
            return message

        async def pass_on(message: Any) -> None:
            nonlocal is_stream
            if message["type"] == "http.response.start":
                kind = dict(message.get("headers", ())).get(b"content-type", b"")
                is_stream = kind.startswith(EVENTS)
            elif is_stream:
                self._sent.put_nowait(message.get("body", b""))
                self.has_begun.set()
                return
            await send(message)

        self._running = asyncio.create_task(self._app(scope, receive_all, pass_on))
        self._running.add_done_callback(lambda _: self._sent.put_nowait(None))
        beginning = asyncio.create_task(self.has_begun.wait())
        try:
            await asyncio.wait({self._running, beginning}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._running.cancel()
            raise
        finally:
            beginning.cancel()
        if self.has_begun.is_set():
            await send({"type": "http.response.body"})  # for httpx2, which gets our stream instead
        else:
            await self._running

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield what the app sends."""
        while (data := await self._sent.get()) is not None:
            yield data

    async def aclose(self) -> None:
        """Leave, as a browser does, and wait for the app; raises its error."""
        self._left.set()
        await self._running
