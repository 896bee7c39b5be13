-- The rules of workflows/events.lua: checked once, then asked for each change which facts it shows.
local declarations = require "declarations"
local entities = require "entities"
local refusal = require "refusal"
local suggest = require "suggest"

local M = {}

local SOURCES = { created = "boolean", becomes = true, changed = "table", daily = "string",
  manual = "boolean", webhook = "string" }
local FIELDS = { of = true, created = true, becomes = true, changed = true, daily = true, where = true,
  once = true, manual = true, data = true, webhook = true, secret = true, read = true, at = true,
  when = true }
-- What belongs to one source only.
local BELONGS = { where = "daily", once = "daily", secret = "webhook", read = "webhook" }
local DATA = { string = true, number = true, money = true, boolean = true, date = true, time = true }

local function is_name(text)
  return type(text) == "string" and text:match "^[a-z][a-z0-9_]*$" ~= nil
end

local function check_source(name, r, refuse)
  local source
  for s in pairs(SOURCES) do
    if r[s] ~= nil then
      if source then
        refuse(name, "has two sources, " .. (s < source and s .. " and " .. source or source .. " and " .. s)
          .. "; an event has exactly one")
      end
      source = s
    end
  end
  if not source then
    refuse(name, "has no source; say one of created, becomes, changed, daily, manual, webhook")
  end
  local wanted = SOURCES[source]
  if wanted ~= true and type(r[source]) ~= wanted then
    refuse(source, source .. " must be a " .. wanted)
  elseif wanted == "boolean" and r[source] ~= true then
    refuse(source, source .. " can only be true")
  end
  for field, of in pairs(BELONGS) do
    if r[field] ~= nil and of ~= source then
      refuse(field, field .. " belongs to a rule with " .. of)
    end
  end
  return source
end

local CHECKS = {}

function CHECKS.becomes(r, refuse)
  if type(r.becomes) ~= "table" and type(r.becomes) ~= "function" then
    refuse("becomes", "becomes must be a table of values, or a function")
  elseif type(r.becomes) == "table" and next(r.becomes) == nil then
    refuse("becomes", "becomes names no field")
  end
end

function CHECKS.changed(r, refuse)
  for _, field in ipairs(r.changed) do
    if not is_name(field) then
      refuse("changed", "changed must list names of fields")
    end
  end
  if #r.changed == 0 then
    refuse("changed", "changed must list names of fields")
  end
end

function CHECKS.daily(r, refuse)
  local hour, minute = r.daily:match "^(%d%d):(%d%d)$"
  if not hour or tonumber(hour) > 23 or tonumber(minute) > 59 then
    refuse(r.daily, 'daily must be a time of day such as "07:00"')
  elseif type(r.where) ~= "string" or r.where:find(";", 1, true) then
    refuse("where", "daily needs where, an SQL condition on the entity's view")
  elseif not is_name(r.once) then
    refuse("once", "daily needs once, the date field that tells a new fact from an old one")
  elseif not M.views[r.of] then
    refuse(r.of, "there is no view of " .. r.of .. " for a daily rule")
  end
end

function CHECKS.webhook(r, refuse)
  if not is_name(r.webhook) then
    refuse(r.webhook, "webhook must be a lower_snake_case name: it is part of the address")
  elseif type(r.secret) ~= "string" then
    refuse("webhook", "webhook needs secret, the name of a setting")
  elseif type(r.read) ~= "function" then
    refuse("webhook", "webhook needs read, a function of the body")
  end
end

-- The views that a daily rule may ask.
M.views = { customer = "customers", location = "locations", job = "jobs", estimate = "estimates",
  invoice = "invoices", appointment = "appointments", technician = "technicians" }

local function check_rule(name, r, at)
  local function refuse(word, message)
    refusal.raise({ path = at.path, source = at.source,
      from = refusal.line_of(at.source, name, at.from) or at.from }, word, name .. ": " .. message)
  end
  if not is_name(name) then
    refusal.raise(at, tostring(name), '"' .. tostring(name) .. '" is not a lower_snake_case name')
  elseif type(r) ~= "table" then
    refuse(nil, "must be a table: { of = …, created = true }")
  elseif entities.builtin[name] or name == "schedule" or name:match "^signal_" then
    refuse(nil, "is there already and can't be declared")
  end
  for field in pairs(r) do
    if not FIELDS[field] then
      refusal.raise(at, tostring(field), 'unknown field "' .. tostring(field) .. '" in ' .. name
        .. suggest.hint(tostring(field), FIELDS))
    end
  end
  if r.of == nil then
    refuse(name, 'says not what it is about: of = "estimate"')
  elseif type(r.of) ~= "string" or not entities.carries[r.of] then
    refuse(tostring(r.of), 'unknown entity "' .. tostring(r.of) .. '"'
      .. suggest.hint(tostring(r.of), entities.carries))
  end
  local source = check_source(name, r, refuse)
  if CHECKS[source] then
    CHECKS[source](r, refuse)
  end
  if r.at ~= nil and not is_name(r.at) then
    refuse("at", "at must be the name of a field with a time")
  elseif r.when ~= nil and type(r.when) ~= "function" then
    refuse("when", "when must be a function of e")
  end
  declarations.fields(r, refuse)
  if r.data ~= nil and type(r.data) ~= "table" then
    refuse("data", 'data must be a table of types: data = { date = "date" }')
  end
  for field, kind in pairs(r.data or {}) do
    if type(kind) ~= "string" or not DATA[kind:gsub("%?$", "")] then
      refuse("data", "data." .. tostring(field) .. " must be one of string, number, money, boolean, "
        .. "date, time")
    end
  end
  return { name = name, source = source, of = r.of, subject = entities.subject(r.of), at = r.at,
    when = r.when, becomes = r.becomes, changed = r.changed, daily = r.daily, where = r.where,
    once = r.once, webhook = r.webhook, read = r.read, secret = r.secret, data = r.data }
end

--- Checks what `events { … }` was given; refuses the file when something is wrong.
---@param declared table
---@param at table {path, source, from}
---@return table rules by name, with the built-in ones
function M.check(declared, at)
  local rules = {}
  local names = {}
  for name in pairs(declared) do
    names[#names + 1] = name
  end
  table.sort(names, function(a, b)
    return tostring(a) < tostring(b)
  end)
  for _, name in ipairs(names) do
    rules[name] = check_rule(name, declared[name], at)
  end
  return M.with_builtin(rules)
end

--- Adds the events that are always there.
---@param rules table
---@return table the same
function M.with_builtin(rules)
  for name, b in pairs(entities.builtin) do
    rules[name] = { name = name, source = name:match "_deleted$" and "deleted" or "manual", of = b.of,
      subject = entities.subject(b.of), carries = b.carries }
  end
  return rules
end

--- The rule of an event type, signals included.
---@param rules table
---@param name string
---@return table|nil
function M.find(rules, name)
  if rules[name] then
    return rules[name]
  elseif type(name) == "string" and name:match "^signal_[a-z0-9_]+$" then
    return { name = name, source = "manual", of = "instance", subject = "instance" }
  end
end

-- Facts ------------------------------------------------------------------------------------------

local function two(n)
  return ("%02d"):format(n)
end

--- The day after a date: the time of a daily rule's fact.
---@param date string "2026-03-07"
---@return string
function M.day_after(date)
  local y, m, d = date:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)"
  if not y then
    error("'" .. tostring(date) .. "' is not a date", 0)
  end
  local next_day = host.zone.civil("UTC", host.zone.instant("UTC", { year = math.tointeger(y),
    month = math.tointeger(m), day = math.tointeger(d) + 1 }))
  return ("%04d-%s-%s"):format(next_day.year, two(next_day.month), two(next_day.day))
end

--- A time in the one form in which times compare as texts: to the microsecond, in UTC.
---@param t string a time or a date
---@return string
function M.exact(t)
  local day, clock, fraction = tostring(t):match "^(%d%d%d%d%-%d%d%-%d%d)T(%d%d:%d%d:%d%d)%.?(%d*)Z$"
  if not day then
    day = tostring(t):match "^%d%d%d%d%-%d%d%-%d%d$"
    if not day then
      error("'" .. tostring(t) .. "' is not a time", 0)
    end
    clock, fraction = "00:00:00", ""
  end
  return day .. "T" .. clock .. "." .. (fraction .. "000000"):sub(1, 6) .. "Z"
end

local function equal(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    return a == b
  end
  return host.json.encode(a) == host.json.encode(b)
end

local function matches(rule, row)
  if type(rule.becomes) == "function" then
    return rule.becomes(row) and true or false
  end
  for field, value in pairs(rule.becomes) do
    if not equal(row[field], value) then
      return false
    end
  end
  return true
end

-- What ServiceTitan deletes it keeps as inactive. An inactive customer may be a merged one and isn't
-- the end of anything; a cancelled appointment says so itself.
local ENDS = { estimate = true, job = true, invoice = true, appointment = true }

local function is_gone(entity, old, new)
  return new == nil or (ENDS[entity] and old.active ~= false and new.active == false
    and new.status ~= "Canceled")
end

--- Whether a change shows the fact of a rule. An insert is an edge from nothing.
---@param rule table
---@param old table|nil
---@param new table|nil
---@return boolean
function M.is_edge(rule, old, new)
  if rule.source == "deleted" then
    return old ~= nil and is_gone(rule.of, old, new)
  elseif not new then
    return false
  elseif rule.source == "created" then
    return old == nil
  elseif rule.source == "becomes" then
    return matches(rule, new) and not (old ~= nil and matches(rule, old))
  elseif rule.source == "changed" and old then
    for _, field in ipairs(rule.changed) do
      if not equal(old[field], new[field]) then
        return true
      end
    end
  end
  return false
end

--- When the fact happened, by the vendor's clock, and whether that is only the row's modification.
---@param rule table
---@param row table
---@param modified string
---@return string at, boolean weak
function M.time_of(rule, row, modified)
  local field = rule.at or rule.source == "created" and "created_on"
  local value = field and row[field]
  if value then
    return M.exact(value), false
  end
  return M.exact(modified), true
end

return M
