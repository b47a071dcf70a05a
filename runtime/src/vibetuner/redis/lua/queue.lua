-- The queue: claim, renew, finish, requeue, enqueue, delay, abort. Keys and values are those of
-- streaq 7.2, so that its clients and workers can share a queue with ours. KEYS[1] is always the
-- queue's prefix.

-- Return whether this consumer still owns a message. Within `fresh` milliseconds of its claim,
-- which is less than any idle timeout, nobody else can have claimed it; after that the group is
-- asked. Without the stream or its group, as after a flush, nobody else can own it.
local function owns(stream, group, consumer, id, claimed, fresh, now)
  local age = now - claimed
  if age >= 0 and age < fresh then return true end
  local pending = redis.pcall('xpending', stream, group, id, id, 1, consumer)
  return pending.err ~= nil or #pending > 0
end

-- Return the milliseconds for which a claim is fresh. That is 0 in the second after a claimed
-- message was withdrawn, so that the group is asked; see unique.lua.
local function freshness(prefix, fresh)
  return redis.call('exists', prefix .. ':withdrawn') == 1 and 0 or tonumber(fresh)
end

-- A larger payload or number is not sent: it could take all memory of a worker. Python refuses to
-- enqueue a call of more than 32 MB.
local LARGEST_PAYLOAD, LONGEST_NUMBER = 33554432, 20

-- Add payload, number of tries so far and mark (0 none, 1 abort, 2 a failed dependency) to claimed
-- messages. Each message is { priority, message, task, enqueue time }; returns seven values a message
-- in one flat list. A payload that is too large is empty, and so is the number if no attempt has begun.
local function load_messages(prefix, messages, reply)
  local wanted = {}
  for i, message in ipairs(messages) do
    wanted[2 * i - 1] = prefix .. ':task:data:' .. message[3]
    wanted[2 * i] = prefix .. ':task:retry:' .. message[3]
  end
  local found = values_of(wanted)
  local has_marks = #messages > 0 and redis.call('exists', prefix .. ':aborted', prefix .. ':failing') > 0
  local n = #reply
  for i, message in ipairs(messages) do
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] =
      message[1], message[2], message[3], message[4]
    local payload, tries = found[2 * i - 1], found[2 * i] or ''
    reply[n + 5] = payload and #payload > LARGEST_PAYLOAD and '' or payload
    reply[n + 6] = #tries > LONGEST_NUMBER and '0' or tries
    reply[n + 7] = 0
    if has_marks and redis.pcall('sismember', prefix .. ':failing', message[3]) == 1 then
      reply[n + 7] = 2
    elseif has_marks and is_marked(prefix, message[3]) then
      reply[n + 7] = 1
    end
    n = n + 7
  end
  return reply
end

local function fields_of(entry)
  local task, queued = '', '0'
  local pairs_of = entry[2] or {}
  for i = 1, #pairs_of, 2 do
    if pairs_of[i] == 'task_id' then task = pairs_of[i + 1] end
    if pairs_of[i] == 'enqueue_time' then queued = pairs_of[i + 1] end
  end
  return task, queued
end

-- Claim at most `most` messages that other workers have left idle. XAUTOCLAIM scans ten pending
-- messages for each one that is wanted, so the next claim continues where this one ended.
local function claim_idle(prefix, priority, group, consumer, idle, most)
  local stream, noted = prefix .. ':queues:' .. priority, prefix .. ':scan:' .. priority
  local from, left = redis.call('get', noted), {}
  local at = from or '0-0'
  for _ = 1, 8 do
    local found = redis.call(
      'xautoclaim', stream, group, consumer, idle, at, 'count', most - #left)
    at = found[1]
    for _, entry in ipairs(found[2]) do left[#left + 1] = entry end
    if at == '0-0' or #left >= most then break end
  end
  if at ~= '0-0' then
    redis.call('set', noted, at, 'px', 60000)
  elseif from then
    redis.call('del', noted)
  end
  return left
end

-- Note that a worker has taken a task over from another, or that a lost task is recovered by the worker
-- that runs it; return whether it was not noted before. The note is kept for a day.
local function note_recovered(prefix, task)
  return redis.call('set', prefix .. ':task:lost:' .. task, '1', 'nx', 'px', 86400000) ~= false
end

-- Count attempts that are about to begin, then claim messages: first those that other workers have
-- left idle, then new ones, in the order of the priorities.
-- ARGV: group, consumer, idle ms, fresh ms, messages to claim, number of shares, priority and
-- largest count of each share; then of each attempt about to begin: priority, message, task, its
-- number, time of its claim.
-- Returns the server's time, then seven values of each message; see load_messages.
local function claim(keys, argv)
  local prefix, group, consumer, idle = keys[1], argv[1], argv[2], argv[3]
  local count, shares, now = tonumber(argv[5]), tonumber(argv[6]), clock()
  local fresh = freshness(prefix, argv[4])
  local tries, running = {}, {}
  for i = 7 + 2 * shares, #argv, 5 do
    local stream, task = prefix .. ':queues:' .. argv[i], argv[i + 2]
    -- If another worker has taken the message over, that worker counts the attempt.
    if owns(stream, group, consumer, argv[i + 1], argv[i + 4], fresh, now) then
      tries[#tries + 1] = prefix .. ':task:retry:' .. task
      tries[#tries + 1] = argv[i + 3]
      running[#running + 1] = task
    end
  end
  each({ 'mset' }, tries)
  each({ 'sadd', prefix .. ':index:running' }, running)
  local messages = {}
  for i = 7, 6 + 2 * shares, 2 do
    if count <= 0 then break end
    local stream, most = prefix .. ':queues:' .. argv[i], math.min(count, argv[i + 1])
    local left = claim_idle(prefix, argv[i], group, consumer, idle, most)
    local new = {}
    if #left < most then
      local answer = redis.call(
        'xreadgroup', 'group', group, consumer, 'count', most - #left, 'streams', stream, '>')
      new = answer and answer[1][2] or {}
    end
    for _, entries in ipairs({ left, new }) do
      for _, entry in ipairs(entries) do
        local task, queued = fields_of(entry)
        if entries == left then note_recovered(prefix, task) end
        messages[#messages + 1] = { argv[i], entry[1], task, queued }
        count = count - 1
      end
    end
  end
  return load_messages(prefix, messages, { now })
end

-- Return whether the server has lost a claimed task with all its data, as in an empty restart, or in
-- the promotion of a replica that never got the task. There is neither the message, the payload nor a
-- result, and no other worker can have taken the task over: the stream is younger than the claim, or
-- the claim has not expired.
local function is_gone(prefix, one, idle, now)
  local made = redis.call('hget', prefix .. ':made', one.priority)
  local claimed = tonumber(one.claimed)
  return (not made or tonumber(made) > claimed or now - claimed < tonumber(idle))
    and not is_live(prefix, one.task) and not has_ended(prefix, one.task)
    and #redis.call('xrange', one.stream, one.message, one.message) == 0
end

-- Renew the claim on a message; return false if another consumer has taken it over.
local function renew_claim(stream, group, consumer, id, now)
  local mine = owns(stream, group, consumer, id, 0, 0, now)
  if mine then redis.pcall('xclaim', stream, group, consumer, 0, id, 'justid') end
  return mine
end

-- Load messages that this consumer has claimed.
-- ARGV: group, consumer, 1 to load only those that no other worker has taken over and to renew
-- their claims, then priority, message, task and enqueue time of each. Returns what claim returns.
local function load(keys, argv)
  local messages, now = {}, clock()
  for i = 4, #argv, 4 do
    local stream, id = keys[1] .. ':queues:' .. argv[i], argv[i + 1]
    if argv[3] ~= '1' or renew_claim(stream, argv[1], argv[2], id, now) then
      messages[#messages + 1] = { argv[i], id, argv[i + 2], argv[i + 3] }
    end
  end
  return load_messages(keys[1], messages, { now })
end

-- Remove consumers that were idle for so long: each worker is one of its own, and the server would keep
-- them for ever. One that holds messages stays, as they would be lost with it.
local function remove_consumers(stream, group, idle)
  local found = redis.pcall('xinfo', 'consumers', stream, group)
  for _, one in ipairs(found.err and {} or found) do
    local about = {}
    for i = 1, #one, 2 do about[one[i]] = one[i + 1] end
    if about.pending == 0 and about.idle >= tonumber(idle) then
      redis.pcall('xgroup', 'delconsumer', stream, group, about.name)
    end
  end
end

-- Create the streams of these priorities and their consumer group, where they are missing, and note
-- when: messages that were claimed before that are not in them.
-- ARGV: group, the milliseconds after which an idle consumer is removed, priorities.
local function make_groups(keys, argv)
  for i = 3, #argv do
    local stream = keys[1] .. ':queues:' .. argv[i]
    local answer = redis.pcall('xgroup', 'create', stream, argv[1], '0', 'mkstream')
    if answer.err then  -- it exists
      redis.call('hsetnx', keys[1] .. ':made', argv[i], '0')
      remove_consumers(stream, argv[1], argv[2])
    else
      redis.call('hset', keys[1] .. ':made', argv[i], whole(clock()))
    end
  end
end

-- Renew the claims of running attempts, and the key that tells streaq that the worker lives; remove
-- expired results from their index.
-- ARGV: group, consumer, the worker's heartbeat, idle ms, then priority, message, task and time of the
-- claim of each. Returns the server's time, then for each message 1, or 0 if another worker has taken
-- it over; one that the server has lost is still this worker's.
local function renew(keys, argv)
  local reply = { clock() }
  redis.call('set', keys[1] .. ':health:' .. argv[2], argv[3], 'px', argv[4])
  redis.call('zremrangebyscore', keys[1] .. ':index:results', 0, reply[1])
  for i = 5, #argv, 4 do
    local one = {
      stream = keys[1] .. ':queues:' .. argv[i], priority = argv[i], message = argv[i + 1],
      task = argv[i + 2], claimed = argv[i + 3],
    }
    local mine = renew_claim(one.stream, argv[1], argv[2], one.message, reply[1])
      or is_gone(keys[1], one, argv[4], reply[1])
    reply[#reply + 1] = mine and 1 or 0
  end
  return reply
end

-- Return the members of a set; none if the key has another type.
local function members(key)
  local found = redis.pcall('smembers', key)
  return found.err and {} or found
end

-- Return the stream for a task that waited for others: as enqueue recorded it, or `otherwise`.
local function queue_of(prefix, task, otherwise)
  local noted = prefix .. ':task:queue:' .. task
  local queue = redis.call('get', noted)
  if not queue then return otherwise end
  redis.call('del', noted)
  return prefix .. ':queues:' .. queue
end

-- Note where a task is that may expire, for replace_expired: its message and its stream, or `-` and the
-- set of delayed tasks.
local function note_expiring(prefix, task, message, place)
  if type(message) == 'table' then return end  -- an error
  redis.call('set', prefix .. ':task:message:' .. task, message .. ' ' .. place, 'px', UNREAD)
end

-- Note the message of a task that was delayed or waited for others, if it may expire.
local function note_queued(prefix, task, message, stream)
  if redis.call('exists', prefix .. ':task:message:' .. task) == 1 then
    note_expiring(prefix, task, message, stream)
  end
end

-- Queue a task that waited for others: where enqueue recorded it, or in `otherwise`.
local function queue_follower(prefix, task, otherwise, now)
  local stream = queue_of(prefix, task, otherwise)
  note_queued(prefix, task, post(stream, task, now), stream)
end

-- Remove a task from those that `dependent` waits for; if it was the last one, queue `dependent`.
-- With `result`, the task has succeeded, and `dependent` is its fallback, which takes that result over.
local function release(prefix, stream, task, dependent, now, result)
  local dependencies = prefix .. ':task:dependencies:' .. dependent
  if result then redis.call('set', prefix .. ':task:fallback:' .. dependent, result, 'px', UNREAD) end
  redis.call('srem', dependencies, task)
  if redis.call('scard', dependencies) > 0 then return end
  queue_follower(prefix, dependent, stream, now)
end

-- Release all dependents of a task that succeeded; `~id` marks one that starts even if it failed.
local function release_dependents(prefix, stream, task, result, otherwise, now)
  for _, noted in ipairs(members(prefix .. ':task:dependents:' .. task)) do
    local dependent = noted:gsub('^~', '')
    release(prefix, stream, task, dependent, now, dependent == otherwise and result)
  end
  redis.call('del', prefix .. ':task:dependents:' .. task, prefix .. ':task:dependencies:' .. task)
end

-- Let a task fail because of another, which `blamed` names: the worker that claims it records its end,
-- however long it waits until then. One of streaq's own does not know this mark, and aborts it.
local function blame(prefix, task, blamed)
  redis.call('sadd', prefix .. ':failing', task)
  mark(prefix, task)
  redis.call('set', prefix .. ':task:blamed:' .. task, blamed, 'px', UNREAD)
end

-- Remove a task's dependencies; return whether it had any. With `heir`, its fallback, that one waits
-- for them, and starts even if they fail.
local function stop_waiting(prefix, task, heir)
  local dependencies = prefix .. ':task:dependencies:' .. task
  local first, is_inherited = members(dependencies), heir and is_live(prefix, heir)
  for _, other in ipairs(first) do
    redis.pcall('srem', prefix .. ':task:dependents:' .. other, task, '~' .. task)
    if is_inherited then
      redis.call('sadd', prefix .. ':task:dependencies:' .. heir, other)
      redis.pcall('sadd', prefix .. ':task:dependents:' .. other, '~' .. heir)
    end
  end
  redis.call('del', dependencies)
  return #first > 0
end

-- Queue all dependents of a failed task but its fallback: those that start even if it failed, and
-- the others to fail in turn. They are queued in the step that records its end, so that none is lost
-- with the worker that takes this step. Return whether the fallback waited for this task, which it
-- does not if it was aborted.
local function fail_dependents(prefix, one, now)
  local dependents, has_fallback = prefix .. ':task:dependents:' .. one.task, false
  for _, noted in ipairs(members(dependents)) do
    local dependent, regardless = noted:gsub('^~', '')
    if regardless == 1 then
      release(prefix, one.stream, one.task, dependent, now)
    elseif dependent == one.otherwise then
      redis.call('srem', prefix .. ':task:dependencies:' .. dependent, one.task)
      has_fallback = true
    else
      stop_waiting(prefix, dependent)
      blame(prefix, dependent, one.name .. ' ' .. one.task)
      queue_follower(prefix, dependent, one.stream, now)
    end
  end
  redis.call('del', dependents)
  return has_fallback
end

-- A larger result is not published, but looked up: a message of more than 32 MB exceeds a limit of the
-- server, which then ends the connections of all clients that listen. Clients of streaq need the
-- message of any other result.
local LARGEST_MESSAGE = 8388608

-- Record the end of a task: its result, its dead letter, its dependents and its journal entry.
-- `one` holds the values that the worker sent, by name; `batch` collects the keys to delete and to
-- index together.
local function record_end(prefix, one, batch, now)
  local task, ttl = one.task, one.ttl
  local is_small = ttl == '0' or #one.value <= LARGEST_MESSAGE
  redis.call('publish', prefix .. ':channels:' .. task, is_small and one.value or '')
  if ttl ~= '0' then
    if ttl == '' then
      redis.call('set', prefix .. ':task:results:' .. task, one.value)
      if one.kind ~= 's' then redis.call('set', prefix .. ':task:failed:' .. task, one.name) end
    else
      redis.call('set', prefix .. ':task:results:' .. task, one.value, 'px', ttl)
      if one.kind ~= 's' then redis.call('set', prefix .. ':task:failed:' .. task, one.name, 'px', ttl) end
    end
    local results = batch.results
    results[#results + 1], results[#results + 2] = now + (ttl == '' and 1e14 or ttl), task
  end
  if batch.grouped then leave_group(prefix, task, now) end
  local deleted = batch.deleted
  batch.ended[#batch.ended + 1] = task
  deleted[#deleted + 1] = prefix .. ':task:retry:' .. task
  deleted[#deleted + 1] = prefix .. ':task:data:' .. task
  if not one.message or one.message == '' then
    for _, what in ipairs({ 'queue', 'fallback', 'message' }) do
      append(batch.deleted, prefix .. ':task:' .. what .. ':' .. task)
    end
  end
  if one.expires or one.gone then append(deleted, prefix .. ':task:message:' .. task) end
  if one.taken_over then append(batch.deleted, prefix .. ':task:fallback:' .. task) end
  if one.letter then keep_letter(batch.letters, batch.places, task, one.letter) end
  if one.following then
    redis.call('set', prefix .. ':task:previous:' .. task, one.following, 'px', 604800000)
  end
  if one.kind == 's' then
    if batch.linked then
      release_dependents(prefix, one.stream, task, one.value, one.otherwise, now)
    end
  else
    -- The fallback of a task that was aborted while it waited may have to wait, too.
    if batch.linked and fail_dependents(prefix, one, now)
      and redis.call('exists', prefix .. ':task:dependencies:' .. one.otherwise) == 0 then
      queue_follower(prefix, one.otherwise, one.stream, now)
    end
  end
  if one.entry ~= '' then journal_end(batch.journal, one) end
end

local function new_batch(keys)
  return {
    letters = keys[2], places = keys[3], journal = journal_batch(keys[4]), linked = false,
    grouped = redis.call('exists', keys[1] .. ':unique') == 1,
    acknowledged = {}, results = {}, ended = {}, deleted = {}, stopped = {},
  }
end

local function flush_batch(prefix, group, batch, consumer)
  for stream, ids in pairs(batch.acknowledged) do
    each({ 'xack', stream, group }, ids)
    each({ 'xdel', stream }, ids)
  end
  each({ 'srem', prefix .. ':index:running' }, batch.stopped)
  if #batch.ended > 0 and redis.call('exists', prefix .. ':aborted', prefix .. ':failing') > 0 then
    for _, task in ipairs(batch.ended) do append(batch.deleted, prefix .. ':task:blamed:' .. task) end
    for _, marks in ipairs({ ':aborted', ':failing' }) do each({ 'srem', prefix .. marks }, batch.ended) end
  end
  each({ 'del' }, batch.deleted)
  each({ 'zadd', prefix .. ':index:results' }, batch.results)
  flush_journal(batch.journal, consumer)
end

local EXTRAS = {
  j = 'listed', l = 'lock', f = 'following', o = 'otherwise', d = 'letter', t = 'attempt', x = 'trace',
  b = 'taken_over', e = 'expires', g = 'gone',
}

-- Return, once, whether the server has lost a claimed task; see is_gone. Not if another worker has
-- ever taken the task over, one with a shorter idle timeout: that one records the end.
local function is_lost(prefix, one, idle, now)
  return is_gone(prefix, one, idle, now)
    and note_recovered(prefix, one.task)
end

-- Record how attempts ended, many in one step.
-- KEYS: the queue's prefix, dead letters, their hash from task to entry, the journal's prefix.
-- ARGV: group, consumer, idle ms, fresh ms, the worker's time, the name of this step, 1 if it is
-- sent again; then of each attempt: kind (s success, f failure, r retry, h requeue and uncount the
-- attempt, u requeue one that was not counted), priority, message (empty for a task that was in no
-- stream), task, time of its claim, result or time of the retry by the worker's clock, lifetime of
-- the result or (r, h) the number of attempts that count, task name, outcome, journal entry, payload
-- for the journal, number of extras, and two values of each extra.
-- Returns an entry for each attempt that did not simply end: its position, then nothing if another
-- worker has taken its message over, or `?` if the server has lost the task, which is to be tried
-- again and must be enqueued anew.
local function finish(keys, argv)
  local prefix, group, consumer, idle = keys[1], argv[1], argv[2], argv[3]
  local fresh, time = freshness(prefix, argv[4]), clock()
  local now, ahead = whole(time), argv[5] - time
  local answered = prefix .. ':answered:' .. argv[6]
  if argv[7] == '1' then
    local known = redis.call('get', answered)
    if known then return cjson.decode(known) end
  end
  local ends, links, i = {}, {}, 8
  while i <= #argv do
    local one = {
      kind = argv[i], stream = prefix .. ':queues:' .. argv[i + 1], priority = argv[i + 1],
      message = argv[i + 2], task = argv[i + 3], claimed = argv[i + 4], value = argv[i + 5],
      ttl = argv[i + 6], name = argv[i + 7], outcome = argv[i + 8], entry = argv[i + 9],
      payload = argv[i + 10],
    }
    local last = i + 11 + 2 * argv[i + 11]
    for at = i + 12, last, 2 do one[EXTRAS[argv[at]]] = argv[at + 1] end
    ends[#ends + 1] = one
    if one.kind == 's' or one.kind == 'f' then
      links[#links + 1] = prefix .. ':task:dependents:' .. one.task
    end
    i = last + 1
  end
  local batch, reply, soonest = new_batch(keys), {}, nil
  batch.linked = each({ 'exists' }, links) > 0
  for place, one in ipairs(ends) do
    local kind, stream, id, task = one.kind, one.stream, one.message, one.task
    local is_again = kind == 'r' or kind == 'h'
    local is_mine = id == '' or owns(stream, group, consumer, id, one.claimed, fresh, time)
    local lost = id ~= '' and kind ~= 'u' and (is_again or not is_mine) and is_lost(prefix, one, idle, time)
    if not is_mine and not lost then
      append(reply, { place })
    elseif lost and is_again then
      append(reply, { place, '?' })
    elseif one.gone and id ~= ''
      and redis.call('exists', prefix .. ':task:data:' .. task, prefix .. ':task:results:' .. task) > 0 then
      -- The task has ended, and this is a second message for it; or it expired, and its id is in use.
      drop(prefix, stream, group, id, task)
      append(reply, { place })
    else
      if one.lock and redis.call('get', one.lock) == task then append(batch.deleted, one.lock) end
      if kind ~= 'u' then batch.stopped[#batch.stopped + 1] = task end
      -- The count that was sent when the attempt began may have been refused.
      if is_again then redis.call('set', prefix .. ':task:retry:' .. task, one.ttl) end
      if kind == 'h' or kind == 'u' then
        redis.pcall('xclaim', stream, group, consumer, 0, id, 'idle', idle, 'justid')
      elseif id ~= '' then
        local ids = batch.acknowledged[stream] or {}
        batch.acknowledged[stream], ids[#ids + 1] = ids, id
      end
      if batch.grouped and (kind == 'r' or kind == 'h') then wait_again(prefix, task, kind == 'r') end
      if kind == 'r' then
        local moment = one.value - ahead
        -- A task that is to be aborted ends when it is claimed, so its retry is due now.
        if is_marked(prefix, task) then moment = time end
        redis.call('zadd', prefix .. ':queues:delayed:' .. one.priority, whole(moment), task)
        if not soonest or moment < soonest then soonest = moment end
      elseif kind == 's' or kind == 'f' then
        record_end(prefix, one, batch, now)
      end
      if one.attempt then journal_attempt(batch.journal, task, one.attempt) end
      if one.listed then append(batch.journal.unlisted, task) end
    end
  end
  if soonest then redis.call('publish', prefix .. ':delayed', whole(soonest)) end
  flush_batch(prefix, group, batch, consumer)
  -- For as long as the claims of these attempts let them look lost; see is_gone.
  local kept = math.min(math.max(tonumber(idle), 30000), 300000)
  redis.call('set', answered, cjson.encode(reply), 'px', kept)
  return reply
end

-- Enqueue delayed tasks that are due. ARGV: the priorities.
-- Returns the milliseconds until the next one is due.
local function due(keys, argv)
  local now, soonest = whole(clock()), false
  local grouped = redis.call('exists', keys[1] .. ':unique') == 1
  if grouped then sweep_groups(keys[1], now) end
  for i = 1, #argv do
    local delayed = keys[1] .. ':queues:delayed:' .. argv[i]
    local stream = keys[1] .. ':queues:' .. argv[i]
    local ready = redis.call(
      'zrange', delayed, '-inf', now, 'byscore', 'limit', 0, 1000, 'withscores')
    local gone = {}
    for j = 1, #ready, 2 do
      gone[#gone + 1] = ready[j]
      local message = post(stream, ready[j], ready[j + 1])
      note_queued(keys[1], ready[j], message, stream)
      if grouped then note_message(keys[1], ready[j], message) end
    end
    each({ 'zrem', delayed }, gone)
    local first = redis.call('zrange', delayed, 0, 0, 'withscores')[2]
    if first and (not soonest or tonumber(first) < tonumber(soonest)) then soonest = first end
  end
  local time = redis.call('time')  -- with its microseconds, or the client would sleep too long
  return soonest and string.format('%.3f', soonest - time[1] * 1000 - time[2] / 1000)
end

-- Schedule the next run of a cron task, unless another worker has done so, or the schedule was removed.
-- ARGV: task name, id of the next run, its time, priority, its payload or nothing. Returns 1 if
-- this call scheduled it.
local function cron(keys, argv)
  local prefix, name, task, moment = keys[1], argv[1], argv[2], argv[3]
  if redis.call('hexists', prefix .. ':cron:jobs', name) == 0 then return 0 end
  local changed = redis.call('zadd', prefix .. ':cron:schedule', 'gt', 'ch', moment, name)
  if changed ~= 0 then
    redis.call('zadd', prefix .. ':queues:delayed:' .. argv[4], moment, task)
    if argv[5] ~= '' then redis.call('set', prefix .. ':task:data:' .. task, argv[5], 'nx') end
  end
  return changed
end

-- No run is later: the year 10000, in milliseconds.
local LAST_MOMENT = 253402300800000

-- Remove a run of a schedule, unless it is due.
local function drop_run(prefix, task, now)
  local made = redis.call('hgetall', prefix .. ':made')
  for i = 1, #made, 2 do
    local delayed = prefix .. ':queues:delayed:' .. made[i]
    if tonumber(redis.call('zscore', delayed, task) or 0) > now then
      redis.call('zrem', delayed, task)
      redis.call('del', prefix .. ':task:data:' .. task)
    end
  end
end

-- Store a schedule, and its next run in place of the one that is not due yet. A run that is due takes
-- place.
-- KEYS: the queue's prefix, the journal's hash of cron tasks. ARGV: name, crontab line, payload, the
-- time of the scheduled run or 0, priority, the time of the next run, the id of the scheduled run, the
-- id of a repeated call or nothing, then id and payload of the next run, and others for it if the
-- first id is taken.
-- Returns nothing if the scheduled run has changed meanwhile, so that the call must be made anew.
local function declare_cron(keys, argv)
  local prefix, name, schedule = keys[1], argv[1], keys[1] .. ':cron:schedule'
  local score = redis.call('zscore', schedule, name) or '0'  -- or inf
  local due = score:sub(1, 1) == '-' and 0 or math.min(tonumber(score) or LAST_MOMENT, LAST_MOMENT)
  if due ~= tonumber(argv[4]) then return false end
  redis.call('set', prefix .. ':cron:data:' .. name, argv[3])
  if redis.call('hget', prefix .. ':cron:jobs', name) ~= argv[2] then
    redis.call('hset', prefix .. ':cron:jobs', name, argv[2])
    redis.call('hdel', keys[2], name)  -- no run of this line was missed yet
  end
  if argv[8] ~= '' then redis.call('hset', prefix .. ':cron:queues', name, argv[5]) end
  local now = clock()
  if due > now then
    drop_run(prefix, argv[7], now)
    if argv[8] ~= '' then drop_run(prefix, argv[8], now) end
    redis.call('zrem', schedule, name)
  end
  local i = 9
  while argv[i + 2] and redis.call(
    'exists', prefix .. ':task:data:' .. argv[i], prefix .. ':task:results:' .. argv[i]) > 0 do
    i = i + 2
  end
  return cron(keys, { name, argv[i], argv[6], argv[5], argv[i + 1] })
end

-- Repeat a call at each time of a crontab line; see declare_cron.
local function repeat_call(keys, argv)
  return declare_cron(keys, argv)
end

-- Return whether a row of an outbox was handed on; `mark` tells it from other rows of this task's id.
-- Workers of older versions note a 1.
local function was_handed_on(prefix, task, mark)
  local noted = redis.call('get', prefix .. ':task:handed:' .. task)
  return noted == mark or noted == '1'
end

-- Return the first of the tasks to be followed that neither waits nor runs, has no result, and is not
-- enqueued in this step; nil if there is none. The tasks' values begin at `i`; see enqueue. `outbox`
-- has the tasks that an outbox holds, with the marks of their rows; one of these is gone if it was
-- handed on.
local function gone_from(prefix, argv, i, outbox)
  local followed, at = {}, i
  while at <= #argv do
    local last = at + 5 + argv[at + 5]
    for j = at + 6, last do followed[#followed + 1] = argv[j]:gsub('^~', '') end
    at = last + 1
  end
  if #followed == 0 then return end
  local here = {}
  for task, mark in pairs(outbox or {}) do here[task] = not was_handed_on(prefix, task, mark) end
  while i <= #argv do
    here[argv[i]] = true
    i = i + 6 + argv[i + 5]
  end
  for _, task in ipairs(followed) do
    if not here[task] and not is_here(prefix, task)
      and redis.call('exists', prefix .. ':task:results:' .. task) == 0 then return task end
  end
end

-- Let a new task wait for others, argv[i] to argv[last]; return whether it waits. If one of these has
-- failed, or is `gone`, the task fails when a worker claims it.
local function follow(prefix, task, priority, argv, i, last, gone)
  local open, blamed = {}, nil
  for j = i, last do
    local first, regardless = argv[j]:gsub('^~', '')
    if redis.call('exists', prefix .. ':task:results:' .. first) == 0 then
      open[first] = regardless == 1 and '~' .. task or task
    elseif regardless == 0 then
      local name = redis.call('get', prefix .. ':task:failed:' .. first)
      blamed = name and name .. ' ' .. first or blamed
    end
  end
  blamed = gone and gone .. ', which is gone' or blamed
  if blamed then  -- it fails now, as it would if that task failed later
    blame(prefix, task, blamed)
    return false
  end
  if next(open) == nil then return false end
  for first, dependent in pairs(open) do
    redis.call('sadd', prefix .. ':task:dependencies:' .. task, first)
    redis.call('sadd', prefix .. ':task:dependents:' .. first, dependent)
  end
  if last > i then redis.call('set', prefix .. ':task:parts:' .. task, last - i + 1, 'px', 604800000) end
  redis.call('set', prefix .. ':task:queue:' .. task, priority)
  return true
end

-- Remove an earlier task of this id that has expired while it waited.
local function replace_expired(prefix, task)
  local known = redis.pcall('get', prefix .. ':task:message:' .. task)
  local message, place = (type(known) == 'string' and known or ''):match('^(%S+) (.*)$')
  if not message then return end
  stop_waiting(prefix, task)
  for _, marks in ipairs({ ':aborted', ':failing' }) do redis.pcall('srem', prefix .. marks, task) end
  if message == '-' then
    redis.pcall('zrem', place, task)
  else
    redis.pcall('xdel', place, message)
  end
end

-- Enqueue the tasks whose values begin at `i`; see enqueue. With `is_batch`, the others depend on
-- the first: if its id is taken, enqueue none. With `gone`, a task that the only one was to follow and
-- that nobody knows, it fails. With `call` as redis.pcall, a task whose queue refuses it has that error
-- as its reply, and the others are enqueued.
local function enqueue_from(prefix, argv, i, is_batch, gone, call)
  call = call or redis.call
  local now, reply, soonest = whole(clock()), {}, nil
  while i <= #argv do
    local task, lifetime, priority = argv[i], argv[i + 3], argv[i + 4]
    local moment = moment_of(argv[i + 2], now)
    local last = i + 5 + argv[i + 5]
    local answer, has_ended = 1, redis.call('exists', prefix .. ':task:results:' .. task) == 1
    if has_ended or not store_payload(prefix, task, argv[i + 1], lifetime, 'nx') then
      answer = has_ended and -1 or 0
      if is_batch and #reply == 0 then return { answer } end
    else
      local stream, delayed = prefix .. ':queues:' .. priority, prefix .. ':queues:delayed:' .. priority
      local message, place = '-', delayed
      if lifetime ~= '0' then replace_expired(prefix, task) end
      if last > i + 5 and follow(prefix, task, priority, argv, i + 6, last, gone) then
        -- The last of the others queues it.
      elseif moment == '0' then
        answer = post(stream, task, now, call)
        message, place = answer, stream
      else
        local added = call('zadd', delayed, moment, task)
        answer = type(added) == 'table' and added or answer
        if not soonest or tonumber(moment) < tonumber(soonest) then soonest = moment end
      end
      if lifetime ~= '0' then note_expiring(prefix, task, message, place) end
    end
    reply[#reply + 1] = answer
    i = last + 1
  end
  if soonest then redis.call('publish', prefix .. ':delayed', soonest) end
  return reply
end

-- Enqueue tasks. ARGV, of each: id, payload, time (see moment_of) or 0, lifetime or 0, priority,
-- number of dependencies, and these, with a ~ before those that may fail. A dependency whose result is
-- kept has ended.
-- Returns for each task 0 if its id waits or runs already, -1 if a result is kept under its id, any
-- other value if it was enqueued; or, with nothing enqueued, only `?` and the id of a dependency that
-- is gone.
local function enqueue(keys, argv)
  local gone = gone_from(keys[1], argv, 1)
  return gone and { '?' .. gone } or enqueue_from(keys[1], argv, 1)
end

-- Enqueue the tasks of several callers, none of which follows another: like enqueue, and the error of
-- one is in its place of the reply.
local function enqueue_each(keys, argv)
  return enqueue_from(keys[1], argv, 1, false, nil, redis.pcall)
end

-- Enqueue a task and those that it waits for, or none if its id is taken; one of the others whose
-- id is taken stays as it is. ARGV: what enqueue takes, that task first. Returns its answer.
local function enqueue_batch(keys, argv)
  local gone = gone_from(keys[1], argv, 1)
  return gone and '?' .. gone or enqueue_from(keys[1], argv, 1, true)[1]
end

-- Enqueue a task under an idempotency key, unless one was; see enqueue_once.
local function enqueue_keyed(prefix, argv, gone, is_checked)
  local once = prefix .. ':task:once:' .. argv[1]
  local known = redis.call('get', once)
  if known then
    local space = known:find(' ["', 1, true)  -- the digest is a JSON list, and an id may have spaces
    return { known:sub(1, space - 1), known:sub(space + 1) }
  end
  local task = argv[4]
  local missing = not is_checked and gone_from(prefix, argv, 4)
  if missing then return { '?' .. missing } end
  local answer = enqueue_from(prefix, argv, 4, true, gone)[1]
  if answer == 0 or answer == -1 then return { answer } end
  redis.call('set', once, task .. ' ' .. argv[3], 'px', argv[2])
  redis.call('set', prefix .. ':task:keyed:' .. task, argv[1], 'px', argv[2])
  return { task, argv[3] }
end

-- Enqueue a task unless one was enqueued under its idempotency key.
-- ARGV: the key, its lifetime, a digest of the call, then what enqueue_batch takes.
-- Returns the id of the task that has the key, and the digest of its call; or only what enqueue
-- returns if its id is taken or a dependency is gone.
local function enqueue_once(keys, argv)
  return enqueue_keyed(keys[1], argv)
end

-- Enqueue the task of an outbox row, once, however often the row is handed on.
-- ARGV: the row's mark; how long to remember it; as JSON, the dependencies that an outbox holds and
-- the marks of their rows, to wait for them; a dependency that is gone, to fail, or nothing; the
-- idempotency key or nothing, its lifetime, a digest of the call, then the values that enqueue takes
-- for one task.
-- Returns nothing if it was handed on before, what enqueue_once returns if there is a key, what
-- enqueue returns if its id is taken or a dependency is gone, else this task and an empty text.
local function hand_on(keys, argv)
  local mark, task = argv[1], argv[8]
  if was_handed_on(keys[1], task, mark) then return {} end
  local gone = gone_from(keys[1], argv, 8, cjson.decode(argv[3]))
  if gone and gone ~= argv[4] then return { '?' .. gone } end
  local answer
  if argv[5] ~= '' then
    answer = enqueue_keyed(keys[1], { unpack(argv, 5) }, gone, true)
  else
    local added = enqueue_from(keys[1], argv, 8, nil, gone)[1]
    answer = (added == 0 or added == -1) and { added } or { task, '' }
  end
  -- Another task may have this id; this row is not that task's.
  if #answer > 1 then redis.call('set', keys[1] .. ':task:handed:' .. task, mark, 'px', argv[2]) end
  return answer
end

-- Abort a task: one that is delayed, in line, stranded or waits for others ends here; one that is
-- queued or runs is marked.
-- KEYS as for finish. ARGV: group, task, its result, the result's lifetime, its name, its
-- journal entry, its fallback, its unique lock, then the priorities.
-- Returns `over` (ended or unknown), `marked` or `ended`.
local function abort(keys, argv)
  local prefix, now, task = keys[1], whole(clock()), argv[2]
  if redis.call('exists', prefix .. ':task:results:' .. task) == 1 or not is_here(prefix, task) then
    return 'over'
  end
  local one, fallback = member(prefix, task), argv[7] ~= '' and argv[7] or nil
  local is_idle = one and (leave_line(one) or is_stranded(prefix, one))
    or stop_waiting(prefix, task, fallback)
  for i = 9, #argv do
    if is_idle or redis.call('zrem', prefix .. ':queues:delayed:' .. argv[i], task) == 1 then
      local batch = new_batch(keys)
      batch.linked = true
      local one = {
        kind = 'f', stream = prefix .. ':queues:' .. argv[i], task = task, value = argv[3],
        ttl = argv[4], name = argv[5], outcome = 'aborted', entry = argv[6], payload = '',
        otherwise = fallback,
      }
      if redis.call('get', argv[8]) == task then append(batch.deleted, argv[8]) end
      record_end(prefix, one, batch, now)
      flush_batch(prefix, argv[1], batch)
      return 'ended'
    end
  end
  mark(prefix, task)
  return 'marked'
end

-- Return every message that this consumer has claimed. ARGV: group, consumer, priorities.
-- Returns priority and message of each.
local function held(keys, argv)
  local reply = {}
  for i = 3, #argv do
    local stream = keys[1] .. ':queues:' .. argv[i]
    local pending = redis.pcall('xpending', stream, argv[1], '-', '+', 10000, argv[2])
    for _, entry in ipairs(pending.err and {} or pending) do
      append(reply, argv[i], entry[1])
    end
  end
  return reply
end
