"""Writes a batch into the journal: one command, however many tasks it tells of."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import JournalKeys
from vibetuner.tasks.journal.batch import Batch

__all__ = ["KEPT_SECONDS", "LIMITS", "Limits", "write"]

KEPT_SECONDS = 7 * 24 * 3600
BEAT_KEPT_SECONDS = 60
TRIES_KEPT_SECONDS = 24 * 3600
MOST_TRIES = 20
MINUTES_KEPT_SECONDS = 2 * 3600
QUARTERS_KEPT_SECONDS = 26 * 3600
# What is trimmed goes in one piece, when so much has come together.
SLACK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many are kept at the most: ended tasks, those that failed, and those with arguments."""

    ended: int = 100_000
    failed: int = 10_000
    payloads: int = 10_000


LIMITS = Limits()

# After one JSON object six arguments of each task that has ended: its id, name and outcome, all of
# it as JSON, a traceback where there is one, and its payload, which is no text.
WRITE = """
local prefix, kept, batch = ARGV[1], tonumber(ARGV[2]), cjson.decode(ARGV[3])
local key = function(name) return prefix .. 'journal:' .. name end
local ended, ids, names = key('ended'), key('ids'), key('names')
local touched = {}
local payloads, places = key('payloads'), {}
for i = 4, #ARGV, 6 do
  local id, name, outcome, payload = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 5]
  local entry = redis.call('xadd', ended, '*', 'd', ARGV[i + 3])
  touched[name] = touched[name] or key('ended:of:' .. name)
  redis.call('xadd', touched[name], entry, 's', outcome)
  places[#places + 1] = id
  places[#places + 1] = entry
  if outcome ~= 'done' then
    redis.call('xadd', key('ended:failed'), 'maxlen', '~', batch.most_failed, entry,
      's', outcome, 'n', name, 't', ARGV[i + 4])
  end
  if payload ~= '' then
    redis.call('xadd', payloads, 'maxlen', '~', batch.most_payloads, entry, 'p', payload)
  end
end
for i = 1, #places, 500 do
  redis.call('hset', ids, unpack(places, i, math.min(i + 499, #places)))
end
if next(touched) then
  local surplus = redis.call('xlen', ended) - batch.most
  local oldest = redis.call('xrange', ended, '-', '+', 'count', 1)[1]
  if tonumber(string.match(oldest[1], '%d+')) < batch.now - kept * 1000 then
    surplus = math.max(surplus, batch.slack)
  end
  if surplus >= batch.slack then
    local last
    for _, old in ipairs(redis.call('xrange', ended, '-', '+', 'count', surplus)) do
      local id = cjson.decode(old[2][2])[1]
      if redis.call('hget', ids, id) == old[1] then redis.call('hdel', ids, id) end
      last = old[1]
    end
    redis.call('xtrim', ended, 'minid', last)
    redis.call('xdel', ended, last)
    redis.call('zremrangebyscore', names, 0, batch.now - kept * 1000)
  end
  oldest = redis.call('xrange', ended, '-', '+', 'count', 1)[1]
  for name, of_name in pairs(touched) do
    redis.call('zadd', names, batch.now, name)
    if oldest then redis.call('xtrim', of_name, 'minid', '~', oldest[1]) end
    redis.call('expire', of_name, kept)
  end
  for _, name in ipairs({'ended', 'ended:failed', 'payloads', 'ids', 'names'}) do
    redis.call('expire', key(name), kept)
  end
end
for _, t in ipairs(batch.tries) do
  local list = key('tries:' .. t[1])
  redis.call('rpush', list, t[2])
  redis.call('ltrim', list, -batch.most_tries, -1)
  redis.call('expire', list, batch.tries_kept)
end
for name, counts in pairs(batch.counts) do
  for field, n in pairs(counts.fields) do redis.call('hincrby', name, field, n) end
  redis.call('expire', name, counts.kept)
end
local running = key('running:' .. batch.worker)
for _, id in ipairs(batch.stopped) do redis.call('hdel', running, id) end
for _, s in ipairs(batch.started) do redis.call('hset', running, s[1], s[2]) end
if batch.leaving then
  redis.call('zrem', key('workers'), batch.worker)
  redis.call('del', key('worker:' .. batch.worker), running)
elseif batch.beat then
  redis.call('set', key('worker:' .. batch.worker), batch.beat, 'ex', batch.beat_kept)
  redis.call('zadd', key('workers'), batch.now, batch.worker)
  redis.call('zremrangebyscore', key('workers'), 0, batch.now - batch.beat_kept * 1000)
  redis.call('expire', key('workers'), kept)
end
redis.call('expire', running, batch.beat_kept)
for _, name in ipairs(batch.crons) do redis.call('hsetnx', key('cron'), name, batch.now) end
if #batch.crons > 0 then redis.call('expire', key('cron'), kept) end
if next(touched) or #batch.started + #batch.stopped + #batch.tries > 0 or batch.leaving then
  redis.call('incr', key('pulse'))
  redis.call('expire', key('pulse'), kept)
end
"""


async def write(
    scripts: Scripts,
    prefix: str,
    batch: Batch,
    now: int,
    limits: Limits = LIMITS,
) -> None:
    """Write a batch down; ``now`` is in milliseconds."""
    keys = JournalKeys(prefix)
    content = {
        "worker": batch.worker,
        "now": now,
        "most": limits.ended,
        "most_failed": limits.failed,
        "most_payloads": limits.payloads,
        "most_tries": MOST_TRIES,
        "slack": SLACK,
        "tries_kept": TRIES_KEPT_SECONDS,
        "beat_kept": BEAT_KEPT_SECONDS,
        "started": [[task_id, one.to_json()] for task_id, one in batch.started.items()],
        "stopped": batch.stopped,
        "tries": [[task_id, one.to_json()] for task_id, one in batch.tries],
        "counts": _counts(keys, batch.minutes),
        "beat": batch.beat.to_json() if batch.beat else False,
        "leaving": batch.leaving,
        "crons": batch.crons,
    }
    told: list[str | bytes] = []
    for ended, payload, trace in batch.ended:
        told += (ended.task_id, ended.name, ended.outcome.value, ended.to_json(), trace, payload)
    await scripts.eval(WRITE, [], [prefix, KEPT_SECONDS, json.dumps(content), *told])


def _counts(keys: JournalKeys, minutes: dict[int, Counter[str]]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    quarters: dict[str, Counter[str]] = {}
    for at, counts in minutes.items():
        found[keys.minute(at)] = {"fields": counts, "kept": MINUTES_KEPT_SECONDS}
        quarters.setdefault(keys.quarter(at), Counter()).update(counts)
    for name, counts in quarters.items():
        found[name] = {"fields": counts, "kept": QUARTERS_KEPT_SECONDS}
    return found
