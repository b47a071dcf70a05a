-- Unique tasks: enqueue them, and begin them in a worker. A task that a client of streaq's own has
-- enqueued, or the retry of a dead letter, joins the line when a worker begins it.

-- Remove a holder that has not begun from the stream or the delayed tasks. A worker that has
-- claimed its message must not count, begin or end it any more, so `owns` asks the group for a
-- while.
local function withdraw(prefix, one)
  local stream, message = prefix .. ':queues:' .. one.priority, redis.call('hget', one.state, 'message')
  if message and message ~= '-' then
    if redis.pcall('xack', stream, 'workers', message) == 1 then
      redis.call('set', prefix .. ':withdrawn', '1', 'px', 1000)
    end
    redis.call('xdel', stream, message)
  end
  redis.call('zrem', prefix .. ':queues:delayed:' .. one.priority, one.task)
end

-- Return whether a worker has claimed a message, and perhaps read its task's payload and tries.
local function is_claimed(stream, message)
  local pending = redis.pcall('xpending', stream, 'workers', message, message, 1)
  return not pending.err and #pending > 0
end

-- Give a waiting task new arguments and a new time. A task in the stream keeps its position,
-- unless a worker has claimed it, its new time is later or its priority changes.
local function renew_arguments(prefix, one, new, now)
  redis.call('del', prefix .. ':task:retry:' .. one.task)
  store_payload(prefix, one.task, new.payload, new.lifetime)
  local is_holder = holder_of(one.state) == one.task
  local message = is_holder and redis.call('hget', one.state, 'message')
  if message and message ~= '-' and tonumber(new.at) <= tonumber(now)
    and new.priority == one.priority
    and not is_claimed(prefix .. ':queues:' .. one.priority, message) then return end
  if is_holder then withdraw(prefix, one) end
  one = new_member(prefix, one.task, one.group, new.priority, new.at)
  if is_holder then
    queue_holder(prefix, one, now)
  else
    redis.call('zadd', one.all, one.at, one.task)
  end
end

-- Enqueue a unique task. ARGV: its group, the clash, its id, then the values that enqueue takes for
-- the task that the payload is signed for.
-- Returns the id of the task that stands for the call, and: 1 if it is the call's own, 0 if it
-- existed, -1 if the call's own id waits or runs already, -2 if a result is kept under that id, 2
-- if nothing was done because the payload must be signed for that task.
local function enqueue_unique(keys, argv)
  local prefix, group, clash, task, now = keys[1], argv[1], argv[2], argv[3], whole(clock())
  local signed_for, new = argv[4], {
    payload = argv[5], at = argv[6] == '0' and now or moment_of(argv[6], now),
    lifetime = argv[7], priority = argv[8],
  }
  local state, line = prefix .. ':task:unique:' .. group, prefix .. ':task:line:' .. group
  if is_live(prefix, task) then return { task, -1 } end
  if redis.call('exists', prefix .. ':task:results:' .. task) == 1 then return { task, -2 } end
  local holder = live_holder(prefix, state, line, now)
  if holder and clash == 'skip' then return { holder, 0 } end
  local replaced, is_kept = nil, false
  if holder and clash == 'replace' then
    -- A holder that has begun, or is to be aborted, keeps its call, and the new call follows it.
    -- streaq's own worker reports a begun task only in the set of running tasks.
    is_kept = redis.call('hget', state, 'begun') ~= ''
      or redis.call('sismember', prefix .. ':index:running', holder) == 1
      or is_marked(prefix, holder)
    local waiting = holder
    if is_kept then waiting = redis.call('zrange', line, 0, 0)[1] end
    replaced = waiting and is_live(prefix, waiting) and member(prefix, waiting)
  end
  local runs_as = replaced and replaced.task or task
  if signed_for ~= runs_as then return { runs_as, 2 } end
  if is_kept then
    mark(prefix, holder)
  end
  if replaced then
    renew_arguments(prefix, replaced, new, now)
    return { runs_as, 0 }
  end
  store_payload(prefix, task, new.payload, new.lifetime)
  local one = new_member(prefix, task, group, new.priority, new.at)
  if holder then join_line(one) else queue_holder(prefix, one, now) end
  return { task, 1 }
end

-- Return whether a holder's message is stale: the task is delayed, or has another message.
local function is_stale(prefix, one, message)
  local known = redis.call('hget', one.state, 'message')
  if known == message then return false end
  if known == '-' then
    return redis.call('zscore', prefix .. ':queues:delayed:' .. one.priority, one.task) ~= false
  end
  return #redis.call('xrange', prefix .. ':queues:' .. one.priority, known, known) > 0
end

-- Begin a unique task; or delete its message, because it is stale or the task joins the line.
-- ARGV: its group, task, priority, message, time of its claim, consumer group, consumer,
-- fresh ms.
-- Returns 1; nothing if the attempt must not go on.
local function hold(keys, argv)
  local prefix, group, task, priority, message = keys[1], argv[1], argv[2], argv[3], argv[4]
  local stream, now = prefix .. ':queues:' .. priority, clock()
  local fresh = freshness(prefix, argv[8])
  if not owns(stream, argv[6], argv[7], message, argv[5], fresh, now) then return false end
  if has_ended(prefix, task) then
    leave_group(prefix, task, now)
    drop(prefix, stream, argv[6], message, task)
    return false
  end
  local one, is_dropped = member(prefix, task), false
  if one and one.group ~= group then  -- a process of another version has enqueued it
    leave_group(prefix, task, now)
    one = nil
  end
  local state = prefix .. ':task:unique:' .. group
  local holder = holder_of(state)
  if holder ~= task then
    holder = live_holder(prefix, state, prefix .. ':task:line:' .. group, now)
  end
  if holder and holder ~= task then
    one = one or new_member(prefix, task, group, priority, tostring(now))
    if not redis.call('zscore', one.line, task) then join_line(one) end
    is_dropped = true
  elseif holder and one then
    is_dropped = is_stale(prefix, one, message)
  else
    one = new_member(prefix, task, group, priority, tostring(now))
  end
  if is_dropped then
    drop(prefix, stream, argv[6], message, task)
    return false
  end
  redis.call('hset', state, 'holder', task, 'message', message, 'begun', '1')
  return 1
end

-- Take or renew a lock unless another task has it. KEYS: the lock. ARGV: the task, the lifetime.
-- Returns the task that has it.
local function lock(keys, argv)
  local holder = redis.call('get', keys[1])
  if holder and holder ~= argv[1] then return holder end
  redis.call('set', keys[1], argv[1], 'px', argv[2])
  return argv[1]
end

-- Renew the locks of unique tasks that run, or take those that have expired meanwhile. ARGV: lifetime,
-- then lock and task of each.
local function renew_locks(keys, argv)
  for i = 2, #argv, 2 do lock({ argv[i] }, { argv[i + 1], argv[1] }) end
end
