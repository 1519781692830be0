#!lua name=featurestore_v3

-- Rows, and how far they have come, move together or not at all.
-- A bucket's state is one hash: the token of its last commit under 'ver', and one watermark a topic-partition.
-- A row is its 16-byte token, then its payload.

local TOKEN_BYTES = 16
local ABSENT = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
-- Lua hands a few thousand values over at once; fewer calls cost less.
local ROWS_A_CALL = 1000
-- Valkey 9.1 and Redis 8.4 set many rows with their expiry in one call. Asked once; a reload asks again.
local knows_msetex = nil

local function end_offset(mark)
  if not mark then return nil end
  return tonumber(string.match(mark, '^%d+'))
end

-- Rows first to last, whose values stand in `args` after place `before`.
local function set_rows(keys, args, before, first, last, expiry)
  if expiry ~= '' and knows_msetex == false then
    for row = first, last do redis.call('SET', keys[row + 1], args[before + row], 'PX', expiry) end
    return
  end
  local values = {}
  for row = first, last do
    values[#values + 1] = keys[row + 1]
    values[#values + 1] = args[before + row]
  end
  if expiry == '' then
    redis.call('MSET', unpack(values))
    return
  end
  values[#values + 1] = 'PX'
  values[#values + 1] = expiry
  if knows_msetex then
    redis.call('MSETEX', last - first + 1, unpack(values))
    return
  end
  -- An unknown command does nothing, so it may be tried.
  local reply = redis.pcall('MSETEX', last - first + 1, unpack(values))
  knows_msetex = type(reply) ~= 'table' or reply.err == nil
  if not knows_msetex then set_rows(keys, args, before, first, last, expiry) end
end

-- keys: state, rows...
-- args: bucket token as read, new token, expiry in ms ('' for none), the row tokens as read in one string (zeros for
--       absent), how many topic-partitions move; of each its name, expected end offset ('' for none) and new mark;
--       then the new rows
-- returns {'applied'} | {'duplicate', mark, move} | {'straddle', mark, move} | {'lost', mark or '', move} | {'conflict'}
local function commit(keys, args)
  local token, fresh, expiry, moves = args[1], args[2], args[3], tonumber(args[5])
  local count, before = #keys - 1, 5 + 3 * moves
  local fields, marks = {'ver'}, {'ver', fresh}
  for move = 1, moves do
    local at = 3 + 3 * move
    fields[move + 1] = args[at]
    marks[2 * move + 1], marks[2 * move + 2] = args[at], args[at + 2]
  end
  local state = redis.call('HMGET', keys[1], unpack(fields))
  for move = 1, moves do
    local held, expected, new = state[move + 1], tonumber(args[4 + 3 * move]), args[5 + 3 * move]
    local stored = end_offset(held)
    if stored ~= expected then
      if stored == nil then return {'lost', '', move - 1} end
      if stored >= end_offset(new) then return {'duplicate', held, move - 1} end
      if expected ~= nil and stored < expected then return {'lost', held, move - 1} end
      return {'straddle', held, move - 1}
    end
  end
  -- Somebody else committed to this bucket since the rows were read: only rows that did not move may be written.
  if count > 0 and (state[1] or '') ~= token then
    for row = 1, count do
      local read = string.sub(args[4], (row - 1) * TOKEN_BYTES + 1, row * TOKEN_BYTES)
      local held = redis.call('GETRANGE', keys[row + 1], 0, TOKEN_BYTES - 1)
      if held ~= read and not (held == '' and read == ABSENT) then return {'conflict'} end
    end
  end
  -- Every check is done: a failing function is not rolled back, so nothing may fail from here on.
  for first = 1, count, ROWS_A_CALL do
    set_rows(keys, args, before, first, math.min(first + ROWS_A_CALL - 1, count), expiry)
  end
  redis.call('HSET', keys[1], unpack(marks))
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

redis.register_function('featurestore_v3_commit', commit)
redis.register_function('featurestore_v3_point', point)
