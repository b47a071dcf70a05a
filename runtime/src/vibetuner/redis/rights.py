"""The rights that a project needs on the server, and a check for missing ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from coredis.exceptions import ResponseError

from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.connection import Command, Connection, Moving
from vibetuner.redis.keys import GROUP, Keys

#: The commands that we, or our functions, call by name.
COMMANDS = (
    "auth", "client|setinfo", "client|setname", "cluster|slots",
    "decr", "del", "discard", "eval", "evalsha", "exec", "exists", "expire", "fcall",
    "function|list", "function|load", "get", "hdel", "hello", "hexists", "hget", "hgetall",
    "hincrby", "hlen", "hmget", "hrandfield", "hscan", "hset", "hsetnx", "incr", "info", "llen",
    "lrange", "ltrim", "mget", "mset", "multi", "pexpire", "ping", "pttl", "publish", "rpush",
    "sadd", "scan", "scard", "script|load", "select", "set", "sismember", "smembers", "spublish",
    "srem", "ssubscribe", "subscribe", "time", "type", "unsubscribe", "wait", "waitaof",
    "xack", "xadd", "xautoclaim", "xclaim", "xdel", "xgroup|create", "xgroup|delconsumer",
    "xinfo|consumers", "xinfo|groups", "xlen",
    "xpending", "xrange", "xreadgroup", "xrevrange", "xtrim", "zadd", "zcard", "zrange", "zrem",
    "zremrangebyscore", "zscan", "zscore",
)  # fmt: skip

PROBE = "rights-probe"
REFUSALS = ("noperm", "no permission", "unknown command", "unknown subcommand")
FUNCTIONS: tuple[Command, ...] = (("FUNCTION", "LOAD", ""), ("FCALL", PROBE, 0))
SCRIPTS: tuple[Command, ...] = (("SCRIPT", "LOAD", ""), ("EVALSHA", PROBE, 0))


class RightsMissing(ServiceUnavailable):
    """The server's user lacks rights that a project needs; waiting doesn't help."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A right that the user lacks, and the rule that grants it."""

    what: str
    rule: str


def acl_rules(keys: Keys) -> list[str]:
    """Return the ``ACL SETUSER`` rules that a project needs, and no more."""
    places = [f"{mark}{place}" for place in _places(keys) for mark in "~&"]
    return ["resetkeys", "resetchannels", *places, *(f"+{command}" for command in COMMANDS)]


async def require_rights(connection: Connection, keys: Keys) -> None:
    """Raise RightsMissing, with the line that grants them, if rights are missing."""
    missing = await find_missing(connection, keys)
    if not missing:
        return
    address = connection.address
    what = ", ".join(one.what for one in missing[:5]) + (" and more" if len(missing) > 5 else "")
    rules = " ".join(one.rule for one in missing)
    raise RightsMissing(
        f"Redis at {address} refuses its user {what}. "
        f"Allow it:  ACL SETUSER {address.username or 'default'} {rules}"
    )


async def find_missing(connection: Connection, keys: Keys) -> list[Missing]:
    """Ask the server which rights are missing; nothing is written, loaded or published.

    The commands are queued in a transaction that is discarded: a server checks the rights when it
    queues a command.
    """
    try:
        await connection.call("MULTI")
    except ResponseError as error:
        if is_refused(error):
            return [Missing("the command MULTI", "+multi +exec +discard")]
        raise
    probes = list(_probes(keys))
    commands = [*(command for command, _ in probes), *FUNCTIONS, *SCRIPTS, ("DISCARD",)]
    asked = [connection.call(*command) for command in commands]
    replies = await asyncio.gather(*asked, return_exceptions=True)
    for reply in replies:
        # A server checks rights first, so one that answers with a moving slot has granted them.
        if isinstance(reply, BaseException) and not isinstance(reply, ResponseError | Moving):
            raise reply
    refused = [is_refused(reply) for reply in replies]
    # A refusal may be about this right, or about a key of the command.
    found = [
        right
        for (_, right), reply, is_refused in zip(probes, replies, refused, strict=False)
        if is_refused and ("access" in str(reply)) is (right.rule[0] in "~&")
    ]
    functions, scripts = refused[len(probes) : -1][:2], refused[len(probes) : -1][2:]
    if any(functions) and any(scripts):
        found.append(Missing("functions and scripts", "+function|load +fcall"))
    return list(dict.fromkeys(found))


def _probes(keys: Keys) -> Iterator[tuple[Command, Missing]]:
    """Yield commands, each with the right that it needs."""
    stream = keys.stream(PROBE)
    sharded: Sequence[Command] = (("SPUBLISH", stream, ""), ("SSUBSCRIBE", stream))
    for command in (*_commands(stream), *(sharded if keys.is_sharded else ())):
        name = "xgroup|create" if command[0] == "XGROUP" else str(command[0]).lower()
        yield command, Missing(f"the command {name.upper()}", f"+{name}")
    for place in _places(keys):
        name = place.replace("*", PROBE)
        yield ("EXISTS", name), Missing(f"the keys {place}", f"~{place}")
        for channel in (("PUBLISH", name, ""), ("SUBSCRIBE", name)):
            yield channel, Missing(f"the channels {place}", f"&{place}")


def _commands(key: str) -> Iterable[Command]:
    """Yield one call of each command that every project needs, with enough arguments."""
    ids: Sequence[str] = (GROUP, PROBE)
    return (
        ("XADD", key, "*", "f", "v"),
        ("XREADGROUP", "GROUP", *ids, "STREAMS", key, ">"),
        ("XAUTOCLAIM", key, *ids, 0, "0-0"),
        ("XCLAIM", key, *ids, 0, "0-1"),
        ("XPENDING", key, GROUP),
        ("XACK", key, GROUP, "0-1"),
        ("XDEL", key, "0-1"),
        ("XRANGE", key, "-", "+"),
        ("XTRIM", key, "MAXLEN", 0),
        ("XGROUP", "CREATE", key, GROUP, "0"),
        ("ZADD", key, 0, "m"),
        ("ZRANGE", key, 0, 0),
        ("SADD", key, "m"),
        ("SET", key, "v"),
        ("GET", key),
        ("DEL", key),
        ("HSET", key, "f", "v"),
        ("HGET", key, "f"),
        ("EXPIRE", key, 1),
        ("EXISTS", key),
        ("PUBLISH", key, ""),
        ("SUBSCRIBE", key),
    )


def _places(keys: Keys) -> tuple[str, ...]:
    return f"{keys.prefix}*", keys.queue, f"{keys.queue}:*"


def is_refused(reply: object) -> bool:
    """Return whether a reply refuses the command: a missing right, or an unknown command."""
    return isinstance(reply, ResponseError) and any(word in str(reply).lower() for word in REFUSALS)
