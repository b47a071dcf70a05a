"""A probe for a live worker; it imports very little, as containers run it every few seconds."""

from __future__ import annotations

import json
import os
import socket
from typing import Any


def check_alive(*, here: bool, queue: str | None = None, as_json: bool) -> None:
    """Print the live workers of this queue.

    Raises:
        CommandError: there is none.
        ServiceUnavailable: Redis does not answer.
        SettingsError: REDIS_URL is wrong, or embedded in production.
    """
    from vibetuner.errors import CommandError
    from vibetuner.project import worker_command
    from vibetuner.redis.keys import LIVE_SECONDS

    url, prefix, environment = _settings()
    workers = _workers(url, prefix, environment)
    host = socket.gethostname()
    live = [
        one
        for one in workers
        if one["silent"] < LIVE_SECONDS
        and (not here or one["host"] == host)
        and (queue is None or queue in one.get("queues", ()))
    ]
    if as_json:
        print(json.dumps({"healthy": bool(live), "workers": [one["id"] for one in live]}))
    if not live:
        where = f" on {host}" if here else ""
        where += f" that reads {queue}" if queue else ""
        raise CommandError(
            f"No live worker of the queue {prefix.rstrip(':')}{where}. "
            f"Start one:  {worker_command(environment)}"
        )
    if not as_json:
        print(f"healthy: {', '.join(one['id'] for one in live)}")


def _workers(url: str, prefix: str, environment: str) -> list[dict[str, Any]]:
    from vibetuner.errors import ServiceUnavailable, explain_unusable, first_line
    from vibetuner.redis.blocking import RefusedError, ask
    from vibetuner.redis.keys import JournalKeys
    from vibetuner.redis.url import parse_url

    address, keys = parse_url(url, prefix), JournalKeys(prefix)
    try:
        # All times are the server's, as this machine's clock may differ from the worker's.
        heard, time = map(
            _words, ask(address, ["ZRANGE", keys.workers, "0", "-1", "WITHSCORES"], ["TIME"])
        )
        beats = [keys.worker(one) for one in heard[::2]]
        silent = [float(time[0]) - float(at) / 1000 for at in heard[1::2]]
        texts = ask(address, ["MGET", *beats])[0] if beats else []
    except (OSError, RefusedError) as error:
        reason = first_line(error)
        raise ServiceUnavailable(
            explain_unusable("Redis", "REDIS_URL", url, reason, environment=environment)
        ) from None
    found = texts if isinstance(texts, list) else []
    return [
        {**beat, "silent": seconds}
        for text, seconds in zip(found, silent, strict=True)
        if (beat := _read(text))
    ]


def _words(reply: object) -> list[str]:
    return [str(one) for one in reply] if isinstance(reply, list) else []


def _read(text: object) -> dict[str, Any] | None:
    """Return a heartbeat, or None if it can't be read; parsed by hand for a quick start."""
    try:
        beat = json.loads(str(text))
    except (ValueError, RecursionError):
        return None
    if not isinstance(beat, dict):
        return None
    return beat if isinstance(beat.get("id"), str) and isinstance(beat.get("host"), str) else None


def _settings() -> tuple[str, str, str]:
    """Return REDIS_URL, key prefix and ENVIRONMENT, without importing vibetuner.config."""
    from pathlib import Path

    from vibetuner.errors import NotConfigured, SettingsError, explain_embedded
    from vibetuner.project import find_root, key_prefix
    from vibetuner.redis import REDIS_MISSING
    from vibetuner.setting_files import check_env_file, given, read_env_file, read_secrets

    root = find_root()
    env_file = (root or Path.cwd()) / ".env"
    check_env_file(env_file)
    names = ("redis_url", "redis_key_prefix", "environment")
    values = read_secrets(names)
    for variables in (read_env_file(env_file), os.environ):
        values |= given(variables)
    url, prefix, environment = map(values.get, names)
    if url == "embedded":
        if environment == "production":
            raise SettingsError(explain_embedded("REDIS_URL"))
        url = _embedded_url()
    if not url:
        raise NotConfigured(REDIS_MISSING)
    return url, key_prefix(prefix, url), environment or "development"


def _embedded_url() -> str:
    from vibetuner.embedded import services_root, status
    from vibetuner.errors import ServiceUnavailable

    for service in status(services_root()).services:
        if service.name == "redis" and service.url:
            return service.url
    raise ServiceUnavailable(
        "The embedded Redis is not running, so no worker is. Start one:  vibetuner run dev worker"
    )
