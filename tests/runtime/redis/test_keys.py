"""The names of keys: streaq's are what streaq itself says."""

from __future__ import annotations

from streaq import Worker
from streaq.constants import REDIS_GROUP, REDIS_UNIQUE

from vibetuner.redis.keys import GROUP, Keys


def test_the_queues_keys_are_streaqs():
    """A worker or a client of its own shares the queue."""
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
