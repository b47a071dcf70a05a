-- Helpers for the other files, each of which is loaded behind this one.

-- A command with a long list in it, in portions that fit into a call; returns the sum of answers
-- that are numbers.
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

-- What stands at keys, in portions that fit into a call.
local function values(keys)
  local found = {}
  for at = 1, #keys, 500 do
    local part = redis.call('mget', unpack(keys, at, math.min(at + 499, #keys)))
    for i = 1, #part do found[#found + 1] = part[i] end
  end
  return found
end

local function add(lists, name, item)
  lists[name] = lists[name] or {}
  table.insert(lists[name], item)
end

-- Does nothing; tells whether functions may be called.
local function ping(keys, argv)
  return 1
end

local SEARCHED = {
  'task_id', 'task_name', 'cause', 'fingerprint', 'error', 'error_type', 'failed_at' }

-- Decode an object of JSON; nothing for anything else.
local function object(text)
  local known, found = pcall(cjson.decode, text or '')
  return known and type(found) == 'table' and found or nil
end

-- What a search compares of a letter, from its entry: older ones hold the letter alone.
local function about_entry(entry)
  local about = object(entry[2][4] or entry[2][2])
  for _, name in ipairs(SEARCHED) do
    if not about or type(about[name]) ~= 'string' then return nil end
  end
  return about
end

-- An entry's place in the order of the stream, as a number.
local function order(place)
  local ms, seq = place:match('^(%d+)-(%d+)$')
  return ms * 4096 + math.min(tonumber(seq), 4095)
end

-- Count an open letter into the group of its bug, n = 1, or out of it, n = -1. Beside the groups
-- stands, of each bug, a sorted set of the entries of its open letters.
local function count_letter(letters, about, n, place)
  local groups, index = letters .. ':groups', letters .. ':of:' .. about.fingerprint
  local group = object(redis.call('hget', groups, about.fingerprint))
  if not group or type(group.count) ~= 'number' or type(group.last) ~= 'string' then
    if n < 0 then return end
    group = { fingerprint = about.fingerprint, count = 0, first = about.failed_at, last = '' }
  end
  group.count = group.count + n
  if group.count <= 0 then
    redis.call('hdel', groups, about.fingerprint)
    redis.call('del', index)
    return
  end
  if n < 0 then
    redis.call('zrem', index, place)
  else
    redis.call('zadd', index, order(place), place)
    if about.failed_at < tostring(group.first) then group.first = about.failed_at end
    if about.failed_at >= group.last then
      group.task, group.cause, group.last = about.task_name, about.cause, about.failed_at
      group.error = about.error_type .. ': ' .. about.error
    end
  end
  redis.call('hset', groups, about.fingerprint, cjson.encode(group))
end

-- Keep a letter, one for each task: the second of two deaths of a task tells less than the first.
local function keep_letter(letters, places, task, letter)
  local known = redis.call('hget', places, task)
  if known and #redis.pcall('xrange', letters, known, known) > 0 then return end
  -- Beside the letter what a search compares: to parse whole letters for that takes too long.
  local whole, about = cjson.decode(letter), {}
  for _, name in ipairs(SEARCHED) do about[name] = whole[name] end
  local place = redis.call('xadd', letters, '*', 'letter', letter, 'about', cjson.encode(about))
  redis.call('hset', places, task, place)
  count_letter(letters, about, 1, place)
end
