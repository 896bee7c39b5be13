-- The declaration `workflow { … }`: checked against its table of fields and the rules of events.
local entities = require "entities"
local flow = require "flow"
local refusal = require "refusal"
local rules = require "rules"
local schedule = require "schedule"
local suggest = require "suggest"

local M = {}

--- Of the words that a body can use and the order of their parameters. Raised when a version that
--- was recorded with it could no longer be replayed.
M.api = 1

-- field -> type, or the values it may have
local FIELDS = {
  on = true, when = "function", run = "function", key = true, stop_when = "table",
  if_running = { skip = true, replace = true, queue = true },
  class = { marketing = true, transactional = true },
  priority = { high = 1, normal = 2, low = 3 },
  history = "boolean", shadow = "boolean", on_stop = "function", on_error = "function",
  family = true, rate = true, concurrency = true, debounce = true, batch = true, schedule = "table",
}
local STOP = { same = true, when = true }

local function names_of(values)
  local list = {}
  for name in pairs(values) do
    list[#list + 1] = '"' .. name .. '"'
  end
  table.sort(list)
  return table.concat(list, " or ")
end

local function check_fields(d, at)
  local sorted = {}
  for field in pairs(d) do
    sorted[#sorted + 1] = field
  end
  table.sort(sorted, function(a, b)
    return tostring(a) < tostring(b)
  end)
  for _, field in ipairs(sorted) do
    local wanted, value = FIELDS[field], d[field]
    local text = tostring(field)
    if not wanted then
      refusal.raise(at, text, 'unknown field "' .. text .. '" in workflow'
        .. suggest.hint(text, FIELDS))
    elseif type(wanted) == "string" and type(value) ~= wanted then
      refusal.raise(at, text, text .. " must be " .. suggest.article(wanted))
    elseif type(wanted) == "table" and not wanted[value] then
      refusal.raise(at, text, text .. " must be " .. names_of(wanted)
        .. (type(value) == "string" and suggest.hint(value, wanted) or ""))
    end
  end
  if not d.run then
    refusal.raise(at, "workflow", "workflow has no run = function(e) … end")
  end
end

local function event(known, name, field, at)
  local rule = rules.find(known, name)
  if not rule then
    refusal.raise(at, tostring(name), 'unknown event "' .. tostring(name) .. '" in ' .. field
      .. suggest.hint(tostring(name), known))
  end
  return rule
end

local function check_on(d, known, at)
  local list, twice = {}, {}
  if d.on == nil then
    return list
  end
  if type(d.on) ~= "string" and type(d.on) ~= "table" then
    refusal.raise(at, "on", 'on must be the name of an event, or a list: on = "estimate_created"')
  end
  for _, name in ipairs(type(d.on) == "table" and d.on or { d.on }) do
    if event(known, name, "on", at).subject == "instance" then
      refusal.raise(at, name, "on: " .. name .. " reaches one live instance and starts none")
    elseif not twice[name] then
      list[#list + 1] = name
    end
    twice[name] = true
  end
  if #list == 0 then
    refusal.raise(at, "on", "on names no event")
  end
  return list
end

-- Whether one of the events that start it carries the entity: a stop for a lead says nothing to an
-- instance that a booking started.
local function carried(on, entity, known)
  for _, ours in ipairs(on) do
    if entities.has(known[ours] or {}, entity) then
      return true
    end
  end
  return false
end

-- The entity in which a stop event and ours must agree.
local function check_same(name, rule, same, on, known, at)
  if same ~= nil and type(same) ~= "string" then
    refusal.raise(at, name, "stop_when: " .. name .. ' must name an entity: ' .. name .. ' = "job"')
  end
  local wanted = same or rule.subject
  if wanted ~= "instance" and not entities.carries[wanted] then
    refusal.raise(at, wanted, 'stop_when: unknown entity "' .. wanted .. '"'
      .. suggest.hint(wanted, entities.carries))
  end
  if wanted ~= "instance" and not entities.has(rule, wanted) then
    refusal.raise(at, name, "stop_when: " .. name .. " is about " .. suggest.article(rule.subject)
      .. " and carries no " .. wanted)
  end
  local ours = on[1]
  if wanted == "instance" or not ours or carried(on, wanted, known) then
    return wanted
  elseif ours == "schedule" then
    refusal.raise(at, name, "stop_when: " .. name .. " is about " .. suggest.article(wanted)
      .. " and a schedule carries none")
  end
  local shared = entities.has(known[ours] or {}, "customer") and "customer" or "…"
  refusal.raise(at, name, "stop_when: " .. name .. " is about " .. suggest.article(wanted) .. " and "
    .. ours .. " carries none; say what both share: " .. name .. ' = "' .. shared .. '"')
end

local function check_stops(d, on, known, at)
  local stops = {}
  local sorted = {}
  for k, v in pairs(d.stop_when or {}) do
    local name = math.type(k) == "integer" and v or k
    local spec = math.type(k) == "integer" and {} or v
    if type(name) ~= "string" then
      refusal.raise(at, "stop_when", "stop_when lists names of events")
    elseif type(spec) == "string" then
      spec = { same = spec }
    elseif type(spec) ~= "table" then
      refusal.raise(at, name, "stop_when: " .. name .. " must be an entity, or { same = …, when = … }")
    end
    sorted[#sorted + 1] = { name = name, spec = spec }
  end
  table.sort(sorted, function(a, b)
    return a.name < b.name
  end)
  for _, s in ipairs(sorted) do
    local rule = event(known, s.name, "stop_when", at)
    for field, value in pairs(s.spec) do
      if not STOP[field] then
        refusal.raise(at, tostring(field), 'unknown field "' .. tostring(field) .. '" in stop_when'
          .. suggest.hint(tostring(field), STOP))
      elseif field == "when" and type(value) ~= "function" then
        refusal.raise(at, s.name, "stop_when: " .. s.name .. ": when must be a function(it, e)")
      end
    end
    stops[#stops + 1] = { type = s.name, when = s.spec.when,
      same = check_same(s.name, rule, s.spec.same, on, known, at) }
  end
  return stops
end

--- Checks a declaration; refuses the file when something is wrong.
---@param d table what workflow { … } was given
---@param known table rules by event name
---@param at table {path, source, from}
---@return table {on, when, schedule, key, stops, class, if_running, priority, flow, history, shadow, run}
function M.check(d, known, at)
  check_fields(d, at)
  local on = check_on(d, known, at)
  local starts = table.move(on, 1, #on, 1, {})
  starts[#starts + 1] = d.schedule and "schedule"
  -- What is gathered isn't lost because its key is at work: it comes after.
  local gathers = d.debounce ~= nil or d.batch ~= nil
  return {
    on = on, when = d.when, key = flow.key(d.key, "key", starts, known, at),
    schedule = schedule.check(d.schedule, at),
    stops = check_stops(d, starts, known, at), class = d.class or "marketing",
    if_running = d.if_running or (gathers and "queue" or "skip"),
    priority = FIELDS.priority[d.priority or "normal"], flow = flow.check(d, starts, known, at),
    history = d.history or false, shadow = d.shadow or false, run = d.run, on_stop = d.on_stop,
    on_error = d.on_error,
  }
end

--- A checked declaration as data, for the database and for people.
---@param w table from check
---@return table
function M.data(w)
  local stops = {}
  for i, s in ipairs(w.stops) do
    stops[i] = { type = s.type, same = s.same, judged = s.when ~= nil }
  end
  local data = { on = host.json.array(w.on), class = w.class, if_running = w.if_running,
    priority = w.priority, schedule = w.schedule, history = w.history, shadow = w.shadow, when = w.when ~= nil,
    key = type(w.key) == "function" and "function" or w.key, stop_when = host.json.array(stops),
    on_stop = w.on_stop ~= nil, on_error = w.on_error ~= nil }
  flow.data(w.flow, data)
  return data
end

return M
