-- Asks the company's rules and workflows, one at a time: what raises, or takes too long, is said of
-- that one alone. Makes events, each once, looked at by all through a read-only view.
local entities = require "entities"
local files = require "files"
local flow = require "flow"
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

-- The evaluation under way: a part of a workflow or rule, about a subject.
local what, whose, about
local banned = {}      -- id of an evaluation -> why it is left out of this batch
local strikes = {}     -- "what whose" -> how often it was stopped in this batch
local any_banned = false
local watched = false  -- a question may kill the process: it is marked
local always_told = host.judged()
local told = always_told -- C hears of each

-- As src/base/mark.h keeps a text of at most this many bytes.
local NAME, ABOUT = 79, 199

local function marked(text, most)
  return #text <= most and not text:find("\0", 1, true) and text or host.hash(text)
end

--- A new batch: what was left out of the last one is tried again, but for what killed its workers.
---@param deadly table[]|nil {part, name, about?, why}; see judged_no_more()
function M.forget(deadly)
  watched = deadly ~= nil
  told = watched or always_told
  banned, strikes, any_banned = {}, {}, watched and #deadly > 0
  for _, d in ipairs(deadly or {}) do
    banned[d.part .. " " .. d.name .. (d.about and " " .. d.about or "")] = d.why
  end
end

-- Evaluating -------------------------------------------------------------------------------------

--- The text of whatever was raised.
---@return string
function M.message_of(err)
  local text = type(err) == "table" and tostring(err.message or err.code) or tostring(err)
  return (text:gsub("^workflows/", ""))
end

local function why_left_out(part, name, subject)
  local rule, mark = part .. " " .. name, part .. " " .. marked(name, NAME)
  return banned[rule .. " " .. subject] or banned[mark] or banned[mark .. " " .. marked(subject, ABOUT)]
    or (strikes[rule] or 0) > 2 and "it was stopped three times"
end

--- Calls f(a, b, c) alone: (true, value) or (false, message). part is "when", "key", "becomes", "read".
---@return boolean, any
function M.evaluate(part, name, subject, zone, f, a, b, c)
  local why = any_banned and why_left_out(part, name, subject)
  if why then
    return false, name .. ": '" .. part .. "' " .. why
  end
  what, whose, about = part, name, subject
  files.doing, files.zone = part, zone or M.world.company.zone
  if told then
    host.judging(part, name, subject, watched)
  end
  local ok, value = pcall(f, a, b, c)
  if watched then
    host.judged()
  end
  files.doing, what = nil, nil
  if ok then
    return true, value
  end
  local text = M.message_of(value)
  if not text:match "^[%w_/]+%.lua:" then -- a tail call has left no line behind
    text = (M.world.rules[name] and "events" or name) .. ".lua: " .. text
  end
  return false, text
end

--- The VM was stopped while it evaluated something: that is left out when the batch comes again.
---@param why string
---@return string|nil what it was; nil: nothing of the company's
function M.blame(why)
  if not what then
    return nil
  end
  local rule = what .. " " .. whose
  banned[rule .. " " .. about], any_banned = why, true
  strikes[rule] = (strikes[rule] or 0) + 1
  what, files.doing = nil, nil
  return rule
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

--- An event as all who are asked about it see it. The subject tells one evaluation from another,
--- also when the batch comes again and the event is made anew.
---@return table
function M.shown(event)
  return { event = event, view = frozen.view(event), zone = M.zone_of(event),
    subject = event.name .. " " .. tostring(entities.keys(event.of, event[event.of])[1]) }
end

-- One key of a workflow: (true, text or nil) or (false, message).
local function key_of(w, field, declared, shown)
  if type(declared) ~= "function" then
    local entity = declared or shown.event.of
    return true, entities.keys(entity, shown.event[entity])[1]
  end
  local ok, value = M.evaluate(field, w.name, shown.subject, shown.zone, declared, shown.view)
  if not ok or value == nil then
    return ok, value
  end
  local text, wrong = flow.text(value)
  return text ~= nil, text or w.name .. ": " .. field .. " " .. wrong
end

-- All that is evaluated for a start besides `when`: (true, key, flow) or (false, message).
local function keys_of(w, shown)
  local ok, key = key_of(w, "key", w.key, shown)
  if not ok or not w.flow then
    return ok, key
  end
  local zones = { company = M.world.company.zone or "UTC" }
  zones.customer = shown.zone or zones.company
  local asked, wrong = flow.asked(w.flow, shown.event, key, zones, function(field, declared)
    return key_of(w, field, declared, shown)
  end)
  if asked == false then
    return false, wrong
  end
  return true, key, asked
end

local function start_of(w, event, key, asked, again, instance)
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
    flow = asked, stops = json.array(stops) }
end

--- Asks one workflow about an event: (true, start or nil), or (false, message).
---@param shown table see M.shown
function M.ask(w, shown, again)
  if w.when then
    local ok, value = M.evaluate("when", w.name, shown.subject, shown.zone, w.when, shown.view)
    if not ok then
      return false, value
    elseif not value then
      return true
    end
  end
  local ok, key, asked = keys_of(w, shown)
  if not ok then
    return false, key
  end
  return true, start_of(w, shown.event, key, asked, again)
end

--- The start of a child: of a workflow by name, for an event that only it gets.
function M.start_child(out, asked, event)
  local record = type(event[event.of]) == "table" and event[event.of] or {}
  out.events[#out.events + 1] = { id = event.id, type = "start", entity = "instance",
    entity_id = asked.instance, at = asked.at, noticed = asked.now, weak = false,
    customer = type(event.customer) == "table" and math.type(event.customer.id) == "integer"
      and event.customer.id or nil, keys = json.array {}, payload = event }
  local w = M.world.workflows[asked.workflow]
  local ok, key, limits = w ~= nil, w == nil and 'there is no workflow "' .. asked.workflow .. '"' or nil
  if w then
    ok, key, limits = keys_of(w, M.shown(event))
  end
  local start = ok and start_of(w, event, key, limits, nil, asked.instance)
    or { instance = asked.instance, event = event.id, workflow = asked.workflow, refused = key,
      stops = json.array {} }
  if start.refused and not asked.parent then -- a person's: nobody waits to be told
    out.errors[#out.errors + 1] = { workflow = w and w.name or nil, entity = "instance",
      entity_id = asked.instance, event = event.id, message = start.refused }
    return
  end
  start.parent, start.detached = asked.parent, asked.detached
  start.of, start.of_id = event.of, record.id and tostring(record.id)
  out.starts[#out.starts + 1] = start
end

-- Asks all who listen to an event.
local function ask_listeners(out, rule, shown, entity_id, silent)
  for _, w in ipairs(M.world.listeners[rule.name] or {}) do
    if w.history or not silent then
      local ok, start = M.ask(w, shown)
      if not ok then
        out.errors[#out.errors + 1] = { workflow = w.name, entity = rule.subject,
          entity_id = tostring(entity_id), event = shown.event.id, message = start }
      elseif start then
        out.starts[#out.starts + 1] = start
      end
    end
  end
end

--- Adds an event to what is settled, and what it starts or who raised.
---@param shown table see M.shown
---@param fact table {at, weak, silent, ours}
function M.add_event(out, rule, shown, entity_id, fact)
  local event = shown.event
  out.events[#out.events + 1] = { id = event.id, type = rule.name, entity = rule.subject,
    entity_id = tostring(entity_id), at = fact.at, ours = fact.ours or nil, noticed = event.time, weak = fact.weak,
    silent = fact.silent or nil,
    customer = type(event.customer) == "table" and math.type(event.customer.id) == "integer"
      and event.customer.id or nil,
    keys = json.array(entities.event_keys(event)), payload = event }
  ask_listeners(out, rule, shown, entity_id, fact.silent)
end

return M
