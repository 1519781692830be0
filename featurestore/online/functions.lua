#!lua name=featurestore_v5

-- Rows, and how far they have come, move together or not at all.
-- A bucket's state is one hash: the token of its last commit under 'ver', and one watermark a topic-partition.
-- A row is its 16-byte token, then its payload.

local TOKEN_BYTES = 16
local ABSENT = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
-- Lua hands a few thousand values over at once; fewer calls cost less.
local ROWS_A_CALL = 1000
local FIELDS_A_CALL = 2000
-- Valkey 9.1 and Redis 8.4 set many rows with their expiry in one call. Asked once; a reload asks again.
local knows_msetex = nil

local function end_offset(mark)
  if not mark then return nil end
  return tonumber(string.match(mark, '^%d+'))
end

-- The rows `first` to `last` of a call; what stands before the first of all in `keys` and in `args` is told by `call`.
local function set_rows(call, keys, args, first, last)
  local expiry = call.expiry
  if expiry ~= '' and knows_msetex == false then
    for row = first, last do
      redis.call('SET', keys[call.states + row], args[call.head + row], 'PX', expiry)
    end
    return
  end
  -- Counted by hand: `#` looks for the end anew each time.
  local values, count, states, head = {}, 0, call.states, call.head
  for row = first, last do
    values[count + 1], values[count + 2] = keys[states + row], args[head + row]
    count = count + 2
  end
  if expiry == '' then
    redis.call('MSET', unpack(values))
    return
  end
  values[count + 1], values[count + 2] = 'PX', expiry
  if knows_msetex then
    redis.call('MSETEX', last - first + 1, unpack(values))
    return
  end
  -- An unknown command does nothing, so it may be tried.
  local reply = redis.pcall('MSETEX', last - first + 1, unpack(values))
  knows_msetex = type(reply) ~= 'table' or reply.err == nil
  if not knows_msetex then set_rows(call, keys, args, first, last) end
end

-- The values of a hash's fields, false where there is none.
local function fields_of(key, fields)
  if #fields <= FIELDS_A_CALL then return redis.call('HMGET', key, unpack(fields)) end
  local out = {}
  for first = 1, #fields, FIELDS_A_CALL do
    local some = redis.call('HMGET', key, unpack(fields, first, math.min(first + FIELDS_A_CALL - 1, #fields)))
    for place = 1, #some do out[first + place - 1] = some[place] end
  end
  return out
end

-- Fields of a hash, each before its value.
local function set_fields(key, pairs)
  for first = 1, #pairs, FIELDS_A_CALL do
    redis.call('HSET', key, unpack(pairs, first, math.min(first + FIELDS_A_CALL - 1, #pairs)))
  end
end

-- One bucket of a call: all of it or nothing. Its rows are `first` to `last`, none where `last` is less.
local function commit_bucket(call, keys, args, key, token, first, last)
  local state = fields_of(key, call.fields)
  for move = 1, call.moves do
    local held, expected, new = state[move + 1], call.expected[move], call.marks[2 * move + 2]
    local stored = end_offset(held)
    if stored ~= expected then
      if stored == nil then return {'lost', '', move - 1} end
      if stored >= end_offset(new) then return {'duplicate', held, move - 1} end
      if expected ~= nil and stored < expected then return {'lost', held, move - 1} end
      return {'straddle', held, move - 1}
    end
  end
  -- Somebody else committed to this bucket since the rows were read: only rows that did not move may be written.
  if last >= first and (state[1] or '') ~= token then
    for row = first, last do
      local read = string.sub(args[call.head], (row - 1) * TOKEN_BYTES + 1, row * TOKEN_BYTES)
      local held = redis.call('GETRANGE', keys[call.states + row], 0, TOKEN_BYTES - 1)
      if held ~= read and not (held == '' and read == ABSENT) then return {'conflict'} end
    end
  end
  -- Every check is done: a failing function is not rolled back, so nothing may fail from here on.
  for some = first, last, ROWS_A_CALL do
    set_rows(call, keys, args, some, math.min(some + ROWS_A_CALL - 1, last))
  end
  set_fields(key, call.marks)
  return {'applied'}
end

-- Some buckets, each for itself, whose watermarks make the same moves.
-- keys: the state of each bucket; the rows, bucket by bucket
-- args: new token, expiry in ms ('' for none), how many buckets, how many topic-partitions move; of each its name,
--       expected end offset ('' for none) and new mark; of each bucket its token as read and how many rows it has;
--       the row tokens as read in one string (zeros for absent); the new rows
-- returns of each bucket
--       {'applied'} | {'duplicate', mark, move} | {'straddle', mark, move} | {'lost', mark or '', move} | {'conflict'}
local function commit(keys, args)
  local fresh, buckets, moves = args[1], tonumber(args[3]), tonumber(args[4])
  local of_bucket = 4 + 3 * moves
  local call = {
    expiry = args[2], states = buckets, moves = moves, head = of_bucket + 2 * buckets + 1,
    fields = {'ver'}, expected = {}, marks = {'ver', fresh},
  }
  for move = 1, moves do
    local at = 2 + 3 * move
    call.fields[move + 1], call.expected[move] = args[at], tonumber(args[at + 1])
    call.marks[2 * move + 1], call.marks[2 * move + 2] = args[at], args[at + 2]
  end
  local out, row = {}, 0
  for bucket = 1, buckets do
    local at = of_bucket + 2 * bucket - 1
    local last = row + tonumber(args[at + 1])
    out[bucket] = commit_bucket(call, keys, args, keys[bucket], args[at], row + 1, last)
    row = last
  end
  return out
end

redis.register_function('featurestore_v5_commit', commit)
