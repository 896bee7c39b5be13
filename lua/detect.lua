-- Main module of the detect VM: judges changes and arrivals by the company's rules and workflows.
--
--   load(files)      -> what would be put in force, and what is refused and why
--   activate(ids)       the numbers of what is in force now
--   batch(input)     -> which changes are settled or postponed, and what settle() gets
--   blame(why)          the evaluation that was killed is left out of the next batch
--   daily(now, days) -> the next daily rule that is due, with its query
--
-- Rules, `when` and `key` are evaluated one at a time; what raises becomes a row and holds up
-- nothing else. An event is made once and looked at by all through a read-only view.
local entities = require "entities"
local files = require "files"
local frozen = require "frozen"
local rules = require "rules"
local time = require "time"
local workflow = require "workflow"

local json = host.json
local M = {}

local set = { rules = rules.with_builtin({}), workflows = {}, company = {} }
local rules_of = {}    -- entity -> rules, in the order of their names
local hooks = {}       -- webhook -> rules
local listeners = {}   -- event type -> workflows
local historic = {}    -- event type -> a workflow with history listens to it
local current          -- the evaluation under way: {id, what, name}
local banned = {}      -- id of an evaluation -> why it is left out of this batch
local strikes = {}     -- "what name" -> how often it was killed in this batch

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do
    keys[#keys + 1] = key
  end
  table.sort(keys)
  return keys
end

-- Loading ----------------------------------------------------------------------------------------

local function declared(name, file)
  if name == "events" then
    return { kind = "events" }
  elseif name == "company" then
    return { kind = "company" }
  end
  local data = workflow.data(file.value)
  data.kind = "workflow"
  data.company = { zone = set.company.zone, hours = set.company.hours }
  data.events = {}
  for type, rule in pairs(set.rules) do
    data.events[type] = { of = rule.subject }
  end
  return data
end

--- @param text string {sources = {path = source}, active = {name = {id, sha256, files}}}
---@return string {put = {{name, sha256, files, declaration, changed}}, still = {name}, refused}
function M.load(text)
  local input = json.decode(text)
  set = files.load(input.sources, input.active)
  local put, still = {}, {}
  local all = { events = set.events_file, company = set.company_file }
  for name, file in pairs(set.workflows) do
    all[name] = file
  end
  for _, name in ipairs(sorted_keys(all)) do
    local file = all[name]
    put[#put + 1] = { name = name, sha256 = file.sha256, files = file.files, api = workflow.api,
      declaration = declared(name, file), changed = file.id == nil and file.changed ~= false }
    still[#still + 1] = name
  end
  for _, r in ipairs(set.refused) do -- a file that is refused isn't gone
    local name = r.file:match "^workflows/([%w_]+)%.lua$"
    if name and input.active[name] and not all[name] then
      still[#still + 1] = name
    end
  end
  return json.encode({ put = json.array(put), still = json.array(still),
    refused = json.array(set.refused) })
end

local function listen(type, w)
  listeners[type] = listeners[type] or {}
  table.insert(listeners[type], w)
end

--- @param text string {name = id}
function M.activate(text)
  local ids = json.decode(text)
  rules_of, hooks, listeners, historic = {}, {}, {}, {}
  for _, name in ipairs(sorted_keys(set.rules)) do
    local rule = set.rules[name]
    rules_of[rule.of] = rules_of[rule.of] or {}
    table.insert(rules_of[rule.of], rule)
    if rule.webhook then
      hooks[rule.webhook] = hooks[rule.webhook] or {}
      table.insert(hooks[rule.webhook], rule)
    end
  end
  for _, name in ipairs(sorted_keys(set.workflows)) do
    local w = set.workflows[name].value
    w.name, w.id = name, ids[name]
    for _, type in ipairs(w.id and w.on or {}) do
      listen(type, w)
    end
    if w.id and w.history then
      for _, type in ipairs(w.on) do
        historic[type] = true
      end
      for _, s in ipairs(w.stops) do
        historic[s.type] = true
      end
    end
  end
end

-- Evaluating -------------------------------------------------------------------------------------

local function message_of(err)
  return type(err) == "table" and tostring(err.message or err.code) or tostring(err)
end

-- Calls f(...) alone: (true, value) or (false, message). what is "when", "key", "becomes", "read".
local function evaluate(what, name, subject, zone, f, ...)
  local id = what .. " " .. name .. " " .. subject
  local why = banned[id] or (strikes[what .. " " .. name] or 0) > 2 and "it was stopped three times"
  if why then
    return false, name .. ": '" .. what .. "' " .. why
  end
  current = { id = id, rule = what .. " " .. name }
  files.doing, files.zone = what, zone or set.company.zone
  local ok, value = pcall(f, ...)
  files.doing, current = nil, nil
  if not ok then
    return false, message_of(value)
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
local function uuid()
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

local function event_of(change, rule, now)
  local e = {}
  for entity, record in pairs(change.snapshot or {}) do
    e[entity] = record
  end
  e[rule.of] = change.new or change.old
  e.name, e.id, e.time, e.of = rule.name, uuid(), now, rule.subject
  if change.old and change.new then
    e.old, e.changed = change.old, differences(change.old, change.new)
  end
  if change.missing and #change.missing > 0 then
    e.missing = change.missing
  end
  return e
end

local function zone_of(event)
  return type(event.customer) == "table" and event.customer.zone or nil
end

local function key_of(w, event, seen)
  if type(w.key) == "function" then
    local ok, value = evaluate("key", w.name, event.id, zone_of(event), w.key, seen)
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

local function start_of(w, event, key, again)
  local instance = uuid()
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

-- Asks one workflow about an event: (true, start or nil), or (false, message).
local function ask(w, event, again)
  local seen = frozen.view(event)
  if w.when then
    local ok, value = evaluate("when", w.name, event.id, zone_of(event), w.when, seen)
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

local function add_event(out, rule, event, entity_id, at, weak, silent)
  out.events[#out.events + 1] = { id = event.id, type = rule.name, entity = rule.subject,
    entity_id = tostring(entity_id), at = at, noticed = event.time, weak = weak,
    customer = type(event.customer) == "table" and math.type(event.customer.id) == "integer"
      and event.customer.id or nil,
    keys = json.array(entities.event_keys(event)), payload = event }
  for _, w in ipairs(listeners[rule.name] or {}) do
    if w.history or not silent then
      local ok, start = ask(w, event)
      if not ok then
        out.errors[#out.errors + 1] = { workflow = w.name, entity = rule.subject,
          entity_id = tostring(entity_id), event = event.id, message = start }
      elseif start then
        out.starts[#out.starts + 1] = start
      end
    end
  end
end

-- Changes ----------------------------------------------------------------------------------------

-- The fact that a change shows by one rule: (true, {rule, at, weak, silent} or nil) or (false, why).
local function fact_of(change, rule, now)
  local old = change.old and frozen.view(change.old)
  local new = change.new and frozen.view(change.new)
  local subject = change.entity .. ":" .. change.entity_id
  local ok, edge = evaluate("becomes", rule.name, subject, nil, rules.is_edge, rule, old, new)
  if not ok or not edge then
    return ok, not ok and edge or nil
  end
  local at, weak = rules.exact(now), false
  if rule.source ~= "deleted" then
    ok, at, weak = pcall(rules.time_of, rule, change.new, change.modified_on or now)
    if not ok then
      return false, "events.lua: " .. rule.name .. ": at: " .. message_of(at)
    end
  end
  local silent = rule.source ~= "deleted" and change.live_since ~= nil
    and at < rules.exact(change.live_since)
  if silent and not historic[rule.name] then
    return true, nil
  end
  return true, { rule = rule, at = at, weak = weak and change.old == nil, silent = silent }
end

-- All facts of a change in the order of their time; a row's creation before what else it shows.
local function facts_of(change, now, failed, only)
  local facts = {}
  for _, rule in ipairs(rules_of[change.entity] or {}) do
    if not only or only == rule.name then
      local ok, fact = fact_of(change, rule, now)
      if not ok then
        failed(rule, fact)
      elseif fact then
        facts[#facts + 1] = fact
      end
    end
  end
  table.sort(facts, function(a, b)
    if a.at ~= b.at then
      return a.at < b.at
    elseif (a.rule.source == "created") ~= (b.rule.source == "created") then
      return a.rule.source == "created"
    end
    return a.rule.name < b.rule.name
  end)
  return facts
end

local function emit_facts(out, change, facts, now, failed)
  for _, fact in ipairs(facts) do
    local rule = fact.rule
    local event = event_of(change, rule, now)
    local ok, wanted = true, true
    if rule.when then
      ok, wanted = evaluate("when", rule.name, event.id, zone_of(event), rule.when,
        frozen.view(event))
    end
    if not ok then
      failed(rule, wanted)
    elseif wanted then
      add_event(out, rule, event, change.entity_id, fact.at, fact.weak, fact.silent)
      if rule.source == "deleted" then
        out.deleted[#out.deleted + 1] = { entity = change.entity, id = change.entity_id,
          event = event.id }
      end
    end
  end
end

local function take_change(out, change, input, waiting)
  local subject = change.entity .. ":" .. change.entity_id
  local errors = {}
  local function failed(rule, message)
    errors[#errors + 1] = { rule = rule.name, entity = change.entity, entity_id = change.entity_id,
      change = change, message = message }
  end
  local facts = facts_of(change, input.now, failed)
  local lacks = change.missing and #change.missing > 0 and change.waiting
    and change.age_ms < input.parent_wait_ms
  if waiting[subject] or (lacks and #facts > 0) then
    waiting[subject] = true
    out.postpone[#out.postpone + 1] = change.seq
    return
  end
  out.consume[#out.consume + 1] = change.seq
  local new = change.new
  if change.entity == "customer" and new and new.merged_to_id
    and new.merged_to_id ~= (change.old and change.old.merged_to_id) then
    out.merged[#out.merged + 1] = { gone = new.id, kept = new.merged_to_id }
  end
  emit_facts(out, change, facts, input.now, failed)
  table.move(errors, 1, #errors, #out.errors + 1, out.errors)
end

-- Arrivals, daily rules, second looks ------------------------------------------------------------

local function arrived(out, rule, arrival, payload, now)
  local event = {}
  for k, v in pairs(payload) do
    event[k] = v
  end
  event.name, event.id, event.time, event.of = rule.name, uuid(), now, rule.subject
  local ok, wanted = true, true
  if rule.when then
    ok, wanted = evaluate("when", rule.name, event.id, zone_of(event), rule.when, frozen.view(event))
  end
  if not ok then
    out.errors[#out.errors + 1] = { rule = rule.name, entity = rule.subject,
      entity_id = arrival.entity_id, message = wanted }
  elseif wanted then
    add_event(out, rule, event, arrival.entity_id, rules.exact(arrival.at), false, false)
  end
end

local function take_hook(out, arrival, now)
  for _, rule in ipairs(hooks[arrival.entity_id] or {}) do
    local body = frozen.view(arrival.payload.body or {})
    local ok, got = evaluate("read", rule.name, tostring(arrival.id), nil, rule.read, body)
    if ok and got ~= nil then
      local fine, plain = pcall(function()
        return json.decode(json.encode(got))
      end)
      ok, got = fine and type(plain) == "table", fine and plain or message_of(plain)
    end
    if not ok then
      out.errors[#out.errors + 1] = { rule = rule.name, entity = rule.subject,
        entity_id = arrival.entity_id, message = tostring(got) }
    elseif got then
      local key = entities.keys(rule.subject, got[rule.subject])[1]
      arrived(out, rule, { at = got.at or arrival.at,
        entity_id = key and key:gsub("^%a+:", "") or "hook " .. arrival.id }, got, now)
    end
  end
end

local function take_arrival(out, arrival, now)
  out.arrivals[#out.arrivals + 1] = arrival.id
  if arrival.type == "webhook" then
    return take_hook(out, arrival, now)
  end
  local rule = rules.find(set.rules, arrival.type)
  if not rule then
    out.errors[#out.errors + 1] = { rule = arrival.type, entity = arrival.entity,
      entity_id = arrival.entity_id, message = 'unknown event "' .. arrival.type .. '" arrived' }
    return
  end
  arrived(out, rule, arrival, arrival.payload, now)
end

local function take_daily(out, daily, now)
  local rule = set.rules[daily.rule]
  if daily.refused then
    out.errors[#out.errors + 1] = { rule = daily.rule, message = "where: " .. daily.refused }
  end
  for _, row in ipairs(rule and daily.rows or {}) do
    local snapshot = row.snapshot or {}
    local change = { entity = rule.of, entity_id = row.id, new = snapshot[rule.of], snapshot = snapshot }
    local at = rules.exact(rules.day_after(row.once))
    if change.new then
      emit_facts(out, change, { { rule = rule, at = at, weak = false,
        silent = daily.live_since ~= nil and at < rules.exact(daily.live_since) } }, now,
        function(_, message)
          out.errors[#out.errors + 1] = { rule = rule.name, entity = rule.of, entity_id = row.id,
            message = message }
        end)
    end
  end
  if daily.last then
    out.daily[#out.daily + 1] = { rule = daily.rule, day = daily.day }
  end
end

local function take_retry(out, retry, now)
  local why
  if retry.workflow then
    local file = set.workflows[retry.workflow]
    local w = file and file.value
    if w and w.id and retry.event then
      local ok, start = ask(w, retry.event, true)
      why = not ok and start or nil
      out.starts[#out.starts + 1] = ok and start or nil
    end
  elseif retry.change then
    local function failed(_, message)
      why = message
    end
    emit_facts(out, retry.change, facts_of(retry.change, now, failed, retry.rule), now, failed)
  end
  if why then
    out.failed_again[#out.failed_again + 1] = { id = retry.id, message = why }
  else
    out.resolved[#out.resolved + 1] = retry.id
  end
end

local SETTLED = { "events", "starts", "errors", "arrivals", "deleted", "merged", "daily", "resolved",
  "failed_again" }

-- The change or arrival that can't be settled is consumed, and shown with the reason.
local function set_aside(out, input, why)
  for _, change in ipairs(input.changes or {}) do
    out.consume[#out.consume + 1] = change.seq
    out.errors[#out.errors + 1] = { entity = change.entity, entity_id = change.entity_id,
      change = change, message = why }
  end
  for _, arrival in ipairs(input.arrivals or {}) do
    out.arrivals[#out.arrivals + 1] = arrival.id
    out.errors[#out.errors + 1] = { rule = arrival.type, entity = arrival.entity,
      entity_id = arrival.entity_id, message = why }
  end
  for _, retry in ipairs(input.retries or {}) do
    out.failed_again[#out.failed_again + 1] = { id = retry.id, message = why }
  end
  if input.daily then
    out.daily[1] = { rule = input.daily.rule, day = input.daily.day }
    out.errors[#out.errors + 1] = { rule = input.daily.rule, message = why }
  end
end

local function judge(out, input)
  for _, retry in ipairs(input.retries or {}) do
    take_retry(out, retry, input.now)
  end
  local waiting = {}
  for _, change in ipairs(input.changes or {}) do
    take_change(out, change, input, waiting)
  end
  for _, arrival in ipairs(input.arrivals or {}) do
    take_arrival(out, arrival, input.now)
  end
  if input.daily then
    take_daily(out, input.daily, input.now)
  end
end

--- @param text string {now, parent_wait_ms, changes, arrivals, retries, daily?}
---@param again string|nil the same batch, after blame()
---@param aside string|nil why this one can't be settled
---@return string three lines: consumed changes, postponed ones (both bigint[]), what settle() gets
function M.batch(text, again, aside)
  local input = json.decode(text)
  if not again then
    banned, strikes = {}, {}
  end
  local out = { consume = {}, postpone = {} }
  for _, name in ipairs(SETTLED) do
    out[name] = {}
  end
  if aside then
    set_aside(out, input, aside)
  else
    judge(out, input)
  end
  local settled = {}
  for _, name in ipairs(SETTLED) do
    settled[name] = json.array(out[name])
  end
  return "{" .. table.concat(out.consume, ",") .. "}\n{" .. table.concat(out.postpone, ",") .. "}\n"
    .. json.encode(settled)
end

--- Whether a workflow listens to history: then changes older than the first import count too.
---@return string|nil
function M.history()
  return next(historic) and "yes" or nil
end

--- The first daily rule that is due and wasn't asked on its day, or nil.
---@param now string business time
---@param days_text string {rule = "2026-03-07"}: the last day of each
---@return string|nil {rule, of, day, sql, history}; $1 of the query is the day
function M.daily(now, days_text)
  local days = json.decode(days_text)
  for _, name in ipairs(sorted_keys(set.rules)) do
    local rule = set.rules[name]
    if rule.daily then
      local here = time.date(now, set.company.zone or "UTC")
      local clock = ("%02d:%02d"):format(here.hour, here.minute)
      if clock >= rule.daily and (days[name] or "") < here.ymd then
        local where = rule.where:gsub(":today%f[^%w_]", "$1::date")
        return json.encode({ rule = name, of = rule.of, day = here.ymd,
          history = historic[name] or false,
          sql = "select coalesce(json_agg(json_build_array(id::text, (" .. rule.once
            .. ")::date)), '[]') from " .. rules.views[rule.of] .. " where $1::date is not null and ("
            .. where .. ")" })
      end
    end
  end
end

return M
