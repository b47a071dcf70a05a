"""The rights of a project's user on the server: the needed ones, and those that are missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from coredis.exceptions import AuthorizationError

from tests.docs.blocks import ROOT
from tests.valkey import Valkey
from vibetuner import redis
from vibetuner.config import Settings
from vibetuner.redis.blocking import ask
from vibetuner.redis.client import check, open_redis
from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions, FunctionsRefused, Scripts
from vibetuner.redis.keys import Keys
from vibetuner.redis.rights import COMMANDS, RightsMissing, acl_rules, find_missing
from vibetuner.redis.url import parse_url
from vibetuner.tasks.letters.stream import StreamStore

KEYS = Keys("shop:")
ALL = "~* &* +@all"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("rights"), lasting=False) as valkey:
        yield valkey


def user(server: Valkey, *rules: str) -> str:
    """Make the user; return its URL."""
    ask(parse_url(server.url), ["ACL", "SETUSER", "ann", "reset", "on", ">x", *rules])
    return server.url.replace("://", "://ann:x@")


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (ALL, ""),
        (f"{ALL} -script -eval -evalsha", ""),
        (f"{ALL} -function -fcall", ""),
        (f"{ALL} -function -script", "+function|load +fcall"),
        (f"{ALL} -fcall -evalsha", "+function|load +fcall"),
        (f"{ALL} -xadd -publish", "+xadd +publish"),
        (f"{ALL} -multi", "+multi +exec +discard"),
        ("~* +@all", "&shop:* &streaq:shop &streaq:shop:*"),
        ("~* +@all &shop:*", "&streaq:shop &streaq:shop:*"),
        ("~shop:* +@all &*", "~streaq:shop ~streaq:shop:*"),
        ("~shop:* ~streaq:shop* +@all &shop:* &streaq:shop*", ""),
        (f"{ALL} -@write", ""),
    ],
)
async def test_what_a_user_lacks_is_found_and_its_rule_named(
    server: Valkey, rules: str, missing: str
):
    """Each right that a user lacks is named by its rule, and the server stays unchanged."""
    async with Connection(parse_url(user(server, *rules.split()))) as connection:
        found = await find_missing(connection, KEYS)
    if "-@write" in rules:
        assert {"+xadd", "+set", "+hset"} < {one.rule for one in found}
    else:
        assert " ".join(one.rule for one in found) == missing
    size, functions = ask(parse_url(server.url), ["DBSIZE"], ["FUNCTION", "LIST"])
    assert (size, functions) == (0, [])


async def test_a_project_does_not_start_without_its_rights(server: Valkey):
    """A project without its rights doesn't start, and the error has the line that grants them."""
    settings = Settings(redis_url=user(server, "~*", "+@all"), redis_key_prefix="shop")
    cure = re.escape("Allow it:  ACL SETUSER ann &shop:* &streaq:shop &streaq:shop:*")
    with pytest.raises(RightsMissing, match=f"refuses its user the channels shop:.*{cure}$"):
        await check(settings)


async def test_a_server_that_refuses_functions_and_scripts_is_an_error(server: Valkey):
    """A server that refuses functions and scripts is an error, as tasks need one of them."""
    url = user(server, *ALL.split(), "-function", "-script")
    with pytest.raises(RightsMissing, match="functions and scripts"):
        await check(Settings(redis_url=url, redis_key_prefix="shop"))
    async with Connection(parse_url(url)) as connection:
        with pytest.raises(FunctionsRefused, match="refuses functions .* and scripts"):
            await Functions(connection).load()


def test_the_documented_line_grants_just_what_is_needed():
    """The line in the guide grants just the rights that a project named shop needs."""
    guide = (ROOT / "docs/how-to/scaling.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ACL SETUSER shop on >PASSWORD (.*)$", guide, re.MULTILINE)
    assert line.split() == acl_rules(KEYS)


@pytest.mark.parametrize("without", ["", "-fcall", "-evalsha -eval"])
async def test_a_user_with_that_line_can_use_everything(server: Valkey, without: str):
    """The documented rights suffice for functions or scripts, the client and subscriptions."""
    url = user(server, *acl_rules(KEYS), *without.split())
    settings = Settings(redis_url=url, redis_key_prefix="shop")
    async with Connection(parse_url(url)) as connection, Connection(parse_url(url)) as listener:
        functions = Functions(connection)
        await functions.load()
        assert await functions.call("ping", (), ()) == b"PONG"
        values = ("an-id", b"payload", 0, 0, "normal", 0)
        assert await functions.call("enqueue", [KEYS.queue], values)
        await listener.tell("SUBSCRIBE", KEYS.channel("an-id"))
    async with open_redis(settings) as client:
        assert await Scripts(client).call("ping", (), ()) == "PONG"
        assert await client.xlen(KEYS.stream("normal")) == 1
        async with client.pubsub(channels=[KEYS.topic]), client.pipeline() as pipe:
            pipe.set(KEYS.revoked("t"), "1")
    ask(parse_url(server.url), ["FLUSHALL"], ["FUNCTION", "FLUSH"])


def test_each_command_of_a_function_is_granted():
    """Each command in our Lua files is on the list of granted commands."""
    called: set[str] = set()
    for path in Path(redis.__file__).with_name("lua").glob("*.lua"):
        text = path.read_text(encoding="utf-8")
        called |= set(re.findall(r"redis\.p?call\(\s*'(\w+)'", text))
        called |= set(re.findall(r"each\(\{ '(\w+)'", text))
    granted = {command.partition("|")[0] for command in COMMANDS}
    assert "xadd" in called
    assert called <= granted


@pytest.mark.parametrize("without", ["", "hlen", "hscan", "zadd", "zcard", "zrange"])
async def test_a_user_with_that_line_finds_a_letter_by_its_first_characters(
    server: Valkey, without: str
):
    """The documented rights suffice to find a letter by its first characters.

    An earlier version kept letters without an index. Each of the rights is needed.
    """
    ask(parse_url(server.url), ["HSET", KEYS.letter_places, "abcdef01", "1-0", "fedcba10", "2-0"])
    url = user(server, *acl_rules(KEYS), *([f"-{without}"] if without else []))
    errors = (AuthorizationError, RightsMissing)
    with pytest.raises(errors, match=f"(?i){without}") if without else nullcontext():
        async with open_redis(Settings(redis_url=url, redis_key_prefix="shop")) as client:
            assert await StreamStore(client, KEYS.prefix).ids("abcd", limit=2) == ["abcdef01"]
    ask(parse_url(server.url), ["FLUSHALL"], ["FUNCTION", "FLUSH"])
