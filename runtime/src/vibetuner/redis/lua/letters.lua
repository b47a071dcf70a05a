-- Dead letters are kept in a stream. An entry holds a letter and, except in old entries, the fields
-- that a search compares. Besides the stream there are a hash from task to entry, a hash of the
-- acts on letters, a hash of the groups of open letters, and a sorted set of each group's entries.

local SEARCHED = {
  'task_id', 'task_name', 'cause', 'fingerprint', 'error', 'error_type', 'failed_at' }

-- Decode a JSON object; nil for anything else.
local function object(text)
  local known, found = pcall(cjson.decode, text or '')
  return known and type(found) == 'table' and found or nil
end

-- Return the fields of a letter that a search compares; old entries hold the letter alone.
local function about_entry(entry)
  local about = object(entry[2][4] or entry[2][2])
  for _, name in ipairs(SEARCHED) do
    if not about or type(about[name]) ~= 'string' then return nil end
  end
  return about
end

-- Return an entry's position in the stream as a number; nothing if the text is not an entry's id.
local function order(place)
  local ms, seq = place:match('^(%d+)-(%d+)$')
  return ms and ms * 4096 + math.min(tonumber(seq), 4095)
end

-- Return whether a letter failed at this time or later, and has these fields. Times are compared as
-- ISO texts.
local function is_wanted(about, wanted, since)
  local matches = about.failed_at >= since
  for name, value in pairs(wanted) do matches = matches and about[name] == value end
  return matches
end

-- Add an open letter to the group of its bug and to the group's sorted set (n = 1), or remove it
-- from both (n = -1).
local function count_letter(letters, about, n, place)
  local groups, index = letters .. ':groups', letters .. ':of:' .. about.fingerprint
  local group = object(redis.call('hget', groups, about.fingerprint))
  if n < 0 then
    -- During a recount, letters below the mark are not in a group yet.
    local mark = redis.call('get', groups .. ':recount')
    if mark and place ~= '' and order(place) < (order(mark:sub(2)) or 0) then
      redis.call('zrem', index, place)
      return
    end
  end
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
      group.error = about.error_type .. (about.error == '' and '' or ': ' .. about.error)
    end
  end
  redis.call('hset', groups, about.fingerprint, cjson.encode(group))
end

-- Store a letter, one for each task: if a task dies twice, the first letter stays. If its id was used
-- for another task after a person had settled the letter, the new letter replaces it.
local function keep_letter(letters, places, task, letter)
  local whole, about, acts = cjson.decode(letter), {}, letters .. ':acted'
  local known = redis.call('hget', places, task)
  local old = known and redis.pcall('xrange', letters, known, known)[1]
  if old then
    local first = object(old[2][2])
    if redis.call('hexists', acts, task) == 0 or first and first.enqueued_at == whole.enqueued_at then
      return
    end
    redis.call('xdel', letters, known)
  end
  redis.call('hdel', acts, task)
  redis.call('del', acts .. ':' .. task)
  -- Store the fields that a search compares separately, as parsing whole letters is too slow.
  for _, name in ipairs(SEARCHED) do about[name] = whole[name] end
  local place = redis.call('xadd', letters, '*', 'letter', letter, 'about', cjson.encode(about))
  redis.call('hset', places, task, place)
  redis.pcall('zadd', letters .. ':ids', 0, task)
  count_letter(letters, about, 1, place)
end

-- Call `found` for each letter that matches, until it returns true, and `unread` for each letter
-- that can't be read. The newest letters come first.
-- KEYS: the letters, the acts on them. ARGV: the newest and the oldest entry to scan, the fields
-- that must match, the earliest time or nothing, how many entries to scan, 1 for open letters only.
-- Returns the last entry that was scanned.
local function search(keys, argv, found, unread)
  local wanted, since, open_only, last = cjson.decode(argv[3]), argv[4], argv[6] == '1', ''
  for _, entry in ipairs(redis.call('xrevrange', keys[1], argv[1], argv[2], 'count', argv[5])) do
    last = entry[1]
    local letter = about_entry(entry)
    if letter then
      local matches = is_wanted(letter, wanted, since)
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

-- Return the letters that match. KEYS and ARGV: as for search, then the most letters to return.
-- Returns the last entry that was scanned, then entry and letter of each match.
local function search_letters(keys, argv)
  local most, answer = tonumber(argv[7]), {}
  local function add(entry)
    table.insert(answer, entry[1])
    table.insert(answer, entry[2][2] or '')
    return #answer == 2 * most
  end
  return { search(keys, argv, add, add), answer }
end

-- Count the letters that match. KEYS and ARGV: as for search.
-- Returns the last entry that was scanned, and the number of letters that match.
local function count_letters(keys, argv)
  local number = 0
  local last = search(keys, argv, function() number = number + 1 end)
  return { last, number }
end

-- Return the open letters of some bugs, newest first, from the sorted sets of their entries.
-- KEYS: the letters. ARGV: as for search, with the fingerprints instead of the last argument.
-- Returns the same as search_letters; the last entry is empty if there are no more.
local function letters_of(keys, argv)
  local before = argv[1] == '+' and '+inf' or '(' .. whole(order(argv[1]:sub(2)))
  local first = argv[2] == '-' and '-inf' or whole(order(argv[2]))
  local wanted, most, places = cjson.decode(argv[3]), tonumber(argv[5]), {}
  for _, fingerprint in ipairs(cjson.decode(argv[6])) do
    local index = keys[1] .. ':of:' .. fingerprint
    local some = redis.call('zrange', index, before, first, 'byscore', 'rev', 'limit', 0, most)
    for _, place in ipairs(some) do
      table.insert(places, { place = place, index = index, order = order(place) or 0 })
    end
  end
  table.sort(places, function(one, other) return one.order > other.order end)
  local answer = {}
  for n = 1, math.min(most, #places) do
    local place = places[n].place
    local entry = places[n].order > 0 and redis.call('xrange', keys[1], place, place)[1]
    local about = entry and about_entry(entry)
    if not entry then
      redis.call('zrem', places[n].index, place)
    elseif about and is_wanted(about, wanted, argv[4]) then
      table.insert(answer, place)
      table.insert(answer, entry[2][2] or '')
    end
  end
  return { places[most] and places[most].place or '', answer }
end

-- Return the groups and the number of open letters in one step, because letters come and go.
-- KEYS: the letters, the acts on them, the groups.
-- Returns the number of open letters, 1 during a recount, then fingerprint and group of each bug.
local function read_groups(keys, argv)
  local open = redis.call('xlen', keys[1]) - redis.call('hlen', keys[2])
  local is_counting = redis.call('exists', keys[3] .. ':recount')
  return { open, is_counting, redis.call('hgetall', keys[3]) }
end

-- Recount the open letters into their groups, one portion a call; any number of callers may help.
-- KEYS: the letters, the acts on them, the groups. ARGV: how many entries to scan.
-- Returns 1 once all are counted.
local function recount_letters(keys, argv)
  local marker = keys[3] .. ':recount'
  local before = redis.call('get', marker)
  if not before then redis.call('del', keys[3]) end
  local all = { before or '+', '-', '{}', '', argv[1], '1' }
  local last = search(keys, all, function(entry, letter)
    count_letter(keys[1], letter, 1, entry[1])
  end)
  if last == '' then
    redis.call('del', marker)
    return 1
  end
  redis.call('set', marker, '(' .. last)
  return 0
end

-- Retry or discard a letter. The first caller decides, and every caller gets that decision. The new
-- task is written as streaq would write it.
-- KEYS: the key for this letter's act, the hash of acts, the payload of the new task, its queue,
-- the letters, the hash from task to entry. ARGV: the dead task, the act, the new task or nothing,
-- its payload, 1 to keep the act in the hash, the fingerprint.
local function settle_letter(keys, argv)
  local decided = redis.call('get', keys[1]) or redis.call('hget', keys[2], argv[1])
  if decided then return decided end
  if argv[3] ~= '' and redis.call('set', keys[3], argv[4], 'nx') then
    post(keys[4], argv[3], whole(clock()))
    move_once(keys[3]:sub(1, -#(':task:data:' .. argv[3]) - 1), argv[1], argv[3])
  end
  if argv[5] == '1' then
    redis.call('hset', keys[2], argv[1], argv[2])
  else
    redis.call('set', keys[1], argv[2])
  end
  local place = redis.call('hget', keys[6], argv[1]) or ''
  count_letter(keys[5], { fingerprint = argv[6] }, -1, place)
  return argv[2]
end

-- Remove letters that are stored elsewhere; they stay in the groups of their bugs, except those that
-- are not stored there, either, as their tasks have another letter.
-- KEYS: the letters, the hash from task to entry, the acts. ARGV: entry, task and 1 if it is stored, of
-- each.
local function remove_letters(keys, argv)
  for i = 1, #argv, 3 do
    local entry = redis.call('xrange', keys[1], argv[i], argv[i])[1]
    local about = entry and about_entry(entry)
    if about and argv[i + 2] == '1' then
      redis.call('zrem', keys[1] .. ':of:' .. about.fingerprint, argv[i])
    elseif about then
      count_letter(keys[1], about, -1, argv[i])
    end
    redis.call('xdel', keys[1], argv[i])
    redis.call('hdel', keys[2], argv[i + 1])
    redis.pcall('zrem', keys[1] .. ':ids', argv[i + 1])
    redis.call('hdel', keys[3], argv[i + 1])
  end
end

-- Correct the counts of groups after letters that are stored elsewhere were counted.
-- KEYS: the groups. ARGV: groups, in which `count` is the number to add.
local function add_groups(keys, argv)
  for _, text in ipairs(argv) do
    local group = cjson.decode(text)
    local known = object(redis.call('hget', keys[1], group.fingerprint))
    if known and type(known.count) == 'number' then group.count = group.count + known.count end
    if group.count > 0 then
      redis.call('hset', keys[1], group.fingerprint, cjson.encode(group))
    else
      redis.call('hdel', keys[1], group.fingerprint)
    end
  end
end
