-- Checks the one table that an action takes against what it declares.
local suggest = require "suggest"

local M = {}

local function is_time(value)
  return type(value) == "string" and value:match "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d" ~= nil
end

local checks = {
  string = function(v)
    return type(v) == "string"
  end,
  number = function(v)
    return type(v) == "number"
  end,
  money = function(v)
    return type(v) == "number"
  end,
  boolean = function(v)
    return type(v) == "boolean"
  end,
  table = function(v)
    return type(v) == "table"
  end,
  date = function(v)
    return type(v) == "string" and v:match "^%d%d%d%d%-%d%d%-%d%d$" ~= nil
  end,
  time = is_time,
  any = function()
    return true
  end,
}

--- Whether a value may be declared to be of this kind, besides the entities.
---@param kind string
---@return boolean
function M.is_type(kind)
  return checks[kind] ~= nil
end

local function is_record(v)
  return type(v) == "table" and (v.id ~= nil or v.phone ~= nil or v.email ~= nil)
end

-- What is declared, as a list: {name, kind, optional, check}; the types are read once.
local lists = setmetatable({}, { __mode = "k", __index = function(known, declared)
  local list = {}
  for name, wanted in pairs(declared) do
    local kind, optional = wanted:match "^([%a_]+)(%??)$"
    list[#list + 1] = { name = name, kind = kind, optional = optional == "?",
      check = checks[kind] or is_record }
  end
  known[declared] = list
  return list
end })

--- Raises a readable text when the arguments aren't what the action takes.
---@param action string
---@param declared table name -> type, "?" at its end when it may be left out
---@param args table
function M.check(action, declared, args)
  for name in pairs(args) do
    if not declared[name] then
      error(action .. ': unknown field "' .. tostring(name) .. '"'
        .. suggest.hint(tostring(name), declared), 0)
    end
  end
  for _, wanted in ipairs(lists[declared]) do
    local name, value = wanted.name, args[wanted.name]
    if value == nil then
      if not wanted.optional then
        error(action .. ": " .. name .. " is missing", 0)
      end
    elseif not wanted.check(value) then
      error(action .. ": " .. name .. " must be a " .. wanted.kind
        .. (wanted.check == is_record and "'s record, such as e." .. wanted.kind or ""), 0)
    end
  end
end

--- Percent-encodes a text for a URL.
---@param text string
---@return string
function M.url(text)
  return (text:gsub("[^%w%-._~]", function(c)
    return ("%%%02X"):format(c:byte())
  end))
end

--- Turns :name into $n; texts, quoted names, casts and comments stay as they are.
---@param sql string
---@param given table
---@return string sql
---@return table values in the order of $n
function M.bind(sql, given)
  local values, numbers, out, at = {}, {}, {}, 1
  local function keep(pattern)
    local piece = sql:match("^" .. pattern, at)
    if piece then
      out[#out + 1] = piece
      at = at + #piece
      return true
    end
  end
  while at <= #sql do
    local name = sql:match("^:([%a_][%w_]*)", at)
    if keep "'[^']*'" or keep '"[^"]*"' or keep "%-%-[^\n]*" or keep "::" then -- luacheck: ignore
    elseif name then
      if given[name] == nil then
        error("the query asks for :" .. name .. " and is given no " .. name, 0)
      end
      if not numbers[name] then
        values[#values + 1] = given[name]
        numbers[name] = #values
      end
      out[#out + 1] = "$" .. numbers[name]
      at = at + 1 + #name
    else
      out[#out + 1] = sql:sub(at, at)
      at = at + 1
    end
  end
  return table.concat(out), values
end
return M
