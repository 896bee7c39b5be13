-- The author's words in `run`: what company files see beside plain Lua. Built once per VM; a word
-- finds its instance through durable.task().
local durable = require "durable"
local time = require "time"

local json = host.json
local M = {}

local raise = durable.raise

-- Actions of ours, by the namespace that calls them. The company's own come from its actions/.
local OURS = {
  sms = { "send" },
  email = { "send" },
  ghl = { "sync_customer_to_ghl", "sync_estimate_to_ghl", "move_opportunity",
    "move_opportunity_to_job_sold", "move_opportunity_to_install_pipeline", "add_tag",
    "sync_contacts_from_ghl", "sync_opportunities_from_ghl", "process_install_job_moves" },
  staff = { "task", "cancel_task", "tell" },
  servicetitan = { "confirm_appointment", "reschedule", "create_job", "update_visit" },
  agent = { "run" },
}

-- Events that no rule declares, and what they are about.
local BUILT_IN = { customer_replied = "customer", customer_opted_out = "customer",
  message_failed = "customer", ghl_contact_created = "customer", task_done = "task" }

local OPTIONS = { name = "string", retries = "number", timeout = "string" }

local entities = setmetatable({}, { __mode = "k" }) -- record of an event -> its entity

-- Remembers which entity each record of an event is, for fresh() and for keys.
local function learn(event)
  for name, record in pairs(event) do
    if type(record) == "table" and name ~= "old" and name ~= "changed" and name ~= "data" then
      entities[record] = name
    end
  end
  return event
end

--- An event as the body sees it.
---@param event table decoded
---@return table
function M.event(event)
  learn(event)
  for _, one in ipairs(type(event.batch) == "table" and event.batch or {}) do
    learn(one)
  end
  return event
end

local function split_options(action, args)
  if args ~= nil and type(args) ~= "table" then
    raise(action .. " takes one table: " .. action .. " { … }")
  end
  local rest, options = {}, {}
  for k, v in pairs(args or {}) do
    local wanted = action ~= "agent.run" and OPTIONS[k]
    if wanted and type(v) == wanted then
      options[k] = v
    elseif wanted then
      raise(action .. ": " .. k .. " must be a " .. wanted)
    else
      rest[k] = v
    end
  end
  return rest, options
end

local function action(name)
  return function(args)
    local rest, options = split_options(name, args)
    return durable.step(name, rest, options)
  end
end

local function namespace(name, functions)
  local ns = {}
  for _, f in ipairs(functions) do
    ns[f] = action(name .. "." .. f)
  end
  return ns
end

-- Time --------------------------------------------------------------------------------------------

local function zones(company)
  local staff = company.zone or "America/New_York"
  return function()
    local task = durable.task()
    local customer = task and task.event.customer
    return customer and customer.zone or staff
  end, staff
end

-- Errors of the time module are about what the author wrote: they get the author's line.
local function checked(f, ...)
  local ok, value = pcall(f, ...)
  if not ok then
    raise(tostring(value):gsub("^[^%s]+%.lua:%d+: ", ""))
  end
  return value
end

local function add_time(api, company)
  local zone, staff = zones(company)

  function api.now()
    return durable.task().now
  end

  function api.moment(t, options)
    local o = options or {}
    return checked(time.moment, t, o, o.zone or zone())
  end

  function api.date(t, in_zone)
    return checked(time.date, t, in_zone or zone())
  end

  function api.sleep(duration)
    if type(duration) ~= "string" then
      raise('sleep takes a duration such as "2h"')
    end
    local deadline = checked(time.add, durable.task().now, duration, zone())
    durable.sleep("sleep", { duration }, deadline)
  end

  function api.sleep_until(t, options)
    local o, now = options or {}, durable.task().now
    local deadline
    if t == "open" then
      if not company.hours then
        raise('sleep_until "open" needs hours in company.lua')
      end
      deadline = checked(time.next_open, now, company.hours, o.zone or staff)
    else
      deadline = checked(time.moment, t, o, o.zone or zone())
    end
    if deadline <= now then
      return false
    end
    durable.sleep("sleep_until", { t, options and o or nil }, deadline)
    return true
  end

  -- A timeout is a duration, or a time.
  return function(value)
    if value == nil then
      return nil
    elseif type(value) ~= "string" then
      raise('timeout must be a duration such as "3d", or a time')
    elseif value:match "^%d%d%d%d%-" then
      return checked(time.moment, value, {}, zone())
    end
    return checked(time.add, durable.task().now, value, zone())
  end
end

-- Waiting for events ------------------------------------------------------------------------------

local function keys_of(entity, record)
  if type(record) ~= "table" then
    return {}
  elseif record.id then
    return { entity .. ":" .. tostring(record.id) }
  end
  local keys = {}
  if record.phone then
    keys[#keys + 1] = "phone:" .. record.phone
  end
  if record.email then
    keys[#keys + 1] = "email:" .. record.email:lower()
  end
  return keys
end

-- The keys under which an event of this type is ours.
local function wanted_keys(name, of, same)
  local task = durable.task()
  if type(same) == "table" then
    if same.id or same.phone or same.email then
      return keys_of(of, same)
    end
    local keys = {}
    for _, record in ipairs(same) do
      for _, key in ipairs(keys_of(of, record)) do
        keys[#keys + 1] = key
      end
    end
    return keys
  elseif of == "instance" then
    return { "instance:" .. task.start.instance }
  end
  local entity = same or of
  local record = task.event[entity]
  if not record then
    raise(name .. " is about a " .. of .. " and " .. tostring(task.event.name)
      .. " carries none; say what both share: same = \"customer\"")
  end
  return keys_of(entity, record)
end

local WAIT = { same = true, when = true, timeout = true, since = true }

local function add_wait(api, events, deadline_of)
  function api.wait_for(what, options)
    local o = options or {}
    for k in pairs(o) do
      if not WAIT[k] then
        raise("wait_for has no option '" .. tostring(k) .. "'; it takes same, when, timeout, since")
      end
    end
    local names = type(what) == "table" and what or { what }
    local types = {}
    for i, name in ipairs(names) do
      local rule = events[name]
      local of = type(rule) == "table" and rule.of or type(rule) == "string" and rule
        or BUILT_IN[name] or (tostring(name):match "^signal_" and "instance")
      if not of then
        raise('unknown event "' .. tostring(name) .. '" in wait_for')
      end
      types[i] = { type = name, keys = json.array(wanted_keys(name, of, o.same)) }
    end
    local event = durable.wait("wait_for",
      { names, { same = o.same, timeout = o.timeout, since = o.since } },
      { types = json.array(types), deadline = deadline_of(o.timeout), since = o.since }, o.when)
    return event and M.event(event)
  end
end

-- Reading -----------------------------------------------------------------------------------------

local function add_reading(api)
  local function query(word)
    return function(sql, params)
      if type(sql) ~= "string" then
        raise("db." .. word .. " takes an SQL text and a table of parameters")
      end
      return durable.step("db." .. word, { sql = sql, params = params }, {})
    end
  end
  api.db = { rows = query "rows", row = query "row", value = query "value" }

  -- fresh(e) reads all of an event's records anew, fresh(record) the one.
  function api.fresh(what)
    if type(what) ~= "table" then
      raise("fresh takes an event or one of its records")
    elseif entities[what] then
      local entity = entities[what]
      local record = durable.step("fresh", { entity = entity, id = what.id }, {})
      if type(record) == "table" then
        entities[record] = entity
      end
      return record
    end
    local records = {}
    for name, record in pairs(what) do
      if type(record) == "table" and entities[record] == name and record.id then
        records[name] = record.id
      end
    end
    if next(records) == nil then
      raise("fresh takes an event or one of its records")
    end
    return M.event(durable.step("fresh", { of = what.of, records = records }, {}))
  end

  -- Exact to the cent.
  function api.sum(list, field)
    local cents = 0
    for i, row in ipairs(list) do
      local value = row[field]
      if type(value) ~= "number" then
        raise("sum: element " .. i .. " has no number '" .. tostring(field) .. "'")
      end
      cents = cents + math.floor(value * 100 + 0.5)
    end
    cents = math.tointeger(cents) or cents
    return cents % 100 == 0 and cents // 100 or cents / 100
  end
end

-- The rest ----------------------------------------------------------------------------------------

local function add_flow(api)
  function api.note(text, with)
    if type(text) ~= "string" then
      raise("note takes a text")
    end
    local task = durable.task()
    local ok, template = pcall(require, "template")
    local shown = text
    if ok and template.fill then
      shown = checked(template.fill, text, { with = with, e = task.event })
    end
    durable.record("note", { text, with }, { text = shown }, "note")
  end

  function api.stop(reason)
    durable.finish("stopped", reason and tostring(reason))
  end

  function api.fail(reason)
    durable.finish("failed", reason and tostring(reason))
  end

  function api.random(low, high)
    local r = durable.random()
    if not low then
      return r
    elseif not high then
      low, high = 1, low
    end
    return low + math.floor(r * (high - low + 1))
  end

  function api.step(name, options, f)
    if type(options) == "function" then
      f = options
    end
    if type(name) ~= "string" or type(f) ~= "function" then
      raise('step takes a name and a function: step("name", function() … end)')
    end
    return durable.own(name, f)
  end

  function api.all(functions)
    if type(functions) ~= "table" then
      raise("all takes a table of functions")
    end
    for _, f in pairs(functions) do
      if type(f) ~= "function" then
        raise("all takes a table of functions")
      end
    end
    return durable.all(functions)
  end
end

--- The globals of a version's files.
---@param world table {actions = {ns = {name}}, events = {name = rule}, company = {zone, hours}}
---@return table
function M.build(world)
  local api = {}
  for name, functions in pairs(world.actions) do
    api[name] = namespace(name, functions)
  end
  for name, functions in pairs(OURS) do
    api[name] = namespace(name, functions)
  end
  function api.workflow(declaration)
    return declaration
  end
  local deadline_of = add_time(api, world.company)
  add_wait(api, world.events, deadline_of)
  add_reading(api)
  add_flow(api)
  return api
end

return M
