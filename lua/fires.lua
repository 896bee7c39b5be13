-- Fires of schedules: which are due, which of those are made, and what becomes of the others.
--
-- A schedule is a row: what it is, and until when its fires are decided ("reached"). Deciding moves
-- that on, in the unit that makes the events and starts the instances; so nothing is made twice, and
-- nothing between is lost.
local judge = require "judge"
local rules = require "rules"
local schedule = require "schedule"
local time = require "time"

local json = host.json
local M = {}

local DAY = 86400
local KEPT = 100      -- of those due at once, the newest: each is made, or is a row with its reason
local COUNTED = 20000 -- of those before, which are one row; after so many only the last days count

-- What came due after `from`, up to `to`: the newest as {at, note}, the number of those before, and
-- the time of the first.
local function due_between(spec, from, to)
  local kept, before, first, steps = {}, 0, nil, 0
  local at, note = schedule.next(spec, from)
  while at and at <= to do
    first = first or at
    kept[#kept + 1] = { at = at, note = note }
    if #kept > KEPT then
      table.remove(kept, 1)
      before = before + 1
    end
    steps = steps + 1
    at, note = schedule.next(spec, steps == COUNTED and math.max(at, to - 2 * DAY) or at)
  end
  return kept, before, first
end

-- Of what is due, what is made: the newest, all, or the newest unless it is late.
local function wanted(spec, due, late)
  local newest
  for _, fire in ipairs(due) do
    fire.made = spec.catch_up == "all" and fire.note ~= "skipped"
    newest = fire.note ~= "skipped" and fire or newest
  end
  if newest and (spec.catch_up == "latest" or spec.catch_up == "none" and newest.at >= late) then
    newest.made = true
  end
end

-- The decision about a schedule of which something is due, as settle_schedules() gets it.
local function decide(row, due, before, first, late)
  local made, skips = {}, {}
  if not row.ended then
    wanted(row.spec, due, late)
  end
  if before > 0 then
    skips[1] = { planned = time.format(first), reason = row.ended and "schedule ended" or "missed",
      detail = { count = before, ["until"] = time.format(due[1].at) } }
  end
  for _, fire in ipairs(due) do
    if fire.made then
      made[#made + 1] = time.format(fire.at)
    else
      skips[#skips + 1] = { planned = time.format(fire.at), reason = row.ended and "schedule ended"
        or fire.note == "skipped" and "skipped by the clocks" or "missed" }
    end
  end
  return { id = row.id, workflow = row.workflow, spec = row.spec, seen = row.reached, made = made,
    skips = skips, ended = row.ended ~= nil,
    reached = due[1] and time.format(due[#due].at) or row.reached }
end

--- The first schedule of which something is to be decided now; else when that will be.
---@param rows table[] {id, workflow, definition, spec, reached, ended?}
---@param now string business time
---@param late integer|nil what came due more than so many seconds ago is late
---@return table|nil decision
---@return integer|nil next seconds since 1970
function M.look(rows, now, late)
  local here, next_at = time.parse(now), nil
  for _, row in ipairs(rows) do
    local w = judge.world.workflows[row.workflow]
    local to = row.ended and math.min(time.parse(row.ended), here) or here
    -- One that is in force in another version than we have is judged when we have it.
    if row.ended or w and w.id == row.definition then
      local from = time.parse(row.reached)
      local ok, due, before, first = pcall(due_between, row.spec, from, to)
      if not ok then -- such as a zone that this machine doesn't know
        host.log("error", "a schedule can't be read", "workflow", row.workflow, "error", due)
      elseif row.ended or #due > 0 then
        return decide(row, due, before, first, here - (late or 0))
      else
        local at = schedule.next(row.spec, math.max(from, to))
        next_at = at and math.min(at, next_at or at) or next_at
      end
    end
  end
  return nil, next_at
end

-- The event of one fire, and the start of its workflow if that wants it.
local function make(out, decision, planned, now)
  local name, spec = decision.workflow, decision.spec
  local w = judge.world.workflows[name]
  local event = { name = "schedule", id = judge.uuid(), time = planned, of = "schedule",
    schedule = { id = name, cron = spec.cron, zone = spec.zone } }
  out.events[#out.events + 1] = { id = event.id, type = "schedule", entity = "schedule",
    entity_id = name, at = rules.exact(planned), noticed = now, weak = false, keys = json.array {},
    payload = event }
  local ok, start = judge.ask(w, judge.shown(event))
  if not ok then
    out.errors[#out.errors + 1] = { workflow = name, entity = "schedule", entity_id = name,
      event = event.id, message = start }
  elseif start then
    out.starts[#out.starts + 1] = start
  end
end

--- Makes what was decided part of what is settled.
---@param why? string it can't be made: it is set aside for this reason
function M.take(out, decision, now, why)
  decision.made, decision.skips = json.array(decision.made), json.array(decision.skips)
  out.schedules[1] = decision
  if #decision.skips > 0 then
    host.log("warn", "fires were not made", "workflow", decision.workflow, "first",
      decision.skips[1].planned, "why", decision.skips[1].reason)
  end
  if why then
    out.errors[#out.errors + 1] = { workflow = decision.workflow, entity = "schedule",
      entity_id = decision.workflow, message = why }
    return
  end
  for _, planned in ipairs(decision.made) do
    make(out, decision, planned, now)
  end
end

return M
