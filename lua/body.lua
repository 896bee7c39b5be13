-- Main module of a body VM: holds one version of one workflow and runs its instances.
--
--   load(bundle)                  -> what C needs to know about it
--   run(instance, history, …)      one instance (a task), see scheduler.lua for what it posts
--   judge(instance, event, stop)  -> "ours" or "not ours": the `when` of a stop
--
-- The environment and the compiled chunks are shared by the instances; each runs the chunks anew,
-- so that it has file locals and modules of its own.
local durable = require "durable"
local late = require "late"
local sandbox = require "sandbox"
local scheduler = require "scheduler"
local records = require "words.records"
local words = require "words"

local json = host.json
local M = {}

local EPOCH = "1970-01-01T00:00:00Z"

local chunks = {}   -- path -> compiled function
local version       -- the loaded bundle

local function path_of(name)
  return "workflows/" .. name:gsub("%.", "/") .. ".lua"
end

-- `require` of the company's files: only while a file is loaded, once per task.
local function require_file(name)
  local task = durable.task()
  if not task or not task.loading then
    durable.raise("require works at the top of a file only")
  end
  local path = path_of(name)
  if not chunks[path] then
    durable.raise("there is no module '" .. tostring(name) .. "' (" .. path .. ")")
  end
  local loaded = task.loading
  if loaded[path] == nil then
    local value = chunks[path]()
    loaded[path] = value == nil and true or value
  end
  return loaded[path]
end

local function compile(path, source, api)
  local env = sandbox.env({ api = api, chunk = path, require = require_file })
  local chunk, message = load(source, "@" .. path, "t", env)
  if not chunk then
    error(message, 0)
  end
  return chunk
end

-- Runs the workflow's chunk for a task and returns its declaration.
local function declaration(task)
  durable.enter(task)
  task.loading = {} -- the modules that it has required
  local ok, value = pcall(chunks[version.path])
  task.loading = false
  if not ok then
    error(value, 0)
  elseif type(value) ~= "table" then
    error(version.path .. ": must return workflow { … }", 0)
  end
  return value
end

-- events.lua and company.lua are declarations: their tables are all that is needed here.
local function read_table(path)
  local source = version.files[path]
  if not source then
    return nil
  end
  local function same(t)
    return t
  end
  local task = durable.new(version.name, "", EPOCH, {})
  durable.enter(task)
  task.loading = {}
  local ok, value = pcall(compile(path, source, { events = same, company = same }))
  return ok and type(value) == "table" and value or nil
end

--- @param bundle_json string {name, files = {path = source}, actions = {ns = {name}}}
function M.load(bundle_json)
  version = json.decode(bundle_json)
  version.path = path_of(version.name)
  if not version.files[version.path] then
    error("version of " .. version.name .. " has no " .. version.path, 0)
  end
  chunks = {}
  local api = words.build({
    actions = version.actions or {},
    events = read_table("workflows/events.lua") or version.events or {},
    company = read_table("workflows/company.lua") or version.company or {},
  })
  for path, source in pairs(version.files) do
    if path == version.path or path:match("^workflows/lib/") then
      chunks[path] = compile(path, source, api)
    end
  end
  version.undoes = false
  for _, source in pairs(version.files) do
    version.undoes = version.undoes or source:find("compensate", 1, true) ~= nil
  end
  local d = declaration(durable.new(version.name, "", EPOCH, {}))
  return json.encode({ class = d.class or "marketing", on_stop = d.on_stop ~= nil,
    on_error = d.on_error ~= nil, undoes = version.undoes })
end

local function text_of(value)
  if type(value) == "table" then
    return tostring(value.message or value.code or "an error value that is a table")
  end
  return tostring(value)
end

local function stuck(code, message, more)
  local reason = { code = code, message = message, can = json.array({ "retry", "cancel" }) }
  for k, v in pairs(more or {}) do
    reason[k] = v
  end
  return json.encode({ state = "stuck", reason = reason })
end

-- The end of a body as C reads it.
local function ended(value)
  if value == nil then
    return '{"state":"done"}'
  end
  local result = { state = "done", value = value }
  if type(value) == "string" then
    result.outcome = value
  end
  local ok, text = pcall(json.encode, result)
  if not ok then
    return stuck("script_error", version.path .. ": run returned what can't be stored: "
      .. tostring(text))
  end
  return text
end

local function failed(task, err)
  local request = task.raised and task.raised[err]
  if not request then
    return stuck("script_error", text_of(err))
  end
  return stuck("action_failed", request.name .. ": " .. text_of(err), { branch = request.branch.path,
    ordinal = request.ordinal, name = request.name, error = err })
end

-- What was recorded, by the body that recorded it.
local NO_HISTORY = { run = {}, on_stop = {}, on_error = {}, undo = {} }

-- By the function whose record it is. Branches of run have numbers for names.
local function histories(history_json)
  if not history_json then
    return NO_HISTORY
  end
  local h = { run = {}, on_stop = {}, on_error = {}, undo = {} }
  for _, s in ipairs(json.decode(history_json)) do
    local path = s[2]
    local list = path >= "a" and h[path:match "^on_%a+" or path:match "^undo"] or h.run
    list[#list + 1] = s
  end
  return h
end

-- What a run ends as is told by whoever runs last, so what follows a run is given to it: `rest` goes on
-- where the run returns, and where it ends the instance itself and is left.

-- Runs what the body left to be undone, the last first.
local function undo(task, rest)
  local undos = task.undos
  task.undos = false
  if not undos then
    return rest()
  end
  local ok, value = scheduler.run(task, "undo", function()
    for i = #undos, 1, -1 do
      undos[i]()
    end
  end, task.histories.undo, rest)
  return ok and rest() or failed(task, value)
end

local function stop_by(task, by, rest)
  local on_stop = task.declared.on_stop
  if not on_stop then
    return rest()
  end
  local ok, value = scheduler.run(task, "on_stop", on_stop, task.histories.on_stop, rest, task.event, by)
  return ok and rest() or failed(task, value)
end

-- The body has ended itself by stop, fail or continue_as.
local function ended_itself(task, result)
  local function rest()
    return json.encode(result)
  end
  return undo(task, function()
    if result.state == "stopped" then
      return stop_by(task, { name = "stop", reason = result.reason }, rest)
    end
    return rest()
  end)
end

local function run_on_error(task, err)
  local ok, value = scheduler.run(task, "on_error", task.declared.on_error, task.histories.on_error,
    ended_itself, task.event, err)
  if not ok then
    return failed(task, value)
  elseif value == "failed" then
    return undo(task, function()
      return json.encode({ state = "failed", reason = text_of(err) })
    end)
  elseif value == "done" then
    return json.encode({ state = "done" })
  end
  return failed(task, err)
end

local function run_body(task)
  local ok, value = scheduler.run(task, "", task.declared.run, task.histories.run, ended_itself,
    task.event)
  if ok then
    return ended(value)
  elseif task.raised and task.raised[value] and task.declared.on_error then
    return run_on_error(task, value)
  end
  return failed(task, value)
end

-- The body is run through its record for what there is to undo. on_stop ends as it was going to: the
-- instance is stopped.
local function run_stop(task, by)
  local function stopped()
    return json.encode({ state = by.name == "cancelled" and "cancelled" or "stopped", reason = by.name })
  end
  local function rest()
    return undo(task, function()
      return stop_by(task, by, stopped)
    end)
  end
  if version.undoes then
    scheduler.replay(task, "", task.declared.run, task.histories.run, rest, task.event)
  end
  return rest()
end

local function lent_event()
  return host.lent("event")
end

--- @param instance string
--- @param history_json? string [[seq, branch, ordinal, name, hash, state, at, output], …]
--- @param phase string "run" or "on_stop"
--- @param now string UTC
--- @param by_json? string the event that stops it
function M.run(instance, history_json, phase, now, by_json)
  local task = durable.new(version.name, instance, now)
  task.event = late.table(lent_event, function(event)
    records.event(task, event)
  end)
  local ok, d = pcall(declaration, task)
  if not ok then
    return stuck("script_error", text_of(d))
  end
  local h = histories(history_json)
  task.declared, task.histories = d, h
  if phase == "on_stop" then
    local last = h.run[#h.run]
    if last and not version.undoes then
      task.now, task.due = last[7], last[7]
    end
    return run_stop(task, records.event(task, json.decode(by_json)))
  end
  return run_body(task)
end

--- @param instance string
--- @param now string UTC
--- @param event_json string the instance's event
--- @param stop_json string the event that may stop it
function M.judge(instance, now, event_json, stop_json)
  local task = durable.new(version.name, instance, now, json.decode(event_json))
  local it = json.decode(stop_json)
  local d = declaration(task)
  local rule = d.stop_when and d.stop_when[it.name]
  if type(rule) ~= "table" or type(rule.when) ~= "function" then
    return "ours"
  end
  task.pure = "the 'when' of a stop may only look at its event"
  return rule.when(it, task.event) and "ours" or "not ours"
end

return M
