-- Asking: hands the requests of a body on, and knows whose Lua is running.
--
-- A request goes to the scheduler of its task, which returns what was recorded for it, on the first run
-- as in a replay. Most steps are asked for when there is nothing to schedule: the record has nothing
-- more to say and the branch is the only one. Such a step goes straight to the task's owner.
--
-- Stop, divergence and the end of a task are never errors: the branch doesn't go on.
local M = {}

local json, hash, ask_owner = host.json, host.hash, host.ask
local isyieldable, yield = coroutine.isyieldable, coroutine.yield

-- 7 -> "7"; small ones are made once.
local NUMBERS = setmetatable({}, { __index = function(known, n)
  local text = tostring(n)
  if n <= 100 then
    known[n] = text
  end
  return text
end })
M.NUMBERS = NUMBERS

local current -- the task whose Lua is running

local function where(message)
  local place = host.where()
  return place and place .. ": " .. message or message
end

--- Raises an error at the company's line that is being run.
---@param message string
function M.raise(message)
  error(where(message), 0)
end

--- Calls a function of ours; its errors are about what the author wrote and get the author's line.
---@param f function
function M.checked(f, ...)
  local ok, value = pcall(f, ...)
  if not ok then
    M.raise((tostring(value):gsub("^[^%s]+%.lua:%d+: ", "")))
  end
  return value
end

---@return table task the task that is running: start, event, now, files it has loaded
function M.task()
  return current
end

-- "sms.send#2": the second of its name in its branch.
local function count_name(branch, name)
  local n = (branch.names[name] or 0) + 1
  branch.names[name] = n
  return name .. "#" .. NUMBERS[n]
end

--- The JSON of what an author gave.
---@param value any
---@param what string whose it is
---@return string
function M.encode(value, what)
  local ok, text = pcall(json.encode, value)
  if not ok then
    M.raise(what .. ": " .. tostring(text))
  end
  return text
end

-- The branch that asks, and which of its requests this is.
local function begin(word)
  local task = current
  if task.pure then
    M.raise(word .. " is an effect; " .. task.pure)
  elseif task.loading then
    M.raise(word .. " can't be used while the file is loaded; call it in run")
  elseif not isyieldable() then
    M.raise(word .. " can't be called from inside gsub or sort")
  end
  local branch = task.running
  local ordinal = branch.ordinal + 1
  branch.ordinal = ordinal
  return branch, ordinal
end

--- How the body's function waits, which runs in the task's own coroutine; scheduler.lua says it.
---@type function(task, request): any, any
M.wait = nil

--- Hands something to the scheduler and returns what the branch goes on with, if it does.
---@param request table {kind, …}
function M.hand(request)
  if current.running.co then
    return yield(request)
  end
  return M.wait(current, request)
end

--- Asks the scheduler and returns what was recorded for it: its state and output.
---@param request table {kind, word, input, …}
function M.ask(request)
  local branch, ordinal = begin(request.word)
  request.branch, request.ordinal = branch, ordinal
  request.name = request.name or count_name(branch, request.word)
  request.hash = hash(request.input)
  local state, output = M.hand(request)
  current.answered = request
  if state == "other" then -- something else was recorded here
    local name, other = request.name, output
    local message = where("asks for " .. name .. " where " .. other.name .. " was recorded")
    if name == other.name then
      message = where("asks for " .. name .. " with other arguments than were recorded")
    end
    M.hand({ kind = "diverged", message = message .. "; 'moonwright workflows diff "
      .. current.workflow .. "' shows the change", request = request, other = other })
  end
  return state, output
end

-- Asks the owner for a step, past the scheduler.
local function ask_straight(task, action, name, input, options)
  local branch, ordinal = begin(action)
  name = name or count_name(branch, action)
  local at, state, output = ask_owner("step", branch.path, NUMBERS[ordinal], name,
    hash(input), input, options, task.now, task.due, action)
  current, task.now, task.due = task, at, at
  return state, json.decode(output), state == "failed"
    and { branch = branch, ordinal = ordinal, name = name }
end

--- Asks for a step: its state, its output, and when it has failed, what was asked for.
---@param action string
---@param name? string of the step; nil: it is counted
---@param input string JSON
---@param options string JSON
function M.step(action, name, input, options)
  local task = current
  if task.straight and not task.running.group then
    return ask_straight(task, action, name, input, options)
  end
  local request = { kind = "step", word = action, name = name, input = input, options = options,
    branch = false, ordinal = 0, hash = false }
  local state, output = M.ask(request)
  return state, output, request
end

--- Keeps which request an error value is about.
---@param err table
---@param request table
function M.blame(err, request)
  current.raised = current.raised or {}
  current.raised[err] = request
end

--- Makes a task the running one.
---@param task table
function M.enter(task)
  current = task
end

return M
