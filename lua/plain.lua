-- Plain Lua as company files see it: the same libraries, but nothing in them depends on the process
-- (addresses, hash order, chance), and no call of C can take long or large.
local M = {}

local MAX_SUBJECT = 64 * 1024  -- of find, match, gmatch, gsub
local MAX_TEXT = 1024 * 1024   -- of rep
local MAX_VALUES = 1000        -- of unpack
local MAX_MOVED = 1000000      -- of move

local format, rep = string.format, string.rep
local sort = table.sort

local UNPRINTABLE = { table = true, ["function"] = true, userdata = true, thread = true }

--- Raises an error that begins with the company's line that is being run.
---@param message string
---@param ... any values for its format
function M.fail(message, ...)
  local text, place = format(message, ...), host.where()
  error(place and place .. ": " .. text or text, 0)
end

local fail = M.fail

-- Keys in order ---------------------------------------------------------------------------------

local function rank(key)
  local kind = math.type(key) or type(key)
  return kind == "integer" and 1 or kind == "float" and 2 or kind == "string" and 3 or 4
end

local function before(a, b)
  local x, y = rank(a), rank(b)
  if x ~= y then
    return x < y
  elseif x == 4 then
    return not a and b
  end
  return a < b
end

local function check_key(key)
  if UNPRINTABLE[type(key)] then
    fail("a table with a %s as key has no order; use texts or numbers", type(key))
  end
end

local function keys_of(t)
  local keys, n = {}, 0
  for key in pairs(t) do
    check_key(key)
    n = n + 1
    keys[n] = key
  end
  sort(keys, before)
  return keys
end

local function check_table(t, name)
  if type(t) ~= "table" then
    fail("%s needs a table, not %s", name, t == nil and "nil" or "a " .. type(t))
  end
end

--- Keys in order: integers, other numbers, texts, false, true. They are those of the start.
---@param t table
function M.pairs(t)
  check_table(t, "pairs")
  local keys, i = keys_of(t), 0
  return function()
    local key, value
    repeat
      i = i + 1
      key = keys[i]
      if key == nil then
        return nil
      end
      value = t[key]
    until value ~= nil
    return key, value
  end, t, nil
end

--- The next key in the same order.
---@param t table
---@param key any
function M.next(t, key)
  check_table(t, "next")
  check_key(key)
  local best
  for k in pairs(t) do
    check_key(k)
    if (key == nil or before(key, k)) and (best == nil or before(k, best)) then
      best = k
    end
  end
  if best ~= nil then
    return best, t[best]
  end
end

--- tostring without addresses.
---@param value any
function M.tostring(value)
  if UNPRINTABLE[type(value)] then
    fail("tostring can't show a %s; name one of its fields", type(value))
  end
  return tostring(value)
end

-- string ------------------------------------------------------------------------------------------

M.string = {}
for _, name in ipairs { "byte", "char", "len", "lower", "reverse", "sub", "upper" } do
  M.string[name] = string[name]
end

for _, name in ipairs { "find", "match", "gmatch", "gsub" } do
  local raw = host.pattern[name] -- the budget holds in it, unlike in Lua's own
  M.string[name] = function(s, ...)
    if type(s) == "string" and #s > MAX_SUBJECT then
      fail("%s looks at texts of 64 kB at most; this one has %d bytes", name, #s)
    end
    return raw(s, ...)
  end
end

function M.string.rep(s, n, separator)
  if type(s) == "string" and math.type(n) == "integer" and n > 0 then
    local size = #s + (type(separator) == "string" and #separator or 0)
    if size > 0 and n > MAX_TEXT // size then
      fail("rep makes texts of 1 MB at most")
    end
  end
  return rep(s, n, separator)
end

function M.string.format(f, ...)
  for i = 1, select("#", ...) do
    local kind = type((select(i, ...)))
    if UNPRINTABLE[kind] then
      fail("format can't show a %s (value %d); name one of its fields", kind, i)
    end
  end
  if type(f) == "string" and string.find(string.gsub(f, "%%%%", ""), "%%[^%a]*p") then
    fail("format has no %%p here: addresses differ from run to run")
  end
  return format(f, ...)
end

-- table -------------------------------------------------------------------------------------------

M.table = { concat = table.concat, insert = table.insert, remove = table.remove,
  pack = table.pack }

function M.table.unpack(t, first, last)
  first, last = first or 1, last or #t
  if math.type(first) and math.type(last) and last - first >= MAX_VALUES then
    fail("unpack gives %d values at most", MAX_VALUES)
  end
  return table.unpack(t, first, last)
end

function M.table.move(from, first, last, at, to)
  if math.type(first) and math.type(last) and last - first >= MAX_MOVED then
    fail("move moves %d values at most", MAX_MOVED)
  end
  return table.move(from, first, last, at, to or from)
end

local function less(a, b)
  return a < b
end

-- Merges the sorted runs from[low .. middle) and from[middle .. high) into to.
local function merge(from, to, low, middle, high, is_less)
  local i, j = low, middle
  for k = low, high - 1 do
    if j >= high or (i < middle and not is_less(from[j], from[i])) then
      to[k], i = from[i], i + 1
    else
      to[k], j = from[j], j + 1
    end
  end
end

--- Sorts in place; equal values keep their order.
---@param list any[]
---@param is_less? fun(a: any, b: any): boolean
function M.table.sort(list, is_less)
  check_table(list, "sort")
  local n = #list
  local from, to = {}, {}
  for i = 1, n do
    from[i] = list[i]
  end
  local width = 1
  while width < n do
    for low = 1, n, 2 * width do
      merge(from, to, low, math.min(low + width, n + 1), math.min(low + 2 * width, n + 1),
        is_less or less)
    end
    from, to = to, from
    width = 2 * width
  end
  local ok = pcall(function()
    for i = 1, n do
      list[i] = from[i]
    end
  end)
  if not ok then
    fail("this list is read-only; sort a copy: table.move(list, 1, #list, 1, {})")
  end
end

-- math, utf8, and the functions without a library ------------------------------------------------

-- By chance, or of an older Lua and there in some builds only.
local LEFT_OUT = { random = true, randomseed = true, atan2 = true, cosh = true, frexp = true,
  ldexp = true, log10 = true, pow = true, sinh = true, tanh = true }

M.math, M.utf8 = {}, {}
for name, value in pairs(math) do
  if not LEFT_OUT[name] then
    M.math[name] = value
  end
end
for name, value in pairs(utf8) do
  M.utf8[name] = value
end

M.basic = { assert = assert, error = error, ipairs = ipairs, next = M.next, pairs = M.pairs,
  pcall = pcall, select = select, tonumber = tonumber, tostring = M.tostring, type = type }

return M
