-- Plays the owner of a body in a spec: what the C side does with posts, commits and crashes, on a
-- list in memory instead of a database.
local Owner = {}
Owner.__index = Owner

local json = host.json

local function behind_address(_, _, _, ...)
  return ...
end

local bursts = 0

local function fresh_body()
  host.ask = function(...)
    return behind_address(coroutine.yield(...))
  end
  host.burst = function()
    bursts = bursts + 1
  end
  for _, name in ipairs { "ask", "body", "branches", "durable", "own", "scheduler", "words", "words.records",
    "words.time", "words.wait", "words.children", "words.people", "words.campaign" } do
    package.loaded[name] = nil
  end
  return require "body"
end

--- @param files table path -> source; the first workflow is "x"
--- @param event table
function Owner.new(files, event)
  local self = setmetatable({ files = {}, event = event, history = {}, requests = {}, open = {},
    clock = host.zone.instant("UTC", { year = 2026, month = 6, day = 1, hour = 14 }) }, Owner)
  for path, source in pairs(files) do
    self.files["workflows/" .. path] = source
  end
  self:load()
  return self
end

--- How many turns were replayed by all.
---@return integer
function Owner.bursts()
  return bursts
end

function Owner:load()
  self.body = fresh_body()
  self.facts = json.decode(self.body.load(json.encode({ name = "x", files = self.files,
    events = { estimate_approved = { of = "estimate" }, invoice_paid = { of = "invoice" } },
    company = { zone = "America/New_York" } })))
end

local function utc(epoch)
  local c = host.zone.civil("UTC", epoch)
  return ("%04d-%02d-%02dT%02d:%02d:%02dZ"):format(c.year, c.month, c.day, c.hour, c.minute, c.second)
end

-- Lets the task run one turn and takes what it posts.
function Owner:turn(...)
  local posted = {}
  host.post = function(...)
    posted[#posted + 1] = { ... }
  end
  host.lent = function()
    return json.encode(self.event)
  end
  local got = table.pack(coroutine.resume(self.co, ...))
  host.post, host.lent = nil, nil
  if not got[1] then
    error(got[2], 0)
  elseif coroutine.status(self.co) == "dead" then
    self.result = json.decode(got[2])
  elseif got.n > 1 then
    posted[#posted + 1] = table.pack(table.unpack(got, 2))
  end
  if posted[1] and posted[1][1] == "batch" then
    local expected = tonumber(table.remove(posted, 1)[2])
    assert(expected ~= 1 and #posted == expected, "a batch announces what follows")
  end
  for _, p in ipairs(posted) do
    if p[1] == "diverged" then
      self.diverged = json.decode(p[2])
    elseif p[1] == "ended" then
      self.result = json.decode(p[2])
    elseif p[1] == "verdict" then
      self.verdict = p[6]
    else
      self.open[#self.open + 1] = p
      self.requests[#self.requests + 1] = p[1] .. " " .. p[2] .. "/" .. p[3] .. " " .. p[4] .. " " .. p[6]
    end
  end
end

--- Starts the body, or starts it again after a crash, from what was recorded.
function Owner:start(phase, by)
  self.open, self.requests, self.result, self.diverged = {}, {}, nil, nil
  local body = self.body
  self.co = coroutine.create(function(...)
    return body.run(...)
  end)
  local steps = {}
  for i, h in ipairs(self.history) do
    steps[i] = json.array { i, h.branch, h.ordinal, h.name, h.hash, h.state, h.at, json.decode(h.output) }
  end
  self:turn("019", json.encode(json.array(steps)), phase or "run",
    "2026-06-01T14:00:00Z", by and json.encode(by))
end

--- A crash: a new VM, and the body starts from the record.
function Owner:crash(phase, by)
  self:load()
  self:start(phase, by)
end

--- Commits the answer of the open request at index (1) and hands it over.
function Owner:answer(output, state, index)
  local p = table.remove(self.open, index or 1)
  assert(p, "nothing is asked for")
  self.clock = self.clock + 60
  local text = output
  if p[1] == "sleep" then
    text = json.encode({ ["until"] = p[7] })
    self.clock = host.zone.instant("UTC", {
      year = math.tointeger(p[7]:sub(1, 4)), month = math.tointeger(tonumber(p[7]:sub(6, 7))),
      day = math.tointeger(tonumber(p[7]:sub(9, 10))), hour = math.tointeger(tonumber(p[7]:sub(12, 13))),
      minute = math.tointeger(tonumber(p[7]:sub(15, 16))) })
  elseif p[1] == "record" or p[1] == "result" then
    text, state = p[7], p[8] == "failed" and "failed" or "done"
  end
  local at = utc(self.clock)
  self.history[#self.history + 1] = { branch = p[2], ordinal = math.tointeger(tonumber(p[3])),
    name = p[4], hash = p[5], state = state or "done", at = at, output = text or "{}" }
  self:turn("done", p[2], p[3], at, state or "done", text or "{}")
end

--- Answers a call of the author's own code: nothing is recorded.
function Owner:called(output, state, index)
  local p = table.remove(self.open, index or 1)
  assert(p and p[1] == "call", "no call is asked for")
  self:turn("answer", p[2], state or "done", output)
end

function Owner:judge(event, index)
  local p = self.open[index or 1]
  self:turn("judge", "wait", p[2], p[3], json.encode(event))
  return self.verdict
end

return Owner
