-- Dead letters: a stream of them, and a hash from a task to its place in the stream.

local SEARCHED = {
  'task_id', 'task_name', 'cause', 'fingerprint', 'error', 'error_type', 'failed_at' }

-- Keep a letter, one for each task: the second of two deaths of a task tells less than the first.
local function keep_letter(letters, places, task, letter)
  local known = redis.call('hget', places, task)
  if known and #redis.call('xrange', letters, known, known) > 0 then return end
  -- Beside the letter what a search compares: to parse whole letters for that takes too long.
  local whole, about = cjson.decode(letter), {}
  for _, name in ipairs(SEARCHED) do about[name] = whole[name] end
  local place = redis.call('xadd', letters, '*', 'letter', letter, 'about', cjson.encode(about))
  redis.call('hset', places, task, place)
end

-- Call found for each letter that matches, until that returns true. Texts of moments compare as
-- moments do.
-- KEYS: the letters, what was done with them. ARGV: the entry before which to begin, the fields that
-- must match, a moment, 1 for those that nobody has acted on, how many entries to look at.
-- Returns the last entry that was looked at.
local function search(keys, argv, found)
  local before, wanted, since = argv[1], cjson.decode(argv[2]), argv[3]
  local open_only, last = argv[4] == '1', ''
  for _, entry in ipairs(redis.call('xrevrange', keys[1], before, '-', 'count', argv[5])) do
    last = entry[1]
    local known, letter = pcall(cjson.decode, entry[2][4] or entry[2][2])
    local meant = known and type(letter) == 'table'
    for _, name in ipairs(SEARCHED) do meant = meant and type(letter[name]) == 'string' end
    meant = meant and letter.failed_at >= since
    for name, value in pairs(wanted) do meant = meant and letter[name] == value end
    if meant and open_only then
      meant = redis.call('hexists', keys[2], letter.task_id) == 0
    end
    if meant and found(entry, letter) then return last end
  end
  return last
end

-- KEYS and ARGV as above, then how many letters at the most.
-- Returns the last entry that was looked at, then entry and letter of each that matches.
local function search_letters(keys, argv)
  local most, answer = tonumber(argv[6]), {}
  local last = search(keys, argv, function(entry)
    table.insert(answer, entry[1])
    table.insert(answer, entry[2][2])
    return #answer == 2 * most
  end)
  return { last, answer }
end

-- KEYS and ARGV as above. Returns the last entry that was looked at, and as JSON of each bug:
-- fingerprint, task, cause, error, number, first moment, last moment.
local function group_letters(keys, argv)
  local groups, order = {}, {}
  local last = search(keys, argv, function(_, letter)
    local known = groups[letter.fingerprint]
    if known then
      known[5], known[6] = known[5] + 1, letter.failed_at
    else
      local error = letter.error_type .. ': ' .. letter.error
      local first = letter.failed_at
      known = { letter.fingerprint, letter.task_name, letter.cause, error, 1, first, first }
      groups[letter.fingerprint] = known
      table.insert(order, known)
    end
  end)
  return { last, #order > 0 and cjson.encode(order) or '[]' }
end

-- KEYS: the mark of this letter, the marks of the stream, the payload of the new task, its queue.
-- ARGV: the dead task, the act, the new task or nothing, its payload, the time, 1 where the mark is
-- kept in the stream's. The first to come decides; all get the decision. What is enqueued is what
-- streaq's own publish_task would write.
local function settle_letter(keys, argv)
  local decided = redis.call('get', keys[1]) or redis.call('hget', keys[2], argv[1])
  if decided then return decided end
  if argv[3] ~= '' and redis.call('set', keys[3], argv[4], 'nx') then
    redis.call('xadd', keys[4], '*', 'task_id', argv[3], 'enqueue_time', argv[5])
  end
  if argv[6] == '1' then
    redis.call('hset', keys[2], argv[1], argv[2])
  else
    redis.call('set', keys[1], argv[2])
  end
  return argv[2]
end

-- KEYS: the letters, their places. ARGV: the task, its letter.
local function bury_letter(keys, argv)
  keep_letter(keys[1], keys[2], argv[1], argv[2])
end
