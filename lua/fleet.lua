-- Main module of a fleet check: would live instances go on as another version?
--
--   load(bundle)      the candidate version
--   check(instance)   runs its recorded steps against the candidate, up to what it would do next
--   stops(asked)      what stops an instance of a version, as subscriptions
--   diff(input)       two versions' files, line by line
--
-- Nothing is done: what the body asks for is only looked at.
local body = require "body"
local difference = require "difference"
local entities = require "entities"

local json = host.json
local M = {}

local stop_when -- of the candidate, as data

--- @param bundle_json string what a body loads, and {stop_when}
function M.load(bundle_json)
  stop_when = json.decode(bundle_json).stop_when or {}
  body.load(bundle_json)
end

-- Runs the body until it asks for what isn't recorded: its posts, and its end if it came to it.
local function replay(instance)
  local posts, real_post, real_lent = {}, host.post, host.lent
  rawset(host, "post", function(...)
    posts[#posts + 1] = { ... }
  end)
  rawset(host, "lent", function()
    return instance.event
  end)
  local co = coroutine.create(body.run)
  local got = table.pack(coroutine.resume(co, instance.instance, instance.steps, "run",
    instance.created))
  rawset(host, "post", real_post)
  rawset(host, "lent", real_lent)
  if not got[1] then
    return posts, { state = "stuck", reason = { message = tostring(got[2]) } }
  elseif coroutine.status(co) == "dead" then
    return posts, json.decode(got[2])
  elseif got[2] == "ended" then
    return posts, json.decode(got[3])
  elseif got.n > 1 then
    posts[#posts + 1] = table.pack(table.unpack(got, 2))
  end
  return posts
end

local function what_next(posts, ended)
  if ended then
    return "end at once (" .. tostring(ended.state) .. ")"
  end
  for _, p in ipairs(posts) do
    if p[1] ~= "batch" then
      return "ask for " .. p[4]
    end
  end
  return "do nothing"
end

local KINDS = { sleep = "sleep", event = "wait" }

-- A wait that is under way must be one of the candidate's too, until the same time.
local function waits_agree(instance, posts, ended)
  for _, wait in ipairs(instance.waits) do
    local same
    for _, p in ipairs(posts) do
      if p[2] == wait.branch and tonumber(p[3]) == wait.ordinal and p[1] == KINDS[wait.kind] then
        same = p
      end
    end
    local step = wait.branch .. "/" .. wait.ordinal
    local now = (wait.kind == "sleep" and "it sleeps" or "it waits for an event")
      .. (wait.deadline and " until " .. wait.deadline or "")
    if not same then
      return step, now .. "; the new version would " .. what_next(posts, ended)
    end
    local deadline = same[1] == "sleep" and same[7] or same[8]
    if deadline ~= (wait.deadline or "") then
      return step, now .. "; the new version would until " .. (deadline == "" and "it comes" or deadline)
    end
  end
end

-- Stops as subscriptions of an instance.
local function subscriptions(list, instance, event)
  local stops = {}
  for _, s in ipairs(list) do
    local keys = s.same == "instance" and { "instance:" .. instance }
      or entities.keys(s.same, event[s.same])
    for _, key in ipairs(keys) do
      stops[#stops + 1] = { type = s.type, key = key, judged = s.judged }
    end
  end
  return json.array(stops)
end

-- The candidate's stops of this instance, or nil where they are as they were.
local function stops_of(instance, event)
  if json.encode(json.array(instance.stop_when or {})) == json.encode(json.array(stop_when)) then
    return nil
  end
  return subscriptions(stop_when, instance.instance, event)
end

local function judge(instance)
  if instance.held then
    return { verdict = "busy", message = "a worker is at it" }
  elseif instance.state == "stopping" then
    return { verdict = "decide", message = "it is being stopped" }
  elseif instance.open then
    return { verdict = "decide", step = instance.open,
      message = "nobody knows yet what became of a send or call of it; settle that first" }
  end
  local posts, ended = replay(instance)
  for _, p in ipairs(posts) do
    if p[1] == "diverged" then
      local reason = json.decode(p[2])
      local at = reason.recorded or reason.asked or {}
      return { verdict = "diverges", step = (at.branch or "") .. "/" .. (at.ordinal or 0),
        message = reason.message }
    end
  end
  if ended and ended.state == "stuck" then
    return { verdict = "diverges", message = ended.reason.message }
  end
  local step, why = waits_agree(instance, posts, ended)
  if why then
    return { verdict = "decide", step = step, message = why }
  end
  return { verdict = "safe" }
end

--- @param text string {instance, run, mode, workflow, created, state, held, open, event, steps, waits,
--- stop_when}; event and steps as JSON texts
---@return string {verdict = "safe"|"diverges"|"decide"|"busy", step, message, stops}
function M.check(text)
  local instance = json.decode(text)
  local result = judge(instance)
  result.stops = stops_of(instance, json.decode(instance.event))
  result.message = result.message and (result.message:gsub("workflows/([%w_/]+%.lua:)", "%1"))
  return json.encode(result)
end

--- @param text string {instance, stop_when, event}: of a version that is as it was; event as JSON text
---@return string the stops of the instance, an array
function M.stops(text)
  local asked = json.decode(text)
  return json.encode(subscriptions(asked.stop_when, asked.instance, json.decode(asked.event)))
end

--- @param text string {old = {path = source}, new = {path = source}, from, to}
---@return string
function M.diff(text)
  local input = json.decode(text)
  return difference.of_files(input.old, input.new, input.from, input.to)
end

return M
