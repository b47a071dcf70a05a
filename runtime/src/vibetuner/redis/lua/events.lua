-- The history of events: a stream for each channel, and the state of each task's progress. The
-- values of keys are not trusted: a key of the wrong type reads as one that doesn't exist.

-- Return the total of bytes added to a stream up to and including this entry, and the entry's own
-- bytes. The first and the last entry together give the bytes that are kept.
local function sizes(entry)
  local total, size = 0, 0
  for i = 1, #entry[2], 2 do
    local name, value = entry[2][i], entry[2][i + 1]
    if name == 'total' then total = tonumber(value) or 0 else size = size + #value end
  end
  return total, size
end

-- Delete the oldest entries until at most `kept` bytes are left, or one entry.
local function trim(stream, total, kept)
  while true do
    local first = redis.call('xrange', stream, '-', '+', 'count', 2)
    if not first[2] then return end
    local before, size = sizes(first[1])
    if total - before + size <= kept then return end
    redis.call('xdel', stream, first[1][1])
  end
end

-- Publish to every web process. If the topic has a hash tag, it shares the slot of the stream, so
-- that only the nodes of that shard get the message; see keys.py.
local function publish(topic, message)
  local tag = string.match(topic, '{(.-)}') or ''
  if tag == '' then
    redis.call('publish', topic, message)
  else
    redis.call('spublish', topic, message)
  end
end

-- Append an event to its channel's stream and publish it to every web process in one step, so that
-- ids and messages have the same order.
local function send(limits, stream, channel, event, data)
  local topic, events, bytes, ttl = unpack(limits)
  local newest = redis.call('xrevrange', stream, '+', '-', 'count', 1)[1]
  local total = (newest and sizes(newest) or 0) + #event + #data
  local id = redis.call(
    'xadd', stream, 'maxlen', '~', events, '*', 'event', event, 'data', data, 'total', total
  )
  trim(stream, total, tonumber(bytes))
  redis.call('expire', stream, ttl)
  publish(topic, channel .. '\n' .. id .. '\n' .. event .. '\n' .. data)
  return id
end

-- Send an event.
-- KEYS: the stream. ARGV: topic, events, bytes and seconds to keep, channel, event, data.
local function broadcast(keys, argv)
  return send(argv, keys[1], argv[5], argv[6], argv[7])
end

-- Return, as of one moment: the server's time, the id of a stream's first entry, 1 if no entry was
-- added before that one, the id of the last entry, and the next portion of entries.
-- KEYS: the stream. ARGV: the id to begin with or '', the bytes of a portion.
local function read_events(keys, argv)
  local oldest = redis.pcall('xrange', keys[1], '-', '+', 'count', 1)[1]
  local newest = redis.pcall('xrevrange', keys[1], '+', '-', 'count', 1)[1]
  local portion, size, from, limit = {}, 0, argv[1], tonumber(argv[2])
  while from ~= '' and size < limit do
    local entries = redis.pcall('xrange', keys[1], from, '+', 'count', 8)
    from = ''
    for _, entry in ipairs(entries) do
      if size < limit then
        portion[#portion + 1] = entry
        size = size + select(2, sizes(entry))
        from = '(' .. entry[1]
      end
    end
  end
  local is_first = 0
  if oldest then
    local total, own = sizes(oldest)
    if total == own then is_first = 1 end
  end
  return {
    whole(clock()), oldest and oldest[1] or '', is_first, newest and newest[1] or '', portion
  }
end

-- Store a task's state and publish it. Only a new attempt replaces a final state: a worker whose
-- task was taken over may still report one.
-- KEYS: the state, the stream of the task's channel. ARGV: as for broadcast, with the state as its
-- data; '1' for a new attempt, the state to replace or '' for any, '1' for a final state, another
-- channel or '', the prefix of a stream's key, the seconds to keep the state.
-- Returns the event's id; '' if a final state stays, '?' if another state is stored.
local function write_progress(keys, argv)
  local state, anew, expected, over = argv[7], argv[8], argv[9], argv[10]
  local extra, prefix, seconds = argv[11], argv[12], argv[13]
  local known = redis.call('hmget', keys[1], 'state', 'over', 'channel')
  if anew == '' and known[2] == '1' then return '' end
  if expected ~= '' and known[1] ~= expected then return '?' end
  if expected ~= '' then extra = known[3] or '' end
  redis.call('hset', keys[1], 'state', state, 'over', over, 'channel', extra)
  redis.call('expire', keys[1], seconds)
  if extra ~= '' then send(argv, prefix .. extra, extra, argv[6], state) end
  return send(argv, keys[2], argv[5], argv[6], state)
end

-- Store a task's state if none is stored.
-- KEYS: the state. ARGV: the state, the seconds to keep it.
local function register_progress(keys, argv)
  if redis.call('hsetnx', keys[1], 'state', argv[1]) == 1 then
    redis.call('expire', keys[1], argv[2])
  end
end

-- Return, for each state, whether it is stored.
local function know_progress(keys, argv)
  local known = {}
  local is_any = each({ 'exists' }, keys) > 0  -- most workers have none to ask for
  for i, key in ipairs(keys) do known[i] = is_any and redis.call('exists', key) or 0 end
  return known
end

-- Return a task's state, the id of the newest event that it includes, and the server's time.
-- KEYS: the state, the stream of the task's channel.
local function read_progress(keys, argv)
  local state = redis.pcall('hget', keys[1], 'state')
  local newest = redis.pcall('xrevrange', keys[2], '+', '-', 'count', 1)[1]
  return {
    type(state) == 'string' and state or '', newest and newest[1] or '', whole(clock())
  }
end
