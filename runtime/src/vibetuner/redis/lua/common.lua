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

-- Add open letters to the group of their bug: n of them, fewer where n is negative.
local function count_letter(letters, about, n, first)
  local groups, group = letters .. ':groups', nil
  group = object(redis.call('hget', groups, about.fingerprint))
  if group and type(group.count) == 'number' and type(group.last) == 'string' then
    group.count = group.count + n
    if first and type(group.first) == 'string' and first < group.first then group.first = first end
  elseif n > 0 then
    group = { fingerprint = about.fingerprint, count = n, first = first, last = '' }
  else
    return
  end
  if group.count <= 0 then return redis.call('hdel', groups, about.fingerprint) end
  if n > 0 and about.failed_at >= group.last then
    group.task, group.cause, group.last = about.task_name, about.cause, about.failed_at
    group.error = about.error_type .. ': ' .. about.error
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
  count_letter(letters, about, 1, about.failed_at)
end
