#!lua name=featurestore_v1

-- Rows, and how far they have come, move together or not at all.
-- A bucket's state is one hash: the token of its last commit under 'ver', and one watermark a topic-partition.
-- A row is its 16-byte token, then its payload.

local function end_offset(mark)
  if not mark then return nil end
  return tonumber(string.match(mark, '^%d+'))
end

-- keys: state, rows...
-- args: topic-partition, expected end offset ('' for none), new mark, bucket token as read, new token,
--       expiry in ms ('' for none), then the row tokens as read ('' for absent), then the new rows
-- returns {'applied'} | {'duplicate', mark} | {'straddle', mark} | {'lost', mark or ''} | {'conflict'}
local function commit(keys, args)
  local place, expected, new, token, fresh, expiry = args[1], tonumber(args[2]), args[3], args[4], args[5], args[6]
  local count = #keys - 1
  local state = redis.call('HMGET', keys[1], place, 'ver')
  local stored = end_offset(state[1])
  if stored ~= expected then
    if stored == nil then return {'lost', ''} end
    if stored >= end_offset(new) then return {'duplicate', state[1]} end
    if expected ~= nil and stored < expected then return {'lost', state[1]} end
    return {'straddle', state[1]}
  end
  -- Somebody else committed to this bucket since the rows were read: only rows that did not move may be written.
  if count > 0 and (state[2] or '') ~= token then
    for row = 1, count do
      if redis.call('GETRANGE', keys[row + 1], 0, 15) ~= args[6 + row] then return {'conflict'} end
    end
  end
  -- Every check is done: a failing function is not rolled back, so nothing may fail from here on.
  if expiry ~= '' then
    for row = 1, count do redis.call('SET', keys[row + 1], args[6 + count + row], 'PX', expiry) end
  else
    for first = 1, count, 1000 do
      local pairs_of = {}
      for row = first, math.min(first + 999, count) do
        pairs_of[#pairs_of + 1] = keys[row + 1]
        pairs_of[#pairs_of + 1] = args[6 + count + row]
      end
      redis.call('MSET', unpack(pairs_of))
    end
  end
  redis.call('HSET', keys[1], place, new, 'ver', fresh)
  return {'applied'}
end

-- keys: a hash
-- args: field, the value it must have ('' for none), the new value
-- returns 1 when it was written, 0 when the field had another value
local function point(keys, args)
  if (redis.call('HGET', keys[1], args[1]) or '') ~= args[2] then return 0 end
  redis.call('HSET', keys[1], args[1], args[3])
  return 1
end

redis.register_function('featurestore_v1_commit', commit)
redis.register_function('featurestore_v1_point', point)
