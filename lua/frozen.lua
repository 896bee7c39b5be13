-- Read-only views of tables: what `when`, `key` and rules look at is shared by all of them.
local M = {}

local views = setmetatable({}, { __mode = "k" }) -- table -> its view
local behind = setmetatable({}, { __mode = "k" }) -- view -> its table

local view

local function read(t, key)
  local value = behind[t][key]
  return type(value) == "table" and view(value) or value
end

local function refuse(_, key)
  error("'" .. tostring(key) .. "' can't be assigned: an event is read-only", 2)
end

local meta = {
  __index = read,
  __newindex = refuse,
  __metatable = false,
  __len = function(t)
    return #behind[t]
  end,
  __pairs = function(t)
    local source = behind[t]
    local keys = {}
    for key in pairs(source) do
      keys[#keys + 1] = key
    end
    table.sort(keys, function(a, b)
      if type(a) == type(b) then
        return a < b
      end
      return type(a) == "number"
    end)
    local i = 0
    return function()
      i = i + 1
      if keys[i] ~= nil then
        return keys[i], read(t, keys[i])
      end
    end, t, nil
  end,
}

function view(t)
  local v = views[t]
  if not v then
    v = setmetatable({}, meta)
    views[t], behind[v] = v, t
  end
  return v
end

--- A read-only view of a table and of all tables in it; the same one each time.
---@param t table
---@return table
function M.view(t)
  return view(t)
end

return M
