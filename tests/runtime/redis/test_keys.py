"""The names of keys: streaq's are those of streaq itself, and Lua uses no others."""

from __future__ import annotations

import re
from importlib.resources import files

from streaq import Worker
from streaq.constants import REDIS_GROUP, REDIS_UNIQUE

from vibetuner.redis.keys import GROUP, JournalKeys, Keys


def test_the_queues_keys_are_streaqs():
    """The queue's keys are those of streaq, so that its own worker shares the queue."""
    keys, worker = Keys("shop:"), Worker[None](queue_name="shop")
    assert {
        keys.queue: worker.prefix,
        keys.stream("p"): worker.stream_key + "p",
        keys.delayed("p"): worker.queue_key + "p",
        keys.data("id"): worker.task_key + "id",
        keys.retry("id"): worker._retry_key + "id",
        keys.result("id"): worker.results_key + "id",
        keys.results: worker._results_set,
        keys.running: worker._running_set,
        keys.aborted: worker._abort_key,
        keys.channel("id"): worker._channel_key + "id",
        keys.dependents("id"): worker.dependents_key + "id",
        keys.dependencies("id"): worker.dependencies_key + "id",
        keys.previous("id"): worker._previous_key + "id",
        keys.fallback("id"): worker._fallback_key + "id",
        keys.lock("name"): worker.prefix + REDIS_UNIQUE + "name",
        keys.cron_tabs: worker.cron_registry_key,
        keys.cron_schedule: worker.cron_schedule_key,
        keys.cron_data("name"): worker.cron_data_key + "name",
        GROUP: REDIS_GROUP,
    } == {name: name for name in (
        "streaq:shop", "streaq:shop:queues:p", "streaq:shop:queues:delayed:p",
        "streaq:shop:task:data:id", "streaq:shop:task:retry:id", "streaq:shop:task:results:id",
        "streaq:shop:index:results", "streaq:shop:index:running", "streaq:shop:aborted",
        "streaq:shop:channels:id", "streaq:shop:task:dependents:id",
        "streaq:shop:task:dependencies:id", "streaq:shop:task:previous:id",
        "streaq:shop:task:fallback:id", "streaq:shop:task:lock:name", "streaq:shop:cron:jobs",
        "streaq:shop:cron:schedule", "streaq:shop:cron:data:name", "workers",
    )}  # fmt: skip


def names_of(keys: Keys | JournalKeys) -> list[str]:
    """Return the name of every key, those of a method with a 1 in it."""
    names = [name for name in vars(type(keys)) if not name.startswith("_")]
    found = (getattr(keys, name) for name in (*vars(keys), *names))
    return [str(one(1) if callable(one) else one) for one in found]


def test_each_key_in_lua_is_named_in_keys():
    """Each key in a Lua file is named in Keys, where it can be looked up."""
    named = [f"{name}:" for name in (*names_of(Keys("shop:")), *names_of(JournalKeys("shop:")))]
    lua = files("vibetuner.redis") / "lua"
    code = "".join(one.read_text(encoding="utf-8") for one in lua.iterdir())
    used = re.findall(r"'(:[a-z_:]+)'", code)
    used += [f":journal:{name}" for name in re.findall(r"\bkey\('([a-z_:]+)'", code)]
    assert len(set(used)) > 40
    unknown = {one for one in used if not any(f"{one.rstrip(':')}:" in name for name in named)}
    assert unknown == set()
