-- What an action's Lua asks of C, and how it fails. One context per call.
--
-- Asks go out by host.post(kind, id, json); the yield returns (id, "ok" | "error", json).
local tries = require "tries"

local json = host.json
local M = {}

local FAILED = {} -- marks a failure that the body is told of
local UNKNOWN = {} -- marks a call that may have happened
local HELD = {} -- marks what only a person can repair

local running -- the call whose Lua runs

--- Makes a call the running one; nil: none is.
function M.enter(ctx)
  running = ctx
end

--- The call whose Lua runs, or nil.
function M.running()
  return running
end

-- Failing -----------------------------------------------------------------------------------------

local function fail(code, message, more)
  more = more or {}
  error({ mark = FAILED, code = code, message = message, status = more.status,
    attempts = more.attempts }, 0)
end

local function hold(code, message)
  error({ mark = HELD, reason = { code = code, message = message,
    can = json.array { "resume", "cancel" } } }, 0)
end

-- Asking C ----------------------------------------------------------------------------------------

local function ask(ctx, kind, what)
  ctx.asked = ctx.asked + 1
  local id = tostring(ctx.asked)
  host.post(kind, id, json.encode(what))
  local got, status, text = coroutine.yield()
  running = ctx
  assert(got == id, "an answer to another question")
  local answer = json.decode(text)
  if status == "ok" then
    return answer
  elseif answer.code == "database" then
    hold("database_error", answer.message)
  end
  return nil, answer
end

local Context = {}
M.Context = Context

-- What most calls never look at is decoded when they do.
local late = {
  event = function()
    local text = host.lent("event")
    return text and json.decode(text) or {}
  end,
  owner = function()
    return host.lent("owner")
  end,
  now = function()
    return host.lent("now")
  end,
  tries = function()
    local text = host.lent("options")
    return tries.of(text and json.decode(text) or {})
  end,
  instance = function(ctx)
    return ctx.owner:match "^[^/]*"
  end,
}

local OF_ALL = { company = true, settings = true }

function Context.__index(ctx, name)
  if OF_ALL[name] then
    return ctx.state[name]
  elseif late[name] then
    ctx[name] = late[name](ctx)
    return ctx[name]
  end
  return Context[name]
end

-- What the author said about tries goes with what is tried.
local function with_tries(ctx, asked)
  for name, value in pairs(ctx.tries) do
    asked[name] = value
  end
  return asked
end

--- Sends a text or an e-mail through policy and ledger; returns {status, reason, time, channel, id}.
function Context:message(message)
  local answer, err = ask(self, "message", with_tries(self, message))
  if not answer then
    fail(err.code == "unavailable" and "unavailable" or "refused", err.message, err)
  end
  return answer
end

--- One HTTP call, known in the ledger by its name `as` (after self.part, where one step does the same
--- for several records). Returns {status, body = decoded, shadow}; or nil and {code, status, body, id}.
function Context:call(call)
  local answer, err = ask(self, "call", with_tries(self, {
    as = (self.part or "") .. call.as, effect = call.effect, method = call.method,
    path = call.path, url = call.url, authorization = call.authorization,
    body = call.body and json.encode(call.body) or nil,
  }))
  local result = answer or err
  local ok, body = pcall(json.decode, result.body or "")
  result.text = result.body
  result.body = ok and type(body) == "table" and body or {}
  return answer and result, err and result
end

--- The same, raising what went wrong.
function Context:must_call(call)
  local answer, err = self:call(call)
  if not answer then
    self:raise(err)
  end
  return answer
end

--- Keeps a call that nobody can decide about for a person. Returns when it was said beforehand what
--- counts: the same call then answers by that.
function Context:keep(id)
  self:query("engine", "select json 'true' from outbound_hold($1::uuid, 'in_doubt')", id)
  if self.tries.in_doubt then
    self:query("engine", "select json 'true' from settle_declared($1::uuid, $2)", id,
      self.tries.in_doubt)
    return
  end
  error({ mark = HELD, reason = { code = "send_in_doubt", id = id,
    message = "nobody knows whether " .. self.name .. " was done; look there and say so",
    can = json.array { "sent", "not_sent", "drop", "cancel" } } }, 0)
end

--- Says that nobody knows whether a call was done.
function Context.doubt(_, id)
  error({ mark = UNKNOWN, id = id }, 0)
end

function Context.raise(_, err)
  fail(err.code == "unavailable" and "unavailable" or "refused", err.message, err)
end

--- A query: the value of the one row; db is "engine", "servicetitan" or "views".
function Context:query(db, sql, ...)
  local given, params = table.pack(...), {}
  for i = 1, given.n do
    local value = given[i]
    if type(value) == "table" then
      value = json.encode(value)
    end
    params[i] = { v = value ~= nil and tostring(value) or nil }
  end
  local answer, err = ask(self, "query", { db = db, sql = sql, params = json.array(params) })
  if not answer then
    fail("refused", err.message, err)
  end
  return answer.value
end

--- Says what became of a call whose outcome nobody knew: "done" with its answer, or "not_sent".
function Context:settle(id, outcome, body)
  ask(self, "settle", { id = id, outcome = outcome, body = body and json.encode(body) or nil })
end

--- Ends this try; the step is asked again after some seconds.
function Context.suspend(_, seconds, reason)
  host.post("suspend", "0", json.encode { seconds = seconds, reason = reason })
  coroutine.yield()
end

Context.fail = function(_, ...)
  fail(...)
end
Context.hold = function(_, ...)
  hold(...)
end

--- The mapping of an entity to a vendor's body; x.of says what x is about.
function Context:map(name, x, of)
  local mapping = self.state.mappings[name]
  if not mapping then
    hold("mapping_missing", "there is no workflows/ghl/" .. name .. ".lua")
  end
  x.of = of or name
  local ok, body = pcall(mapping.map, x)
  if not ok then
    hold("mapping_error", tostring(body))
  elseif type(body) ~= "table" then
    hold("mapping_error", "workflows/ghl/" .. name .. ".lua: map returned no table")
  end
  return body
end

--- Whether an error is one that a body would be told of.
function M.failed(err)
  return type(err) == "table" and err.mark == FAILED
end

M.FAILED, M.HELD, M.UNKNOWN, M.fail, M.hold = FAILED, HELD, UNKNOWN, fail, hold

return M
