-- Loads the company's files for detection: events.lua, company.lua and every workflow, each in an
-- environment of its own in which whatever has an effect raises.
local company = require "company"
local inspect = require "inspect"
local refusal = require "refusal"
local rules = require "rules"
local sandbox = require "sandbox"
local time = require "time"
local workflow = require "workflow"

local M = {}

local EVENTS, COMPANY = "workflows/events.lua", "workflows/company.lua"
local NAMESPACES = { "sms", "email", "ghl", "staff", "servicetitan", "agent", "db", "http" }
local EFFECTS = { "sleep", "sleep_until", "wait_for", "approve", "start", "call", "audience",
  "start_each", "children", "variant", "fresh", "all", "step", "compensate", "stop", "fail", "note",
  "emit", "random", "setting" }

-- What is being evaluated: "when", "key", a rule's field; nil while a file is loaded. The zone that
-- moment() and date() use.
M.doing = nil
M.zone = nil
M.company = {}

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
  for _, name in ipairs(NAMESPACES) do
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

-- Runs a file that must return what `kind` was given. Returns that, and the files it used.
local function declaration(kind, path, sources, actions)
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

-- A file as it is now or, when that is refused, as it is in force.
local function best(name, kind, path, set, check)
  local function try(sources)
    local given, at, used = declaration(kind, path, sources, set.actions)
    return { value = check(given, at, used), files = used,
      sha256 = host.sha256(host.json.encode({ files = used, api = workflow.api })) }
  end
  local old = set.active[name]
  if set.sources[path] then
    local ok, result = pcall(try, set.sources)
    if ok then
      result.changed = not old or old.sha256 ~= result.sha256
      return result
    end
    set.refused[#set.refused + 1] = refusal.of(path, result)
  end
  if old and (set.sources[path] or kind ~= "workflow") then
    local ok, result = pcall(try, old.files)
    if ok then
      result.id = old.id
      return result
    end
    local why = refusal.of(path, result)
    why.message = "the version in force can't be used either: " .. why.message
    set.refused[#set.refused + 1] = why
  end
end

-- The actions of the company: {financing = {"apply"}}.
local function check_actions(given, at)
  local names = {}
  for name, action in pairs(given) do
    if type(action) ~= "table" or type(action.run) ~= "function" then
      refusal.raise(at, tostring(name), tostring(name) .. " must be a table with run = function(a, key)")
    end
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

local function load_actions(set)
  for path in pairs(set.sources) do
    local name = path:match "^workflows/actions/([%w_]+)%.lua$"
    if name then
      local ok, given, at = pcall(declaration, "actions", path, set.sources, {})
      local fine, names = ok, given
      if ok then
        fine, names = pcall(check_actions, given, at)
      end
      set.actions[name] = fine and names or {}
      if not fine then
        set.refused[#set.refused + 1] = refusal.of(path, names)
      end
    end
  end
end

--- Loads a set of files.
---@param sources table path -> source, as they are on disk
---@param active table name -> {id, sha256, files}: what is in force
---@return table set {rules, company, workflows = {name = {value, files, sha256, id?}}, refused}
function M.load(sources, active)
  local set = { sources = sources, active = active, refused = {}, workflows = {},
    actions = {} }
  M.doing = nil
  load_actions(set)
  local ours = best("company", "company", COMPANY, set, company.check)
  set.company, set.company_file = ours and ours.value or {}, ours
  M.company, M.zone = set.company, set.company.zone
  local events = best("events", "events", EVENTS, set, rules.check)
  set.rules, set.events_file = events and events.value or rules.with_builtin({}), events
  local paths = {}
  for path in pairs(sources) do
    local name = path:match "^workflows/([%w_]+)%.lua$"
    if name and path ~= EVENTS and path ~= COMPANY and not name:match "_spec$" then
      paths[#paths + 1] = path
    end
  end
  table.sort(paths)
  for _, path in ipairs(paths) do
    local name = path:match "([%w_]+)%.lua$"
    set.workflows[name] = best(name, "workflow", path, set, function(given, at, used)
      local w = workflow.check(given, set.rules, at)
      inspect.waits(w, used, set.rules)
      return w
    end)
  end
  return set
end

return M
