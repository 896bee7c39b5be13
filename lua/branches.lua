-- The branches of a body: what each asks for, and going on when it is answered.
--
-- The body's own function is a branch without a coroutine: it runs in that of the task, below all that
-- happens here, and is only told that it may go on. The branches of `all` are coroutines.
local M = {}

local resume, yield = coroutine.resume, coroutine.yield

local ENDED = {} -- what a branch's coroutine yields before the value of its function
local MAX_IDLE = 256
local NONE = {} -- the lists of a task before there is something in them
local idle = {} -- coroutines of branches that have ended; they run others
M.NONE = NONE

local function live(f)
  return live(yield(ENDED, f()))
end

-- A branch that can go on, with what it is given.
local function make_ready(task, branch, given)
  if task.ready == NONE then
    task.ready = {}
  end
  task.ready[#task.ready + 1] = { branch, given }
end

local function ended(task, branch, ok, value)
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
end

local function start_all(task, branch, request)
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
      group = group, index = k, co = table.remove(idle) or coroutine.create(live) },
      request.functions[k])
  end
  if #keys == 0 then
    make_ready(task, branch, group)
  end
end

--- Takes what a branch asks for.
---@param task table
---@param branch table
---@param request table {kind, …}
function M.take(task, branch, request)
  if request.kind == "all" then
    start_all(task, branch, request)
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

--- Runs a branch until it blocks or ends. The body's function waits below us: it is told that it may.
---@param task table
---@param branch table
function M.go_on(task, branch, state, output)
  if not branch.co then
    branch.answered, branch.state, branch.output = true, state, output
    return
  end
  task.running = branch
  local ok, request, value = resume(branch.co, state, output)
  if not ok then
    ended(task, branch, false, request)
  elseif request == ENDED then
    idle[#idle + 1] = #idle < MAX_IDLE and branch.co or nil
    ended(task, branch, true, value)
  else
    M.take(task, branch, request)
  end
end

--- Runs what is ready until all branches are blocked or the body has ended.
---@param task table
function M.run_ready(task)
  while task.ready[1] and not task.over do
    local next_ = table.remove(task.ready, 1)
    M.go_on(task, next_[1], next_[2])
  end
end

return M
