-- Runs one of the company's files for detection, in an environment of its own in which whatever has an
-- effect raises.
local inspect = require "inspect"
local refusal = require "refusal"
local sandbox = require "sandbox"
local time = require "time"

local M = {}

--- The namespaces of the actions that ship.
M.NAMESPACES = { "sms", "email", "ghl", "staff", "servicetitan", "agent", "db", "http" }
local EFFECTS = { "sleep", "sleep_until", "wait_for", "approve", "start", "call", "audience",
  "start_each", "children", "variant", "fresh", "all", "step", "compensate", "continue_as", "stop", "fail", "note",
  "emit", "random", "setting" }

-- What is being evaluated: "when", "key", a rule's field; nil while a file is loaded. The zone that
-- moment() and date() use.
M.doing = nil
M.zone = nil

local function complain(word)
  if M.doing then
    error(word .. " is an effect; '" .. M.doing .. "' may only look at e", 3)
  end
  error(word .. " can't be used while the file is loaded; call it in run", 3)
end

local function effect(word)
  return function()
    complain(word)
  end
end

local function namespace(name)
  return setmetatable({}, { __index = function(_, word)
    return effect(name .. "." .. tostring(word))
  end })
end

local function checked(f, ...)
  local ok, value = pcall(f, ...)
  if not ok then
    error(tostring(value):gsub("^[^%s]+%.lua:%d+: ", ""), 3)
  end
  return value
end

-- The words of a file, beside plain Lua. `declare` takes what workflow, events or company was given.
local function words(actions, declare)
  local api = {}
  for _, name in ipairs(M.NAMESPACES) do
    api[name] = namespace(name)
  end
  for name in pairs(actions) do
    api[name] = namespace(name)
  end
  for _, name in ipairs(EFFECTS) do
    api[name] = effect(name)
  end
  for _, kind in ipairs { "workflow", "events", "company", "mapping", "actions" } do
    api[kind] = function(declared)
      return declare(kind, declared)
    end
  end
  function api.now()
    error("now() can't be used in '" .. (M.doing or "the file's top level") .. "'; use e.time", 2)
  end
  function api.moment(t, options)
    local o = options or {}
    return checked(time.moment, t, o, o.zone or M.zone or "UTC")
  end
  function api.date(t, zone)
    return checked(time.date, t, zone or M.zone or "UTC")
  end
  function api.sum(list, field)
    local cents = 0
    for _, row in ipairs(list) do
      cents = cents + math.floor((row[field] or 0) * 100 + 0.5)
    end
    return cents / 100
  end
  return api
end

local run_file

-- `require` of one file and its modules: only files of lib/, only while loading.
local function requirer(loading, sources, used)
  local done = {}
  return function(name)
    if not loading.active then
      error("require works at the top of a file only", 2)
    end
    local path = "workflows/" .. tostring(name):gsub("%.", "/") .. ".lua"
    if type(name) ~= "string" or not name:match "^lib%.[%w_.]+$" or not sources[path] then
      error("there is no module '" .. tostring(name) .. "' (" .. path .. ")"
        .. (tostring(name):match "^lib%." and "" or "; modules are in lib/: require \"lib.name\""), 2)
    end
    used[path] = sources[path]
    if done[path] == false then
      error("module '" .. name .. "' requires itself", 2)
    elseif done[path] == nil then
      done[path] = false
      local value = run_file(path, sources[path], loading)
      done[path] = value == nil and true or value
    end
    return done[path]
  end
end

function run_file(path, source, loading)
  local env = sandbox.env({ api = loading.api, chunk = path, require = loading.require })
  local chunk, message = load(source, "@" .. path, "t", env)
  if not chunk then
    error(message, 0)
  end
  inspect.check(chunk, path, env)
  return chunk()
end

--- Runs a file that must return what `kind` was given.
---@param kind string "workflow"
---@param path string
---@param sources table path -> source
---@param actions table namespace -> anything: of the company's own actions
---@return table given, table at for refusal.raise, table used the files it used
function M.declaration(kind, path, sources, actions)
  local given, at
  local used = { [path] = sources[path] }
  local loading = { active = true }
  loading.api = words(actions, function(said, declared)
    if said ~= kind then
      error("this file declares " .. kind .. " { … }, not " .. said, 3)
    elseif type(declared) ~= "table" then
      error(kind .. " takes one table: " .. kind .. " { … }", 3)
    end
    given, at = declared, { path = path, source = sources[path],
      from = refusal.line_of(sources[path], kind) }
    return declared
  end)
  loading.require = requirer(loading, sources, used)
  local returned = run_file(path, sources[path], loading)
  loading.active = false
  if given == nil or not rawequal(returned, given) then
    error({ refused = true, file = path, line = 1, message = "must return " .. kind .. " { … }" }, 0)
  end
  return given, at, used
end

return M
