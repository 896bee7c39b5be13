-- Takes one change, arrival, daily row or second look after the other and says what becomes of it.
local entities = require "entities"
local frozen = require "frozen"
local judge = require "judge"
local rules = require "rules"

local json = host.json
local world = judge.world
local M = {}

-- Changes ----------------------------------------------------------------------------------------

-- The fact that a change shows by one rule: (true, {rule, at, weak, silent} or nil) or (false, why).
-- old and new are views of its rows.
local function fact_of(change, rule, subject, old, new, now)
  local ok, edge = judge.evaluate("becomes", rule.name, subject, nil, rules.is_edge, rule, old, new)
  if not ok or not edge then
    return ok, not ok and edge or nil
  end
  local told = rule.source ~= "deleted" or change.new ~= nil -- by the vendor, with its time
  -- Else when it was noticed counts: that is the same however often the change is read.
  local at, weak, ours = rules.exact(change.noticed or now), false, not told and change.noticed ~= nil
  if told then
    ok, at, weak = pcall(rules.time_of, rule, change.new, change.modified_on or now)
    if not ok then
      return false, "events.lua: " .. rule.name .. ": at: " .. judge.message_of(at)
    end
  end
  local silent = told and change.live_since ~= nil
    and at < rules.exact(change.live_since)
  if silent and not world.historic[rule.name] then
    return true, nil
  end
  return true, { rule = rule, at = at, weak = weak and change.old == nil, silent = silent,
    ours = ours }
end

-- All facts of a change in the order of their time; a row's creation before what else it shows.
local function facts_of(change, now, failed, only)
  local facts = {}
  local subject = change.entity .. ":" .. change.entity_id
  local old = change.old and frozen.view(change.old)
  local new = change.new and frozen.view(change.new)
  for _, rule in ipairs(world.rules_of[change.entity] or {}) do
    if not only or only == rule.name then
      local ok, fact = fact_of(change, rule, subject, old, new, now)
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
    local shown = judge.shown(judge.event_of(change, rule, now))
    local ok, wanted = true, true
    if rule.when then
      ok, wanted = judge.evaluate("when", rule.name, change.entity_id, shown.zone, rule.when, shown.view)
    end
    if not ok then
      failed(rule, wanted)
    elseif wanted then
      judge.add_event(out, rule, shown, change.entity_id, fact)
      if rule.source == "deleted" then
        out.deleted[#out.deleted + 1] = { entity = change.entity, id = change.entity_id,
          event = shown.event.id }
      end
    end
  end
end

function M.change(out, change, input, waiting)
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

-- Takes what arrived as an event of a rule; failed(rule's name, subject, message) hears of what raised.
local function arrived(out, rule, arrival, payload, now, failed)
  local event = {}
  for k, v in pairs(payload) do
    event[k] = v
  end
  event.name, event.id, event.time, event.of = rule.name, arrival.event_id or judge.uuid(), now,
    rule.subject
  event.trace = arrival.trace
  local shown = judge.shown(event)
  local ok, wanted = true, true
  if rule.when then
    ok, wanted = judge.evaluate("when", rule.name, tostring(arrival.id), shown.zone, rule.when, shown.view)
  end
  if not ok then
    failed(rule.name, rule.subject, wanted)
  elseif wanted then
    judge.add_event(out, rule, shown, arrival.entity_id,
      { at = rules.exact(arrival.at), weak = false, silent = false })
  end
end

local function take_hook(out, arrival, now, failed, only)
  for _, rule in ipairs(world.hooks[arrival.entity_id] or {}) do
    if only and only ~= rule.name then
      goto continue
    end
    local body = frozen.view(arrival.payload.body or {})
    local ok, got = judge.evaluate("read", rule.name, tostring(arrival.id), nil, rule.read, body)
    if ok and got ~= nil then
      local fine, plain = pcall(function()
        return json.decode(json.encode(got))
      end)
      ok, got = fine and type(plain) == "table", fine and plain or judge.message_of(plain)
    end
    if not ok then
      failed(rule.name, rule.subject, tostring(got))
    elseif got then
      local key = entities.keys(rule.subject, got[rule.subject])[1]
      arrived(out, rule, { at = got.at or arrival.at, id = arrival.id,
        entity_id = key and key:gsub("^%a+:", "") or "hook " .. arrival.id, trace = arrival.trace }, got,
        now, failed)
    end
    ::continue::
  end
end

-- A child that an instance asks for.
local function take_start(out, arrival, now)
  local asked, event = arrival.payload, {}
  for k, v in pairs(asked.e) do
    event[k] = v
  end
  event.name, event.id = event.name or "start", asked.event
  event.time, event.of = event.time or now, event.of or "customer"
  asked.at, asked.now = arrival.at, now
  judge.start_child(out, asked, event)
end

local function take_arrival(out, arrival, now, failed, only)
  if arrival.type == "webhook" then
    return take_hook(out, arrival, now, failed, only)
  elseif arrival.type == "start" then
    return take_start(out, arrival, now)
  end
  local rule = rules.find(world.rules, arrival.type)
  if not rule then
    return failed(arrival.type, arrival.entity, 'unknown event "' .. arrival.type .. '" arrived')
  end
  -- What comes from one of our own steps brings its id: it is one event, however often it comes.
  arrival.event_id = arrival.payload.event_id
  local payload = {}
  for k, v in pairs(arrival.payload) do
    payload[k] = k ~= "event_id" and v or nil
  end
  arrived(out, rule, arrival, payload, now, failed)
end

--- What raised keeps the arrival, which is nowhere else.
function M.arrival(out, arrival, now)
  out.arrivals[#out.arrivals + 1] = arrival.id
  take_arrival(out, arrival, now, function(rule, subject, message)
    out.errors[#out.errors + 1] = { rule = rule, entity = subject, entity_id = arrival.entity_id,
      change = { arrival = arrival }, message = message }
  end)
end

function M.daily(out, daily, now)
  local rule = world.rules[daily.rule]
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

function M.retry(out, retry, now)
  local why
  if retry.workflow then
    local w = world.workflows[retry.workflow]
    if w and retry.event then
      local ok, start = judge.ask(w, judge.shown(retry.event), true)
      why = not ok and start or nil
      out.starts[#out.starts + 1] = ok and start or nil
    end
  elseif retry.change and retry.change.arrival then
    local arrival = retry.change.arrival
    take_arrival(out, arrival, now, function(_, _, message)
      why = message
    end, retry.rule ~= arrival.type and retry.rule or nil)
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

return M
