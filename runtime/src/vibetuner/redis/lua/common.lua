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
