-- The world of a company file: an allow-list of plain Lua and the words it is given, all read-only.
-- An unknown name and a new global are errors with the file's own line.
local plain = require "plain"
local suggest = require "suggest"

local M = {}

local fail = plain.fail

local HINTS = {
  setting = "only actions see settings: write one in actions/NAME.lua",
  os = "for the time use now() or date(t)",
  io = "files can't be read; keep values in company.lua or in a module of lib/",
  print = 'use note("…") to leave a line in the timeline',
  coroutine = "all { f, g } runs things side by side",
  debug = "moonwright test shows what a workflow does",
  package = 'modules are loaded by require "lib.name" at the top of a file',
  load = "put the code into a module of lib/",
  loadstring = "put the code into a module of lib/",
  dofile = 'use require "lib.name" at the top of the file',
  loadfile = 'use require "lib.name" at the top of the file',
  setmetatable = "plain tables and functions do",
  getmetatable = "plain tables and functions do",
  rawget = "t[key] does the same here",
  rawset = "t[key] = value does the same here",
  rawequal = "a == b does the same here",
  rawlen = "#t does the same here",
  collectgarbage = "memory is looked after",
  xpcall = "use pcall",
  unpack = "use table.unpack",
  _G = "every file has globals of its own",
  ["math.random"] = "use random()",
  ["math.randomseed"] = "random() needs no seed",
  ["string.dump"] = "functions can't be stored",
  ["string.pack"] = "JSON carries values",
  ["string.unpack"] = "JSON carries values",
}

local string_meta = getmetatable("")
local open_index = string_meta.__index

--- Makes the string methods of the whole state those of company files, and hides their table.
function M.lock_strings()
  string_meta.__index = plain.string
  string_meta.__metatable = false
end

--- Undoes it; for specs, which share their state with the test runner.
function M.unlock_strings()
  string_meta.__index = open_index
  string_meta.__metatable = nil
end

-- Read-only tables --------------------------------------------------------------------------------

local frozen = setmetatable({}, { __mode = "k" })  -- table -> its proxy
local proxies = setmetatable({}, { __mode = "k" }) -- proxy -> true

local function unknown(name, names)
  return "there is no '" .. name .. "' here" .. (HINTS[name] and "; " .. HINTS[name] or names or "")
end

local function refuse(_, key)
  fail("'%s' can't be assigned: this table is read-only", tostring(key))
end

-- The proxy of a table. `names` tells what a missing field is called in an error; nil: it is nil.
local function proxy_of(target, index)
  local proxy = setmetatable({}, {
    __index = index,
    __newindex = refuse,
    __metatable = false,
    __target = target, -- for host.json.encode
    __len = function()
      return #target
    end,
    __pairs = function()
      return next, target, nil
    end,
    __call = function(_, ...)
      return target(...)
    end,
  })
  proxies[proxy] = true
  return proxy
end

local freeze

-- Words such as sms.send: a field that isn't there is an error.
local function add_unknown(copy, name)
  return setmetatable(copy, { __index = function(_, key)
    local full = name .. "." .. tostring(key)
    fail("%s", unknown(full, suggest.hint(tostring(key), copy)))
  end })
end

local function freeze_plain(t, name)
  local copy, has_words = {}, false
  for key, value in pairs(t) do
    has_words = has_words or type(value) == "function"
    if type(value) == "table" then
      value = freeze(value, name and name .. "." .. tostring(key))
    end
    copy[key] = value
  end
  if host.json.is_array(t) then
    host.json.array(copy)
  elseif has_words and name then
    add_unknown(copy, name)
  end
  return proxy_of(copy, copy)
end

function freeze(t, name)
  if proxies[t] then
    return t
  end
  local proxy = frozen[t]
  if not proxy then
    if getmetatable(t) ~= nil and not host.json.is_array(t) then
      proxy = proxy_of(t, function(_, key)
        return t[key]
      end)
    else
      proxy = freeze_plain(t, name)
    end
    frozen[t] = proxy
  end
  return proxy
end

--- A read-only copy of a table and of all tables in it. pairs, #, and JSON work on it.
---@param t table without cycles
---@param name? string what it is called; then a missing field of a table with functions is an error
---@return table
function M.freeze(t, name)
  return freeze(t, name)
end

-- Environments ------------------------------------------------------------------------------------

local LIBRARIES = {}
for _, name in ipairs { "string", "table", "math", "utf8" } do
  LIBRARIES[name] = freeze(plain[name], name)
end

local function no_require()
  fail("require works at the top of a file only")
end

local function assigned(_, name)
  fail("global '%s' assigned; write: local %s = …", tostring(name), tostring(name))
end

--- The `_ENV` of one file.
---@param options table {api = words by name, chunk = path, require = function?}
---@return table
function M.env(options)
  M.lock_strings()
  local names = {}
  for name, value in pairs(plain.basic) do
    names[name] = value
  end
  for name, value in pairs(LIBRARIES) do
    names[name] = value
  end
  names.require = options.require or no_require
  for name, value in pairs(options.api or {}) do
    names[name] = type(value) == "table" and freeze(value, name) or value
  end
  setmetatable(names, { __index = function(_, name)
    fail("%s", unknown(tostring(name), suggest.hint(tostring(name), names)))
  end })
  return setmetatable({}, { __index = names, __newindex = assigned, __metatable = false })
end

--- Compiles the text of a company file for an environment; bytecode is refused.
---@param source string
---@param chunk string its path, "workflows/x.lua"
---@param env table
---@return function|nil, string|nil
function M.compile(source, chunk, env)
  return load(source, "@" .. chunk, "t", env)
end

return M
