-- Shares one limit among hosts. The store runs this, with fill.lua before it, for every call of a
-- daemon, all at once.
--
-- KEYS[1] is the hash of one limit: field "g" has what belongs to all, field "h:ID" one daemon.
-- ARGV[1] says what is asked: "renew", "leave" or "look"; messages.py has the other arguments and
-- the reply. tests/unit/cluster/store_model.py has the same rules in Python, and the tests hold
-- both to the same answers.
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
local GRANTED = 0.99         -- of the limit; the rest is for first requests of idle hosts
local SHORT = 0.95           -- who has less of its share is short
local OVER = 1.02            -- who holds more of its share has to give
local PERIOD_PER_HOST, SHORTEST_PERIOD, LONGEST_PERIOD = 5000, 200000, 330000
local HINT_AGAIN = 20000
local BURST_ENDS = 1.5       -- leases; how gently a burst ends

local key = KEYS[1]
local channel = key .. ":hint"
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function text(number)
  return string.format("%.17g", number)
end

-- Returns whether the hash is something else's; if not, also what all have, the hosts and their ids.
local function read_state()
  local fields = redis.call("HGETALL", key)
  local all, hosts, ids = nil, {}, {}
  for i = 1, #fields, 2 do
    local is_ours, value = pcall(cmsgpack.unpack, fields[i + 1])
    if not is_ours or type(value) ~= "table" then return true end
    if fields[i] == "g" then
      all = value
    else
      local id = string.sub(fields[i], 3)
      hosts[id] = value
      ids[#ids + 1] = id
    end
  end
  table.sort(ids)
  return false, all, hosts, ids
end

local function write_host(id, host)
  redis.call("HSET", key, "h:" .. id, cmsgpack.pack(host))
end

-- The numbers of the limits: rate, burst rate, burst volume of each.
local function parse_limits(words)
  local numbers = {}
  for word in string.gmatch(words, "%S+") do
    numbers[#numbers + 1] = tonumber(word)
  end
  local limits = {}
  for d = 1, 6 do
    limits[d] = { rate = numbers[d] or 0, burst = numbers[6 + d] or 0,
                  volume = (numbers[6 + d] or 0) * (numbers[12 + d] or 0) }
  end
  return limits
end

-- How much may be held of each limit now: its rate, or more while a burst lasts.
local function capacities(limits, level)
  local found = {}
  for d = 1, 6 do
    local rate, burst = limits[d].rate, limits[d].burst
    found[d] = rate
    if burst > rate then
      local left = math.max(0, limits[d].volume - level[d])
      found[d] = rate + math.min(burst - rate, left / (BURST_ENDS * LEASE / 1000000))
    end
  end
  return found
end

-- Tell those that should call now: who has to give where somebody is short, and who can get more.
-- Returns whether `caller` has to give: somebody is short of what it holds too much of.
local function hint(caller, ids, hosts, want, capacity)
  local total, short = { 0, 0, 0, 0, 0, 0 }, { false, false, false, false, false, false }
  for _, id in ipairs(ids) do
    for d = 1, 6 do
      total[d] = total[d] + held(hosts[id], d)
      if capacity[d] > 0 and hosts[id].granted[d] < SHORT * want[id][d] then short[d] = true end
    end
  end
  local called = {}
  local must_give = false
  for _, id in ipairs(ids) do
    local host, give, take = hosts[id], false, false
    for d = 1, 6 do
      if short[d] and held(host, d) > OVER * want[id][d] then give = true end
      if capacity[d] > 0 and host.granted[d] < SHORT * want[id][d]
        and total[d] < GRANTED * capacity[d] - 0.005 * capacity[d] then take = true end
    end
    if id == caller then
      must_give = give
    elseif (give or take) and (host.at >= host.hinted or now - host.hinted >= HINT_AGAIN) then
      host.hinted = now
      write_host(id, host)
      called[#called + 1] = id
    end
  end
  if #called > 0 then redis.call("PUBLISH", channel, table.concat(called, " ")) end
  return must_give
end

local function numbers(from, count)
  local found = {}
  for i = 1, count do found[i] = tonumber(ARGV[from + i - 1]) end
  return found
end

local function look(all, hosts, ids)
  local reply = { "ok", text(now), text(all and all.version or 0), all and all.limits or "" }
  for _, id in ipairs(ids) do
    local host = hosts[id]
    reply[#reply + 1] = id
    reply[#reply + 1] = host.name
    reply[#reply + 1] = text(now - host.at)
    reply[#reply + 1] = text(host.weight)
    reply[#reply + 1] = host.on_lost
    reply[#reply + 1] = text(host.fallback)
    for d = 1, 6 do reply[#reply + 1] = text(held(host, d)) end
  end
  return reply
end

local is_foreign, all, hosts, ids = read_state()
if is_foreign then return redis.error_reply("WRONGTYPE the hash is not that of a limit") end
if ARGV[1] == "look" then return look(all, hosts, ids) end

local id = ARGV[2]
local sequence, serial = tonumber(ARGV[3]), tonumber(ARGV[4])
local server = string.match(redis.call("INFO", "server"), "run_id:(%x+)") or ""

local fresh = all == nil
if fresh then
  all = { server = server, last = now, lost = now, forgot = now, version = 0, limits = "", serial = serial,
          level = { 0, 0, 0, 0, 0, 0 } }
elseif all.server ~= server or serial > all.serial then
  -- Another server, or an older state: leases may be under way that it knows nothing of.
  all.server, all.lost, all.forgot = server, now, now
  all.serial = math.max(all.serial, serial)
end

local before = hosts[id]
if before and sequence <= before.sequence then return { "old" } end

if ARGV[1] == "leave" then
  redis.call("HDEL", key, "h:" .. id)
  hosts[id] = nil
  local others = {}
  for _, other in ipairs(ids) do
    if other ~= id then others[#others + 1] = other end
  end
  local capacity = capacities(parse_limits(all.limits), all.level)
  local cap = {}
  for d = 1, 6 do cap[d] = GRANTED * capacity[d] end
  hint("", others, hosts, fill(others, hosts, cap), capacity)
  return { "ok", text(now) }
end

-- A clock that went back must not make anything last longer.
if all.lost > now then all.lost = now end
if all.forgot > now then all.forgot = now end
local idle_time = math.max(0, now - all.last)
local others_stay, others_active = false, false
for other, host in pairs(hosts) do
  if host.at > now then
    host.at = now
    write_host(other, host)
  end
  if other ~= id and host.on_lost ~= "closed" then
    others_stay = true
    if is_active(host) then others_active = true end
  end
end
-- Nobody has called for so long that all may go on without the store; or while a loss was not yet
-- got over, so that some may not have called since.
local recovers = all.lost > 0
if (others_stay or recovers)
  and idle_time > ((others_active or recovers) and SILENCE or IDLE_SILENCE) then
  all.lost = now
end
if all.forgot > 0 and idle_time > IDLE_SILENCE then all.forgot = now end

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
local kept = {}
for _, other in ipairs(ids) do
  local host = hosts[other]
  if other ~= id and is_over(host.at, host.lasts) then
    hosts[other] = nil
    redis.call("HDEL", key, "h:" .. other)
  elseif other ~= id then
    kept[#kept + 1] = other
  end
end
kept[#kept + 1] = id
table.sort(kept)
ids = kept

-- The limit itself: who changes it wins, and who knows a later version after a loss.
local version, words = tonumber(ARGV[8]), ARGV[9]
local changes = ARGV[10] == "1"
if changes then
  all.version, all.limits = math.max(all.version, version) + 1, words
elseif words ~= "" and (version > all.version or all.limits == "") then
  all.version, all.limits = math.max(version, 1), words
end
local limits = parse_limits(all.limits)

-- The level of each burst rises by what is held and falls by the rate; what was held and not used
-- comes back with the next call.
local used = numbers(29, 4)
local passed = idle_time / 1000000
for d = 1, 6 do
  if limits[d].burst > limits[d].rate then
    local total = 0
    for _, other in ipairs(ids) do
      local host = hosts[other]
      if host then
        local rate = held(host, d)
        total = total + rate
        host.charged[d] = host.charged[d] + rate * passed
        if other ~= id then write_host(other, host) end
      end
    end
    all.level[d] = math.max(0, all.level[d] + (total - limits[d].rate) * passed)
    if before then
      local part = d <= 3 and 0 or 2
      local spent = 0
      for direction = 1, 2 do
        local kinds = d <= 3 and BYTES[direction] or UNITS[direction]
        if kinds[1] == d or kinds[2] == d then
          spent = spent + used[part + direction] - before.used[part + direction]
        end
      end
      all.level[d] = math.max(0, all.level[d] + spent - before.charged[d])
    end
  else
    all.level[d] = 0
  end
end

local caller = {
  sequence = sequence, at = now, weight = tonumber(ARGV[11]), fallback = tonumber(ARGV[12]),
  using = numbers(13, 6), granted = { 0, 0, 0, 0, 0, 0 }, demand = numbers(19, 10), used = used,
  charged = { 0, 0, 0, 0, 0, 0 }, name = ARGV[33], on_lost = ARGV[34],
  hinted = before and before.hinted or 0, lasts = LEASE, promised = 0,
}
hosts[id] = caller
if not is_active(caller) then caller.lasts = IDLE_LEASE end

local capacity = capacities(limits, all.level)
local cap = {}
for d = 1, 6 do cap[d] = GRANTED * capacity[d] end
local want, active = fill(ids, hosts, cap)

if all.lost > 0 and is_over(all.lost, LEASE) then all.lost = 0 end
if all.forgot > 0 and is_over(all.forgot, UNHEARD) then all.forgot = 0 end
for d = 1, 6 do
  local others = 0
  for _, other in ipairs(ids) do
    if other ~= id then others = others + held(hosts[other], d) end
  end
  local grant = math.min(want[id][d], cap[d] - others)
  local reserve = (1 - GRANTED) * capacity[d] / 2
  if grant < reserve and caller.using[d] < reserve then
    grant = math.max(grant, math.min(want[id][d], (capacity[d] - others) / 2))
  end
  if all.lost > 0 then grant = math.min(grant, caller.using[d]) end
  caller.granted[d] = math.max(0, grant)
end

-- What each may use without the store: its weight's part, shared out by the same rule.
local weights, taken = 0, 0
for _, other in ipairs(ids) do
  local host = hosts[other]
  weights = weights + host.weight
  if other ~= id then taken = taken + math.max(host.fallback, host.promised) end
end
local promise = math.max(0, math.min(GRANTED * caller.weight / weights, GRANTED - taken))
if all.lost > 0 or all.forgot > 0 then promise = math.min(promise, caller.fallback) end
caller.promised = promise

all.serial = all.serial + 1
all.last = now
local must_give = hint(id, ids, hosts, want, capacity)
if changes then redis.call("PUBLISH", channel, "*") end
write_host(id, caller)
redis.call("HSET", key, "g", cmsgpack.pack(all))
redis.call("PEXPIRE", key, FORGET_MS)

local period = math.min(math.max(PERIOD_PER_HOST * active, SHORTEST_PERIOD), LONGEST_PERIOD)
local reply = {
  "ok", text(now), text(all.serial), text(all.version),
  version == all.version and "" or all.limits, text(promise), text(#ids), text(active),
  text(period), must_give and "1" or "0",
  text(all.lost > 0 and math.max(0, all.lost + LEASE - now) or 0),
}
for d = 1, 6 do reply[#reply + 1] = text(caller.granted[d]) end
return reply
