"""The documented rights are all that a worker uses: the server denies it nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.conftest import Running
from tests.runtime.redis.test_rights import user
from tests.valkey import Valkey
from vibetuner.config import using_settings
from vibetuner.redis.blocking import ask
from vibetuner.redis.keys import Keys
from vibetuner.redis.rights import acl_rules
from vibetuner.redis.url import parse_url
from vibetuner.sse import broadcast
from vibetuner.tasks.dead_letters import count
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker

# The last ones only remove what ended workers left.
WITHOUT = ["", "-fcall", "-evalsha -eval", "-xinfo|consumers -xgroup|delconsumer"]


@pytest.mark.parametrize("without", WITHOUT)
async def test_tasks_letters_and_events_work(
    stand_in: Callable[..., Path], tmp_path: Path, running: Running, without: str
):
    """With the documented rights, tasks, dead letters and events work, and none is denied."""
    stand_in()
    with Valkey(tmp_path) as valkey:
        keys = Keys(valkey.settings.redis_key_prefix)
        url = user(valkey, *acl_rules(keys), *without.split())
        settings = valkey.settings.model_copy(update={"redis_url": url})
        worker = TaskWorker(settings)
        with using_settings(settings), using_worker(worker):

            @worker.task(name="double")
            async def double(number: int) -> int:
                return 2 * number

            @robust_task(max_retries=1)
            async def fail() -> None:
                raise ValueError("no")

            @worker.cron("0 0 1 1 *", name="yearly")
            async def yearly() -> None: ...

            async with running(worker):
                durable = await double.enqueue(2).start(durable=True)
                assert (await durable.result(timeout=30)).result == 4
                first = await double.enqueue(3)
                following = await double.enqueue(4).start(after=first.id)
                assert (await following.result(timeout=30)).result == 8
                later = await double.enqueue(1).start(delay=0.2)
                assert (await later.result(timeout=30)).result == 2
                never = await double.enqueue(1).start(delay=600)
                assert await never.abort(timeout=30)
                result = await (await fail.enqueue()).result(timeout=30)
                assert not result.success
                assert await count() == 1
                assert await broadcast("news", "n", "x")
            async with running(worker):  # the next start finds the queue
                assert (await (await double.enqueue(5)).result(timeout=30)).result == 10
        (denied,) = ask(parse_url(valkey.url), ["ACL", "LOG"])
        refused = {str(entry[entry.index("object") + 1]) for entry in denied}  # type: ignore[union-attr]
        assert refused <= set(without.replace("-", "").split())
