-- Helpers for all our functions. The files are joined in alphabetical order, and each can use the
-- functions of those before it.

-- Return the server's time in milliseconds. All hosts share this clock: it decides how long a
-- message has been idle, when a delay is over, and when a worker sent its heartbeat.
local function clock()
  local time = redis.call('time')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Return milliseconds as text; tostring() would round them.
local function whole(number)
  return string.format('%.0f', number)
end

-- Parse a time in milliseconds; `+500` is 500 ms from now.
local function moment_of(text, now)
  if text:sub(1, 1) ~= '+' then return text end
  return whole(now + text:sub(2))
end

-- Add a message for a task to a stream; return the message's id, or with `call` as redis.pcall an error.
local function post(stream, task, due, call)
  return (call or redis.call)('xadd', stream, '*', 'task_id', task, 'enqueue_time', due)
end

-- Store a task's payload for `lifetime` milliseconds, '0' for ever; with 'nx', only if it has none.
local function store_payload(prefix, task, payload, lifetime, ...)
  local key = prefix .. ':task:data:' .. task
  if lifetime == '0' then return redis.call('set', key, payload, ...) end
  return redis.call('set', key, payload, 'px', lifetime, ...)
end

-- The milliseconds to keep what a queued task is given by others: a year, as nobody may read its queue
-- for long. It is deleted when the task ends, unless a worker of streaq's own ends it.
local UNREAD = 31536000000

-- Mark a task to be aborted by the worker that runs or claims it.
local function mark(prefix, task)
  redis.call('sadd', prefix .. ':aborted', task)
  redis.call('pexpire', prefix .. ':aborted', UNREAD)
end

-- Mark a task for its abort, which need not be in Redis yet. ARGV: its id.
local function mark_abort(keys, argv)
  mark(keys[1], argv[1])
end

-- Return whether a task is marked; the key may hold anything.
local function is_marked(prefix, task)
  return redis.pcall('sismember', prefix .. ':aborted', task) == 1
end

-- Reply, so that a client knows that it may call functions or scripts.
local function ping(keys, argv)
  return 'PONG'
end

-- Add items to a list. Not for code that runs for every task: `...` creates a table at each call.
local function append(list, ...)
  for _, item in ipairs({ ... }) do list[#list + 1] = item end
end

-- Run a command on a long list, 500 items a call; `head` and `...` are the words before and after
-- the items. Return the sum of the replies that are numbers.
local function each(head, list, ...)
  local sum = 0
  for at = 1, #list, 500 do
    local words = { unpack(head) }
    for i = at, math.min(at + 499, #list) do words[#words + 1] = list[i] end
    for _, word in ipairs({ ... }) do words[#words + 1] = word end
    local answer = redis.call(unpack(words))
    if type(answer) == 'number' then sum = sum + answer end
  end
  return sum
end

-- Return the values of many keys; false for a key that does not exist or holds no text.
local function values_of(keys)
  local found = {}
  for at = 1, #keys, 500 do
    local part = redis.call('mget', unpack(keys, at, math.min(at + 499, #keys)))
    for i = 1, #part do found[#found + 1] = part[i] end
  end
  return found
end

-- Move the idempotency key of a task to the task that replaces it, with its remaining lifetime.
local function move_once(prefix, task, new)
  local keyed = prefix .. ':task:keyed:' .. task
  local key = redis.call('get', keyed)
  local once = key and prefix .. ':task:once:' .. key
  local known = once and redis.call('get', once)
  if known and known:sub(1, #task + 1) == task .. ' ' then
    local left = math.max(1, redis.call('pttl', once))  -- 0 in its last millisecond
    redis.call('set', once, new .. known:sub(#task + 1), 'px', left)
    redis.call('set', prefix .. ':task:keyed:' .. new, key, 'px', left)
    redis.call('del', keyed)
  end
end
