-- What a body can ask for: steps, sleeps, waits, its end. How a request gets its answer is in ask.lua.
local M = {}

local asking = require "ask"

local json, hash = host.json, host.hash
local isyieldable = coroutine.isyieldable
local ask, encode, running = asking.ask, asking.encode, asking.task
local NOTHING = json.encode({})

M.raise, M.checked, M.task, M.enter = asking.raise, asking.checked, asking.task, asking.enter
M.NO_OPTIONS = {} -- the options of most steps

local function failed(err, action, request)
  if type(err) ~= "table" then
    err = { action = action, code = "unavailable", message = tostring(err) }
  end
  asking.blame(err, request)
  error(err, 0)
end

--- An action with effects. Raises its final failure, as recorded.
---@param action string "sms.send"
---@param args table JSON-able
---@param options table name, retries, timeout, in_doubt
function M.step(action, args, options)
  local input, more = encode(args, action), NOTHING
  if options ~= M.NO_OPTIONS then
    more = json.encode({ retries = options.retries, timeout = options.timeout,
      in_doubt = options.in_doubt })
  end
  local state, output, request = asking.step(action, options.name, input, more)
  if state == "failed" then
    failed(output, action, request)
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
  asking.blame(err, running().answered)
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

--- Runs functions side by side and returns their results under the same keys; when some failed,
--- raises the first error once all have ended.
---@param functions table
function M.all(functions)
  local task = running()
  if task.pure or task.loading or not isyieldable() then
    M.raise("all can't be used here")
  end
  local branch = task.running
  branch.ordinal = branch.ordinal + 1
  local group = asking.hand({ kind = "all", functions = functions,
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
  local task = running()
  if task.pure or task.loading or not isyieldable() then
    M.raise("the instance can't be ended here")
  end
  asking.hand({ kind = "end", state = state, reason = reason })
end

--- Ends this run and begins the next, with an event of its own and an empty history.
---@param event table
function M.continue(event)
  local task = running()
  if task.pure or task.loading or not isyieldable() then
    M.raise("continue_as can't be used here")
  elseif task.undos then
    M.raise("continue_as would forget what compensate has kept; leave undoing to one run")
  end
  encode(event, "continue_as")
  asking.hand({ kind = "end", state = "continue", event = event })
end

--- Keeps what undoes a step, for the case that the instance is stopped or fails.
---@param f function
function M.compensate(f)
  local task = running()
  if task.pure or task.loading then
    M.raise("compensate can be used in run only")
  end
  local undos = task.undos or {}
  task.undos = undos
  undos[#undos + 1] = f
end

--- A number in [0, 1) from the branch's own generator: the same in every replay.
function M.random()
  local task = running()
  local branch = task.running
  local seed = branch.seed or tonumber(hash(task.instance .. ":" .. branch.path):sub(1, 15), 16)
  -- xorshift64*
  seed = seed ~ (seed >> 12)
  seed = seed ~ (seed << 25)
  seed = seed ~ (seed >> 27)
  branch.seed = seed
  return ((seed * 0x2545F4914F6CDD1D) >> 11) * (1.0 / (1 << 53))
end

--- A task: what one run of a body has of its own. Its fields are 16, as a table of 17 is twice as
--- large; what few have comes later: raised, entities, undos, answered.
---@param workflow string its name
---@param instance string
---@param now string UTC
---@param event table
function M.new(workflow, instance, now, event)
  return { workflow = workflow, instance = instance, event = event, now = now, due = now,
    declared = false, histories = false, running = false, main = false, loading = false, pure = false,
    over = false, ready = false, pending = false, asked = false, straight = false }
end

return M
