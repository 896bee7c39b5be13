-- Flow control of a declaration: rate, concurrency, debounce, batch, family. What a file may say, how
-- people and the database read it, and what one start asks of the database, which alone decides.
local entities = require "entities"
local refusal = require "refusal"
local suggest = require "suggest"
local time = require "time"

local M = {}

local MOST = 500     -- events of one batch
local KEY_MAX = 500  -- bytes of a key

local OVER = { wait = true, skip = true }

-- field -> its parts, in the order in which they are checked; an example; what it can't do without
local FIELDS = {
  rate = { parts = { limit = "count", per = "duration", over = OVER, key = "key" },
    needs = { "limit", "per" }, example = 'rate = { limit = 30, per = "1h" }' },
  concurrency = { parts = { limit = "count", hold = "boolean", key = "key" },
    needs = { "limit" }, example = "concurrency = { limit = 2 }" },
  debounce = { parts = { quiet = "duration", max = "duration", key = "key" },
    needs = { "quiet" }, example = 'debounce = { quiet = "2m" }' },
  batch = { parts = { within = "duration", max = "count", key = "key" },
    needs = { "within" }, example = 'batch = { within = "1h", max = 20 }' },
}
local ORDER = { "rate", "concurrency", "debounce", "batch" }

--- Checks a key: an entity that all events carry, or a function.
---@param value any
---@param what string how it is called: "key", "rate.key"
---@param on string[]
---@param known table rules by event name
---@param at table
---@return string|function|nil
function M.key(value, what, on, known, at)
  if value == nil or type(value) == "function" then
    return value
  elseif type(value) ~= "string" or not entities.carries[value] then
    refusal.raise(at, "key", what .. " must be an entity or a function of e"
      .. (type(value) == "string" and suggest.hint(value, entities.carries) or ""))
  end
  for _, ours in ipairs(on) do
    if not entities.has(known[ours] or {}, value) then
      refusal.raise(at, "key", what .. ": " .. ours .. " carries no " .. value)
    end
  end
  return value
end

local function span(text, what, part, at)
  local ok, parsed = pcall(time.parse_duration, text)
  if not ok then
    refusal.raise(at, part, what .. ": " .. tostring(parsed))
  elseif parsed.seconds + parsed.days == 0 then
    refusal.raise(at, part, what .. ' must be longer than "' .. text .. '"')
  end
end

local function check_part(value, what, part, wanted, at)
  if wanted == "count" then
    if math.type(value) ~= "integer" or value < 1 then
      refusal.raise(at, part, what .. " must be a whole number, 1 or more")
    end
  elseif wanted == "duration" then
    span(value, what, part, at)
  elseif wanted == "boolean" then
    if type(value) ~= "boolean" then
      refusal.raise(at, part, what .. " must be true or false")
    end
  elseif not wanted[value] then
    refusal.raise(at, part, what .. ' must be "wait" or "skip"'
      .. (type(value) == "string" and suggest.hint(value, wanted) or ""))
  end
end

local function check_parts(field, given, at)
  local spec = FIELDS[field]
  if type(given) ~= "table" then
    refusal.raise(at, field, field .. " must be a table: " .. spec.example)
  end
  local parts = {}
  for part in pairs(given) do
    parts[#parts + 1] = tostring(part)
  end
  table.sort(parts)
  for _, part in ipairs(parts) do
    if not spec.parts[part] then
      refusal.raise(at, part, 'unknown field "' .. part .. '" in ' .. field
        .. suggest.hint(part, spec.parts))
    elseif part ~= "key" then
      check_part(given[part], field .. "." .. part, part, spec.parts[part], at)
    end
  end
  for _, part in ipairs(spec.needs) do
    if given[part] == nil then
      refusal.raise(at, field, field .. " needs " .. part .. ": " .. spec.example)
    end
  end
end

-- A table of a declaration is looked for from its own line on.
local function place(at, field)
  return { path = at.path, source = at.source, from = refusal.line_of(at.source, field, at.from)
    or at.from }
end

local function seconds_of(text)
  local parsed = time.parse_duration(text)
  return parsed.days * 86400 + parsed.seconds
end

local function check_family(d, on, known, at)
  if type(d.family) ~= "string" or not d.family:match "^[a-z][a-z0-9_]*$" then
    refusal.raise(at, "family", 'family must be a name in lower case: family = "estimate"')
  end
  for _, ours in ipairs(on) do
    if not entities.has(known[ours] or {}, "customer") then
      refusal.raise(at, "family", "family: " .. ours .. " carries no customer")
    end
  end
end

--- Checks the flow control of a declaration; refuses the file when something is wrong.
---@param d table what workflow { … } was given
---@param on string[]
---@param known table rules by event name
---@param at table
---@return table|nil {family, rate, concurrency, debounce, batch}; nil: none
function M.check(d, on, known, at)
  local flow
  for _, field in ipairs(ORDER) do
    local given = d[field]
    if given ~= nil then
      local here = place(at, field)
      check_parts(field, given, here)
      flow = flow or {}
      flow[field] = {}
      for part in pairs(FIELDS[field].parts) do
        flow[field][part] = given[part]
      end
      M.key(given.key, field .. ".key", on, known, here)
    end
  end
  if d.debounce ~= nil and d.batch ~= nil then
    refusal.raise(at, "batch", "debounce and batch can't both be: one keeps the newest event, "
      .. "the other all of them")
  end
  local debounce, batch = flow and flow.debounce, flow and flow.batch
  if debounce and debounce.max and seconds_of(debounce.max) < seconds_of(debounce.quiet) then
    refusal.raise(place(at, "debounce"), "max", "debounce.max is shorter than debounce.quiet")
  elseif batch and batch.max and batch.max > MOST then
    refusal.raise(place(at, "batch"), "max", "batch.max is at most " .. MOST)
  end
  if d.family ~= nil then
    check_family(d, on, known, at)
    flow = flow or {}
    flow.family = d.family
  end
  return flow
end

--- As data, for the database and for people.
---@param flow table|nil from check
---@param data table gets the fields
function M.data(flow, data)
  for field, given in pairs(flow or {}) do
    data[field] = given
    if type(given) == "table" then
      data[field] = {}
      for part, value in pairs(given) do
        data[field][part] = type(value) == "function" and "function" or value
      end
    end
  end
end

--- The text of what a key's function returned, or nil and what is wrong with it.
---@param value any
---@return string|nil, string|nil
function M.text(value)
  if type(value) == "table" or type(value) == "function" then
    return nil, "must return a text or a number"
  end
  local text = tostring(value)
  if #text > KEY_MAX then
    return nil, "returned more than " .. KEY_MAX .. " bytes"
  end
  return text
end

local function length(text, zone)
  local parsed = text and time.parse_duration(text)
  return parsed and { days = parsed.days, seconds = parsed.seconds, zone = zone }
end

--- What a start asks for: {family, rate, concurrency, debounce, batch}, nil when nothing. A part whose
--- key is nil doesn't count. False and a message when a key raises.
---@param flow table
---@param event table
---@param key string|nil the workflow's key
---@param zones table {customer, company}
---@param key_of fun(what: string, declared: any): boolean, any
---@return table|nil|false, string|nil
function M.asked(flow, event, key, zones, key_of)
  local asked
  for _, field in ipairs(ORDER) do
    local given, value = flow[field], nil
    if given and given.key ~= nil then
      local ok
      ok, value = key_of(field .. ".key", given.key)
      if not ok then
        return false, value
      end
    elseif given then
      value = (field == "rate" or field == "concurrency") and "" or key
    end
    if value ~= nil then
      asked = asked or {}
      asked[field] = { key = value, limit = given.limit, over = given.over, hold = given.hold,
        per = length(given.per, zones.company), quiet = length(given.quiet, zones.customer),
        within = length(given.within, zones.customer) }
      if field == "debounce" then
        asked[field].latest = length(given.max, zones.customer)
      elseif field == "batch" then
        asked[field].max = given.max or MOST
      end
    end
  end
  local customer = flow.family and entities.keys("customer", event.customer)[1]
  if customer then
    asked = asked or {}
    asked.family = { name = flow.family, customer = customer }
  end
  return asked
end

return M
