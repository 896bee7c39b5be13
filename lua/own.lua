-- A step of the author's own code, and http inside its function.
--
-- The function runs when the record doesn't answer the step; what it returns is recorded, and no replay
-- runs it again. While a call of its own is on the wire other branches go on: what holds for the function
-- alone holds while its Lua runs. A call is made like an action, but its answer isn't recorded: when the
-- process dies the function runs anew, and the ledger answers the posts that were done.
local arguments = require "arguments"
local asking = require "ask"
local http = require "http"

local M = {}

local json, hash = host.json, host.hash
local isyieldable = coroutine.isyieldable
local encode, raise, running = asking.encode, asking.raise, asking.task
local NOTHING = json.encode({})
local INSIDE = "inside step only own code and http may run"
local LARGEST = 1 << 20 -- of what is recorded, in bytes

M.RUN = {} -- tells a branch to run its own step now

-- Raises when the function has assigned a local of others since it was last looked at.
local function look(own)
  for i, now in ipairs(host.upvalues(own.f)) do
    if not rawequal(now.value, own.before[i].value) then
      raise("step '" .. own.request.word .. "' assigned to local '" .. now.name
        .. "': return it instead")
    end
  end
end

-- Makes a call and waits for its answer. Other branches run meanwhile, and may assign what they like.
local function ask(task, own, word, asked)
  local request = { kind = "call", word = word, branch = own.request.branch,
    ordinal = own.request.ordinal, name = own.request.name, hash = own.request.hash,
    input = encode(asked, word), options = own.options }
  look(own)
  task.pure = false
  local state, answer = asking.hand(request)
  task.pure = INSIDE
  own.before = host.upvalues(own.f)
  if state == "failed" then
    own.failure = answer
    error(answer, 0)
  end
  return answer
end

local function call(method)
  local word = "http." .. method
  return function(given)
    local task = running()
    if task.pure ~= INSIDE then
      raise(word .. ' is for actions and for step: step("name", function() return ' .. word
        .. " { … } end)")
    elseif not isyieldable() then
      raise(word .. " can't be called from inside gsub or sort")
    elseif type(given) ~= "table" then
      raise(word .. " takes one table: " .. word .. " { url = … }")
    end
    asking.checked(arguments.check, word, http.args, given)
    local own, asked = task.running.own, {}
    own.calls = own.calls + 1
    for field, value in pairs(given) do
      asked[field] = value
    end
    asked.as = asked.as or method .. "#" .. own.calls
    local answer = ask(task, own, word, asked)
    local ok, value = pcall(json.decode, answer.body)
    return { status = answer.status, body = answer.body,
      json = ok and type(value) == "table" and value or {} }
  end
end

--- The words of http inside step.
M.http = { get = call "get", post = call "post" }

-- What is recorded of a function that raised: of http what went wrong, of anything else its text.
local function failed(own, value)
  local known = type(value) == "table" and rawequal(value, own.failure)
  local message = type(value) == "table" and value.message or value
  return encode({ action = own.request.word, code = known and value.code or "refused",
    message = tostring(message), status = known and value.status or nil,
    attempts = known and value.attempts or 1 }, "step")
end

-- Runs the function: no effects but http, no waits, no assignments to outer locals. Its random numbers
-- are its own: a replay, which doesn't run it, goes on with those of the branch.
local function run(task, own)
  local request, branch = own.request, own.request.branch
  local seed = branch.seed
  branch.own, own.before = own, host.upvalues(own.f)
  branch.seed = tonumber(hash(task.instance .. ":" .. branch.path .. "/" .. request.ordinal):sub(1, 15), 16)
  task.pure = INSIDE
  local ok, value = pcall(own.f)
  task.pure = false
  branch.own, branch.seed = nil, seed
  look(own)
  request.kind = "result"
  if ok then
    request.state, request.output = "done", encode({ value = value }, "step '" .. request.word .. "'")
    if #request.output <= LARGEST then
      return
    end
    value = "its result is larger than 1 MB: keep less"
  end
  request.state, request.output = "failed", failed(own, value)
end

--- Own code as one step: runs to its end, its result is recorded.
---@param name string
---@param options table {retries, timeout} of each call of http
---@param f function
function M.step(name, options, f)
  local request = { kind = "own", word = name, input = NOTHING }
  local state, output = asking.ask(request)
  if state == M.RUN then
    local said = { retries = options.retries, timeout = options.timeout }
    run(running(), { request = request, f = f, calls = 0, options = json.encode(said) })
    state, output = asking.hand(request)
  end
  if state == "failed" then
    asking.blame(output, request)
    error(output, 0)
  end
  return output.value
end

return M
