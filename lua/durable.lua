-- What a body can ask for: steps, sleeps, waits. Each request is handed to the scheduler of its
-- task by a yield, which returns what was recorded for it, on the first run as in a replay.
--
-- Stop, divergence and the end of a task are never errors: the branch yields and isn't resumed.
local M = {}

local json, hash = host.json, host.hash
local isyieldable, yield = coroutine.isyieldable, coroutine.yield
local NOTHING = json.encode({})

M.NO_OPTIONS = {} -- the options of most steps
M.RUN = {} -- tells a branch to run its own step now

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

-- Asking ------------------------------------------------------------------------------------------

-- "sms.send#2": the second of its name in its branch.
local function count_name(branch, name)
  local n = (branch.names[name] or 0) + 1
  branch.names[name] = n
  return name .. "#" .. NUMBERS[n]
end

local function encode(value, what)
  local ok, text = pcall(json.encode, value)
  if not ok then
    M.raise(what .. ": " .. tostring(text))
  end
  return text
end

-- Hands a request to the scheduler and returns what was recorded for it: its state and output.
local function ask(request)
  local task = current
  if task.pure then
    M.raise(request.word .. " is an effect; " .. task.pure)
  elseif task.loading then
    M.raise(request.word .. " can't be used while the file is loaded; call it in run")
  elseif not isyieldable() then
    M.raise(request.word .. " can't be called from inside gsub or sort")
  end
  local branch = task.running
  branch.ordinal = branch.ordinal + 1
  request.branch = branch
  request.ordinal = branch.ordinal
  request.name = request.name or count_name(branch, request.word)
  request.hash = hash(request.input)
  local state, output = yield(request)
  task.answered = request
  if state == "other" then -- something else was recorded here
    local name, other = request.name, output
    local message = where("asks for " .. name .. " where " .. other.name .. " was recorded")
    if name == other.name then
      message = where("asks for " .. name .. " with other arguments than were recorded")
    end
    yield({ kind = "diverged", message = message .. "; 'moonwright workflows diff "
      .. task.workflow .. "' shows the change", request = request, other = other })
  end
  return state, output
end

--- An action with effects. Raises its final failure, as recorded.
---@param action string "sms.send"
---@param args table JSON-able
---@param options table name, retries, timeout, in_doubt
function M.step(action, args, options)
  local request = { kind = "step", word = action, name = options.name, input = encode(args, action),
    options = NOTHING, branch = false, ordinal = 0, hash = false }
  if options ~= M.NO_OPTIONS then
    request.options = json.encode({ retries = options.retries, timeout = options.timeout,
      in_doubt = options.in_doubt })
  end
  local state, output = ask(request)
  if state == "failed" then
    local err = output
    if type(err) ~= "table" then
      err = { action = action, code = "unavailable", message = tostring(err) }
    end
    current.raised[err] = request
    error(err, 0)
  end
  return output
end

--- Waits until a business time.
---@param word string
---@param args table as the author wrote them
---@param deadline string UTC
function M.sleep(word, args, deadline)
  ask({ kind = "sleep", word = word, input = encode(args, word), deadline = deadline })
end

--- Waits for one of several events: the event, or nil after the deadline.
---@param word string
---@param args table
---@param spec table {types = {{type, keys}}, deadline, since}
---@param when? function(it) has the last word
function M.wait(word, args, spec, when)
  spec.judged = when ~= nil
  local _, output = ask({ kind = "wait", word = word, input = encode(args, word), spec = spec,
    deadline = spec.deadline, when = when })
  return output.event
end

--- Waits for the end of a child: {state, value, reason, error}.
---@param word string
---@param child string its instance
function M.wait_child(word, child)
  local _, output = ask({ kind = "wait", word = word, input = encode({ child }, word),
    spec = { child = child, judged = false } })
  return output
end

--- Raises an error that came out of the record, as the failure of the request before it.
---@param err table {action, code, message}
function M.raise_result(err)
  current.raised[err] = current.answered
  error(err, 0)
end

--- Records a value as it is.
---@param word string
---@param args table
---@param output table
---@param state? string "note": a line of the timeline
function M.record(word, args, output, state)
  local _, recorded = ask({ kind = "record", word = word, input = encode(args, word),
    output = encode(output, word), state = state or "done" })
  return recorded
end

-- Runs the author's own function: no effects, no waits, no assignments to outer locals.
local function run_own(task, request, f)
  local before = host.upvalues(f)
  task.pure = "inside step only own code may run"
  local ok, value = pcall(f)
  task.pure = nil
  for i, now in ipairs(host.upvalues(f)) do
    if not rawequal(now.value, before[i].value) then
      M.raise("step '" .. request.word .. "' assigned to local '" .. now.name
        .. "': return it instead")
    end
  end
  request.kind = "record"
  if ok then
    request.state = "done"
    request.output = encode({ value = value }, "step '" .. request.word .. "'")
    if #request.output <= 1 << 20 then
      return
    end
    value = "its result is larger than 1 MB: keep less"
  end
  request.state = "failed"
  request.output = encode({ action = request.word, code = "refused", attempts = 1,
    message = type(value) == "table" and tostring(value.message) or tostring(value) }, "step")
end

--- Own code as one step: runs once, its result is recorded.
---@param name string
---@param f function
function M.own(name, f)
  local request = { kind = "own", word = name, input = NOTHING }
  local state, output = ask(request)
  if state == M.RUN then
    run_own(current, request, f)
    state, output = yield(request)
  end
  if state == "failed" then
    current.raised[output] = request
    error(output, 0)
  end
  return output.value
end

--- Runs functions side by side and returns their results under the same keys; when some failed,
--- raises the first error once all have ended.
---@param functions table
function M.all(functions)
  local task = current
  if task.pure or not isyieldable() then
    M.raise("all can't be used here")
  end
  local branch = task.running
  branch.ordinal = branch.ordinal + 1
  local group = yield({ kind = "all", functions = functions,
    path = (branch.path == "" and "" or branch.path .. "/") .. branch.ordinal })
  if group.failed then
    error(group.failure, 0)
  end
  return group.results
end

--- Ends the instance here; can't be caught.
---@param state string "stopped" or "failed"
---@param reason? string
function M.finish(state, reason)
  if current.pure or not isyieldable() then
    M.raise("the instance can't be ended here")
  end
  yield({ kind = "end", state = state, reason = reason })
end

--- Ends this run and begins the next, with an event of its own and an empty history.
---@param event table
function M.continue(event)
  if current.pure or not isyieldable() then
    M.raise("continue_as can't be used here")
  elseif current.undos then
    M.raise("continue_as would forget what compensate has kept; leave undoing to one run")
  end
  encode(event, "continue_as")
  yield({ kind = "end", state = "continue", event = event })
end

--- Keeps what undoes a step, for the case that the instance is stopped or fails.
---@param f function
function M.compensate(f)
  if current.pure or current.loading then
    M.raise("compensate can be used in run only")
  end
  local undos = current.undos or {}
  current.undos = undos
  undos[#undos + 1] = f
end

--- A number in [0, 1) from the branch's own generator: the same in every replay.
function M.random()
  local branch = current.running
  local seed = branch.seed or tonumber(hash(current.instance .. ":" .. branch.path):sub(1, 15), 16)
  -- xorshift64*
  seed = seed ~ (seed >> 12)
  seed = seed ~ (seed << 25)
  seed = seed ~ (seed >> 27)
  branch.seed = seed
  return ((seed * 0x2545F4914F6CDD1D) >> 11) * (1.0 / (1 << 53))
end

--- A task: what one run of a body has of its own.
---@param workflow string its name
---@param instance string
---@param now string UTC
---@param event table
function M.new(workflow, instance, now, event)
  return { workflow = workflow, instance = instance, event = event, now = now, due = now,
    raised = {}, entities = {}, running = false, loading = false, pure = false, over = false,
    answered = false, ready = false, pending = false, asked = false, undos = false }
end

--- Makes a task the running one.
---@param task table
function M.enter(task)
  current = task
end

return M
