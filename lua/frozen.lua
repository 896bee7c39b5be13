-- Read-only views of tables: what `when`, `key` and rules look at is shared by all of them.
--
-- A view is an empty table that finds its fields in a copy, made when it is first looked at: then
-- reading a field is a plain look-up, and tables that nobody looks at are never copied.
local json = host.json
local M = {}

local behind = setmetatable({}, { __mode = "k" }) -- view -> its table

local function refuse(_, key)
  error("'" .. tostring(key) .. "' can't be assigned: an event is read-only", 2)
end

local function length(v)
  return #behind[v]
end

local function by_kind(a, b)
  if type(a) == type(b) then
    return a < b
  end
  return type(a) == "number"
end

local function sorted_pairs(v)
  local keys = {}
  for key in next, behind[v] do
    keys[#keys + 1] = key
  end
  table.sort(keys, by_kind)
  local i = 0
  return function()
    i = i + 1
    if keys[i] ~= nil then
      return keys[i], v[keys[i]]
    end
  end, v, nil
end

--- A read-only view of a table and of all tables in it.
---@param t table
---@return table
function M.view(t)
  local meta = { __newindex = refuse, __metatable = false, __len = length, __pairs = sorted_pairs }
  local v = setmetatable({}, meta)
  behind[v] = t
  local function fill()
    local copy = {}
    for key, value in next, t do
      copy[key] = type(value) == "table" and M.view(value) or value
    end
    if json.is_array(t) then
      json.array(copy)
    end
    meta.__index, meta.__target, meta.__fill = copy, copy, nil -- the latter two: for host.json
    return copy
  end
  meta.__fill = fill
  function meta.__index(_, key)
    return fill()[key]
  end
  return v
end

return M
