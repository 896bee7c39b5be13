-- wait_for and emit: which events are ours, and events of our own.
local arguments = require "arguments"
local durable = require "durable"
local entities = require "entities"
local records = require "words.records"
local suggest = require "suggest"

local M = {}

local json = host.json
local raise = durable.raise

-- Events that no rule declares, and what they are about.
local BUILT_IN = { customer_replied = "customer", customer_opted_out = "customer",
  message_failed = "customer", ghl_contact_created = "customer", task_done = "task" }

-- The keys under which an event of this type is ours.
local function wanted_keys(name, of, same)
  local task = durable.task()
  if type(same) == "table" then
    if same.id or same.phone or same.email then
      return entities.keys(of, same)
    end
    local keys = {}
    for _, record in ipairs(same) do
      for _, key in ipairs(entities.keys(of, record)) do
        keys[#keys + 1] = key
      end
    end
    return keys
  elseif of == "instance" then
    return { "instance:" .. task.instance }
  end
  local entity = same or of
  local record = task.event[entity]
  if not record then
    raise(name .. " is about " .. suggest.article(of) .. " and " .. tostring(task.event.name)
      .. " carries none; say what both share: same = \"customer\"")
  end
  return entities.keys(entity, record)
end

-- What an emitted event carries: snapshots by entity, and data.
local function emitted(name, rule, what)
  local of = rule.of
  local key = entities.keys(of, what[of])[1]
  if not key then
    raise("emit " .. name .. ": say which " .. of .. ': emit("' .. name .. '", { ' .. of .. " = e."
      .. of .. " })")
  end
  for field, value in pairs(what) do
    if type(value) ~= "table" then
      raise("emit " .. name .. ": " .. tostring(field) .. " must be a record; values go into data = { … }")
    end
  end
  durable.checked(arguments.check, "emit " .. name .. ": data", rule.data or {}, what.data or {})
  return { event = name, of = of, of_id = key:gsub("^%a+:", ""), payload = what }
end

local WAIT = { same = true, when = true, timeout = true, since = true }

---@param api table
---@param events table name -> rule
---@param deadline_of function
function M.add(api, events, deadline_of)
  function api.emit(name, what)
    local rule = events[name]
    if type(rule) ~= "table" or not rule.manual then
      raise('emit: "' .. tostring(name) .. '" is no event with manual = true in events.lua')
    elseif type(what) ~= "table" then
      raise("emit takes the name of an event and what it is about: emit(\"" .. name
        .. "\", { customer = e.customer })")
    end
    durable.step("emit", emitted(name, rule, what), {})
  end

  function api.wait_for(what, options)
    local o = options or {}
    if type(o) ~= "table" then
      raise('wait_for takes its options in a table: wait_for("customer_replied", { timeout = "1d" })')
    elseif o.when ~= nil and type(o.when) ~= "function" then
      raise("wait_for: when must be a function(it, e)")
    end
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
    return event and records.event(durable.task(), event)
  end
end

return M
