"""Settings and tasks for the programs that measure streaq, with our runtime or without it."""

from __future__ import annotations

import logging.config
import os
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4


def configure(url: str, *, concurrency: int = 32, prefix: str = "") -> None:
    """Set the settings; each process has a queue of its own, unless ``prefix`` names one."""
    name = f"bench-{uuid4().hex[:8]}"
    os.environ |= {
        "REDIS_URL": url,
        "REDIS_KEY_PREFIX": prefix or (f"{{{name}}}" if "+cluster://" in url else name),
        "SECRET_KEY": "for benchmarks only" * 2,
        "WORKER_CONCURRENCY": str(concurrency),
        "ENVIRONMENT": "test",
    }


def make_task(variant: str, function: Callable[[], Awaitable[Any]]) -> Any:
    """Make ``function`` a task that is logged as by the engine's own command line."""
    if variant.startswith("streaq"):
        return _make_engine_task(variant, function)
    from vibetuner.logs import configure_logging
    from vibetuner.tasks.robust import robust_task
    from vibetuner.tasks.worker import get_worker

    configure_logging(debug=False, as_json=True)
    return (robust_task() if variant == "robust" else get_worker().task())(function)


def _make_engine_task(variant: str, function: Callable[[], Awaitable[Any]]) -> Any:
    from datetime import UTC

    from streaq import Worker
    from streaq.utils import default_log_config

    logging.config.dictConfig(default_log_config(UTC, verbose=False))
    worker: Worker[None] = Worker(
        os.environ["REDIS_URL"],
        queue_name=os.environ["REDIS_KEY_PREFIX"],
        concurrency=int(os.environ["WORKER_CONCURRENCY"]),
        signing_secret=os.environ["SECRET_KEY"] if variant == "streaq signed" else None,
        handle_signals=False,
    )
    return worker.task()(function)


def rate(moments: list[float]) -> float:
    """Return tasks a second, from the first to the last."""
    return (len(moments) - 1) / (moments[-1] - moments[0])
