-- Runs one instance's body: its branches are coroutines, its completions come from the record.
--
-- A branch runs until it asks for something. When all branches are blocked, the next completion is
-- handed over: first those of the history, in the order of their seq, then those that the owner
-- resumes us with, which come in the same order. Only what the history doesn't answer is posted.
-- So a body can't tell a replay from its first run.
local durable = require "durable"

local M = {}

local json = host.json

-- What a branch waits for, by its path and the ordinal.
local function add_pending(task, request)
  local path = request.branch.path
  local of = task.pending[path]
  if not of then
    of = {}
    task.pending[path] = of
  end
  of[request.ordinal] = request
end

local function pending(task, path, ordinal)
  local of = task.pending[path]
  return of and of[ordinal]
end

local function spawn(task, path, f, group, index, ...)
  local branch = { path = path, ordinal = 0, names = {}, group = group, index = index,
    co = coroutine.create(f) }
  task.ready[#task.ready + 1] = { branch, ... }
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
      task.ready[#task.ready + 1] = { group.parent, group }
    end
    return
  end
  task.ended = { ok = ok, value = value, branch = branch }
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
    spawn(task, request.path .. "/" .. tostring(k), request.functions[k], group, k)
  end
  if #keys == 0 then
    task.ready[#task.ready + 1] = { branch, group }
  end
end

-- Runs one branch until it blocks or ends.
local function go_on(task, branch, ...)
  task.running = branch
  local ok, request = coroutine.resume(branch.co, ...)
  if not ok then
    result_of(task, branch, false, request)
  elseif coroutine.status(branch.co) == "dead" then
    result_of(task, branch, true, request)
  elseif request.kind == "all" then
    spawn_all(task, branch, request)
  elseif request.kind == "end" then
    task.result = { state = request.state, reason = request.reason, event = request.event }
  elseif request.kind == "diverged" then
    task.diverged = request
  else
    add_pending(task, request)
    task.asked[#task.asked + 1] = request
  end
end

-- Runs what is ready until all branches are blocked or the body has ended.
local function run_ready(task)
  while task.ready[1] and not task.ended and not task.result and not task.diverged do
    local next_ = table.remove(task.ready, 1)
    go_on(task, next_[1], table.unpack(next_, 2))
  end
end

-- Hands one completion to the branch that waits for it, and runs on.
local function deliver(task, done)
  local request = pending(task, done.branch, done.ordinal)
  if not request then
    task.diverged = { message = "the body didn't ask for "
      .. tostring(done.name or done.branch .. "/" .. done.ordinal) .. ", which was recorded", other = done }
    return
  end
  task.pending[done.branch][done.ordinal] = nil
  request.answered = true
  if done.name and (done.name ~= request.name or done.hash ~= request.hash) then
    go_on(task, request.branch, { other = done })
  else
    local output = done.output
    if done.text then
      output = json.decode(done.text)
    end
    task.now, task.due = done.at, done.at
    if (request.kind == "sleep" or request.kind == "wait") and output["until"] then
      task.due = output["until"] -- what comes next was due then, however late it is
    end
    go_on(task, request.branch, { state = done.state, output = output })
  end
  run_ready(task)
end

local post = {
  step = function(task, r)
    host.post("step", r.branch.path, tostring(r.ordinal), r.name, r.hash, r.input, r.options,
      task.now, task.due, r.word)
  end,
  sleep = function(_, r)
    host.post("sleep", r.branch.path, tostring(r.ordinal), r.name, r.hash, r.input, r.deadline)
  end,
  wait = function(_, r)
    host.post("wait", r.branch.path, tostring(r.ordinal), r.name, r.hash, r.input,
      json.encode(r.spec), r.deadline or "")
  end,
  record = function(_, r)
    host.post("record", r.branch.path, tostring(r.ordinal), r.name, r.hash, r.input, r.output,
      r.state)
  end,
}

-- Posts what the record doesn't answer; own steps run here. A turn that posts one request posts just
-- that; any other begins with how many follow, so that the owner knows when the turn is over.
local function post_asked(task)
  local first = task.asked[1]
  if first and not task.asked[2] and first.kind ~= "own" and not first.answered and not task.diverged
    and not task.result and not task.ended then
    task.asked[1] = nil
    post[first.kind](task, first)
    return
  end
  local outgoing = {}
  while #task.asked > 0 and not task.diverged and not task.result and not task.ended do
    local asked = task.asked
    task.asked = {}
    for _, request in ipairs(asked) do
      if request.kind == "own" and not request.answered then
        task.pending[request.branch.path][request.ordinal] = nil
        task.ready[#task.ready + 1] = { request.branch, durable.RUN }
        run_ready(task)
      elseif not request.answered then
        outgoing[#outgoing + 1] = request
      end
    end
  end
  if task.diverged or task.result or task.ended then
    return
  end
  if #outgoing ~= 1 then
    host.post("batch", tostring(#outgoing))
  end
  for _, request in ipairs(outgoing) do
    post[request.kind](task, request)
  end
end

local function judge(task, branch, ordinal, event_json)
  local request = pending(task, branch, ordinal)
  local it = json.decode(event_json)
  local verdict = "not ours"
  if request and request.when then
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
  local d = task.diverged
  local reason = { code = "diverged", message = d.message, can = json.array({ "migrate", "cancel" }) }
  if d.other then
    reason.recorded = { branch = d.other.branch, ordinal = d.other.ordinal, name = d.other.name }
  end
  if d.request then
    reason.asked = { branch = d.request.branch.path, ordinal = d.request.ordinal, name = d.request.name }
  end
  host.post("diverged", json.encode(reason))
  while true do
    coroutine.yield()
  end
end

local live = {} -- a completion that comes from the owner; nobody keeps it past its turn

-- Runs a function through what was recorded of it.
local function replay(task, path, f, history, ...)
  durable.enter(task)
  task.ended, task.result = nil, nil
  task.ready, task.pending, task.asked = {}, {}, {}
  spawn(task, path, f, nil, nil, ...)
  run_ready(task)
  local position = 1
  while history[position] and not task.diverged and not task.ended and not task.result do
    deliver(task, history[position])
    position = position + 1
  end
  if history[position] and not task.diverged then
    task.diverged = { message = "the body ended before " .. history[position].name
      .. ", which was recorded", other = history[position] }
  end
end

--- Runs a function through what was recorded of it, and no further: nothing is asked for.
---@param task table
---@param path string
---@param f function
---@param history table
function M.replay(task, path, f, history, ...)
  replay(task, path, f, history, ...)
  if task.diverged then
    diverged(task)
  end
end

--- Runs a function as the body `path` to its end: (true, value), (false, error), or
--- (nil, {state, reason}) when the body ended itself.
---@param task table from M.new
---@param path string "" for run
---@param f function
---@param history table completions still to be delivered, oldest first; emptied
function M.run(task, path, f, history, ...)
  replay(task, path, f, history, ...)
  local kind, a, b, c, d, e
  while true do
    if kind ~= "judge" then
      post_asked(task)
    end
    if task.diverged then
      diverged(task)
    elseif task.result then
      return nil, task.result
    elseif task.ended then
      return task.ended.ok, task.ended.value
    end
    kind, a, b, c, d, e = coroutine.yield()
    durable.enter(task)
    if kind == "done" then
      live.branch, live.ordinal, live.at, live.state, live.text = a, math.tointeger(b), c, d, e
      deliver(task, live)
    elseif kind == "judge" then
      judge(task, b, math.tointeger(c), d)
    end
  end
end

return M
