"""Checks that Redis keeps tasks safe, and that a worker with this code is running."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib.resources import files
from typing import Any

from coredis import Redis
from coredis.exceptions import RedisError

from vibetuner.cli.checks import Finding, Level, grave, uncapitalized
from vibetuner.config import Settings
from vibetuner.errors import VibetunerError, counted
from vibetuner.loader import load_project
from vibetuner.project import ProjectInfo, code_digest, worker_command
from vibetuner.redis.client import make_client, ungrouped
from vibetuner.redis.keys import JournalKeys, Keys
from vibetuner.redis.url import Address, parse_url
from vibetuner.stored import read_or_none
from vibetuner.tasks.client.durable import Keeping
from vibetuner.tasks.inspect.model import WorkerView
from vibetuner.tasks.inspect.queue import queue_names, queue_sizes, read_workers
from vibetuner.tasks.inspect.why import find_stuck_lines
from vibetuner.tasks.journal import Beat, Ended, Started
from vibetuner.tasks.letters.letter import Act, Group
from vibetuner.tasks.letters.stream import parse_letter
from vibetuner.tasks.queues import USUAL, start_reader

OLDEST = 7
NEARLY_FULL = 0.9
# The newest of each kind; older ones are shown as unreadable on the pages that list them.
LOOKED_AT = 1000


async def check_redis(settings: Settings, project: ProjectInfo) -> list[Finding]:
    """Check a server that has answered."""
    address = parse_url(settings.redis_url or "", settings.redis_key_prefix)
    with ungrouped():
        async with make_client(settings) as redis:
            info = await redis.info()
            if info.get("redis_mode") == "cluster" and address.cluster is None:
                return judge_server(settings, dict(info), {}, None)[:1]
            config, library = await _config(redis), await _library(redis)
            declared = _declared_queues()
            found = [
                *judge_server(
                    settings, dict(info), config, library, in_cluster=address.cluster is not None
                ),
                *judge_durability(dict(info), settings, address),
                *await check_records(redis, settings.redis_key_prefix, declared),
            ]
            if any(one.area == "records" and one.level == "error" for one in found):
                return found  # the rest can't be read beside a key of a wrong type
            workers = await read_workers(redis, JournalKeys(settings.redis_key_prefix))
            sizes = await _sizes(redis, settings, declared)
            lines = await check_lines(redis, settings)
    return [
        *found,
        *judge_workers(workers, project, settings),
        *judge_queues(sizes, workers, settings, declared=declared),
        *lines,
    ]


async def check_lines(redis: Redis[str], settings: Settings) -> list[Finding]:
    """Report stuck lines of unique tasks."""
    keys = Keys(settings.redis_key_prefix, settings.queue_name)
    stuck = await find_stuck_lines(redis, keys)
    return [Finding("warning", "unique tasks", one.text, one.cure) for one in stuck]


async def check_records(
    redis: Redis[str], prefix: str, declared: Collection[str] = ()
) -> list[Finding]:
    """Report keys of a wrong type, and records that can't be read."""
    if misused := await misused_keys(redis, prefix, declared):
        cure = "find out what writes there, and delete the key"
        return [Finding("error", "records", text, cure) for text in misused]
    unreadable = await count_unreadable(redis, prefix)
    return [
        Finding(
            "warning",
            "records",
            f"{number} of the newest {kind} can't be read: damaged, or of a newer version",
            "find out what else writes to keys of this REDIS_KEY_PREFIX",
        )
        for kind, number in unreadable.items()
    ]


async def misused_keys(redis: Redis[Any], prefix: str, declared: Iterable[str] = ()) -> list[str]:
    """Return our keys whose Redis type is wrong, each with the type that it has and should have.

    The queues are those that are declared, that workers have read, or that have a stream.
    """
    keys = Keys(prefix)
    journal = keys.journal
    queues = {*declared, *USUAL}
    if await redis.type(journal.queues) == "zset":
        queues.update(map(str, await redis.zrange(journal.queues, 0, -1)))
    if await redis.type(keys.made) == "hash":
        queues.update(map(str, await redis.hgetall(keys.made)))
    types = {
        **dict.fromkeys(map(keys.stream, queues), "stream"),
        **dict.fromkeys(map(keys.delayed, queues), "zset"),
        **dict.fromkeys((keys.results, keys.in_line, keys.cron_schedule, journal.queues), "zset"),
        **dict.fromkeys((keys.running, keys.aborted, keys.failing), "set"),
        **dict.fromkeys((keys.unique, keys.made, keys.cron_tabs, keys.cron_queues), "hash"),
        **dict.fromkeys((keys.letters, journal.ended, journal.failed, journal.payloads), "stream"),
        **dict.fromkeys((keys.letter_places, keys.letter_groups, keys.acted), "hash"),
        **dict.fromkeys((journal.ids, journal.cron), "hash"),
        **dict.fromkeys((keys.letter_ids, journal.names, journal.workers), "zset"),
        journal.pulse: "string",
    }
    async with redis.pipeline(transaction=False) as pipe:
        asked = {key: pipe.type(key) for key in types}
    found = {key: str(await one) for key, one in asked.items()}
    return [
        f"{key} is a {found[key]} and should be a {wanted}"
        for key, wanted in types.items()
        if found[key] not in {wanted, "none"}
    ]


async def count_unreadable(redis: Redis[Any], prefix: str) -> dict[str, int]:
    """Return the number of unreadable records by kind, among the newest 1,000; no zeros.

    Raises ResponseError if a key has a wrong type; see :func:`misused_keys`.
    """
    keys = Keys(prefix)
    letters = await redis.xrevrange(keys.letters, count=LOOKED_AT)
    ended = await redis.xrevrange(keys.journal.ended, count=LOOKED_AT)
    workers = [str(one) for one in await redis.zrange(keys.journal.workers, 0, -1)]
    beats = await redis.mget([keys.journal.worker(one) for one in workers]) if workers else ()
    running: list[object] = []
    for one in workers:
        running += (await redis.hgetall(keys.journal.running(one))).values()
    _, acts = await redis.hscan(keys.acted, 0, count=LOOKED_AT)
    groups = await redis.hgetall(keys.letter_groups)
    groups.pop("?", None)
    counts = {
        "dead letters": sum(
            parse_letter(str(entry.field_values.get("letter"))) is None for entry in letters
        ),
        "decisions about dead letters": _count(Act, acts.values()),
        "groups of dead letters": _count(Group, groups.values()),
        "ended tasks": _count(Ended, (entry.field_values.get("d") for entry in ended)),
        "running tasks": _count(Started, running),
        "heartbeats": _count(Beat, (text for text in beats if text is not None)),
    }
    return {kind: number for kind, number in counts.items() if number}


def _count(kind: type[Any], stored: Iterable[object]) -> int:
    return sum(read_or_none(kind, one) is None for one in stored)


def judge_server(
    settings: Settings,
    info: dict[str, Any],
    config: dict[str, str],
    library: str | None,
    *,
    in_cluster: bool = False,
) -> list[Finding]:
    """Return findings about a server's settings that would lose tasks, or refuse them.

    ``info`` and ``config`` are its replies to INFO and CONFIG GET, which may be forbidden;
    ``library`` is the code of the engine's functions there, and None if there are none
    to see.
    """
    version = str(info.get("redis_version", "0"))
    findings = []
    match info.get("redis_mode", "standalone"):
        case "sentinel":
            text = "it is a Sentinel, which keeps no tasks"
            cure = "write redis+sentinel://host:26379/mymaster"
            findings.append(Finding("error", "Redis", text, cure))
        case "cluster" if not in_cluster:
            text = "it is a node of a Cluster, and REDIS_URL names one server"
            cure = "write redis+cluster://host:6379"
            findings.append(Finding("error", "Redis", text, cure))
    if int(version.split(".", maxsplit=1)[0]) < OLDEST:
        cure = "use Redis 7.2 or newer, or Valkey"
        findings.append(Finding("error", "Redis", f"version {version} has no functions", cure))
    if info.get("role") == "slave":
        cure = "point REDIS_URL at the primary, or at Sentinels"
        findings.append(Finding("error", "Redis", "it is a read-only replica", cure))
    for status, text in (
        ("rdb_last_bgsave_status", "its last snapshot has failed"),
        ("aof_last_write_status", "it can't write its append-only file"),
    ):
        if info.get(status, "ok") != "ok":
            cure = "make room on its disk; until then it refuses writes"
            findings.append(Finding("error", "Redis", text, cure))
    if config and config.get("appendonly") != "yes":
        saves = "saves only now and then" if config.get("save") else "never saves"
        text = f"it {saves}: a crash loses tasks"
        findings.append(Finding(grave(settings), "Redis", text, "set appendonly yes"))
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most and used > NEARLY_FULL * most:
        level: Level = "error" if used >= most else "warning"
        text = f"its memory is {100 * used // most} % full ({_mb(used)} of {_mb(most)} MB)"
        text += "; it refuses new tasks and events" if used >= most else ""
        cure = "raise maxmemory, or see what fills it:  vibetuner tasks stats"
        findings.append(Finding(level, "Redis", text, cure))
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        text = f"it may evict tasks when memory is short (maxmemory-policy {policy})"
        findings.append(Finding(grave(settings), "Redis", text, "set maxmemory-policy noeviction"))
    if not config:
        cure = "check appendonly and maxmemory-policy by hand"
        findings.append(Finding("note", "Redis", "its configuration can't be read", cure))
    engine = files("streaq").joinpath("lua/streaq.lua")
    if library is not None and library != engine.read_text(encoding="utf-8"):
        text = "another version of the queue's engine uses this server, and replaces our functions"
        findings.append(Finding("warning", "Redis", text, "give each project its own server"))
    return findings or [Finding("ok", "Redis", f"{version}: keeps what it is given")]


def judge_durability(info: dict[str, Any], settings: Settings, address: Address) -> list[Finding]:
    """Report a server that can't do what ENQUEUE_DURABLE asks for, so that each enqueue fails."""
    if not settings.enqueue_durable:
        return []
    keeping = Keeping.read(info, has_sentinels=address.guides is not None)
    if problem := keeping.problem():
        text, cure = problem
        text = f"ENQUEUE_DURABLE is set, and every enqueue is refused: {text}"
        return [Finding(grave(settings), "Redis", text, uncapitalized(cure))]
    return [Finding("ok", "Redis", f"each enqueue waits for {keeping.places}")]


def judge_workers(
    workers: list[WorkerView], project: ProjectInfo, settings: Settings
) -> list[Finding]:
    """Check that a worker is alive, and that each runs exactly this project's code."""
    start, code = worker_command(settings.environment), code_digest(project)
    live = [view for view in workers if view.is_live]
    findings = [
        Finding(
            "warning",
            "worker",
            f"{view.beat.id} on {view.beat.host} has been silent for {view.silent:.0f} s",
            "look at its log, and restart it",
        )
        for view in workers
        if not view.is_live
    ]
    if not live:
        text = f"no live worker on the queue {settings.queue_name}"
        findings.append(Finding(grave(settings), "worker", text, f"start one:  {start}"))
    for view in live:
        if not (faults := view.faults(project.slug, code)):
            findings.append(Finding("ok", "worker", f"{view.beat.id} on {view.beat.host}"))
        level: Level = "error" if view.is_foreign(project.slug) else "warning"
        findings += [Finding(level, "worker", one.text, one.cure) for one in faults]
    return findings


def judge_queues(
    sizes: dict[str, int],
    workers: list[WorkerView],
    settings: Settings,
    *,
    declared: Collection[str] = (),
) -> list[Finding]:
    """Report queues with tasks that no live worker reads; ``declared`` are those of tune.py."""
    read = {name for view in workers if view.is_live for name in view.beat.queues}
    start = worker_command(settings.environment)
    return [
        Finding(
            grave(settings),
            "queues",
            f"no live worker reads the queue {name}, which holds {counted(size, 'task')}",
            start_reader(name, declared, start),
        )
        for name, size in sizes.items()
        if read and size and name not in read
    ]


def _declared_queues() -> list[str]:
    try:
        return list(load_project().queues)
    except VibetunerError:  # the doctor reports it elsewhere
        return []


def _mb(size: int) -> int:
    return round(size / 1_000_000)


async def _sizes(
    redis: Redis[str], settings: Settings, declared: Collection[str]
) -> dict[str, int]:
    """Return the number of tasks in each queue that is declared, or was read by a worker."""
    keys = Keys(settings.redis_key_prefix, settings.queue_name)
    names = await queue_names(redis, keys, declared)
    return {name: sum(sizes) for name, sizes in (await queue_sizes(redis, keys, names)).items()}


async def _config(redis: Redis[str]) -> dict[str, str]:
    try:
        found = await redis.config_get(["appendonly", "save", "maxmemory-policy"])
    except RedisError:  # managed servers forbid it
        return {}
    return {str(name): str(value) for name, value in found.items()}


async def _library(redis: Redis[str]) -> str | None:
    try:
        found: Any = await redis.function_list("streaq", withcode=True)
    except RedisError:  # it allows only scripts
        return None
    library = dict(found).get("streaq") if found else None
    return str(library["library_code"]) if library else None
