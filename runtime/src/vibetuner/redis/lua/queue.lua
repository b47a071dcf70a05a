-- What a worker asks of the server, in one step each. Keys, values and their meaning are those of
-- streaq 7.2, so that its own workers and ours share a queue. KEYS[1] starts every key of the queue.

local function before(one, other)
  local ms, seq = one:match('(%d+)-(%d+)')
  local other_ms, other_seq = other:match('(%d+)-(%d+)')
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(seq) < tonumber(other_seq)
end

-- Whether messages are this consumer's, by their ids. ``messages`` has the ids of each stream.
local function owned(group, consumer, messages)
  local mine = {}
  for stream, ids in pairs(messages) do
    local first, last = ids[1], ids[1]
    for _, id in ipairs(ids) do
      if before(id, first) then first = id end
      if before(last, id) then last = id end
    end
    local pending = redis.pcall('xpending', stream, group, first, last, 1000000, consumer)
    if pending.err then
      -- Without the stream, as after a flush, nobody else can own them.
      for _, id in ipairs(ids) do mine[stream .. id] = true end
    else
      for _, entry in ipairs(pending) do mine[stream .. entry[1]] = true end
    end
  end
  return mine
end

-- ARGV: group, consumer, idle, count, then the priorities, highest first.
-- Returns priority, message, task and moment of each message, in one flat list.
local function read(keys, argv)
  local group, consumer, idle, count = argv[1], argv[2], argv[3], tonumber(argv[4])
  local found = {}
  for i = 5, #argv do
    local stream = keys[1] .. ':queues:' .. argv[i]
    local claimed = redis.call('xautoclaim', stream, group, consumer, idle, '0-0', 'count', count)[2]
    local fresh = {}
    if #claimed < count then
      local answer = redis.call(
        'xreadgroup', 'group', group, consumer, 'count', count - #claimed, 'streams', stream, '>')
      fresh = answer and answer[1][2] or {}
    end
    for _, entries in ipairs({ claimed, fresh }) do
      for _, entry in ipairs(entries) do
        local fields = {}
        for j = 1, #entry[2], 2 do fields[entry[2][j]] = entry[2][j + 1] end
        found[#found + 1] = argv[i]
        found[#found + 1] = entry[1]
        found[#found + 1] = fields['task_id']
        found[#found + 1] = fields['enqueue_time'] or '0'
        count = count - 1
      end
    end
    if count <= 0 then break end
  end
  return found
end

-- ARGV: group, consumer, then mode, priority, message and task of each. Mode 1 begins it and counts
-- a try, 0 begins it ahead, and + counts the try of one that was begun ahead and is now run.
-- Returns for each but the last kind: payload, try and whether it was aborted; nothing if another
-- worker has it.
local function start(keys, argv)
  local prefix, group, consumer = keys[1], argv[1], argv[2]
  local messages, owned_messages, running, begun, wanted = {}, {}, {}, {}, {}
  for i = 3, #argv, 4 do
    add(messages, prefix .. ':queues:' .. argv[i + 1], argv[i + 2])
    if argv[i] ~= '+' then wanted[#wanted + 1] = prefix .. ':task:data:' .. argv[i + 3] end
    if argv[i] == '0' then wanted[#wanted + 1] = prefix .. ':task:retry:' .. argv[i + 3] end
  end
  local mine = owned(group, consumer, messages)
  local aborts = redis.call('exists', prefix .. ':aborted') == 1
  local found = values(wanted)
  local at = 0
  for i = 3, #argv, 4 do
    local mode, stream, id, task = argv[i], prefix .. ':queues:' .. argv[i + 1], argv[i + 2], argv[i + 3]
    local tries, payload, earlier
    if mode ~= '+' then
      at = at + 1
      payload = found[at]
    end
    if mode == '0' then
      at = at + 1
      earlier = tonumber(found[at] or 0)
    end
    if not mine[stream .. id] then
      -- Who has it counts its own.
    elseif mode == '0' then
      tries = earlier + 1
    else
      add(owned_messages, stream, id)
      running[#running + 1] = task
      tries = redis.call('incr', prefix .. ':task:retry:' .. task)
    end
    if mode ~= '+' then
      begun[#begun + 1] = tries
        and { payload, tries, aborts and redis.call('srem', prefix .. ':aborted', task) or 0 }
        or false
    end
  end
  for stream, ids in pairs(owned_messages) do
    each({ 'xclaim', stream, group, consumer, 0 }, ids, 'justid')
  end
  each({ 'sadd', prefix .. ':index:running' }, running)
  return begun
end

local SEARCHED = {
  'task_id', 'task_name', 'cause', 'fingerprint', 'error', 'error_type', 'failed_at' }

local function keep_letter(letters, places, task, letter)
  local known = redis.call('hget', places, task)
  if known and #redis.call('xrange', letters, known, known) > 0 then return end
  -- Beside the letter what a search compares; see dead_letters/stream.py.
  local whole, about = cjson.decode(letter), {}
  for _, name in ipairs(SEARCHED) do about[name] = whole[name] end
  local place = redis.call('xadd', letters, '*', 'letter', letter, 'about', cjson.encode(about))
  redis.call('hset', places, task, place)
end

local function release_dependents(prefix, stream, task, result, otherwise, now)
  local released = {}
  for _, dependent in ipairs(redis.call('smembers', prefix .. ':task:dependents:' .. task)) do
    local dependencies = prefix .. ':task:dependencies:' .. dependent
    redis.call('srem', dependencies, task)
    if redis.call('scard', dependencies) == 0 then
      if dependent == otherwise then
        redis.call('set', prefix .. ':task:fallback:' .. dependent, result)
      end
      redis.call('xadd', stream, '*', 'task_id', dependent, 'enqueue_time', now)
      released[#released + 1] = dependent
    end
  end
  redis.call('del', prefix .. ':task:dependents:' .. task, prefix .. ':task:dependencies:' .. task)
  return released
end

-- All that depend on a task, near and far; what depends on its fallback alone is left out.
local function fail_dependents(prefix, task, otherwise)
  local seen, failed, open = {}, {}, { task }
  while #open > 0 do
    local current = table.remove(open)
    if not seen[current] then
      seen[current] = true
      for _, dependent in ipairs(redis.call('smembers', prefix .. ':task:dependents:' .. current)) do
        redis.call('srem', prefix .. ':task:dependencies:' .. dependent, current)
        if dependent ~= otherwise then open[#open + 1] = dependent end
      end
      redis.call('del', prefix .. ':task:dependents:' .. current)
      if current ~= task then failed[#failed + 1] = current end
    end
  end
  return failed
end

-- KEYS: prefix, dead letters, their places. ARGV: group, consumer, idle, now, the name of this step,
-- 1 where it is sent again, then ten of each task:
-- kind (success, failure, retry, hand-back, begun in vain, unread), priority, message, task, result or moment of the
-- retry, lifetime of the result, lock, arguments for what follows, fallback, dead letter.
-- Returns for each: the tasks that were released or have failed with it; nothing if another worker
-- has taken the task over, whose run it is that counts.
local function finish(keys, argv)
  local prefix, group, consumer, idle, now = keys[1], argv[1], argv[2], argv[3], argv[4]
  local answered = prefix .. ':answered:' .. argv[5]
  if argv[6] == '1' then
    local known = redis.call('get', answered)
    if known then return cjson.decode(known) end
  end
  local messages, links = {}, {}
  for i = 7, #argv, 10 do
    add(messages, prefix .. ':queues:' .. argv[i + 1], argv[i + 2])
    links[#links + 1] = prefix .. ':task:dependents:' .. argv[i + 3]
    links[#links + 1] = prefix .. ':task:dependencies:' .. argv[i + 3]
  end
  local mine = owned(group, consumer, messages)
  local linked = each({ 'exists' }, links) > 0
  local acked, run, forgotten, ended, kept, ends = {}, {}, {}, {}, {}, {}
  for i = 7, #argv, 10 do
    local kind, priority, id, task, value = argv[i], argv[i + 1], argv[i + 2], argv[i + 3], argv[i + 4]
    local ttl, lock, following = argv[i + 5], argv[i + 6], argv[i + 7]
    local otherwise, letter = argv[i + 8], argv[i + 9]
    local stream = prefix .. ':queues:' .. priority
    local outcome = {}
    if not mine[stream .. id] then
      outcome = false
    else
      run[#run + 1] = task
      if lock ~= '' then forgotten[#forgotten + 1] = lock end
      if kind == 'h' or kind == 'b' then
        redis.call('decr', prefix .. ':task:retry:' .. task)
      end
      if kind == 'h' or kind == 'u' then
        redis.pcall('xclaim', stream, group, consumer, 0, id, 'idle', idle, 'justid')
      elseif kind ~= 'b' then
        add(acked, stream, id)
      end
      if kind == 'r' then
        redis.call('zadd', prefix .. ':queues:delayed:' .. priority, value, task)
        redis.call('publish', prefix .. ':delayed', value)
      elseif kind == 's' or kind == 'f' then
        redis.call('publish', prefix .. ':channels:' .. task, value)
        ended[#ended + 1] = task
        forgotten[#forgotten + 1] = prefix .. ':task:retry:' .. task
        forgotten[#forgotten + 1] = prefix .. ':task:data:' .. task
        if ttl == '' then
          redis.call('set', prefix .. ':task:results:' .. task, value)
        elseif ttl ~= '0' then
          redis.call('set', prefix .. ':task:results:' .. task, value, 'px', ttl)
        end
        if ttl ~= '0' then
          kept[#kept + 1] = now + (ttl == '' and 1e14 or ttl)
          kept[#kept + 1] = task
        end
        if letter ~= '' then keep_letter(keys[2], keys[3], task, letter) end
        if following ~= '' then
          redis.call('set', prefix .. ':task:previous:' .. task, following, 'px', 604800000)
        end
        if linked and kind == 's' then
          outcome = release_dependents(prefix, stream, task, value, otherwise, now)
        elseif linked then
          outcome = fail_dependents(prefix, task, otherwise)
        end
      end
    end
    ends[#ends + 1] = outcome
  end
  for stream, ids in pairs(acked) do
    each({ 'xack', stream, group }, ids)
    each({ 'xdel', stream }, ids)
  end
  each({ 'srem', prefix .. ':index:running' }, run)
  if redis.call('exists', prefix .. ':aborted') == 1 then
    each({ 'srem', prefix .. ':aborted' }, ended)
  end
  each({ 'del' }, forgotten)
  each({ 'zadd', prefix .. ':index:results' }, kept)
  redis.call('set', answered, cjson.encode(ends), 'px', 30000)
  return ends
end

-- ARGV: now, then the priorities. Puts what is due into the queue; returns when the next will be.
local function due(keys, argv)
  local now, soonest = argv[1], false
  for i = 2, #argv do
    local delayed = keys[1] .. ':queues:delayed:' .. argv[i]
    local ready = redis.call(
      'zrange', delayed, 0, now, 'byscore', 'limit', 0, 1000, 'withscores')
    for j = 1, #ready, 2 do
      redis.call('zrem', delayed, ready[j])
      redis.call('xadd', keys[1] .. ':queues:' .. argv[i], '*',
        'task_id', ready[j], 'enqueue_time', ready[j + 1])
    end
    local first = redis.call('zrange', delayed, 0, 0, 'withscores')[2]
    if first and (not soonest or tonumber(first) < tonumber(soonest)) then soonest = first end
  end
  return soonest
end

-- ARGV: now, then of each task: id, payload, moment or 0, lifetime or 0, priority, number of
-- dependencies, these. Returns for each what streaq's own function does.
local function enqueue(keys, argv)
  local prefix, now, i = keys[1], argv[1], 2
  local answers = {}
  while i <= #argv do
    local task, data, score, lifetime, priority = argv[i], argv[i + 1], argv[i + 2], argv[i + 3], argv[i + 4]
    local last = i + 5 + tonumber(argv[i + 5])
    local key, answer = prefix .. ':task:data:' .. task, 1
    local new
    if lifetime == '0' then
      new = redis.call('set', key, data, 'nx')
    else
      new = redis.call('set', key, data, 'nx', 'px', lifetime)
    end
    if not new then
      answer = 0
    else
      local waits = false
      for j = i + 6, last do
        if redis.call('exists', prefix .. ':task:results:' .. argv[j]) == 0 then
          waits = true
          redis.call('sadd', prefix .. ':task:dependencies:' .. task, argv[j])
          redis.call('sadd', prefix .. ':task:dependents:' .. argv[j], task)
        end
      end
      if not waits and score ~= '0' then
        redis.call('zadd', prefix .. ':queues:delayed:' .. priority, score, task)
        redis.call('publish', prefix .. ':delayed', score)
      elseif not waits then
        answer = redis.call(
          'xadd', prefix .. ':queues:' .. priority, '*', 'task_id', task, 'enqueue_time', now)
      end
    end
    answers[#answers + 1] = answer
    i = last + 1
  end
  return answers
end
