-- What a file writes out in its calls, checked before it ever runs: the actions it names, their
-- options, and the placeholders of its texts.
local calls = require "calls"
local entities = require "entities"
local inspect = require "inspect"
local shipped = require "shipped"
local suggest = require "suggest"
local template = require "template"

local M = {}

-- Words that take what an action of ours takes, under another name.
local WORDS = { approve = { due = "timeout" } }
local TEXTS = { text = true, subject = true, title = true, note = true }

local function refuse(path, line, message)
  error({ refused = true, file = path, line = line, message = message }, 0)
end

-- The arguments of an action by name, or nil.
local function declared(name, theirs)
  local space, own = name:match "^([%w_]+)%.(.+)$"
  local action = space and theirs[space] and theirs[space][own] or shipped[name]
  if not action then
    return nil
  end
  local args = {}
  for field, kind in pairs(action.args or {}) do
    args[(WORDS[name] or {})[field] or field] = kind
  end
  return args, action.args ~= nil
end

local function names_of(space, theirs)
  local names = {}
  for action in pairs(theirs[space] or {}) do
    names[space .. "." .. action] = true
  end
  for action in pairs(shipped) do
    names[action] = action:match "^[^.]+" == space or nil
  end
  return names
end

-- Times that are written out: when a thing is due, how long it may take.
local function check_times(call)
  for field, at in pairs(call.table.fields) do
    local is_text = type(at.value) == "string"
    if is_text and (field == "due" or field == "timeout" and call.name == "approve") then
      inspect.deadline(call.path, at.line, at.value)
    elseif is_text and field == "timeout" then
      inspect.duration(call.path, at.line, at.value)
    end
  end
end

local function check_arguments(call, args)
  local known = {}
  for field in pairs(args) do
    known[field] = true
  end
  for field in pairs(call.name:match "^http%." and {} or calls.OPTIONS) do -- http's are those of its step
    known[field] = true
  end
  for field, at in pairs(call.table.fields) do
    if not known[field] then
      refuse(call.path, at.line, call.name .. ': unknown field "' .. tostring(field) .. '"'
        .. suggest.hint(tostring(field), known))
    end
  end
  for field, kind in pairs(args) do
    if not call.table.open and not call.table.fields[field] and not kind:match "%?$" then
      refuse(call.path, call.line, call.name .. ": " .. field .. " is missing")
    end
  end
end

-- A placeholder that names a record: it must be one that the events carry, and have the field.
local function check_record(call, at, path, on, known)
  local entity, field = path:match "^([%w_]+)%.([%w_]+)"
  entity = entity or path
  if not entities.carries[entity] then
    return
  end
  local carried = #on == 0
  for _, event in ipairs(on) do
    carried = carried or entities.has(known[event] or entities.builtin[event] or {}, entity)
  end
  if not carried then
    refuse(call.path, at.line, "{" .. path .. "}: " .. table.concat(on, " and ") .. " carries no "
      .. entity)
  end
  local fields = entities.fields[entity]
  if field and fields and not fields[field] then
    refuse(call.path, at.line, "{" .. path .. "}: " .. entity .. " has no field " .. field
      .. suggest.hint(field, fields))
  end
end

local function check_text(call, at, on, known)
  local found, why = template.placeholders(at.value)
  if not found then
    refuse(call.path, at.line, why)
  end
  for _, placeholder in ipairs(call.table.fields.with and {} or found) do
    check_record(call, at, placeholder.path, on, known)
  end
end

--- Refuses a file that calls an action that isn't there, gives one what it doesn't take, or has a text
--- with a placeholder that can't be filled.
---@param list table[] of calls.read
---@param theirs table namespace -> name -> the company's own action
---@param on string[] the events that start the workflow
---@param known table rules by name
function M.check(list, theirs, on, known)
  for _, call in ipairs(list) do
    local args, strict = declared(call.name, theirs)
    if not args then
      local space = call.name:match "^[^.]+"
      refuse(call.path, call.line, "there is no action " .. call.name
        .. suggest.hint(call.name, names_of(space, theirs)))
    elseif call.table then
      if strict then
        check_arguments(call, args)
      end
      if shipped[call.name] then
        check_times(call)
      end
      for field, at in pairs(call.table.fields) do
        if TEXTS[field] and type(at.value) == "string" and shipped[call.name] then
          check_text(call, at, on, known)
        end
      end
    end
  end
end

return M
