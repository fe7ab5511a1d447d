-- Shares one limit among hosts. The store runs this, with fill.lua before it, for every call of a
-- daemon, all at once.
--
-- KEYS[1] is the hash of one limit: field "g" has what belongs to all, field "h:ID" one daemon.
-- ARGV[1] says what is asked: "renew", "leave" or "look"; messages.py has the other arguments and
-- the reply. store_model.py and fill_model.py in tests/unit/cluster have the same rules in Python,
-- and the tests hold both to the same answers.
--
-- Times are microseconds of the server's clock. What a daemon *holds* is the larger of what it says
-- that it uses and what it was granted last: a smaller grant counts once the daemon has confirmed
-- it. The sum of what all hold never passes the limit, for a grant is what the others leave.

local LEASE = 1000000        -- how long a grant is good for
local IDLE_LEASE = 10000000  -- how long a daemon that holds nothing is remembered
local FORGET_MS = 60000      -- the hash goes when nobody has called for so long
local CLOCK_ERROR = 150000   -- a call that is further off the server's clock proves nothing
local SILENCE = 500000       -- after which active hosts may have taken the store for lost
local IDLE_SILENCE = 4000000 -- the same where all are idle
local UNHEARD = 5000000      -- after a loss: until then idle hosts may not have called
local MOST = 0.99            -- of the limit; the rest is for first requests of idle hosts
local SHORT = 0.95           -- who has less of its share is short
local OVER = 1.02            -- who holds more of its share has to give
local PERIOD_PER_HOST, SHORTEST_PERIOD, LONGEST_PERIOD = 5000, 200000, 330000
local HINT_AGAIN = 20000
local BURST_ENDS = 1.5       -- leases; how gently a burst ends

-- A field begins with a letter, then come numbers, eight bytes each, then text. One call of
-- struct.unpack reads all that is needed of a host.
local MARK_HOST, MARK_ALL = "H", "G"
-- What a host has beyond its row: when it was last told to call, its sequence number, the part that
-- it says itself, and all that went. Its text: on_lost and name.
local HINTED, SEQUENCE, FALLBACK, SPENT, HOST = 28, 29, 30, 30, 34
local SPENT_OF = { 1, 3, 2, 4 } -- where the four numbers of what went have each stream
-- What belongs to all: serial and version, times of the last call and of losses, the level of each
-- burst, and the limits: their rates, burst rates and burst volumes. Its text: the server's run id
-- and the limits in words.
local SERIAL, VERSION, LAST, LOST, FORGOT = 1, 2, 3, 4, 5
local LEVEL, RATE, BURST, VOLUME, ALL = 5, 11, 17, 23, 29

local ROW_FORMAT = "<" .. string.rep("d", ROW)
local HOST_FORMAT = "<" .. string.rep("d", HOST)
local ALL_FORMAT = "<" .. string.rep("d", ALL)

local key = KEYS[1]
local channel = key .. ":hint"
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function text(number)
  return number == 0 and "0" or string.format("%.17g", number)
end

local function is_record(value, mark, numbers)
  return string.byte(value) == string.byte(mark) and #value > 8 * numbers
end

-- The id of a host, on_lost and its name, in the text of its field.
local function words_of(value)
  return string.match(string.sub(value, 8 * HOST + 2), "^(%S+) (%S+) (.*)$")
end

-- Returns a host's field with one number changed, after writing it.
local function change(value, index, number)
  local before = 8 * index - 7
  value = string.sub(value, 1, before) .. struct.pack("<d", number) .. string.sub(value, before + 9)
  redis.call("HSET", key, "h:" .. (words_of(value)), value)
  return value
end

-- The limits as numbers of `all`: rate, burst rate, burst volume of each.
local function set_limits(all, words)
  local numbers = {}
  for word in string.gmatch(words, "%S+") do numbers[#numbers + 1] = tonumber(word) end
  for d = 1, 6 do
    all[RATE + d], all[BURST + d] = numbers[d] or 0, numbers[6 + d] or 0
    all[VOLUME + d] = (numbers[6 + d] or 0) * (numbers[12 + d] or 0)
  end
end

-- The limits that there are, and how much may be held of each now: its rate, or more while a burst
-- lasts.
local function capacities(all)
  local used, found = {}, {}
  for d = 1, 6 do
    local rate, burst = all[RATE + d], all[BURST + d]
    found[d] = rate
    if burst > rate then
      local left = math.max(0, all[VOLUME + d] - all[LEVEL + d])
      found[d] = rate + math.min(burst - rate, left / (BURST_ENDS * LEASE / 1000000))
    end
    if found[d] > 0 then used[#used + 1] = d end
  end
  return used, found
end

local function most_of(capacity)
  local cap = {}
  for d = 1, 6 do cap[d] = MOST * capacity[d] end
  return cap
end

-- What the host in row i is to have of the limit d; see fill.
local function share_of(rows, i, d, want, more)
  local row = rows[i]
  local share = (want[FIRST[d]][i] or 0) + (want[SECOND[d]][i] or 0)
  return share + more[d] * (row[ACTIVE] * row[WEIGHT])
end

-- Tell those that should call now: who has to give where somebody is short, and who can get more.
-- Returns whether the host in row `mine` has to give: somebody is short of what it holds too much
-- of. It is not told.
local function hint(mine, rows, values, used, capacity, want, more)
  local must_give, told = false, nil
  for u = 1, #used do
    local d = used[u]
    local one, two, extra = want[FIRST[d]], want[SECOND[d]], more[d]
    local held, granted = HELD + d, GRANTED + d
    local total, short = 0, false
    for i = 1, #rows do
      local row = rows[i]
      total = total + row[held]
      local share = (one[i] or 0) + (two[i] or 0) + extra * (row[ACTIVE] * row[WEIGHT])
      if row[granted] < SHORT * share then short = true end
    end
    if short then
      local is_room = total < MOST * capacity[d] - 0.005 * capacity[d]
      told = told or {}
      for i = 1, #rows do
        local row, share = rows[i], share_of(rows, i, d, want, more)
        local gives = row[held] > OVER * share
        if i == mine then
          must_give = must_give or gives
        elseif gives or (is_room and row[granted] < SHORT * share) then
          told[i] = true
        end
      end
    end
  end
  if told then
    local called = {}
    for i = 1, #rows do
      if told[i] then
        local hinted = struct.unpack("<d", values[i], 8 * HINTED - 6)
        if rows[i][AT] >= hinted or now - hinted >= HINT_AGAIN then
          called[#called + 1] = (words_of(change(values[i], HINTED, now)))
        end
      end
    end
    if #called > 0 then redis.call("PUBLISH", channel, table.concat(called, " ")) end
  end
  return must_give
end

local function arguments(from, count)
  local numbers = {}
  for i = 1, count do numbers[i] = tonumber(ARGV[from + i - 1]) end
  return numbers
end

local function look(values, all, limits)
  local hosts = {}
  for _, value in ipairs(values) do
    local row = { struct.unpack(HOST_FORMAT, value, 2) }
    local id, on_lost, name = words_of(value)
    local said = { id, name, text(now - row[AT]), text(row[WEIGHT]), on_lost, text(row[FALLBACK]) }
    for d = 1, 6 do said[6 + d] = text(row[HELD + d]) end
    hosts[#hosts + 1] = said
  end
  table.sort(hosts, function(a, b) return a[1] < b[1] end)
  local reply = { "ok", text(now), text(all and all[VERSION] or 0), limits }
  for _, said in ipairs(hosts) do
    for _, word in ipairs(said) do reply[#reply + 1] = word end
  end
  return reply
end

-- The fields of all others, of the caller (false if there is none) and of what belongs to all.
local own = ARGV[1] ~= "look" and "h:" .. ARGV[2]
local mine, common = own and redis.call("HGET", key, own), redis.call("HGET", key, "g")
local is_ours = not common or is_record(common, MARK_ALL, ALL)
local values, count = {}, 0
for _, value in ipairs(redis.call("HVALS", key)) do
  if value ~= common then
    is_ours = is_ours and is_record(value, MARK_HOST, HOST)
    if value ~= mine then
      count = count + 1
      values[count] = value
    end
  end
end
if not is_ours then return redis.error_reply("WRONGTYPE the hash is not that of a limit") end

local all, known, words = nil, nil, ""
if common then
  all = { struct.unpack(ALL_FORMAT, common, 2) }
  known, words = string.match(string.sub(common, all[ALL + 1]), "^(%x*) (.*)$")
end
if not own then return look(values, all, words) end

local sequence, serial = tonumber(ARGV[3]), tonumber(ARGV[4])
local info = redis.call("INFO", "server")
local _, ends = string.find(info, "run_id:", 1, true)
local server = ends and string.match(info, "^%x+", ends + 1) or ""
if not all then
  all = { serial, 0, now, now, now }
  for number = LEVEL + 1, ALL do all[number] = 0 end
elseif known ~= server or serial > all[SERIAL] then
  -- Another server, or an older state: leases may be under way that it knows nothing of.
  all[LOST], all[FORGOT] = now, now
  all[SERIAL] = math.max(all[SERIAL], serial)
end
local before = mine and { struct.unpack(HOST_FORMAT, mine, 2) }
if before and sequence <= before[SEQUENCE] then return { "old" } end

local rows = {}
for i = 1, count do rows[i] = { struct.unpack(ROW_FORMAT, values[i], 2) } end

if ARGV[1] == "leave" then
  redis.call("HDEL", key, own)
  local used, capacity = capacities(all)
  hint(0, rows, values, used, capacity, fill(rows, used, most_of(capacity)))
  return { "ok", text(now) }
end

-- A clock that went back must not make anything last longer.
all[LOST], all[FORGOT] = math.min(all[LOST], now), math.min(all[FORGOT], now)
local idle_time = math.max(0, now - all[LAST])
local others_stay, others_active = false, false
for i = 1, count do
  local row = rows[i]
  if row[AT] > now then
    row[AT] = now
    values[i] = change(values[i], AT, now)
  end
  if row[STAYS] == 1 then
    others_stay = true
    others_active = others_active or row[ACTIVE] == 1
  end
end
-- Nobody has called for so long that all may go on without the store; or while a loss was not yet
-- got over, so that some may not have called since.
local recovers = all[LOST] > 0
if (others_stay or recovers)
  and idle_time > ((others_active or recovers) and SILENCE or IDLE_SILENCE) then
  all[LOST] = now
end
if all[FORGOT] > 0 and idle_time > IDLE_SILENCE then all[FORGOT] = now end

-- What the caller's clock proves: since when it agrees with the server's.
local since = now
if ARGV[7] ~= "" then
  local low, high = tonumber(ARGV[5]), tonumber(ARGV[6])
  if now >= low - CLOCK_ERROR and now <= high + CLOCK_ERROR then since = tonumber(ARGV[7]) end
end
local function is_over(from, lasts)
  return now >= from + lasts and (from >= since or now - since >= lasts)
end

-- Leases that are over.
local kept = 0
for i = 1, count do
  local row, value = rows[i], values[i]
  rows[i], values[i] = nil, nil
  if is_over(row[AT], row[ACTIVE] == 1 and LEASE or IDLE_LEASE) then
    redis.call("HDEL", key, "h:" .. (words_of(value)))
  else
    kept = kept + 1
    rows[kept], values[kept] = row, value
  end
end

-- The limit itself: who changes it wins, and who knows a later version after a loss.
local version, given = tonumber(ARGV[8]), ARGV[9]
local changes = ARGV[10] == "1"
if changes then
  all[VERSION], words = math.max(all[VERSION], version) + 1, given
  set_limits(all, words)
elseif given ~= "" and (version > all[VERSION] or words == "") then
  all[VERSION], words = math.max(version, 1), given
  set_limits(all, words)
end

-- The level of each burst rises by what is held and falls by the rate; what was held and not used
-- comes back with the next call.
local spent = arguments(29, 4)
for d = 1, 6 do
  local level = 0
  if all[BURST + d] > all[RATE + d] then
    local total = before and before[HELD + d] or 0
    for i = 1, kept do total = total + rows[i][HELD + d] end
    level = math.max(0, all[LEVEL + d] + (total - all[RATE + d]) * (idle_time / 1000000))
    if before then
      local went = 0
      for _, stream in ipairs({ FIRST[d], SECOND[d] }) do
        local number = SPENT_OF[stream]
        if number then went = went + spent[number] - before[SPENT + number] end
      end
      local held_for = math.max(0, now - before[AT]) / 1000000
      level = math.max(0, level + went - before[HELD + d] * held_for)
    end
  end
  all[LEVEL + d] = level
end

local using, demand = arguments(13, 6), arguments(19, 10)
local caller = { now, tonumber(ARGV[11]), 0, 0, ARGV[34] == "closed" and 0 or 1 }
for number = 1, 10 do
  caller[DEMAND + number] = demand[number]
  if number % 5 ~= 0 and demand[number] > 0 then caller[ACTIVE] = 1 end
end
for d = 1, 6 do
  caller[HELD + d] = using[d]
  if using[d] > 0 then caller[ACTIVE] = 1 end
end
for d = 1, 6 do caller[GRANTED + d] = 0 end
local last = kept + 1
rows[last] = caller

local used, capacity = capacities(all)
local cap = most_of(capacity)
local want, more = fill(rows, used, cap)

if all[LOST] > 0 and is_over(all[LOST], LEASE) then all[LOST] = 0 end
if all[FORGOT] > 0 and is_over(all[FORGOT], UNHEARD) then all[FORGOT] = 0 end
for u = 1, #used do
  local d = used[u]
  local others = 0
  for i = 1, kept do others = others + rows[i][HELD + d] end
  local share = share_of(rows, last, d, want, more)
  local grant = math.min(share, cap[d] - others)
  local reserve = (1 - MOST) * capacity[d] / 2
  if grant < reserve and using[d] < reserve then
    grant = math.max(grant, math.min(share, (capacity[d] - others) / 2))
  end
  if all[LOST] > 0 then grant = math.min(grant, using[d]) end
  caller[GRANTED + d] = math.max(0, grant)
  caller[HELD + d] = math.max(using[d], grant)
end

-- What each may use without the store: its weight's part, shared out by the same rule.
local weights, taken, active = caller[WEIGHT], 0, caller[ACTIVE]
for i = 1, kept do
  local row = rows[i]
  weights, taken, active = weights + row[WEIGHT], taken + row[PART], active + row[ACTIVE]
end
local fallback = tonumber(ARGV[12])
local promise = math.max(0, math.min(MOST * caller[WEIGHT] / weights, MOST - taken))
if all[LOST] > 0 or all[FORGOT] > 0 then promise = math.min(promise, fallback) end
caller[PART] = math.max(fallback, promise)

all[SERIAL], all[LAST] = all[SERIAL] + 1, now
local must_give = hint(last, rows, values, used, capacity, want, more)
if changes then redis.call("PUBLISH", channel, "*") end
caller[HINTED] = before and before[HINTED] or 0
caller[SEQUENCE], caller[FALLBACK] = sequence, fallback
for number = 1, 4 do caller[SPENT + number] = spent[number] end
redis.call("HSET", key,
  own, MARK_HOST .. struct.pack(HOST_FORMAT, unpack(caller))
    .. ARGV[2] .. " " .. ARGV[34] .. " " .. ARGV[33],
  "g", MARK_ALL .. struct.pack(ALL_FORMAT, unpack(all)) .. server .. " " .. words)
redis.call("PEXPIRE", key, FORGET_MS)

local period = math.min(math.max(PERIOD_PER_HOST * active, SHORTEST_PERIOD), LONGEST_PERIOD)
local reply = {
  "ok", text(now), text(all[SERIAL]), text(all[VERSION]),
  version == all[VERSION] and "" or words, text(promise), text(last), text(active),
  text(period), must_give and "1" or "0",
  text(all[LOST] > 0 and math.max(0, all[LOST] + LEASE - now) or 0),
}
for d = 1, 6 do reply[#reply + 1] = text(caller[GRANTED + d]) end
return reply
