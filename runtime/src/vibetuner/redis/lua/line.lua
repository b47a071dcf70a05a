-- Unique tasks that skip, wait or replace: a group has one holder, which waits or runs, and a line
-- of tasks that follow it. The hash `unique` has group, priority and time of each task. Each group
-- has a hash for its holder, which exists while there is a holder, and a sorted set for its line.
-- One more sorted set has the tasks of all lines by time, for people who look at the queue.

local function member(prefix, task)
  local known = redis.call('hget', prefix .. ':unique', task)
  if not known then return nil end
  local group, priority, at = unpack(cjson.decode(known))
  return {
    task = task, group = group, priority = priority, at = at,
    state = prefix .. ':task:unique:' .. group, line = prefix .. ':task:line:' .. group,
    all = prefix .. ':line',
  }
end

local function new_member(prefix, task, group, priority, at)
  redis.call('hset', prefix .. ':unique', task, cjson.encode({ group, priority, at }))
  return member(prefix, task)
end

-- Return whether a task has not ended yet: its payload is deleted when it ends.
local function is_live(prefix, task)
  return redis.call('exists', prefix .. ':task:data:' .. task) == 1
end

-- Return whether a task waits or runs; its payload may expire while a worker of streaq's own runs it.
local function is_here(prefix, task)
  return is_live(prefix, task) or redis.call('sismember', prefix .. ':index:running', task) == 1
end

-- Return whether a task has ended, with a result that is kept.
local function has_ended(prefix, task)
  return not is_live(prefix, task) and redis.call('exists', prefix .. ':task:results:' .. task) == 1
end

-- Delete a claimed message whose attempt will not run, and uncount the attempt.
local function drop(prefix, stream, group, message, task)
  redis.call('xack', stream, group, message)
  redis.call('xdel', stream, message)
  redis.call('srem', prefix .. ':index:running', task)
  if redis.call('decr', prefix .. ':task:retry:' .. task) <= 0 then
    redis.call('del', prefix .. ':task:retry:' .. task)
  end
end

-- Return the task that holds a group; false if there is none.
local function holder_of(state)
  return redis.call('hget', state, 'holder')
end

local function join_line(one)
  redis.call('zadd', one.line, redis.call('hincrby', one.state, 'joined', 1), one.task)
  redis.call('zadd', one.all, one.at, one.task)
end

-- Remove a task from its line; return whether it was in it.
local function leave_line(one)
  redis.call('zrem', one.all, one.task)
  return redis.call('zrem', one.line, one.task) == 1
end

-- Make a task the holder of its group, and enqueue it for its time.
local function queue_holder(prefix, one, now)
  local message = '-'
  if tonumber(one.at) > tonumber(now) then
    redis.call('zadd', prefix .. ':queues:delayed:' .. one.priority, one.at, one.task)
    redis.call('publish', prefix .. ':delayed', one.at)
  else
    message = post(prefix .. ':queues:' .. one.priority, one.task, one.at)
  end
  redis.call('hset', one.state, 'holder', one.task, 'message', message, 'begun', '')
end

-- Make the first task in line the holder, after a holder has ended. A task whose payload has
-- expired is enqueued all the same, so that a worker records its end.
local function advance(prefix, state, line, now)
  redis.call('hset', state, 'holder', '', 'begun', '')
  while true do
    local first = redis.call('zrange', line, 0, 0)[1]
    if not first then
      redis.call('del', state)
      return
    end
    redis.call('zrem', line, first)
    redis.call('zrem', prefix .. ':line', first)
    local one = member(prefix, first)
    if one and is_live(prefix, first) then return queue_holder(prefix, one, now) end
    if one then
      redis.call('hdel', prefix .. ':unique', first)
      post(prefix .. ':queues:' .. one.priority, first, one.at)
    end
  end
end

-- Remove a task that has ended from its group or line.
local function leave_group(prefix, task, now)
  local one = member(prefix, task)
  if not one then return end
  redis.call('hdel', prefix .. ':unique', task)
  if holder_of(one.state) == task then return advance(prefix, one.state, one.line, now) end
  leave_line(one)
end

-- Return the holder of a group, after one that has ended without a trace has left it.
local function live_holder(prefix, state, line, now)
  local holder = holder_of(state)
  if not holder or is_live(prefix, holder) then return holder end
  leave_group(prefix, holder, now)
  if holder_of(state) == holder then advance(prefix, state, line, now) end  -- it was in another group
  return holder_of(state)
end

-- Record that a holder waits again: for its retry, or for another worker.
local function wait_again(prefix, task, is_delayed)
  local one = member(prefix, task)
  if not one or holder_of(one.state) ~= task then return end
  redis.call('hset', one.state, 'begun', '')
  if is_delayed then redis.call('hset', one.state, 'message', '-') end
end

-- Record the message of a delayed holder that was just added to the stream.
local function note_message(prefix, task, message)
  local one = member(prefix, task)
  if one and holder_of(one.state) == task then redis.call('hset', one.state, 'message', message) end
end

-- Return whether a holder can't be reached: it is neither in the stream nor delayed, as after
-- somebody has deleted the stream. Its line would wait for ever.
local function is_stranded(prefix, one)
  if holder_of(one.state) ~= one.task then return false end
  if redis.call('zscore', prefix .. ':queues:delayed:' .. one.priority, one.task) then return false end
  local message = redis.call('hget', one.state, 'message')
  if not message or message == '-' then return true end
  return #redis.call('xrange', prefix .. ':queues:' .. one.priority, message, message) == 0
end

-- Return the holder of a group that can't be reached and the number of tasks in its line, or
-- nothing if the line is not stuck. ARGV: the group.
local function stuck_line(keys, argv)
  local holder = holder_of(keys[1] .. ':task:unique:' .. argv[1])
  local one = holder and member(keys[1], holder)
  if one and is_stranded(keys[1], one) then return { holder, redis.call('zcard', one.line) } end
end

-- Check some unique tasks, and remove those that left no trace of their end: their payload expired,
-- or they ran in a worker of streaq's own.
local function sweep_groups(prefix, now)
  local some = redis.call('hrandfield', prefix .. ':unique', 20)
  for _, task in ipairs(some) do
    if not is_live(prefix, task) then
      local one = member(prefix, task)
      if redis.call('zscore', one.line, task) then
        post(prefix .. ':queues:' .. one.priority, task, one.at)
      end
      leave_group(prefix, task, now)
    end
  end
end
