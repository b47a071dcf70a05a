"""Where progress is kept: one key a task in Redis, written in one step with the event it makes."""

from __future__ import annotations

from typing import Any

from vibetuner.redis.functions import Scripts
from vibetuner.sse.event import idle_id
from vibetuner.sse.history import SEND, History
from vibetuner.tasks.progress_state import ProgressState, ProgressStatus

__all__ = ["PROGRESS", "end", "known_of", "read", "register", "write"]

PROGRESS = "progress"  # the event

# A task may be silent for long, and its page be opened long after it has ended.
KEPT_SECONDS = 24 * 3600

# What has ended stays so, whatever a worker says that was believed dead: but a new try begins anew.
WRITE = f"""{SEND}
local key, anew, expected, over, state, extra = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local known = redis.call('hmget', key, 'state', 'over', 'channel')
if anew == '' and known[2] == '1' then return '' end
if expected ~= '' and known[1] ~= expected then return '?' end
if expected ~= '' then extra = known[3] or '' end
redis.call('hset', key, 'state', state, 'over', over, 'channel', extra)
redis.call('expire', key, ARGV[6])
local prefix, topic, kept, ttl, event = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
if extra ~= '' then send(prefix .. extra, topic, kept, ttl, extra, event, state) end
return send(KEYS[2], topic, kept, ttl, ARGV[12], event, state)
"""

REGISTER = """
if redis.call('hsetnx', KEYS[1], 'state', ARGV[1]) == 1 then
  redis.call('expire', KEYS[1], ARGV[2])
end
"""

KNOWN = """
local known = {}
for i, key in ipairs(KEYS) do known[i] = redis.call('exists', key) end
return known
"""

# The state, and the id of the last event that is in it.
READ = """
local newest = redis.call('xrevrange', KEYS[2], '+', '-', 'count', 1)[1]
local moment = redis.call('time')
return {
  redis.call('hget', KEYS[1], 'state') or '', newest and newest[1] or '',
  tostring(moment[1] * 1000 + math.floor(moment[2] / 1000))
}
"""


async def write(
    history: History, state: ProgressState, *, channel: str | None = None, anew: bool = False
) -> None:
    """Keep a state and send it on the task's own channel, and on another where one is named.

    Args:
        anew: a try begins, which may follow on an end that was none.
    """
    await _write(history, state, PROGRESS, channel or "", anew=anew)


async def end(history: History, task_id: str, status: ProgressStatus) -> None:
    """Send the closing event of a task, if somebody reports on it or listens; once."""
    while True:
        known: Any = await history.redis.hget(_key(history, task_id), "state")
        if not known:
            return
        state = ProgressState.from_json(str(known)).at_end(status)
        if await _write(history, state, status.value, "", expected=str(known)) != "?":
            return


async def known_of(scripts: Scripts, history: History, task_ids: list[str]) -> list[str]:
    """Those of the tasks that report, or are watched."""
    answer = await scripts.eval(KNOWN, [_key(history, name) for name in task_ids], [])
    return [name for name, known in zip(task_ids, answer, strict=True) if known]


async def register(history: History, state: ProgressState) -> None:
    """Note that somebody listens, so that the end is told even where nothing was reported."""
    key = _key(history, state.task_id)
    await history.redis.eval(REGISTER, [key], [state.to_json(), KEPT_SECONDS])


async def read(history: History, task_id: str) -> tuple[ProgressState | None, str]:
    """What is known of a task, and the id of having heard everything until then."""
    keys = [_key(history, task_id), history.key(task_id)]
    answer: Any = await history.redis.eval(READ, keys)
    text, newest, now = answer
    return ProgressState.from_json(text) if text else None, newest or idle_id(int(now))


async def _write(  # noqa: PLR0913 - each with its name
    history: History,
    state: ProgressState,
    event: str,
    channel: str,
    *,
    anew: bool = False,
    expected: str = "",
) -> str:
    task_id = state.task_id
    answer: Any = await history.redis.eval(
        WRITE,
        [_key(history, task_id), history.key(task_id)],
        [
            "1" if anew else "",
            expected,
            "1" if state.is_over else "0",
            state.to_json(),
            channel,
            KEPT_SECONDS,
            history.key(""),
            history.topic,
            history.size,
            history.ttl,
            event,
            task_id,
        ],
    )
    return str(answer)


def _key(history: History, task_id: str) -> str:
    return f"{history.prefix}progress:{task_id}"
