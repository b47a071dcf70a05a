-- The journal: tasks that ended, attempts that failed, and the tasks that each worker runs. See
-- redis/keys.py.

local ATTEMPTS_KEPT, MOST_ATTEMPTS = 86400, 20  -- seconds to keep a task's attempts, and how many

local function journal_batch(prefix)
  local start = (prefix or '') .. 'journal:'
  return {
    prefix = start, ended = start .. 'ended', payloads = start .. 'payloads',
    ids = {}, names = {}, unlisted = {},
  }
end

-- Add the entry of a task that ended; `one` holds the values that `finish` got for it. If a key of
-- the journal has the wrong type, the entry is lost, but the task's end is recorded.
local function journal_end(journal, one)
  local prefix, name, outcome = journal.prefix, one.name, one.outcome
  local of_name = journal.names[name]
  if not of_name then
    of_name = prefix .. 'ended:of:' .. name
    journal.names[name] = of_name
  end
  local place = redis.pcall('xadd', journal.ended, '*', 'd', one.entry)
  if type(place) == 'table' then return end
  redis.pcall('xadd', of_name, place, 's', outcome)
  local ids = journal.ids
  ids[#ids + 1], ids[#ids + 2] = one.task, place
  if outcome ~= 'done' then
    redis.pcall('xadd', prefix .. 'ended:failed', place, 's', outcome, 'n', name, 't', one.trace or '')
  end
  if one.payload ~= '' then redis.pcall('xadd', journal.payloads, place, 'p', one.payload) end
end

-- Add an attempt that failed or was cut and will be followed by another.
local function journal_attempt(journal, task, attempt)
  local list = journal.prefix .. 'tries:' .. task
  redis.pcall('rpush', list, attempt)
  redis.pcall('ltrim', list, -MOST_ATTEMPTS, -1)
  redis.call('expire', list, ATTEMPTS_KEPT)
end

-- Write the indexes of the tasks that ended, remove these tasks from the running ones, and renew
-- the expiry of each key that was written.
local function flush_journal(journal, worker)
  pcall(each, { 'hset', journal.prefix .. 'ids' }, journal.ids)
  if #journal.ids > 0 then
    for _, name in ipairs({ 'ended', 'ended:failed', 'payloads', 'ids' }) do
      redis.call('expire', journal.prefix .. name, 604800)
    end
  end
  if worker then pcall(each, { 'hdel', journal.prefix .. 'running:' .. worker }, journal.unlisted) end
  for _, of_name in pairs(journal.names) do redis.call('expire', of_name, 604800) end
end

local function trim_ended(key, batch)
  local ended, ids = key('ended'), key('ids')
  local oldest = redis.call('xrange', ended, '-', '+', 'count', 1)[1]
  if not oldest then return end
  local surplus = redis.call('xlen', ended) - batch.most
  if tonumber(string.match(oldest[1], '%d+')) < batch.now - batch.kept * 1000 then
    surplus = math.max(surplus, batch.slack)
  end
  if surplus >= batch.slack then
    local last
    -- Trim in portions, so that a long untrimmed journal doesn't block the server.
    for _, old in ipairs(redis.call('xrange', ended, '-', '+', 'count', math.min(surplus, 5000))) do
      local read, entry = pcall(cjson.decode, old[2][2])
      local id = read and type(entry) == 'table' and entry[1]
      if id and redis.call('hget', ids, id) == old[1] then redis.call('hdel', ids, id) end
      last = old[1]
    end
    redis.call('xtrim', ended, 'minid', last)
    redis.call('xdel', ended, last)
    redis.call('zremrangebyscore', key('names'), 0, batch.now - batch.kept * 1000)
    oldest = redis.call('xrange', ended, '-', '+', 'count', 1)[1]
  end
  for _, name in ipairs(batch.names) do
    local of_name = key('ended:of:' .. name)
    redis.call('zadd', key('names'), batch.now, name)
    if oldest then redis.call('xtrim', of_name, 'minid', '~', oldest[1]) end
    redis.call('expire', of_name, batch.kept)
  end
  redis.call('xtrim', key('ended:failed'), 'maxlen', '~', batch.most_failed)
  redis.call('xtrim', key('payloads'), 'maxlen', '~', batch.most_payloads)
  for _, name in ipairs({ 'ended', 'ended:failed', 'payloads', 'ids', 'names' }) do
    redis.call('expire', key(name), batch.kept)
  end
end

-- Write a worker's heartbeat, its counts and the tasks that it runs; then trim.
-- KEYS[1] is the journal's prefix, ARGV[1] one JSON object.
local function journal(keys, argv)
  local batch = cjson.decode(argv[1])
  batch.now = clock()
  local key = function(name) return keys[1] .. 'journal:' .. name end
  trim_ended(key, batch)
  for name, counts in pairs(batch.counts) do
    for field, n in pairs(counts.fields) do redis.call('hincrby', name, field, n) end
    redis.call('expire', name, counts.kept)
  end
  local running = key('running:' .. batch.worker)
  for _, id in ipairs(batch.stopped) do redis.call('hdel', running, id) end
  for _, started in ipairs(batch.started) do redis.call('hset', running, started[1], started[2]) end
  if batch.leaving then
    redis.call('zrem', key('workers'), batch.worker)
    redis.call('del', key('worker:' .. batch.worker), running)
  elseif batch.beat then
    redis.call('set', key('worker:' .. batch.worker), batch.beat, 'ex', batch.beat_kept)
    redis.call('zadd', key('workers'), batch.now, batch.worker)
    redis.call('zremrangebyscore', key('workers'), 0, batch.now - batch.beat_kept * 1000)
    for rank, name in ipairs(batch.queues) do redis.call('zadd', key('queues'), rank, name) end
    for _, name in ipairs({ 'workers', 'queues' }) do redis.call('expire', key(name), batch.kept) end
  end
  redis.call('expire', running, batch.beat_kept)
  for _, name in ipairs(batch.crons) do redis.call('hsetnx', key('cron'), name, batch.now) end
  if #batch.crons > 0 then redis.call('expire', key('cron'), batch.kept) end
  if batch.happened then
    redis.call('incr', key('pulse'))
    redis.call('expire', key('pulse'), batch.kept)
  end
end
