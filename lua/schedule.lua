-- The field `schedule` of a declaration, and the times that it means.
local refusal = require "refusal"
local suggest = require "suggest"

local M = {}

-- field -> type, or the values it may have; the first is the default
local FIELDS = { cron = "string", zone = "string", gap = { "next", "skip" },
  fold = { "first", "last", "both" }, catch_up = { "latest", "all", "none" } }

local function check_field(field, value, refuse)
  local wanted = FIELDS[field]
  if not wanted then
    refuse(field, 'unknown field "' .. field .. '" in schedule' .. suggest.hint(field, FIELDS))
  elseif type(wanted) == "string" and type(value) ~= wanted then
    refuse(field, "schedule: " .. field .. " must be a " .. wanted)
  elseif type(wanted) == "table" then
    local known = {}
    for _, name in ipairs(wanted) do
      known[name] = true
    end
    if not known[value] then
      refuse(field, 'schedule: ' .. field .. ' must be "' .. table.concat(wanted, '" or "') .. '"'
        .. (type(value) == "string" and suggest.hint(value, known) or ""))
    end
  end
end

local function check_cron(cron, refuse)
  if not cron then
    refuse("schedule", 'schedule has no cron; write cron = "30 7 * * 1-5"')
  end
  local why = host.cron.refused(cron)
  if why then
    refuse("cron", "cron: " .. why)
  elseif select(2, cron:gsub("%S+", "")) ~= 5 then
    refuse("cron", 'cron: "' .. cron .. '" has a field for seconds; write minute hour day month weekday')
  elseif not host.cron.next(cron, "UTC", "next", "first", host.now()) then
    refuse("cron", 'cron: "' .. cron .. '" never comes')
  end
end

--- Checks a schedule; refuses the file when something is wrong.
---@param given table|nil
---@param at table {path, source, from}
---@return table|nil {cron, zone?, gap, fold, catch_up}
function M.check(given, at)
  if given == nil then
    return nil
  end
  local inside = { path = at.path, source = at.source,
    from = refusal.line_of(at.source, "schedule", at.from) or at.from }
  local function refuse(word, message)
    refusal.raise(inside, word, message)
  end
  local sorted = {}
  for field in pairs(given) do
    sorted[#sorted + 1] = tostring(field)
  end
  table.sort(sorted)
  for _, field in ipairs(sorted) do
    check_field(field, given[field], refuse)
  end
  check_cron(given.cron, refuse)
  if given.zone and not host.zone.exists(given.zone) then
    refuse("zone", 'schedule: there is no time zone "' .. given.zone
      .. '"; write one such as "America/New_York"')
  end
  return { cron = given.cron, zone = given.zone, gap = given.gap or FIELDS.gap[1],
    fold = given.fold or FIELDS.fold[1], catch_up = given.catch_up or FIELDS.catch_up[1] }
end

--- The next fire after a time.
---@param spec table as declared, with its zone
---@param after integer seconds since 1970
---@return integer|nil at
---@return string|nil note "skipped": the clocks skip it, and it is none
function M.next(spec, after)
  return host.cron.next(spec.cron, spec.zone, spec.gap, spec.fold, after)
end

return M
