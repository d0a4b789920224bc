-- Decide when each of a batch of messages may go, in all of their scopes at once.
--
-- ARGV[1]: JSON, a batch as `scopes.py` describes it: the keys of all scopes; of each one {"p",
-- pace_ms, slack_ms}, {"w", count, period_ms} or {"u"} (paused until); the messages, whose
-- places count from 0. The keys come in JSON because hundreds of arguments
-- cost a worker more than all else here. Gives for each message the microseconds until it
-- may go; below 0 nothing is reserved and it asks again in so long, in its turn. Times are kept
-- in milliseconds of Redis' clock.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local keys, specs, rows = unpack(cjson.decode(ARGV[1]))
local LINE_MS = 60000
local state, dirty = {}, {}
for first = 1, #keys, 1000 do
  local last = math.min(first + 999, #keys)
  local found = redis.call('MGET', unpack(keys, first, last))
  for i = first, last do
    local value = found[i - first + 1]
    if specs[i][1] == 'w' then
      state[i] = value and cjson.decode(value) or {}
    else
      state[i] = value and tonumber(value) or 0
    end
  end
end
local answers, lines, passing = {}, {}, {}
for r, row in ipairs(rows) do
  local at, by = now, 0
  for i = 4, #row, 2 do
    local key = row[i] + 1
    local spec, was = specs[key], state[key]
    local free = now
    if spec[1] == 'p' then
      free = was - spec[3] * row[2]
    elseif spec[1] == 'w' then
      free = (was[#was - spec[2] + row[i + 1]] or now - spec[3]) + spec[3]
    else
      free = was
    end
    if free > at then at, by = free, key end
  end
  if at - now <= row[1] then
    for i = 4, #row, 2 do
      local key = row[i] + 1
      local spec = specs[key]
      if spec[1] == 'p' then
        state[key] = math.max(state[key], at) + spec[2] * row[i + 1]
        dirty[key] = true
      elseif spec[1] == 'w' then
        local grants = state[key]
        for _ = 1, row[i + 1] do
          local place = #grants + 1
          while place > 1 and grants[place - 1] > at do place = place - 1 end
          table.insert(grants, place, at)
        end
        while #grants > spec[2] do table.remove(grants, 1) end
        dirty[key] = true
      end
    end
    answers[r] = math.floor((at - now) * 1000)
  else
    local spec = specs[by]
    if spec[1] ~= 'u' then
      local step = spec[1] == 'p' and spec[2] or spec[3] / spec[2]
      local known = row[3] == 1 and lines or passing
      if row[3] == 1 and not lines[by] then
        lines[by] = tonumber(redis.call('GET', keys[by] .. '#line') or 0)
      end
      at = math.max(at, math.min(known[by] or 0, now + LINE_MS))
      known[by] = at + step
    end
    answers[r] = -math.max(1, math.floor((at - now) * 1000))
  end
end
for key in pairs(dirty) do
  local spec, value, keep = specs[key], nil, 0
  if spec[1] == 'w' then
    value = {}
    for i, grant in ipairs(state[key]) do value[i] = string.format('%.3f', grant) end
    keep = state[key][#state[key]] - now + spec[3]
    value = '[' .. table.concat(value, ',') .. ']'
  else
    value = string.format('%.3f', state[key])
    keep = state[key] - now
  end
  redis.call('SET', keys[key], value, 'PX', math.max(1, math.ceil(keep) + 1000))
end
for key, till in pairs(lines) do
  local keep = math.max(1, math.ceil(till - now))
  redis.call('SET', keys[key] .. '#line', string.format('%.3f', till), 'PX', keep)
end
return answers
