-- Checks what files declare besides workflows: the fields of rules, the company's own actions, mappings.
local arguments = require "arguments"
local entities = require "entities"
local refusal = require "refusal"
local suggest = require "suggest"

local M = {}

local ACTION = { effect = "string", args = "table", run = "function", find = "function", in_doubt = "string" }
local EFFECTS = { read = true, idempotent = true, once = true }
local MAPPING = { of = "string", map = "function" }

-- name is what it is told of; only what is declared may be there, and of its type.
local function check_types(given, wanted, name, at)
  for field, value in pairs(given) do
    if not wanted[field] then
      refusal.raise(at, tostring(field), 'unknown field "' .. tostring(field) .. '" in ' .. name
        .. suggest.hint(tostring(field), wanted))
    elseif type(value) ~= wanted[field] then
      refusal.raise(at, field, name .. ": " .. field .. " must be " .. suggest.article(wanted[field]))
    end
  end
end

local function check_args(args, name, at)
  for arg, kind in pairs(args) do
    local plain = type(kind) == "string" and kind:gsub("%?$", "")
    if not plain or not arguments.is_type(plain) and not entities.carries[plain] then
      refusal.raise(at, tostring(arg), name .. ": " .. tostring(arg) .. " must be an entity or one of string, "
        .. 'number, money, boolean, date, time, with ? behind it when it may be left out')
    end
  end
end

--- Refuses actions that can't be meant so.
---@param given table name -> what is declared
---@param at table for refusal.raise
function M.actions(given, at)
  for name, action in pairs(given) do
    if type(name) ~= "string" or not name:match "^[a-z][a-z0-9_]*$" then
      refusal.raise(at, tostring(name), '"' .. tostring(name) .. '" is not a lower_snake_case name')
    elseif type(action) ~= "table" or type(action.run) ~= "function" then
      refusal.raise(at, name, name .. " must be a table with run = function(a, key)")
    end
    check_types(action, ACTION, name, at)
    if action.effect and not EFFECTS[action.effect] then
      refusal.raise(at, action.effect, name .. ': effect is "read", "idempotent" or "once"')
    end
    check_args(action.args or {}, name, at)
  end
end

--- Refuses a mapping that can't be meant so.
---@param given any what mapping { … } was given
---@param at table for refusal.raise
function M.mapping(given, at)
  if type(given) ~= "table" then
    refusal.raise(at, "mapping", "mapping takes one table: mapping { … }")
  end
  check_types(given, MAPPING, "mapping", at)
  if not given.of or not entities.carries[given.of] then
    refusal.raise(at, "of", "of must be the entity that is mapped: of = \"estimate\"")
  elseif not given.map then
    refusal.raise(at, "mapping", "mapping has no map = function(x) … end")
  end
end

--- Refuses a rule about a field that isn't there, where we know them all.
---@param r table
---@param refuse function(word, message)
function M.fields(r, refuse)
  local known = entities.fields[r.of]
  local named = { r.at, r.once, table.unpack(type(r.changed) == "table" and r.changed or {}) }
  for field in pairs(type(r.becomes) == "table" and r.becomes or {}) do
    named[#named + 1] = field
  end
  for _, field in pairs(known and named or {}) do
    if not known[field] then
      refuse(tostring(field), r.of .. " has no field " .. tostring(field)
        .. suggest.hint(tostring(field), known))
    end
  end
end

return M
