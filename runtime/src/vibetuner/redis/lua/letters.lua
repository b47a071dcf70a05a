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
