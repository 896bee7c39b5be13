-- Runs one action call: checks its arguments, runs its Lua, hands what it asks for to C.
--
-- Main module of the action VM. Each task is one call; its Lua asks by host.post(kind, id, json) and
-- gets (id, "ok" | "error", json) from the yield. Mappings, actions, company and templates are those
-- of the newest files; what they did before is in the ledger, by the name of each call.
local arguments = require "arguments"
local company = require "company"
local context = require "context"
local declarations = require "declarations"
local http = require "http"
local refusal = require "refusal"
local sandbox = require "sandbox"
local shipped = require "shipped"
local tries = require "tries"

local json = host.json
local M = {}

local state = { files = {}, settings = {}, company = {}, actions = {}, mappings = {} }

-- Loading -----------------------------------------------------------------------------------------

-- Runs a company file; `words` are what it may call while it loads.
local function run_file(set, path, words)
  local done = {}
  local env
  local function require_lib(name)
    local lib = "workflows/" .. tostring(name):gsub("%.", "/") .. ".lua"
    if not tostring(name):match "^lib%.[%w_.]+$" or not set.files[lib] then
      error("there is no module '" .. tostring(name) .. "' (" .. lib .. ")", 2)
    end
    if done[lib] == nil then
      done[lib] = true
      done[lib] = run_file(set, lib, words) or true
    end
    return done[lib]
  end
  env = sandbox.env { api = words, chunk = path, require = require_lib }
  local chunk, message = load(set.files[path], "@" .. path, "t", env)
  if not chunk then
    error(message, 0)
  end
  return chunk()
end

local function call(method)
  return function(request)
    local ctx = context.running()
    if not ctx then
      error("http can be used while an action runs only", 2)
    end
    ctx.calls = ctx.calls + 1
    return http.call(ctx, method, ctx.effect, request, method:lower() .. "#" .. ctx.calls)
  end
end

local function words_of_actions()
  return {
    actions = function(declared)
      return declared
    end,
    http = { get = call "GET", post = call "POST", put = call "PUT", delete = call "DELETE" },
    setting = function(name)
      local ctx = context.running()
      if not ctx then
        error("setting can be used while an action runs only", 2)
      end
      return ctx:query("setting", name)
    end,
    null = json.null,
  }
end

local function add_company_actions(set, path)
  local namespace = path:match "([%w_]+)%.lua$"
  local declared = run_file(set, path, words_of_actions())
  if type(declared) ~= "table" then
    error(path .. ": must return actions { … }", 0)
  end
  for name, one in pairs(declared) do
    if type(one) ~= "table" or type(one.run) ~= "function" then
      error(path .. ": " .. tostring(name) .. " needs run = function(a, key) … end", 0)
    end
    tries.check({ in_doubt = one.in_doubt }, path .. ": " .. tostring(name))
    set.actions[namespace .. "." .. name] = { args = one.args or {}, theirs = one,
      effect = one.effect or "once", takes_key = one.find ~= nil or host.parameters(one.run) > 1 }
  end
end

local function add_company(set)
  local path = "workflows/company.lua"
  if set.files[path] then
    run_file(set, path, { company = function(declared)
      set.company = company.check(declared, { path = path, source = set.files[path], from = 1 })
      return declared
    end })
  end
end

--- Loads the company's files; raises what is wrong with them, with file and line.
---@param bundle string JSON {files = {path = source}, settings = {name = value}}
function M.load(bundle)
  context.enter(nil)
  local given = json.decode(bundle)
  local set = { files = given.files, settings = given.settings, company = {}, actions = {},
    mappings = {} }
  for name, one in pairs(shipped) do
    set.actions[name] = one
  end
  local paths = {}
  for path in pairs(set.files) do
    paths[#paths + 1] = path
  end
  table.sort(paths)
  local ok, err = pcall(function()
    add_company(set)
    for _, path in ipairs(paths) do
      local mapping = path:match "^workflows/ghl/([%w_]+)%.lua$"
      if mapping then
        set.mappings[mapping] = run_file(set, path, {
          mapping = function(declared)
            declarations.mapping(declared, { path = path, source = set.files[path], from = 1 })
            return declared
          end, null = json.null })
      elseif path:match "^workflows/actions/" then
        add_company_actions(set, path)
      end
    end
  end)
  if not ok then
    error(refusal.of("workflows", err).message, 0)
  end
  state = set
end

-- Running -----------------------------------------------------------------------------------------

-- A company's action. A call of which nobody knows whether it happened is looked for by `find`;
-- without one, or when that raises, a person must say.
local function run_theirs(ctx, action, args)
  local key = action.takes_key and host.sha256(ctx.owner, 32) or nil
  for _ = 1, 8 do
    ctx.calls = 0
    local ok, value = pcall(action.theirs.run, args, key)
    if ok then
      return value
    elseif type(value) ~= "table" or value.mark ~= context.UNKNOWN then
      error(value, 0)
    end
    local found, result = false, nil
    if action.theirs.find then
      found, result = pcall(action.theirs.find, args, key)
    end
    if not found then
      ctx:keep(value.id)
    else
      ctx:settle(value.id, result ~= nil and "done" or "not_sent", {})
    end
    if found and result ~= nil then
      return result
    end
  end
  context.fail("unavailable", ctx.name .. " was tried eight times")
end

local function try(ctx, action, text)
  if not action then
    context.hold("action_missing", "there is no action " .. ctx.name)
  end
  local args = json.decode(text)
  arguments.check(ctx.name, action.args, args)
  if action.theirs then
    ctx.effect = action.effect
    if action.theirs.in_doubt then
      ctx.tries.in_doubt = ctx.tries.in_doubt or action.theirs.in_doubt
    end
    return run_theirs(ctx, action, args)
  end
  return action.run(ctx, args)
end

local function outcome(ctx, ok, value)
  if ok then
    return json.encode(value)
  elseif type(value) == "table" and value.mark == context.FAILED then
    return "!" .. json.encode { action = ctx.name, code = value.code, message = value.message,
      status = value.status, attempts = value.attempts }
  elseif type(value) == "table" and value.mark == context.HELD then
    host.post("hold", "0", json.encode { reason = value.reason })
    coroutine.yield()
  end
  error(value, 0)
end

--- Runs one call. The rest of what is known of it is lent by its owner, and asked for when it is
--- looked at: its event, its name "instance/run/step", its time, its options as the author wrote them.
---@param name string the action
---@param shadow string|nil anything: nothing of it may leave
---@param args string JSON
---@return string JSON: the value, or behind a "!" {action, code, message, status, attempts}
function M.run(name, shadow, args)
  local ctx = setmetatable({ asked = 0, calls = 0, effect = false, state = state, name = name,
    shadow = shadow ~= nil }, context.Context)
  context.enter(ctx)
  return outcome(ctx, pcall(try, ctx, state.actions[name], args))
end

return M
