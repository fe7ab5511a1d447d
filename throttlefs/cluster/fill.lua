-- The first part of the script that shares a limit: how much each host is to have. See store.lua.
--
-- This runs for each call of each host, so it makes no table for a host. A host is a row of numbers:

local AT = 1                  -- when it called last
local WEIGHT = 2
local PART = 3                -- of the limits: what it may use without the store
local ACTIVE, STAYS = 4, 5    -- 1 or 0: it holds or asks something; it goes on without the store
local DEMAND = 5              -- then 5 numbers for reads and 5 for writes; see messages.py
local HELD, GRANTED = 15, 21  -- then 6 numbers each, for each limit
local ROW = 27                -- so many numbers

local HANDED_OUT = 0.9        -- of what nobody asks for; the rest waits for who comes

-- Four streams are limited: bytes read, requests read, bytes written, requests written. Each limit
-- (bps, bps_rd, bps_wr, iops, iops_rd, iops_wr) counts one of them, or two; 5 is a stream of nothing.
local FIRST = { 1, 1, 3, 2, 2, 4 }
local SECOND = { 3, 5, 5, 4, 5, 5 }

local RISING, FULL = 1, 2     -- a flow that gets more as f grows, and one that has what is steady

-- Progressive filling: every member gets the same part f of its scarcest limit, by weight, and f
-- grows until a limit is full. Who needs that limit stays there, the others go on.
--
-- `used` are the limits that there are, `cap` is what may be held of each. Returns what the host in
-- row i is to have of stream s, at [s][i] (nil: nothing), and for each limit what each unit of an
-- active host's weight gets beyond that.
local function fill(rows, used, cap)
  local count = #rows
  -- A flow is one direction of a host that asks for something; nil once it stays where it is.
  local flows, open = { {}, {} }, 0
  -- The instants at which a flow has all that is steady, and which flows: i of reads, -i of writes.
  local steps, at_step, same_step = {}, {}, {}
  local weights = 0
  for i = 1, count do weights = weights + rows[i][ACTIVE] * rows[i][WEIGHT] end
  for direction = 1, 2 do
    local states, a = flows[direction], DEMAND + 5 * direction - 5
    for i = 1, count do
      local row = rows[i]
      local steady = row[a + 3] + row[a + 4]
      if steady > 0 or row[a + 1] + row[a + 2] > 0 then
        open = open + 1
        states[i] = FULL
        local ends = row[a + 5]
        if steady > 0 and ends > 0 then
          local flow = direction == 1 and i or -i
          states[i] = RISING
          if at_step[ends] then
            same_step[flow] = at_step[ends]
          else
            steps[#steps + 1] = ends
          end
          at_step[ends] = flow
        end
      end
    end
  end
  table.sort(steps)

  local want = { {}, {}, {}, {}, {} }
  local fixed = { 0, 0, 0, 0, 0 } -- what those that stay have of each stream
  local rise, stand = { 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0 } -- of the others: rise x f + stand
  local rising = { 0, 0, 0, 0 }   -- how many rise
  local done = {}                 -- limits that are full
  local f, step = 0, 1

  local function add_up()
    for direction = 1, 2 do
      local states, a, s = flows[direction], DEMAND + 5 * direction - 5, 2 * direction - 1
      local bytes, units, more_bytes, more_units, stand_bytes, stand_units = 0, 0, 0, 0, 0, 0
      for i = 1, count do
        local state = states[i]
        if state then
          local row = rows[i]
          local b, u = row[a + 1], row[a + 2]
          if state == FULL then
            stand_bytes, stand_units = stand_bytes + row[a + 3], stand_units + row[a + 4]
          else
            b, u = b + row[a + 3] / row[a + 5], u + row[a + 4] / row[a + 5]
          end
          if b > 0 then bytes, more_bytes = bytes + 1, more_bytes + b end
          if u > 0 then units, more_units = units + 1, more_units + u end
        end
      end
      rising[s], rise[s], stand[s] = bytes, more_bytes, stand_bytes
      rising[s + 1], rise[s + 1], stand[s + 1] = units, more_units, stand_units
    end
  end
  -- The next limit that is full, and the f at which it is; nil if there is none.
  local function next_limit()
    local limit, reached = nil, math.huge
    for u = 1, #used do
      local d = used[u]
      local one, two = FIRST[d], SECOND[d]
      local slope = rise[one] + rise[two]
      if not done[d] and slope > 0 then
        local taken = fixed[one] + fixed[two] + (stand[one] + stand[two])
        local instant = math.max(f, (cap[d] - taken) / slope)
        if instant < reached then limit, reached = d, instant end
      end
    end
    return limit, reached
  end
  local function take_step(ends)
    local flow = at_step[ends]
    while flow do
      local direction = flow > 0 and 1 or 2
      local states, i, a = flows[direction], math.abs(flow), DEMAND + 5 * direction - 5
      if states[i] then
        local row = rows[i]
        states[i] = FULL
        for kind = 1, 2 do
          local s, steady = 2 * direction - 2 + kind, row[a + 2 + kind]
          if steady > 0 then
            stand[s] = stand[s] + steady
            if row[a + kind] == 0 then rising[s] = rising[s] - 1 end
            -- Counted, for sums and differences leave something of what is gone.
            rise[s] = rising[s] > 0 and math.max(0, rise[s] - steady / ends) or 0
          end
        end
      end
      flow = same_step[flow]
    end
  end
  -- Let the flows of a direction stay, or those alone that need more of one kind (1: bytes, 2: units).
  local function stay(direction, part, kind)
    local states, a, s = flows[direction], DEMAND + 5 * direction - 5, 2 * direction - 1
    local bytes_of, units_of = want[s], want[s + 1]
    local all_bytes, all_units = fixed[s], fixed[s + 1]
    for i = 1, count do
      local state = states[i]
      if state then
        local row = rows[i]
        if not kind or row[a + kind] > 0 or (state == RISING and row[a + 2 + kind] > 0) then
          local steady = state == FULL and 1 or part / row[a + 5]
          local bytes = row[a + 1] * part + row[a + 3] * steady
          local units = row[a + 2] * part + row[a + 4] * steady
          bytes_of[i], units_of[i], states[i] = bytes, units, nil
          all_bytes, all_units = all_bytes + bytes, all_units + units
          open = open - 1
        end
      end
    end
    fixed[s], fixed[s + 1] = all_bytes, all_units
  end

  while open > 0 do
    add_up()
    -- Up to the next limit that is full, past the flows that have all they ask for before that.
    local limit, reached = next_limit()
    while steps[step] and steps[step] <= reached do
      f = math.max(f, steps[step])
      take_step(steps[step])
      step = step + 1
      limit, reached = next_limit()
    end
    if not limit then break end
    f = reached
    done[limit] = true
    local kind = limit <= 3 and 1 or 2
    for direction = 1, 2 do
      local s = 2 * direction - 2 + kind
      if s == FIRST[limit] or s == SECOND[limit] then stay(direction, f, kind) end
    end
  end
  stay(1, 0)
  stay(2, 0)

  -- What nobody asks for is room to grow for those that are at work.
  local more = { 0, 0, 0, 0, 0, 0 }
  for u = 1, #used do
    local d = used[u]
    local rest = cap[d] - (fixed[FIRST[d]] + fixed[SECOND[d]])
    if rest > 0 and weights > 0 then more[d] = HANDED_OUT * rest / weights end
  end
  return want, more
end
