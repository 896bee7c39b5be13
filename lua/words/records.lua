-- The records of events, and reading them anew: fresh, db, sum.
local durable = require "durable"

local M = {}

local raise = durable.raise

-- Which entity each record of an event is.
local function entities_of(task)
  task.entities = task.entities or {}
  return task.entities
end

-- Remembers which entity each record of an event is, for fresh().
local function learn(task, event)
  local entities = entities_of(task)
  for name, record in pairs(event) do
    if type(record) == "table" and name ~= "old" and name ~= "changed" and name ~= "data" then
      entities[record] = name
    end
  end
end

--- An event that has come to a task.
---@param task table
---@param event table decoded
---@return table event
function M.event(task, event)
  event.began = nil -- the owner's: when this run began
  learn(task, event)
  if type(event.batch) == "table" then
    for _, one in ipairs(event.batch) do
      learn(task, one)
    end
  end
  return event
end

---@param api table
function M.add(api)
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
    end
    local task = durable.task()
    local entities = entities_of(task)
    if entities[what] then
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
    local event = durable.step("fresh", { of = what.of, records = records }, {})
    return event and M.event(task, event)
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

return M
