"""Whether the server lets tasks be enqueued and run, and whether by the worker's fast path."""

from __future__ import annotations

import re
from importlib.resources import files

from coredis.exceptions import ResponseError

from vibetuner.cli.checks.finding import Finding
from vibetuner.redis.connection import Connection
from vibetuner.redis.url import Address

__all__ = ["check_fast_path", "engine_library"]

COST = "the fast path is closed, so that tasks run at about a sixth of the rate"
NOBODYS = "0" * 40
REFUSALS = ("noperm", "no permission", "unknown command", "not allowed")

Command = tuple[str | int, ...]

# None of these can do anything: each ends in the server's complaint that something is missing,
# or in its refusal, which comes first.
LOAD: Command = ("FUNCTION", "LOAD", "")
SCRIPTS: dict[str, Command] = {
    "+script|load": ("SCRIPT", "LOAD", "return ("),
    "+evalsha": ("EVALSHA", NOBODYS, 1),
}


async def check_fast_path(address: Address) -> list[Finding]:
    """What a worker would have to do without; nothing is loaded, run or replaced.

    Args:
        address: the server, and the user that the project is there.
    """
    grant = f"ACL SETUSER {address.username or 'default'}"
    async with Connection(address) as wire:
        calls = [("FCALL", name, 1) for name in _engine_functions()]
        missing = {"+function|load": await _is_refused(wire, LOAD)}
        missing["+fcall"] = any([await _is_refused(wire, call) for call in calls])
        if any(missing.values()):
            rights = " ".join(right for right, is_missing in missing.items() if is_missing)
            text = "it refuses functions, without which no task can be enqueued or run"
            return [Finding("error", "Redis", text, f"{grant} {rights}")]
        if not await _is_refused(wire, ("FCALL", NOBODYS, 1)):
            return []
        scripts = [right for right, call in SCRIPTS.items() if await _is_refused(wire, call)]
    if not scripts:
        return []
    text = f"{COST}: its user may neither call functions of ours nor load scripts"
    return [Finding("warning", "Redis", text, f"{grant} +fcall   (or {' '.join(scripts)})")]


def engine_library() -> str:
    """The code of the engine's own functions, without which there is no queue."""
    return files("streaq").joinpath("lua/streaq.lua").read_text(encoding="utf-8")


def _engine_functions() -> list[str]:
    return re.findall(r"register_function\(\s*['\"](\w+)['\"]", engine_library())


async def _is_refused(wire: Connection, command: Command) -> bool:
    try:
        await wire.call(*command)
    except ResponseError as error:
        return any(words in str(error).lower() for words in REFUSALS)
    return False
