-- Main module of the detect VM: judges changes and arrivals by the company's rules and workflows.
--
--   load(files)      -> what would be put in force, and what is refused and why
--   loading()        -> the file that was being loaded when the VM was stopped
--   activate(ids)       the numbers of what is in force now
--   batch(input)     -> which changes are settled or postponed, and what settle() gets
--   blame(why)          the evaluation that was killed is left out of the next batch
--   daily(now, days) -> the next daily rule that is due, with its query
--   schedule(now, rows, late) -> the fires that are due, or when the next one is
--
-- Rules, `when` and `key` are evaluated one at a time; what raises becomes a row and holds up
-- nothing else. An event is made once and looked at by all through a read-only view.
local candidate = require "candidate"
local fires = require "fires"
local intake = require "intake"
local judge = require "judge"
local rules = require "rules"
local time = require "time"
local workflow = require "workflow"

local json = host.json
local M = {}

local world = judge.world
world.rules = rules.with_builtin({})
local set -- what was loaded last

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do
    keys[#keys + 1] = key
  end
  table.sort(keys)
  return keys
end

-- Loading ----------------------------------------------------------------------------------------

local function events()
  local all = {}
  for type, rule in pairs(set.rules) do
    all[type] = { of = rule.subject, manual = rule.source == "manual" or nil, data = rule.data }
  end
  return all
end

local function declared(name, file)
  if candidate.SHARED[name] then
    return { kind = name, events = name == "events" and events() or nil }
  end
  local data = workflow.data(file.value)
  data.kind = "workflow"
  data.calls = file.value.calls
  if data.schedule then
    data.schedule.zone = data.schedule.zone or set.company.zone or "UTC"
  end
  data.company = { zone = set.company.zone, hours = set.company.hours }
  data.actions = {}
  for namespace, names in pairs(set.actions) do
    data.actions[namespace] = json.array(names)
  end
  data.events = events()
  return data
end

-- Names without a file here: those this tree had (gone), and those of others (strangers).
local function missing(input)
  local gone, strangers = {}, {}
  for _, name in ipairs(sorted_keys(input.offered or {})) do
    if not candidate.SHARED[name] and not input.sources["workflows/" .. name .. ".lua"] then
      gone[#gone + 1] = name
    end
  end
  for _, name in ipairs(sorted_keys(input.active)) do
    if not candidate.SHARED[name] and not input.sources["workflows/" .. name .. ".lua"] then
      strangers[#strangers + 1] = name
    end
  end
  return json.array(gone), json.array(strangers)
end

--- @param text string {sources = {path = source}, active = {name = {id, sha256, trusted, files}},
--- offered = {name = hash}, used, aside, trusted, starting, bundle}
---@return string {put = {{name, sha256, files, declaration, api, trusted}}, have = {name = hash}, gone,
--- strangers, refused, bundle}
function M.load(text)
  local input = json.decode(text)
  set = candidate.load(input.sources, input.active, input)
  local put = {}
  local all = { events = set.events_file, company = set.company_file, actions = set.bundle }
  for name, file in pairs(set.workflows) do
    all[name] = file
  end
  for _, name in ipairs(sorted_keys(all)) do
    local file = all[name]
    if file.put then
      put[#put + 1] = { name = name, sha256 = file.sha256, files = file.files, api = workflow.api,
        trusted = set.trusted, declaration = declared(name, file) }
    end
  end
  local gone, strangers = missing(input)
  return json.encode({ put = json.array(put), have = set.have, gone = gone, strangers = strangers,
    refused = json.array(set.refused), bundle = set.bundle and set.bundle.files })
end

--- What was being loaded when the VM was stopped: "file workflows/x.lua".
function M.loading()
  return candidate.loading
end

local function add(lists, key, item)
  lists[key] = lists[key] or {}
  table.insert(lists[key], item)
end

local function listen(w)
  for _, type in ipairs(w.on) do
    add(world.listeners, type, w)
    world.historic[type] = world.historic[type] or w.history or nil
  end
  for _, s in ipairs(w.history and w.stops or {}) do
    world.historic[s.type] = true
  end
end

--- @param text string {name = id}
function M.activate(text)
  local ids = json.decode(text)
  world.rules, world.company, world.workflows = set.rules, set.company, {}
  world.rules_of, world.hooks, world.listeners, world.historic = {}, {}, {}, {}
  for _, name in ipairs(sorted_keys(set.rules)) do
    local rule = set.rules[name]
    add(world.rules_of, rule.of, rule)
    if rule.webhook then
      add(world.hooks, rule.webhook, rule)
    end
  end
  for _, name in ipairs(sorted_keys(set.workflows)) do
    local w = set.workflows[name].value
    w.name, w.id = name, ids[name]
    if w.id then
      world.workflows[name] = w
      listen(w)
    end
  end
end

local SETTLED = { "events", "starts", "errors", "arrivals", "deleted", "merged", "daily", "resolved",
  "failed_again", "schedules" }

-- The change or arrival that can't be settled is consumed, and shown with the reason.
local function set_aside(out, input, why)
  for _, change in ipairs(input.changes or {}) do
    out.consume[#out.consume + 1] = change.seq
    out.errors[#out.errors + 1] = { entity = change.entity, entity_id = change.entity_id,
      change = change, message = why }
  end
  for _, arrival in ipairs(input.arrivals or {}) do
    out.arrivals[#out.arrivals + 1] = arrival.id
    out.errors[#out.errors + 1] = { rule = arrival.type, entity = arrival.entity,
      entity_id = arrival.entity_id, change = { arrival = arrival }, message = why }
  end
  for _, retry in ipairs(input.retries or {}) do
    out.failed_again[#out.failed_again + 1] = { id = retry.id, message = why }
  end
  if input.daily then
    out.daily[1] = { rule = input.daily.rule, day = input.daily.day }
    out.errors[#out.errors + 1] = { rule = input.daily.rule, message = why }
  end
  if input.fires then
    fires.take(out, input.fires, input.now, why)
  end
end

local function take(out, input)
  for _, retry in ipairs(input.retries or {}) do
    intake.retry(out, retry, input.now)
  end
  local waiting = {}
  for _, change in ipairs(input.changes or {}) do
    intake.change(out, change, input, waiting)
  end
  for _, arrival in ipairs(input.arrivals or {}) do
    intake.arrival(out, arrival, input.now)
  end
  if input.daily then
    intake.daily(out, input.daily, input.now)
  end
  if input.fires then
    fires.take(out, input.fires, input.now)
  end
end

M.blame = judge.blame

--- @param text string {now, parent_wait_ms, changes, arrivals, retries, daily?}
---@param again string|nil the same batch, after blame()
---@param aside string|nil why this one can't be settled
---@param deadly string|nil what killed who asked it; nil: nothing is to be watched
---@return string three lines: consumed changes, postponed ones (both bigint[]), what settle() gets
function M.batch(text, again, aside, deadly)
  local input = json.decode(text)
  if not again then
    judge.forget(deadly and json.decode(deadly))
  end
  local out = { consume = {}, postpone = {} }
  for _, name in ipairs(SETTLED) do
    out[name] = {}
  end
  if aside then
    set_aside(out, input, aside)
  else
    take(out, input)
  end
  local settled = { event_count = #out.events }
  for _, name in ipairs(SETTLED) do
    settled[name] = json.array(out[name])
  end
  return "{" .. table.concat(out.consume, ",") .. "}\n{" .. table.concat(out.postpone, ",") .. "}\n"
    .. json.encode(settled)
end

--- Whether a workflow listens to history: then changes older than the first import count too.
---@return string|nil
function M.history()
  return next(world.historic) and "yes" or nil
end

--- The first daily rule that is due and wasn't asked on its day, or nil.
---@param now string business time
---@param days_text string {rule = "2026-03-07"}: the last day of each
---@return string|nil {rule, of, day, sql, history}; $1 of the query is the day
function M.daily(now, days_text)
  local days = json.decode(days_text)
  for _, name in ipairs(sorted_keys(world.rules)) do
    local rule = world.rules[name]
    if rule.daily then
      local here = time.date(now, world.company.zone or "UTC")
      local clock = ("%02d:%02d"):format(here.hour, here.minute)
      if clock >= rule.daily and (days[name] or "") < here.ymd then
        local where = rule.where:gsub(":today%f[^%w_]", "$1::date")
        return json.encode({ rule = name, of = rule.of, day = here.ymd,
          history = world.historic[name] or false,
          sql = "select coalesce(json_agg(json_build_array(id::text, (" .. rule.once
            .. ")::date)), '[]') from " .. rules.views[rule.of] .. " where $1::date is not null and ("
            .. where .. ")" })
      end
    end
  end
end

--- What is to be decided about schedules now, else when to look again.
---@param now string business time
---@param rows_text string the rows of all schedules
---@param late string seconds of business time after which a fire is late
---@return string {fires?, next?}
function M.schedule(now, rows_text, late)
  local decision, next_at = fires.look(json.decode(rows_text), now, math.tointeger(tonumber(late)))
  return json.encode { fires = decision, next = next_at }
end

return M
