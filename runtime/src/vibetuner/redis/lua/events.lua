-- Events for browsers: each channel's last ones, and the progress that tasks report.

-- Appends to a channel's stream, renews its time to live, and tells every web process; one step, so
-- that ids and messages have the same order.
local function send(stream, topic, kept, ttl, channel, event, data)
  local id = redis.call('xadd', stream, 'maxlen', '~', kept, '*', 'event', event, 'data', data)
  redis.call('expire', stream, ttl)
  redis.call('publish', topic, channel .. '\n' .. id .. '\n' .. event .. '\n' .. data)
  return id
end

local function milliseconds()
  local moment = redis.call('time')
  return tostring(moment[1] * 1000 + math.floor(moment[2] / 1000))
end

local function newest(stream)
  local entry = redis.call('xrevrange', stream, '+', '-', 'count', 1)[1]
  return entry and entry[1] or ''
end

-- KEYS: the channel's stream. ARGV: topic, length, lifetime, channel, event, data.
-- Returns the event's id.
local function broadcast(keys, argv)
  return send(keys[1], unpack(argv))
end

-- KEYS: the channel's stream. ARGV: an id, or nothing.
-- Returns, all of the same moment: the time, the oldest id, the newest, the length of the stream,
-- and what came after that id.
local function read_events(keys, argv)
  local oldest = redis.call('xrange', keys[1], '-', '+', 'count', 1)[1]
  local missed = {}
  if argv[1] ~= '' then missed = redis.call('xrange', keys[1], '(' .. argv[1], '+') end
  return {
    milliseconds(), oldest and oldest[1] or '', newest(keys[1]), redis.call('xlen', keys[1]), missed
  }
end

-- KEYS: the task's progress, its channel's stream. ARGV: 1 where an attempt begins, the state that is
-- expected, 1 where this one is the last, the state, a second channel, the lifetime of the state,
-- what starts a stream's key, topic, length, lifetime, event, the task's channel.
-- A state that has ended stays, whatever a worker says that was believed dead; only a new attempt
-- begins anew. Returns the event's id; nothing if it has ended, ? if the state is another.
local function write_progress(keys, argv)
  local anew, expected, over, state, extra = argv[1], argv[2], argv[3], argv[4], argv[5]
  local known = redis.call('hmget', keys[1], 'state', 'over', 'channel')
  if anew == '' and known[2] == '1' then return '' end
  if expected ~= '' and known[1] ~= expected then return '?' end
  if expected ~= '' then extra = known[3] or '' end
  redis.call('hset', keys[1], 'state', state, 'over', over, 'channel', extra)
  redis.call('expire', keys[1], argv[6])
  local prefix, topic, kept, ttl, event = argv[7], argv[8], argv[9], argv[10], argv[11]
  if extra ~= '' then send(prefix .. extra, topic, kept, ttl, extra, event, state) end
  return send(keys[2], topic, kept, ttl, argv[12], event, state)
end

-- KEYS: the task's progress. ARGV: a state for a task without one, its lifetime.
local function register_progress(keys, argv)
  if redis.call('hsetnx', keys[1], 'state', argv[1]) == 1 then
    redis.call('expire', keys[1], argv[2])
  end
end

-- KEYS: the progress of some tasks. Returns 1 for each that is there, else 0.
local function know_progress(keys, argv)
  local known = {}
  for i, key in ipairs(keys) do known[i] = redis.call('exists', key) end
  return known
end

-- KEYS: the task's progress, its channel's stream. Returns the state, the id of the last event that
-- is in it, and the time.
local function read_progress(keys, argv)
  return { redis.call('hget', keys[1], 'state') or '', newest(keys[2]), milliseconds() }
end
