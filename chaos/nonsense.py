"""Malformed requests and stored values, drawn from a seed."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote_from_bytes

from coredis import Redis

__all__ = ["PLANTED", "junk", "request", "spoil"]

PLANTED = "planted"
PAGES = (
    "", "/list", "/list?state=failed", "/list?name=echo", "/cron", "/dead", "/dead/confirm",
    "/dead/act", "/dead/job/x", "/task/x", "/task/x/abort", "/task/x/again", "/cron/run", "/events",
    "/dead/x/retry", "/dead/x/discard", "/task/x/progress",
)  # fmt: skip
PATHS = (
    *(f"/debug/tasks{path}" for path in PAGES), "/", "/orders", "/orders/x", "/upload", "/events/a",
    "/progress/x", "/health", "/health/ready", "/_unlock-debug", "/_lock-debug", "/static/x",
    "/openapi.json", "/docs",
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "G\x00T")
KINDS = (
    "application/json", "application/x-www-form-urlencoded", "multipart/form-data",
    "multipart/form-data; boundary=b", "text/plain", "", "a/b;c=" + "d" * 300,
)  # fmt: skip
FIELDS = (
    "verb",
    "fingerprint",
    "task_id",
    "token",
    "name",
    "after",
    "since",
    "until",
    "state",
    "id",
)


class Planted:
    """Creates a file when a pickle of it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call that unpickling makes."""
        return Path.touch, (Path(PLANTED),)


def junk(chance: Random) -> bytes:
    """Return a value that no reader expects."""
    return chance.choice((
        b"", b"\x00", b"\xff\xfe", b"[]", b"{}", b"null", b"-1", b"1e400", b"9" * 400, b"NaN",
        b"[" * 3000, b'{"a":' * 50, b"x" * 20_000, b"%s{}<b>\r\n", "ä\u2028😀".encode(),
        b'{"failed_at": 5}', pickle.dumps(Planted()), chance.randbytes(chance.randrange(60)),
        str(chance.randrange(-(10**20), 10**20)).encode(), b"18446744073709551615-1",
    ))  # fmt: skip


def mutated(chance: Random, value: bytes) -> bytes:
    """Return the value with bytes cut, replaced or inserted; or another value."""
    at = chance.randrange(len(value) + 1)
    end = min(len(value), at + chance.randrange(1, 6))
    return chance.choice((
        value[:at], value[:at] + value[end:], value[:at] + chance.randbytes(3) + value[end:],
        value[:at] + junk(chance) + value[at:], junk(chance),
    ))  # fmt: skip


def form(chance: Random, ids: list[str]) -> bytes:
    """Return a form of the dashboard with one of its fields replaced, or with all as they are."""
    fields: dict[str, bytes] = {
        "verb": chance.choice((b"retry", b"discard")),
        "fingerprint": chance.choice((*(one.encode() for one in ids), b"")),
        "name": chance.choice((b"tick", b"echo")), "token": b"x",
    }  # fmt: skip
    if chance.randrange(2):
        fields[chance.choice(FIELDS)] = junk(chance)[:3000]
    return "&".join(f"{name}={quote_from_bytes(value)}" for name, value in fields.items()).encode()


def request(chance: Random, port: int, cookie: str, ids: list[str]) -> tuple[bytes, bool]:
    """Return a request, and whether it is complete, so that it must be answered."""
    path = chance.choice(PATHS).replace("/x", "/" + chance.choice([*ids, "x", "%00", "a" * 300]))
    if not chance.randrange(3):
        path += f"?{chance.choice(FIELDS)}=" + "".join(
            f"%{byte:02x}" for byte in junk(chance)[:200]
        )
    target = path.encode() if chance.randrange(5) else mutated(chance, path.encode())
    body = chance.choice((
        b"", junk(chance), json.dumps({"name": "fail", "values": [1, None, "ä", 1e300]}).encode(),
        b"&".join(chance.choice(FIELDS).encode() + b"=" + junk(chance)[:99] for _ in range(3)),
        form(chance, ids), form(chance, ids),
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
        + junk(chance)[:50] + b'"\r\n\r\n' + junk(chance) + b"\r\n--b--\r\n",
    ))  # fmt: skip
    lines = [
        f"Host: 127.0.0.1:{port}".encode(), f"Origin: https://127.0.0.1:{port}".encode(),
        b"Content-Type: " + chance.choice(KINDS).encode(), b"Connection: close",
    ]  # fmt: skip
    if chance.randrange(4):
        lines.append(f"Cookie: {cookie}".encode())
    if is_odd := not chance.randrange(4):
        lines.append(chance.choice((
            b"Transfer-Encoding: chunked", b"Content-Length: 5, 6", b"Content-Length: -1",
            b"Expect: 100-continue", b"Upgrade: websocket\r\nConnection: Upgrade", b": x", b"X",
            b"Host: " + junk(chance), b"Last-Event-ID: " + junk(chance), b"Cookie: " + junk(chance),
            b"X-Forwarded-For: " + junk(chance), b"Accept: " + junk(chance), b"A: " + b"b" * 70_000,
        )))  # fmt: skip
    chance.shuffle(lines)
    lines.append(f"Content-Length: {len(body)}".encode())
    head = chance.choice(METHODS if is_odd else METHODS[:2]).encode() + b" " + target
    return head + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body, not is_odd


async def spoil(redis: Redis[bytes], chance: Random) -> str:
    """Spoil one of all keys; return its name without ids."""
    keys = sorted([key async for key in redis.scan_iter()])
    key = chance.choice(keys) if keys else b"target:dead_letters"
    kind, what = str(await redis.type(key)), junk(chance)
    if not chance.randrange(6):
        await redis.delete([key])
        kind = chance.choice(("string", "hash", "list", "set", "zset", "stream", "none"))
    if kind == "string":
        await redis.set(key, mutated(chance, await redis.get(key) or b""))
    elif kind == "hash":
        fields = {**await redis.hgetall(key), what: b""}
        name = chance.choice(sorted(fields))
        await redis.hset(key, {name: mutated(chance, fields[name])})
    elif kind == "list":
        await redis.rpush(key, [what])
    elif kind == "set":
        await redis.sadd(key, [what])
    elif kind == "zset":
        members = [*await redis.zrange(key, 0, -1), what]
        score = chance.choice((float("inf"), float("-inf"), 1e300, -1.0, 0.0, 5e12))
        await redis.zadd(key, {chance.choice(members): score})
    elif kind == "stream":
        entries: list[dict[Any, Any]] = [
            dict(entry.field_values) for entry in await redis.xrange(key, count=50)
        ]
        entry = chance.choice([*entries, {b"a": b""}])
        name = chance.choice(sorted(entry))
        await redis.xadd(key, {**entry, name: mutated(chance, entry[name])})
    await redis.publish(chance.choice((key, b"target:sse")), what)
    return re.sub(r"[0-9a-f]{8,}|\d+", "#", key.decode(errors="replace"))
