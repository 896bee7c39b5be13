-- Runs one instance's body: its branches, and what comes to them from the record and from the owner.
--
-- The body's function runs in the coroutine of the task, the branches of `all` in coroutines of their
-- own. A branch runs until it asks for something. When all are blocked, the next completion is handed
-- over: first those of the history, in the order of their seq, then those that the owner resumes us
-- with, which come in the same order. Only what the history doesn't answer is posted. So a body can't
-- tell a replay from its first run.
--
-- The body's function asks by a call of `wait`, and all the rest goes on on top of it. When the
-- instance ends meanwhile, the function is left where it is: what follows is done there, and told.
local asking = require "ask"
local branches = require "branches"
local own = require "own"

local M = {}

local json = host.json
local yield = coroutine.yield
local NUMBERS, NONE = asking.NUMBERS, branches.NONE
local go_on, run_ready, take = branches.go_on, branches.run_ready, branches.take

-- What comes --------------------------------------------------------------------------------------

-- Hands one completion to the branch that waits for it. Only what comes from the record has a name and
-- a hash: they must be those that are asked for now.
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
end

-- Hands the answer of a call to the step's function that waits for it. It is no completion: nothing of
-- it is recorded.
local function answer(task, path, state, output)
  local request = task.pending[path]
  task.pending[path] = nil
  go_on(task, request.branch, state, output)
end

local function judge(task, branch, ordinal, event_json)
  local request = task.pending[branch]
  local it = json.decode(event_json)
  local verdict = "not ours"
  if request and request.ordinal == ordinal and request.when then
    task.pure = "'when' may only look at its event"
    local ok, value = pcall(request.when, it, task.event)
    task.pure = false
    if not ok then
      verdict = "error: " .. (type(value) == "string" and value or "'when' raised a " .. type(value))
    elseif value then
      verdict = "ours"
    end
  end
  host.post("verdict", "wait", branch, tostring(ordinal), it.id, verdict)
end

-- What the owner resumes us with.
local function hear(task, kind, a, b, c, d, e)
  asking.enter(task)
  if kind == "judge" then
    judge(task, b, math.tointeger(c), d)
    return hear(task, yield())
  elseif kind == "done" then
    deliver(task, a, math.tointeger(b), nil, nil, d, c, json.decode(e))
  elseif kind == "answer" then
    answer(task, a, b, json.decode(c))
  end
end

-- What goes ---------------------------------------------------------------------------------------

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

-- Runs an own step that the record doesn't answer; false: none is asked for.
local function run_own(task)
  for i, request in ipairs(task.asked) do
    if request.kind == "own" and task.pending[request.branch.path] == request then
      table.remove(task.asked, i)
      go_on(task, request.branch, own.RUN)
      return true
    end
  end
  return false
end

-- Posts what is asked for and waits for what the owner resumes us with. A turn that posts one request
-- posts just that; any other begins with how many follow, so that the owner knows when it is over.
local function exchange(task)
  local open = {}
  for _, request in ipairs(task.asked) do
    if task.pending[request.branch.path] == request then -- the record didn't answer it
      open[#open + 1] = request
    end
  end
  if task.asked[1] then
    task.asked = {}
  end
  local only = not open[2] and open[1]
  if only then
    return hear(task, yield(message[only.kind](task, only)))
  end
  host.post("batch", NUMBERS[#open])
  for _, request in ipairs(open) do
    host.post(message[request.kind](task, request))
  end
  return hear(task, yield())
end

-- The end -----------------------------------------------------------------------------------------

-- The body's function never goes on.
local function leave()
  while true do
    yield()
  end
end

local function diverged(d)
  local reason = { code = "diverged", message = d.message, can = json.array({ "migrate", "cancel" }) }
  if d.other then
    reason.recorded = { branch = d.other.branch, ordinal = d.other.ordinal, name = d.other.name }
  end
  if d.request then
    reason.asked = { branch = d.request.branch.path, ordinal = d.request.ordinal, name = d.request.name }
  end
  host.post("diverged", json.encode(reason))
  leave()
end

-- The function is left: what comes after it is told instead of being returned.
local function go_past(task, result)
  yield("ended", task.main.ends(task, result))
  leave()
end

-- Running -----------------------------------------------------------------------------------------

-- Brings the next completion, from the record or from the owner.
local function advance(task)
  local main = task.main
  local s = main.history[main.position]
  if s then
    main.position = main.position + 1
    host.burst()
    deliver(task, s[2], s[3], s[4], s[5], s[6], s[7], s[8])
  elseif not main.live then
    go_past(task)
  else
    task.straight = true
    if not run_own(task) then
      exchange(task)
    end
  end
end

-- The body's function asks: state and output of what was recorded, once it is its turn.
local function wait(task, request)
  local main = task.main
  main.answered = false
  take(task, main, request)
  while true do
    run_ready(task)
    local over = task.over
    if over and over.diverged then
      diverged(over.diverged)
    elseif over then
      go_past(task, over.result)
    elseif main.answered then
      break
    end
    advance(task)
  end
  task.running = main
  return main.state, main.output
end

asking.wait = wait

local function run(task, path, f, history, ends, is_live, ...)
  local main = { path = path, ordinal = 0, names = {}, history = history, position = 1, ends = ends,
    live = is_live }
  task.main, task.running, task.over = main, main, false
  task.ready, task.pending, task.asked = NONE, NONE, NONE
  task.straight = is_live and not history[1]
  asking.enter(task)
  local ok, value = pcall(f, ...)
  local s = history[main.position]
  if s then
    diverged({ message = "the body ended before " .. s[4] .. ", which was recorded",
      other = { branch = s[2], ordinal = s[3], name = s[4] } })
  end
  return ok, value
end

--- Runs a function through what was recorded of it, and no further: nothing is asked for. It returns
--- when the function does; else `ends(task)` goes on, and tells how the instance ends.
---@param task table
---@param path string
---@param f function
---@param history table
---@param ends function
function M.replay(task, path, f, history, ends, ...)
  run(task, path, f, history, ends, false, ...)
end

--- Runs a function as the body `path` to its end: (true, value) or (false, error). When it ends the
--- instance itself, `ends(task, {state, reason, event})` goes on instead, and tells how it ends.
---@param task table from durable.new
---@param path string "" for run
---@param f function
---@param history table completions, oldest first: {seq, branch, ordinal, name, hash, state, at, output}
---@param ends function
function M.run(task, path, f, history, ends, ...)
  return run(task, path, f, history, ends, true, ...)
end

return M
