-- Asks the company's rules and workflows, one at a time: what raises, or takes too long, is said of
-- that one alone. Makes events, each once, looked at by all through a read-only view.
local entities = require "entities"
local files = require "files"
local frozen = require "frozen"

local json = host.json
local M = {}

--- What is in force: rules by name, workflows by name, the company; by what they are looked up.
M.world = { rules = {}, workflows = {}, company = {},
  rules_of = {},  -- entity -> rules, in the order of their names
  hooks = {},     -- webhook -> rules
  listeners = {}, -- event type -> workflows
  historic = {},  -- event type -> a workflow with history listens to it
}

local current          -- the evaluation under way: {id, rule}
local banned = {}      -- id of an evaluation -> why it is left out of this batch
local strikes = {}     -- "what name" -> how often it was stopped in this batch

--- A new batch: what was left out of the last one is tried again.
function M.forget()
  banned, strikes = {}, {}
end

-- Evaluating -------------------------------------------------------------------------------------

--- The text of whatever was raised.
---@return string
function M.message_of(err)
  local text = type(err) == "table" and tostring(err.message or err.code) or tostring(err)
  return (text:gsub("^workflows/", ""))
end

-- Calls f(...) alone: (true, value) or (false, message). what is "when", "key", "becomes", "read".
---@return boolean, any
function M.evaluate(what, name, subject, zone, f, ...)
  local id = what .. " " .. name .. " " .. subject
  local why = banned[id] or (strikes[what .. " " .. name] or 0) > 2 and "it was stopped three times"
  if why then
    return false, name .. ": '" .. what .. "' " .. why
  end
  current = { id = id, rule = what .. " " .. name }
  files.doing, files.zone = what, zone or M.world.company.zone
  local ok, value = pcall(f, ...)
  files.doing, current = nil, nil
  if not ok then
    local text = M.message_of(value)
    if not text:match "^[%w_/]+%.lua:" then -- a tail call has left no line behind
      text = (M.world.rules[name] and "events" or name) .. ".lua: " .. text
    end
    return false, text
  end
  return true, value
end

--- The VM was stopped while it evaluated something: that is left out when the batch comes again.
---@param why string
---@return string|nil what it was; nil: nothing of the company's
function M.blame(why)
  if not current then
    return nil
  end
  banned[current.id] = why
  strikes[current.rule] = (strikes[current.rule] or 0) + 1
  local name = current.rule
  current, files.doing = nil, nil
  return name
end

-- Milliseconds and version in front, so that ids grow with time.
function M.uuid()
  local r = host.random_hex(10)
  local ms = ("%012x"):format(host.now() * 1000)
  return ms:sub(1, 8) .. "-" .. ms:sub(9, 12) .. "-7" .. r:sub(1, 3) .. "-"
    .. ("89ab"):sub(tonumber(r:sub(4, 4), 16) % 4 + 1):sub(1, 1) .. r:sub(5, 7) .. "-" .. r:sub(8, 19)
end

-- Events -----------------------------------------------------------------------------------------

local function differences(old, new)
  local changed = {}
  for field, value in pairs(new) do
    local was = old[field]
    if type(value) == "table" and type(was) == "table" then
      changed[field] = json.encode(value) ~= json.encode(was) or nil
    elseif value ~= was then
      changed[field] = true
    end
  end
  for field in pairs(old) do
    if new[field] == nil then
      changed[field] = true
    end
  end
  return changed
end

--- The event that a change is by a rule: its snapshots, what it was, what differs.
function M.event_of(change, rule, now)
  local e = {}
  for entity, record in pairs(change.snapshot or {}) do
    e[entity] = record
  end
  e[rule.of] = change.new or change.old
  e.name, e.id, e.time, e.of = rule.name, M.uuid(), now, rule.subject
  if change.old and change.new then
    e.old, e.changed = change.old, differences(change.old, change.new)
  end
  if change.missing and #change.missing > 0 then
    e.missing = change.missing
  end
  return e
end

---@return string|nil the zone of an event's customer
function M.zone_of(event)
  return type(event.customer) == "table" and event.customer.zone or nil
end

-- Tells one evaluation from another, also when the batch comes again and the event is made anew.
local function subject_of(event)
  return event.name .. " " .. tostring(entities.keys(event.of, event[event.of])[1])
end

local function key_of(w, event, seen)
  if type(w.key) == "function" then
    local ok, value = M.evaluate("key", w.name, subject_of(event), M.zone_of(event), w.key, seen)
    if not ok or value == nil then
      return ok, value
    elseif type(value) == "table" or type(value) == "function" then
      return false, w.name .. ": key must return a text or a number"
    end
    return true, tostring(value)
  end
  local entity = w.key or event.of
  return true, entities.keys(entity, event[entity])[1]
end

local function start_of(w, event, key, again, instance)
  instance = instance or M.uuid()
  local stops = {}
  for _, s in ipairs(w.stops) do
    local keys = s.same == "instance" and { "instance:" .. instance }
      or entities.keys(s.same, event[s.same])
    for _, k in ipairs(keys) do
      stops[#stops + 1] = { type = s.type, key = k, judged = s.when ~= nil }
    end
  end
  return { instance = instance, event = event.id, workflow = w.name, definition = w.id, key = key,
    if_running = w.if_running, priority = w.priority, shadow = w.shadow, again = again,
    stops = json.array(stops) }
end

--- Asks one workflow about an event: (true, start or nil), or (false, message).
function M.ask(w, event, again)
  local seen = frozen.view(event)
  if w.when then
    local ok, value = M.evaluate("when", w.name, subject_of(event), M.zone_of(event), w.when, seen)
    if not ok or not value then
      return ok, not ok and value or nil
    end
  end
  local ok, key = key_of(w, event, seen)
  if not ok then
    return false, key
  end
  return true, start_of(w, event, key, again)
end

--- The start of a child: of a workflow by name, for an event that only it gets.
function M.start_child(out, asked, event)
  local record = type(event[event.of]) == "table" and event[event.of] or {}
  out.events[#out.events + 1] = { id = event.id, type = "start", entity = "instance",
    entity_id = asked.instance, at = asked.at, noticed = asked.now, weak = false,
    customer = type(event.customer) == "table" and math.type(event.customer.id) == "integer"
      and event.customer.id or nil, keys = json.array {}, payload = event }
  local w = M.world.workflows[asked.workflow]
  local ok, key = w ~= nil, w == nil and 'there is no workflow "' .. asked.workflow .. '"' or nil
  if w then
    ok, key = key_of(w, event, frozen.view(event))
  end
  local start = ok and start_of(w, event, key, nil, asked.instance)
    or { instance = asked.instance, event = event.id, workflow = asked.workflow, refused = key,
      stops = json.array {} }
  start.parent, start.detached = asked.parent, asked.detached
  start.of, start.of_id = event.of, record.id and tostring(record.id)
  out.starts[#out.starts + 1] = start
end

--- Adds an event to what is settled, and what it starts or who raised.
function M.add_event(out, rule, event, entity_id, at, weak, silent)
  out.events[#out.events + 1] = { id = event.id, type = rule.name, entity = rule.subject,
    entity_id = tostring(entity_id), at = at, noticed = event.time, weak = weak,
    customer = type(event.customer) == "table" and math.type(event.customer.id) == "integer"
      and event.customer.id or nil,
    keys = json.array(entities.event_keys(event)), payload = event }
  for _, w in ipairs(M.world.listeners[rule.name] or {}) do
    if w.history or not silent then
      local ok, start = M.ask(w, event)
      if not ok then
        out.errors[#out.errors + 1] = { workflow = w.name, entity = rule.subject,
          entity_id = tostring(entity_id), event = event.id, message = start }
      elseif start then
        out.starts[#out.starts + 1] = start
      end
    end
  end
end

return M
