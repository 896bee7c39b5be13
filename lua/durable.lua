-- Runs one instance's body: its branches are coroutines, its completions come from the record.
--
-- A branch runs until it asks for something (a step, a sleep, a wait). When all branches are
-- blocked, the next completion is handed over: first those of the history, in the order of their
-- seq, then those that the owner resumes us with, which come in the same order. Only what the
-- history doesn't answer is posted. So a body can't tell a replay from its first run.
--
-- Stop, divergence and the end of a task are never errors: the branch yields and isn't resumed.
local M = {}

local json = host.json
local RUN = {} -- tells a branch to run its own step now
local NOTHING = json.encode({})

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

---@return table task the task that is running: start, event, now, files it has loaded
function M.task()
  return current
end

-- Asking ------------------------------------------------------------------------------------------

local function key_of(branch, ordinal)
  return branch .. "\n" .. ordinal
end

-- "sms.send#2": the second of its name in its branch.
local function count_name(branch, name)
  local n = (branch.names[name] or 0) + 1
  branch.names[name] = n
  return name .. "#" .. n
end

local function encode(value, what)
  local ok, text = pcall(json.encode, value)
  if not ok then
    M.raise(what .. ": " .. tostring(text))
  end
  return text
end

-- Hands a request to the scheduler and returns what was recorded for it.
local function ask(request)
  local task = current
  if task.pure then
    M.raise(request.word .. " is an effect; " .. task.pure)
  elseif task.loading then
    M.raise(request.word .. " can't be used while the file is loaded; call it in run")
  elseif not coroutine.isyieldable() then
    M.raise(request.word .. " can't be called from inside gsub or sort")
  end
  local branch = task.running
  branch.ordinal = branch.ordinal + 1
  request.branch = branch
  request.ordinal = branch.ordinal
  request.name = request.name or count_name(branch, request.word)
  request.hash = host.hash(request.input)
  local record = coroutine.yield(request)
  if record.other then -- something else was recorded here
    local name, other = request.name, record.other.name
    local message = where("asks for " .. name .. " where " .. other .. " was recorded")
    if name == other then
      message = where("asks for " .. name .. " with other arguments than were recorded")
    end
    coroutine.yield({ kind = "diverged", message = message .. "; 'moonwright workflows diff "
      .. task.start.workflow .. "' shows the change", request = request, other = record.other })
  end
  return record
end

--- An action with effects. Raises its final failure, as recorded.
---@param action string "sms.send"
---@param args table JSON-able
---@param options table name, retries, timeout
function M.step(action, args, options)
  local request = { kind = "step", word = action, name = options.name, input = encode(args, action) }
  local rest = { retries = options.retries, timeout = options.timeout }
  request.options = next(rest) and json.encode(rest) or NOTHING
  local record = ask(request)
  if record.state == "failed" then
    local err = record.output
    if type(err) ~= "table" then
      err = { action = action, code = "unavailable", message = tostring(err) }
    end
    current.raised[err] = request
    error(err, 0)
  end
  return record.output
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
  local record = ask({ kind = "wait", word = word, input = encode(args, word), spec = spec,
    deadline = spec.deadline, when = when })
  return record.output.event
end

--- Records a value as it is.
---@param word string
---@param args table
---@param output table
---@param state? string "note": a line of the timeline
function M.record(word, args, output, state)
  return ask({ kind = "record", word = word, input = encode(args, word),
    output = encode(output, word), state = state or "done" }).output
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
    return
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
  local record = ask(request)
  if record == RUN then
    run_own(current, request, f)
    record = coroutine.yield(request)
  end
  if record.state == "failed" then
    current.raised[record.output] = request
    error(record.output, 0)
  end
  return record.output.value
end

--- Runs functions side by side and returns their results under the same keys; when some failed,
--- raises the first error once all have ended.
---@param functions table
function M.all(functions)
  local task = current
  if task.pure or not coroutine.isyieldable() then
    M.raise("all can't be used here")
  end
  local branch = task.running
  branch.ordinal = branch.ordinal + 1
  local group = coroutine.yield({ kind = "all", functions = functions,
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
  if current.pure or not coroutine.isyieldable() then
    M.raise("the instance can't be ended here")
  end
  coroutine.yield({ kind = "end", state = state, reason = reason })
end

--- A number in [0, 1) from the branch's own generator: the same in every replay.
function M.random()
  local branch = current.running
  local seed = branch.seed or tonumber(host.hash(current.start.seed .. ":" .. branch.path):sub(1, 15), 16)
  -- xorshift64*
  seed = seed ~ (seed >> 12)
  seed = seed ~ (seed << 25)
  seed = seed ~ (seed >> 27)
  branch.seed = seed
  return ((seed * 0x2545F4914F6CDD1D) >> 11) * (1.0 / (1 << 53))
end

-- Scheduling --------------------------------------------------------------------------------------

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

-- Runs what is ready until all branches are blocked or the body has ended.
local function run_ready(task)
  while #task.ready > 0 and not task.ended and not task.result do
    local next_ = table.remove(task.ready, 1)
    local branch = next_[1]
    task.running = branch
    local ok, request = coroutine.resume(branch.co, table.unpack(next_, 2))
    if not ok then
      result_of(task, branch, false, request)
    elseif coroutine.status(branch.co) == "dead" then
      result_of(task, branch, true, request)
    elseif request.kind == "all" then
      spawn_all(task, branch, request)
    elseif request.kind == "end" then
      task.result = { state = request.state, reason = request.reason }
    elseif request.kind == "diverged" then
      task.diverged = request
      return
    else
      request.posted = false
      task.pending[key_of(branch.path, request.ordinal)] = request
      task.asked[#task.asked + 1] = request
    end
  end
end

-- Hands one completion to the branch that waits for it, and runs on.
local function deliver(task, done)
  local key = key_of(done.branch, done.ordinal)
  local request = task.pending[key]
  if not request then
    task.diverged = { message = "the body didn't ask for " .. tostring(done.name or key:gsub("\n", "/"))
      .. ", which was recorded", other = done }
    return
  end
  task.pending[key] = nil
  request.answered = true
  if done.name and (done.name ~= request.name or done.hash ~= request.hash) then
    task.ready[1] = { request.branch, { other = done } }
  else
    local output = done.output
    if done.text then
      output = json.decode(done.text)
    end
    task.now, task.due = done.at, done.at
    if (request.kind == "sleep" or request.kind == "wait") and output["until"] then
      task.due = output["until"] -- what comes next was due then, however late it is
    end
    task.ready[1] = { request.branch, { state = done.state, output = output } }
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
  local outgoing = {}
  while #task.asked > 0 and not task.diverged and not task.result and not task.ended do
    local asked = task.asked
    task.asked = {}
    for _, request in ipairs(asked) do
      if request.kind == "own" and not request.answered then
        task.pending[key_of(request.branch.path, request.ordinal)] = nil
        task.ready[#task.ready + 1] = { request.branch, RUN }
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
  local request = task.pending[key_of(branch, ordinal)]
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

--- Runs a function as the body `path` to its end: (true, value), (false, error), or
--- (nil, {state, reason}) when the body ended itself.
---@param task table from M.new
---@param path string "" for run
---@param f function
---@param history table completions still to be delivered, oldest first; emptied
function M.run(task, path, f, history, ...)
  current = task
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
    current = task
    if kind == "done" then
      deliver(task, { branch = a, ordinal = math.tointeger(b), at = c, state = d, text = e })
    elseif kind == "judge" then
      judge(task, b, math.tointeger(c), d)
    end
  end
end

--- A task: what one run of a body has of its own.
---@param start table
---@param event table
function M.new(start, event)
  return { start = start, event = event, now = start.now, due = start.now, modules = {},
    raised = setmetatable({}, { __mode = "k" }) }
end

--- Makes a task the running one while its file is loaded.
function M.enter(task)
  current = task
end

return M
