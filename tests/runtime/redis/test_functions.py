"""Our functions on the server: found in the files, each under one name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from coredis import Redis
from coredis.exceptions import ResponseError

from tests.valkey import Valkey
from vibetuner import redis
from vibetuner.config import Settings
from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions, Scripts, _library, _script
from vibetuner.redis.url import parse_url

SOUGHT = ("+", "-", "{}", "", 10, 1, 10)
FILES = sorted(Path(redis.__file__).with_name("lua").glob("*.lua"))


def test_no_two_functions_share_a_name():
    """No two functions share a name, as a call names the function and not its file."""
    names = _library()[2]
    assert {"ping", "enqueue", "claim", "finish"} <= set(names)
    assert len(names) == len(set(names))


def test_every_function_begins_with_a_comment():
    """Every function begins with a comment about its arguments and its reply."""
    text = "\n".join(path.read_text() for path in FILES)
    found = re.findall(r"(.*)\nlocal function (\w+)\(keys, argv\)", text)
    assert [name for before, name in found if not before.startswith("--")] == []
    assert len(found) == len(_library()[2])


async def test_every_function_is_loaded_and_its_script_too(settings: Settings):
    """The server accepts every function, and the script that is made of it."""
    async with Connection(parse_url(settings.redis_url or "")) as connection:
        functions = Functions(connection)
        await functions.load()
        assert await functions.call("ping", (), ()) == b"PONG"
        for name in _library()[2]:
            assert await connection.call("SCRIPT", "LOAD", _script(name))
            assert functions._heads[name] == ("FCALL", f"{_library()[0]}_{name}")


async def test_functions_that_the_server_forgets_are_loaded_again(settings: Settings):
    """Functions that the server has lost, as after a restart without a disk, are loaded again."""
    async with Connection(parse_url(settings.redis_url or "")) as connection:
        functions = Functions(connection)
        await functions.load()
        async with Redis.from_url(settings.redis_url or "", decode_responses=True) as client:
            await client.function_delete(_library()[0])
        assert await functions.call("ping", (), ()) == b"PONG"


async def test_functions_stand_in_for_scripts(tmp_path: Path):
    """A user who may use no scripts calls the function, which is loaded if it is missing."""
    rules = ("--user", "tester", "on", ">x", "~*", "&*", "+@all", "-eval", "-evalsha")
    with Valkey(tmp_path, lasting=False, options=rules) as server:
        url = server.url.replace("://", "://tester:x@")
        async with Redis.from_url(url, decode_responses=True) as client:
            for _ in range(2):
                assert await Scripts(client).call("ping", (), ()) == "PONG"
            await client.set("letters", "no stream")
            with pytest.raises(ResponseError, match="wrong kind of value"):
                await Scripts(client).call("search_letters", ["letters", "acted", "guard"], SOUGHT)
