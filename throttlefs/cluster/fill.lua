-- The first part of the script that shares a limit: how much each host is to have. See store.lua.

local HANDED_OUT = 0.9       -- of what nobody asks for; the rest waits for who comes

-- The limits of each direction: indices into bps, bps_rd, bps_wr, iops, iops_rd, iops_wr.
local BYTES = { { 1, 2 }, { 1, 3 } }
local UNITS = { { 4, 5 }, { 4, 6 } }

-- What a daemon holds of the limit number d.
local function held(host, d)
  return math.max(host.using[d], host.granted[d])
end

local function is_active(host)
  for d = 1, 6 do
    if held(host, d) > 0 then return true end
  end
  for i = 1, 10 do
    if i % 5 ~= 0 and host.demand[i] > 0 then return true end
  end
  return false
end

-- Progressive filling: every member gets the same part f of its scarcest limit, by weight, and f
-- grows until a limit is full. Who needs that limit stays there, the others go on.
local function fill(ids, hosts, cap)
  local flows, by_full = {}, {}
  for _, id in ipairs(ids) do
    local demand = hosts[id].demand
    for direction = 1, 2 do
      local at = direction * 5 - 5
      local flow = { id = id, direction = direction, full = demand[at + 5] <= 0, open = true,
                     number = #flows,
                     growing = { demand[at + 1], demand[at + 2] },
                     steady = { demand[at + 3], demand[at + 4] }, full_at = demand[at + 5] }
      if flow.growing[1] > 0 or flow.growing[2] > 0
        or flow.steady[1] > 0 or flow.steady[2] > 0 then
        flows[#flows + 1] = flow
        if flow.steady[1] > 0 or flow.steady[2] > 0 then by_full[#by_full + 1] = flow end
      end
    end
  end
  table.sort(by_full, function(a, b)
    if a.full_at ~= b.full_at then return a.full_at < b.full_at end
    return a.number < b.number
  end)

  local want = {}
  for _, id in ipairs(ids) do want[id] = { 0, 0, 0, 0, 0, 0 } end
  local done = { false, false, false, false, false, false } -- limits that are full
  local fixed = { 0, 0, 0, 0, 0, 0 }                        -- what those that stay have of each
  local f, next_full = 0, 1

  local function at_fill(flow, kind)
    local steady = flow.steady[kind]
    if not flow.full then steady = steady * f / flow.full_at end
    return flow.growing[kind] * f + steady
  end
  local function stay(flow, amounts)
    flow.open = false
    for i = 1, 2 do
      local d, e = BYTES[flow.direction][i], UNITS[flow.direction][i]
      want[flow.id][d] = want[flow.id][d] + amounts[1]
      want[flow.id][e] = want[flow.id][e] + amounts[2]
      fixed[d] = fixed[d] + amounts[1]
      fixed[e] = fixed[e] + amounts[2]
    end
  end

  while true do
    while next_full <= #by_full and by_full[next_full].full_at <= f do
      by_full[next_full].full = true
      next_full = next_full + 1
    end
    -- What the open flows add to each limit: base + slope x f.
    local base, slope = { 0, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 0 }
    for _, flow in ipairs(flows) do
      if flow.open then
        for kind = 1, 2 do
          local limits = kind == 1 and BYTES[flow.direction] or UNITS[flow.direction]
          local rises, stands = flow.growing[kind], 0
          if flow.full then
            stands = flow.steady[kind]
          else
            if flow.steady[kind] > 0 then rises = rises + flow.steady[kind] / flow.full_at end
          end
          for i = 1, 2 do
            base[limits[i]] = base[limits[i]] + stands
            slope[limits[i]] = slope[limits[i]] + rises
          end
        end
      end
    end
    -- Up to the next limit that is full, past the flows that have all they ask for before that.
    local limit
    while true do
      local reached = math.huge
      limit = nil
      for d = 1, 6 do
        if cap[d] > 0 and not done[d] and slope[d] > 0 then
          local full = math.max(f, (cap[d] - fixed[d] - base[d]) / slope[d])
          if full < reached then
            reached, limit = full, d
          end
        end
      end
      local flow = by_full[next_full]
      if flow and flow.full_at <= reached then
        next_full = next_full + 1
        f = flow.full_at
        flow.full = true
        if flow.open then
          for kind = 1, 2 do
            local limits = kind == 1 and BYTES[flow.direction] or UNITS[flow.direction]
            for i = 1, 2 do
              base[limits[i]] = base[limits[i]] + flow.steady[kind]
              slope[limits[i]] = slope[limits[i]] - flow.steady[kind] / flow.full_at
              if slope[limits[i]] < 1e-9 then slope[limits[i]] = 0 end
            end
          end
        end
      else
        if limit then f = reached end
        break
      end
    end
    if not limit then break end
    done[limit] = true
    for _, flow in ipairs(flows) do
      if flow.open then
        local kind = limit <= 3 and 1 or 2
        local limits = kind == 1 and BYTES[flow.direction] or UNITS[flow.direction]
        local needs = flow.growing[kind] > 0 or (not flow.full and flow.steady[kind] > 0)
        if needs and (limits[1] == limit or limits[2] == limit) then
          stay(flow, { at_fill(flow, 1), at_fill(flow, 2) })
        end
      end
    end
  end
  for _, flow in ipairs(flows) do
    if flow.open then stay(flow, { flow.steady[1], flow.steady[2] }) end
  end

  -- What nobody asks for is room to grow for those that are at work.
  local weights, active = 0, 0
  for _, id in ipairs(ids) do
    if is_active(hosts[id]) then
      weights = weights + hosts[id].weight
      active = active + 1
    end
  end
  for d = 1, 6 do
    local rest = cap[d] - fixed[d]
    if cap[d] > 0 and rest > 0 then
      for _, id in ipairs(ids) do
        local host = hosts[id]
        if is_active(host) then
          want[id][d] = want[id][d] + HANDED_OUT * rest * host.weight / weights
        end
      end
    end
  end
  return want, active
end
