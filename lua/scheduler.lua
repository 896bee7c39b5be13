-- Runs one instance's body: its branches are coroutines, its completions come from the record.
--
-- A branch runs until it asks for something. When all branches are blocked, the next completion is
-- handed over: first those of the history, in the order of their seq, then those that the owner
-- resumes us with, which come in the same order. Only what the history doesn't answer is posted.
-- So a body can't tell a replay from its first run.
local asking = require "ask"
local durable = require "durable"
local own = require "own"

local M = {}

local json = host.json
local resume, yield = coroutine.resume, coroutine.yield
local NUMBERS = asking.NUMBERS

local ENDED = {} -- what a branch's coroutine yields before the value of its function
local MAX_IDLE = 256
local NONE = {}  -- the lists of a task before there is something in them
local idle = {}  -- coroutines of branches that have ended; they run others

local function live(f, ...)
  return live(yield(ENDED, f(...)))
end

local function coroutine_of_branch()
  return table.remove(idle) or coroutine.create(live)
end

-- A branch that can go on, with what it is given.
local function make_ready(task, branch, given)
  if task.ready == NONE then
    task.ready = {}
  end
  task.ready[#task.ready + 1] = { branch, given }
end

local function result_of(task, branch, ok, value)
  if branch.group then
    local group = branch.group
    if ok then
      group.results[branch.index] = value
    elseif not group.failed then
      group.failed, group.failure = true, value
    end
    group.left = group.left - 1
    if group.left == 0 then
      make_ready(task, group.parent, group)
    end
    return
  end
  task.over = { ok = ok, value = value }
end

local function spawn_all(task, branch, request)
  local group = { parent = branch, left = 0, results = {} }
  local keys = {}
  for k in pairs(request.functions) do
    keys[#keys + 1] = k
  end
  table.sort(keys, function(a, b)
    if math.type(a) == math.type(b) and type(a) == type(b) then
      return a < b
    end
    return type(a) == "number"
  end)
  for _, k in ipairs(keys) do
    group.left = group.left + 1
    make_ready(task, { path = request.path .. "/" .. tostring(k), ordinal = 0, names = {},
      group = group, index = k, co = coroutine_of_branch() }, request.functions[k])
  end
  if #keys == 0 then
    make_ready(task, branch, group)
  end
end

-- Runs one branch until it blocks or ends.
local function go_on(task, branch, ...)
  task.running = branch
  local ok, request, value = resume(branch.co, ...)
  if not ok then
    result_of(task, branch, false, request)
  elseif request == ENDED then
    idle[#idle + 1] = #idle < MAX_IDLE and branch.co or nil
    result_of(task, branch, true, value)
  elseif request.kind == "all" then
    spawn_all(task, branch, request)
  elseif request.kind == "end" then
    task.over = { result = { state = request.state, reason = request.reason, event = request.event } }
  elseif request.kind == "diverged" then
    task.over = { diverged = request }
  else
    if task.pending == NONE then
      task.pending, task.asked = {}, {}
    end
    task.pending[branch.path] = request
    task.asked[#task.asked + 1] = request
  end
end

-- Runs what is ready until all branches are blocked or the body has ended.
local function run_ready(task)
  while task.ready[1] and not task.over do
    local next_ = table.remove(task.ready, 1)
    go_on(task, next_[1], next_[2])
  end
end

-- Hands one completion to the branch that waits for it, and runs on. Only what comes from the record
-- has a name and a hash: they must be those that are asked for now.
local function deliver(task, path, ordinal, name, hash, state, at, output)
  local request = task.pending[path]
  if not request or request.ordinal ~= ordinal then
    task.over = { diverged = { message = "the body didn't ask for "
      .. tostring(name or path .. "/" .. ordinal) .. ", which was recorded",
      other = { branch = path, ordinal = ordinal, name = name } } }
    return
  end
  task.pending[path] = nil
  if task.asked[#task.asked] == request then
    task.asked[#task.asked] = nil
  end
  if name and (name ~= request.name or hash ~= request.hash) then
    go_on(task, request.branch, "other", { branch = path, ordinal = ordinal, name = name })
  else
    task.now, task.due = at, at
    if (request.kind == "sleep" or request.kind == "wait") and output["until"] then
      task.due = output["until"] -- what comes next was due then, however late it is
    end
    go_on(task, request.branch, state, output)
  end
  run_ready(task)
end

-- Hands the answer of a call to the step's function that waits for it. It is no completion: nothing of
-- it is recorded.
local function answer(task, path, state, output)
  local request = task.pending[path]
  task.pending[path] = nil
  go_on(task, request.branch, state, output)
  run_ready(task)
end

-- What is posted of a request.
local message = {
  step = function(task, r)
    return "step", r.branch.path, NUMBERS[r.ordinal], r.name, r.hash, r.input, r.options, task.now,
      task.due, r.word
  end,
  sleep = function(_, r)
    return "sleep", r.branch.path, NUMBERS[r.ordinal], r.name, r.hash, r.input, r.deadline
  end,
  wait = function(_, r)
    return "wait", r.branch.path, NUMBERS[r.ordinal], r.name, r.hash, r.input, json.encode(r.spec),
      r.deadline or ""
  end,
  record = function(_, r)
    return "record", r.branch.path, NUMBERS[r.ordinal], r.name, r.hash, r.input, r.output, r.state
  end,
  call = function(task, r)
    return "call", r.branch.path, NUMBERS[r.ordinal], r.name, r.hash, r.input, r.options, task.now,
      task.due, r.word
  end,
  result = function(_, r)
    return "result", r.branch.path, NUMBERS[r.ordinal], r.name, r.hash, r.input, r.output, r.state
  end,
}

-- Runs the own steps that the record doesn't answer. What is left to be posted: one request, as
-- mostly, or a list of several or none.
local function take_asked(task)
  local asked = task.asked
  local only = asked[1]
  if only and not asked[2] and only.kind ~= "own" and task.pending[only.branch.path] == only then
    asked[1] = nil
    return only
  end
  local outgoing = {}
  while task.asked[1] and not task.over do
    asked, task.asked = task.asked, {}
    for _, request in ipairs(asked) do
      local open = task.pending[request.branch.path] == request -- the record didn't answer it
      if open and request.kind == "own" then
        go_on(task, request.branch, own.RUN)
        run_ready(task)
      elseif open then
        outgoing[#outgoing + 1] = request
      end
    end
  end
  return not outgoing[2] and outgoing[1], outgoing
end

-- Posts requests and waits for what the owner resumes us with. A turn that posts one request posts
-- just that; any other begins with how many follow, so that the owner knows when the turn is over.
local function post(task, only, several)
  if only then
    return yield(message[only.kind](task, only))
  end
  host.post("batch", NUMBERS[#several])
  for _, request in ipairs(several) do
    host.post(message[request.kind](task, request))
  end
  return yield()
end

local function judge(task, branch, ordinal, event_json)
  local request = task.pending[branch]
  local it = json.decode(event_json)
  local verdict = "not ours"
  if request and request.ordinal == ordinal and request.when then
    task.pure = "'when' may only look at its event"
    local ok, value = pcall(request.when, it, task.event)
    task.pure = nil
    if not ok then
      verdict = "error: " .. (type(value) == "string" and value or "'when' raised a " .. type(value))
    elseif value then
      verdict = "ours"
    end
  end
  host.post("verdict", "wait", branch, tostring(ordinal), it.id, verdict)
end

local function diverged(task)
  local d = task.over.diverged
  local reason = { code = "diverged", message = d.message, can = json.array({ "migrate", "cancel" }) }
  if d.other then
    reason.recorded = { branch = d.other.branch, ordinal = d.other.ordinal, name = d.other.name }
  end
  if d.request then
    reason.asked = { branch = d.request.branch.path, ordinal = d.request.ordinal, name = d.request.name }
  end
  host.post("diverged", json.encode(reason))
  while true do
    yield()
  end
end

-- Runs a function through what was recorded of it. `straight`: it goes on behind that.
local function replay(task, path, f, history, straight, ...)
  durable.enter(task)
  task.over = false
  task.straight = straight and not history[1]
  task.ready, task.pending, task.asked = NONE, NONE, NONE
  go_on(task, { path = path, ordinal = 0, names = {}, co = coroutine_of_branch() }, f, ...)
  run_ready(task)
  local position = 1
  while history[position] and not task.over do
    local s = history[position]
    deliver(task, s[2], s[3], s[4], s[5], s[6], s[7], s[8])
    position = position + 1
  end
  local s = history[position]
  if s and not task.over.diverged then
    task.over = { diverged = { message = "the body ended before " .. s[4] .. ", which was recorded",
      other = { branch = s[2], ordinal = s[3], name = s[4] } } }
  end
end

--- Runs a function through what was recorded of it, and no further: nothing is asked for.
---@param task table
---@param path string
---@param f function
---@param history table
function M.replay(task, path, f, history, ...)
  replay(task, path, f, history, false, ...)
  if task.over and task.over.diverged then
    diverged(task)
  end
end

--- Runs a function as the body `path` to its end: (true, value), (false, error), or
--- (nil, {state, reason}) when the body ended itself.
---@param task table from M.new
---@param path string "" for run
---@param f function
---@param history table completions, oldest first: {seq, branch, ordinal, name, hash, state, at, output}
function M.run(task, path, f, history, ...)
  replay(task, path, f, history, true, ...)
  task.straight = true
  local kind, a, b, c, d, e
  while true do
    if kind == "judge" then
      judge(task, b, math.tointeger(c), d)
      kind, a, b, c, d, e = yield()
    else
      local only, several = take_asked(task)
      local over = task.over
      if over and over.diverged then
        diverged(task)
      elseif over then
        return over.ok, over.result or over.value
      end
      kind, a, b, c, d, e = post(task, only, several)
    end
    durable.enter(task)
    if kind == "done" then
      deliver(task, a, math.tointeger(b), nil, nil, d, c, json.decode(e))
    elseif kind == "answer" then
      answer(task, a, b, json.decode(c))
    end
  end
end

return M
