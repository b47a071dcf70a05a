-- Dead letters: kept, searched, grouped and acted on. The letters are a stream, whose entries hold
-- a letter and, but for older ones, what a search compares; beside it stand a hash of each task's
-- entry, a hash of what was done, a hash of the groups of open letters, and their entries by group.

-- Call found for each letter that matches, until that returns true; unread for those that can't be
-- read. Texts of moments compare as moments do.
-- KEYS: the letters, what was done with them. ARGV: the entry before which to begin, the fields that
-- must match, a moment, 1 for those that nobody has acted on, how many entries to look at.
-- Returns the last entry that was looked at.
local function search(keys, argv, found, unread)
  local before, wanted, since = argv[1], cjson.decode(argv[2]), argv[3]
  local open_only, last = argv[4] == '1', ''
  for _, entry in ipairs(redis.call('xrevrange', keys[1], before, '-', 'count', argv[5])) do
    last = entry[1]
    local letter = about_entry(entry)
    if letter then
      local matches = letter.failed_at >= since
      for name, value in pairs(wanted) do matches = matches and letter[name] == value end
      if matches and open_only then
        matches = redis.call('hexists', keys[2], letter.task_id) == 0
      end
      if matches and found(entry, letter) then return last end
    elseif unread and not next(wanted) and since == '' and unread(entry) then
      return last
    end
  end
  return last
end

-- KEYS and ARGV as above, then how many letters at most.
-- Returns the last entry that was looked at, then entry and letter of each that matches.
local function search_letters(keys, argv)
  local most, answer = tonumber(argv[6]), {}
  local function add(entry)
    table.insert(answer, entry[1])
    table.insert(answer, entry[2][2] or '')
    return #answer == 2 * most
  end
  return { search(keys, argv, add, add), answer }
end

-- KEYS and ARGV as above.
-- Returns the last entry that was looked at, and the number of letters that match.
local function count_letters(keys, argv)
  local number = 0
  local last = search(keys, argv, function() number = number + 1 end)
  return { last, number }
end

-- KEYS: the letters, what was done with them. ARGV: a fingerprint, the entry before which to begin,
-- how many letters at most. Returns entry and letter of each open letter of this bug.
local function letters_of(keys, argv)
  local index, answer = keys[1] .. ':of:' .. argv[1], {}
  local before = argv[2] == '' and '+inf' or '(' .. string.format('%.0f', order(argv[2]))
  local places = redis.call('zrange', index, before, '-inf', 'byscore', 'rev', 'limit', 0, argv[3])
  for _, place in ipairs(places) do
    local entry = redis.call('xrange', keys[1], place, place)[1]
    if entry then
      table.insert(answer, place)
      table.insert(answer, entry[2][2] or '')
    else
      redis.call('zrem', index, place)
    end
  end
  return answer
end

-- Count the open letters into their groups anew, one part after the other, whoever calls.
-- KEYS: the letters, what was done with them, the groups. ARGV: how many entries to look at.
-- Returns 1 once all are counted.
local function recount_letters(keys, argv)
  local marker = keys[3] .. ':recount'
  local before = redis.call('get', marker)
  if not before then redis.call('del', keys[3]) end
  local last = search(keys, { before or '+', '{}', '', '1', argv[1] }, function(entry, letter)
    count_letter(keys[1], letter, 1, entry[1])
  end)
  if last == '' then
    redis.call('del', marker)
    return 1
  end
  redis.call('set', marker, '(' .. last)
  return 0
end

-- KEYS: the mark of this letter, the marks of the stream, the payload of the new task, its queue,
-- the letters, their places. ARGV: the dead task, the act, the new task or nothing, its payload, the
-- time, 1 where the mark is kept in the stream's, the fingerprint. The first to come decides; all get
-- the decision. What is enqueued is what streaq's own publish_task would write.
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
  local place = redis.call('hget', keys[6], argv[1]) or ''
  count_letter(keys[5], { fingerprint = argv[7] }, -1, place)
  return argv[2]
end

-- KEYS: the letters, their places. ARGV: the task, its letter.
local function bury_letter(keys, argv)
  keep_letter(keys[1], keys[2], argv[1], argv[2])
end

-- Take letters out that are kept elsewhere; they stay in the groups of their bugs.
-- KEYS: the letters, their places, what was done with them. ARGV: entry and task of each.
local function remove_letters(keys, argv)
  for i = 1, #argv, 2 do
    local entry = redis.call('xrange', keys[1], argv[i], argv[i])[1]
    local about = entry and about_entry(entry)
    if about then redis.call('zrem', keys[1] .. ':of:' .. about.fingerprint, argv[i]) end
    redis.call('xdel', keys[1], argv[i])
    redis.call('hdel', keys[2], argv[i + 1])
    redis.call('hdel', keys[3], argv[i + 1])
  end
end

-- Add letters that are kept elsewhere to their groups. KEYS: the groups. ARGV: groups.
local function add_groups(keys, argv)
  for _, text in ipairs(argv) do
    local group = cjson.decode(text)
    local known = object(redis.call('hget', keys[1], group.fingerprint))
    if known and type(known.count) == 'number' then group.count = group.count + known.count end
    redis.call('hset', keys[1], group.fingerprint, cjson.encode(group))
  end
end
