"""Sentinels and servers with TLS, certificates of clients, and a user for the project."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.redis.test_reach import make_certificates
from tests.sentinels import Replicated
from tests.valkey import FOLLOWS_WITHIN, until_it_works
from vibetuner.config import Settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.blocking import ask
from vibetuner.redis.client import check, open_redis
from vibetuner.redis.connection import Connection
from vibetuner.redis.keys import Keys
from vibetuner.redis.rights import acl_rules
from vibetuner.redis.url import Tls, parse_url
from vibetuner.tasks.worker import TaskWorker

# Redis before 7.2 does not start with a command that it doesn't know among a user's rights.
NEWER = {"+waitaof", "+client|setinfo"}
RULES = [rule for rule in acl_rules(Keys("own:")) if rule not in NEWER]


@pytest.mark.slow
async def test_the_next_primary_is_found_and_let_in_by_all_of_them(
    tmp_path: Path, stand_in: Callable[..., Path]
):
    """Every way to Redis uses its certificate and its user, before and after a failover."""
    stand_in()
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server, which knows TLS, is not installed")
    (tmp_path / "tls").mkdir()
    folder = make_certificates(tmp_path / "tls", "IP:127.0.0.1")
    tls = Tls(
        ca_certs=f"{folder}/ca.pem",
        certfile=f"{folder}/client.pem",
        keyfile=f"{folder}/client.key",
    )
    user = ("--user", "app", "on", ">a/b", *RULES)
    with Replicated(tmp_path, program=program, tls=tls, options=user) as servers:
        plain = servers.url.replace("://", "://app:a%2Fb@") + f"?ssl_ca_certs={tls.ca_certs}"
        url = f"{plain}&ssl_certfile={tls.certfile}&ssl_keyfile={tls.keyfile}"
        settings, old = Settings(redis_url=url, redis_key_prefix="own"), servers.primary
        # A Sentinel has a second to answer, and TLS may take it on a loaded machine.
        await until_it_works(lambda: check(settings))
        with pytest.raises(
            ServiceUnavailable, match="no Sentinel names the primary|no answer in time"
        ):
            await check(Settings(redis_url=plain, redis_key_prefix="own"))
        with using_settings(settings):
            worker = TaskWorker(settings)
            task: Any = worker.task(name="number")(asyncio.sleep)
            async with AsyncExitStack() as stack:
                await until_it_works(lambda: stack.enter_async_context(worker))
                client = await until_it_works(
                    lambda: stack.enter_async_context(open_redis(settings))
                )
                connection = await stack.enter_async_context(Connection(parse_url(url)))
                before = await until_it_works(lambda: task.enqueue(1).start(durable=True))

                servers.kill(old)
                promoted = await asyncio.to_thread(servers.wait_for_promotion, old)
                await until_it_works(lambda: connection.call("SET", "own:a", "after"))
                await until_it_works(lambda: client.set("own:b", "after"))
                await until_it_works(lambda: worker.info_by_id(before.id))
                assert time.monotonic() - promoted < FOLLOWS_WITHIN
                await task.enqueue(2)
                assert await worker.queue_size() == 2
        found = await asyncio.to_thread(ask, parse_url(url), ["MGET", "own:a", "own:b"])
        assert found == [["after", "after"]]
