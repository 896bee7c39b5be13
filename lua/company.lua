-- The declaration `company { … }`: who we are, when we are open, whom to reach.
local refusal = require "refusal"
local suggest = require "suggest"
local time = require "time"

local M = {}

local FIELDS = { name = "string", zone = "string", phone = "string", email = "string",
  address = "string", website = "string", hours = "table", people = "table", links = "table" }

local function check_hours(hours, at)
  local ok, why = pcall(time.parse_hours, hours)
  if not ok then
    refusal.raise(at, "hours", (tostring(why):gsub("^[^%s]+%.lua:%d+: ", "")))
  end
end

local function check_people(people, at)
  for role, address in pairs(people) do
    if type(role) ~= "string" then
      refusal.raise(at, "people", 'people: give each a role: csr = "office@…"')
    end
    for _, one in ipairs(type(address) == "table" and address or { address }) do
      if type(one) ~= "string" or not (one:match "^%+%d+$" or one:match "^[^@%s]+@[^@%s]+$") then
        refusal.raise(at, role, "people: " .. role .. ' must be a phone "+1555…" or an e-mail address')
      end
    end
  end
end

--- Checks what `company { … }` was given; refuses the file when something is wrong.
---@param declared table
---@param at table {path, source, from}
---@return table the same
function M.check(declared, at)
  for field, value in pairs(declared) do
    local wanted = FIELDS[field]
    if not wanted then
      refusal.raise(at, tostring(field), 'unknown field "' .. tostring(field) .. '" in company'
        .. suggest.hint(tostring(field), FIELDS))
    elseif type(value) ~= wanted then
      refusal.raise(at, field, field .. " must be a " .. wanted)
    end
  end
  if not declared.zone or not host.zone.exists(declared.zone) then
    refusal.raise(at, "zone", 'zone must name a time zone such as "America/New_York"')
  end
  check_hours(declared.hours or {}, at)
  check_people(declared.people or {}, at)
  return declared
end

return M
