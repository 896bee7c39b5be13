-- ghl.*: contacts and opportunities of GoHighLevel, by the ServiceTitan records they are about.
--
-- A sync makes what is missing and brings names and values up to date; it doesn't move what a move
-- has placed. A move makes the opportunity only when it says into which pipeline; without one it
-- moves an open opportunity within its own.
local context = require "context"
local copy = require "ghl_copy"
local ghl = require "ghl"
local kind_of = require "record_kind"
local pipelines = require "pipelines"

local JOBS_AT_ONCE = 200 -- of one step; the next one goes on
local OFF = { ["0"] = true, off = true, ["false"] = true, no = true }

local function switched_off(ctx, name)
  return OFF[(ctx.settings[name] or ""):lower()] and { skipped = name .. " is off" } or nil
end

-- What the mapping sees: the record and what is around it as ServiceTitan's tables have them now, so
-- that what is made late isn't made old. One they don't have (yet) is taken from the event.
local function around(ctx, kind, record)
  local newest = ctx:query("servicetitan", "select snapshot_of($1, $2)", kind, record.id)
  local x = {}
  for name, one in pairs(newest or ctx.event) do
    x[name] = one
  end
  x[kind] = newest and newest[kind] or record
  return x
end

-- Under which records the opportunity of this one is known.
local function keys_of(kind, record)
  local keys = { { kind, record.id } }
  if kind == "job" and record.created_from_estimate_id then
    table.insert(keys, 1, { "estimate", record.created_from_estimate_id })
  end
  return keys
end

local function number(value)
  return type(value) == "number" and value or nil
end

-- GHL's body of an opportunity: the mapping's, with names turned into ids.
local function body_of(ctx, kind, x, wanted)
  local said = ctx:map("opportunity", x, kind)
  local unit = x.business_unit
  local pipeline, stage = pipelines.place(ctx,
    wanted.pipeline or unit and unit.ghl_pipeline_id or said.pipeline, wanted.stage or said.stage)
  said.pipeline, said.stage = nil, nil
  said.pipelineId, said.pipelineStageId = pipeline.id, stage and stage.id or nil
  said.status = wanted.status or said.status or "open"
  said.monetaryValue = number(wanted.value) or said.monetaryValue
  return said, pipeline, stage
end

local function row_of(kind, x, body, pipeline, stage)
  local record = x[kind]
  return { of = kind, of_id = record.id, customer_id = x.customer and x.customer.id,
    estimate_id = kind == "estimate" and record.id or nil,
    job_id = kind == "job" and record.id or record.job_id, name = body.name,
    pipeline_id = pipeline.id, pipeline = pipeline.name, stage_id = stage and stage.id,
    stage = stage and stage.name, status = body.status, value = body.monetaryValue }
end

local function was(row)
  return { pipeline = row.pipeline, stage = row.stage }
end

-- Makes the opportunity of a record, or hands over the row that is there by now. It is claimed
-- before anything is read: whoever comes meanwhile waits, and changes what was made.
local function make(ctx, kind, record, wanted, moved)
  local claim = ghl.claim(ctx, kind, record.id)
  if claim.verdict == "have" then
    return nil, claim.row
  end
  local x = around(ctx, kind, record)
  local contact, why = ghl.contact(ctx, x)
  if not contact then
    ghl.release(ctx, kind, record.id)
    return { skipped = why }
  end
  local body, pipeline, stage = body_of(ctx, kind, x, wanted)
  body.contactId = contact.id
  local id, existed = ghl.create(ctx, body, record.id, claim.taken_over)
  local row = row_of(kind, x, body, pipeline, stage)
  row.ghl_id, row.contact_id, row.moved, row.conflict = id, contact.id, moved, existed
  row.moved_at = moved and ctx.now or nil
  ghl.store(ctx, row)
  return { id = id, conflict = existed or contact.conflict }
end

local function refresh(ctx, kind, record, row, wanted)
  row = ghl.lock(ctx, row)
  local x = around(ctx, kind, record)
  local body, pipeline, stage = body_of(ctx, kind, x, wanted)
  if row.moved then
    body.pipelineId, body.pipelineStageId, body.status = nil, nil, nil
  end
  local there = ghl.update(ctx, row.ghl_id, body)
  local fresh = { of = row.of, of_id = row.of_id, name = body.name, value = body.monetaryValue }
  if not row.moved then
    fresh.pipeline_id, fresh.pipeline, fresh.status = pipeline.id, pipeline.name, body.status
    fresh.stage_id, fresh.stage = stage and stage.id, stage and stage.name
  end
  ghl.store(ctx, fresh)
  return { id = row.ghl_id, was = was(row), conflict = row.conflict,
    skipped = not there and "GHL no longer has it" or nil }
end

local function same(a, b)
  return a ~= nil and b ~= nil and a:lower() == b:lower()
end

-- What of the wish is still to be done, or nil and why nothing is. A step that comes late, after one
-- that was due later has moved it, no longer moves it; nor does one whose place is behind the one
-- where it stands, while one whose place is after that always does.
local function still_wanted(ctx, row, wanted)
  if not wanted.pipeline and not wanted.status and row.status ~= "open" then
    return nil, "it is " .. tostring(row.status)
  elseif same(row.pipeline, wanted.behind) then
    return { status = wanted.status, value = wanted.value }
  elseif wanted.after and same(row.pipeline, wanted.after.pipeline) and same(row.stage, wanted.after.stage) then
    return wanted
  elseif row.moved_at and ctx.now and row.moved_at:sub(1, 19) > ctx.now:sub(1, 19) then
    if not wanted.status then
      return nil, "it was moved by something newer"
    end
    return { status = wanted.status, value = wanted.value }
  end
  return wanted
end

-- Changes where a known opportunity stands.
local function shift(ctx, kind, record, row, asked)
  row = ghl.lock(ctx, row)
  local result = { id = row.ghl_id, was = was(row), conflict = row.conflict }
  local wanted, why = still_wanted(ctx, row, asked)
  local pipeline, stage
  if wanted and (wanted.pipeline or wanted.stage) then
    pipeline, stage = pipelines.place(ctx, wanted.pipeline or row.pipeline_id, wanted.stage, not wanted.pipeline)
    if wanted.stage and not stage then
      wanted, why = nil, 'its pipeline has no stage "' .. wanted.stage .. '"'
    end
  end
  if not wanted then
    ghl.unlock(ctx, row)
    result.skipped = why
    return result
  end
  local body = { status = wanted.status, monetaryValue = number(wanted.value),
    pipelineId = pipeline and pipeline.id, pipelineStageId = stage and stage.id or nil }
  if not ghl.update(ctx, row.ghl_id, body) then
    result.skipped = "GHL no longer has it"
  end
  ghl.store(ctx, { of = row.of, of_id = row.of_id, moved = true, status = wanted.status,
    moved_at = pipeline and ctx.now or nil, value = body.monetaryValue,
    job_id = kind == "job" and record.id or nil, pipeline_id = pipeline and pipeline.id,
    pipeline = pipeline and pipeline.name, stage_id = stage and stage.id or nil,
    stage = stage and stage.name or nil })
  return result
end

local function move(ctx, record, wanted, known)
  local off = switched_off(ctx, "GHL_SYNC_ENABLED")
  if off then
    return off
  end
  local kind = known or kind_of(ctx, record)
  local row = ghl.find(ctx, keys_of(kind, record))
  if not row then
    if not wanted.pipeline then
      return { skipped = "no opportunity" }
    end
    local made
    made, row = make(ctx, kind, record, wanted, true)
    if made then
      return made
    end
  end
  return shift(ctx, kind, record, row, wanted)
end

local function sync_estimate(ctx, a)
  local off = switched_off(ctx, "GHL_SYNC_ENABLED") or switched_off(ctx, "GHL_AUTO_SYNC_ESTIMATES")
  if off then
    return off
  end
  local wanted = { stage = a.stage }
  local made, row = make(ctx, "estimate", a.estimate, wanted, false)
  return made or refresh(ctx, "estimate", a.estimate, row, wanted)
end

local function sync_customer(ctx, a)
  local off = switched_off(ctx, "GHL_SYNC_ENABLED")
  if off then
    return off
  end
  local x = around(ctx, "customer", a.customer)
  local contact, why = ghl.contact(ctx, x)
  if not contact then
    return { skipped = why }
  end
  if a.pipeline and not ghl.find(ctx, { { "customer", a.customer.id } }) then
    make(ctx, "customer", a.customer, { pipeline = a.pipeline, stage = a.stage }, false)
  end
  return contact
end

local function add_tag(ctx, a)
  local off = switched_off(ctx, "GHL_SYNC_ENABLED")
  if off then
    return off
  end
  local contact, why = ghl.contact(ctx, around(ctx, "customer", a.customer))
  if not contact then
    return { skipped = why }
  end
  ctx:must_call { as = "tag", effect = "idempotent", method = "POST",
    path = "/contacts/" .. contact.id .. "/tags", body = { tags = host.json.array { a.tag } } }
  return contact
end

-- A place that the company names in workflows/ghl/pipelines.lua.
local function named_place(ctx, name)
  local places = ctx.state.mappings.pipelines
  if not (places and places[name]) then
    ctx:hold("mapping_missing", "workflows/ghl/pipelines.lua says nothing about '" .. name .. "'")
  end
  return places[name]
end

-- A sale comes before its installation, whichever of them is noticed or moved first.
local function move_to_install(ctx, a)
  local install, sold = named_place(ctx, "install"), ctx.state.mappings.pipelines.sold
  return move(ctx, a.job, { pipeline = install.pipeline, stage = install.stage, status = install.status,
    after = sold }, "job")
end

local function move_to_sold(ctx, a)
  local sold, install = named_place(ctx, "sold"), ctx.state.mappings.pipelines.install
  return move(ctx, a.estimate, { pipeline = sold.pipeline, stage = sold.stage, status = sold.status,
    behind = install and install.pipeline ~= sold.pipeline and install.pipeline or nil })
end

local function copied(what)
  return function(ctx)
    return switched_off(ctx, "GHL_SYNC_ENABLED") or copy[what](ctx)
  end
end

-- Install jobs under way whose opportunity isn't where installs are: what was missed while nobody
-- looked. One that GHL refuses doesn't keep the others from moving.
local function move_install_jobs(ctx)
  local place = named_place(ctx, "install")
  local jobs = ctx:query("servicetitan", "select open_jobs_of_class($1)", place.class or "Install")
  jobs = ctx:query("engine", "select ghl_jobs_outside($1::json, $2, $3::boolean, $4::int)",
    host.json.array(jobs), place.pipeline, ctx.shadow, JOBS_AT_ONCE)
  local done = { moved = 0, skipped = 0, failed = 0 }
  for _, job in ipairs(jobs) do
    ctx.part = "job " .. job.id .. " "
    local record = { id = job.id, created_from_estimate_id = job.estimate }
    local ok, result = pcall(move_to_install, ctx, { job = record })
    if not ok and not context.failed(result) then
      error(result, 0)
    end
    local what = not ok and "failed" or result.skipped and "skipped" or "moved"
    done[what] = done[what] + 1
    done.message = done.message or not ok and result.message or nil
  end
  return done
end

local function process_install_job_moves(ctx)
  return switched_off(ctx, "GHL_SYNC_ENABLED") or move_install_jobs(ctx)
end

return {
  ["ghl.sync_contacts_from_ghl"] = { args = {}, run = copied "contacts" },
  ["ghl.sync_opportunities_from_ghl"] = { args = {}, run = copied "opportunities" },
  ["ghl.process_install_job_moves"] = { args = {}, run = process_install_job_moves },
  ["ghl.sync_customer_to_ghl"] = { run = sync_customer,
    args = { customer = "customer", pipeline = "string?", stage = "string?" } },
  ["ghl.sync_estimate_to_ghl"] = { run = sync_estimate,
    args = { estimate = "estimate", stage = "string?" } },
  ["ghl.move_opportunity"] = {
    args = { of = "record", pipeline = "string?", stage = "string?", status = "string?",
      value = "number?", reason = "string?" },
    run = function(ctx, a)
      return move(ctx, a.of, a)
    end },
  ["ghl.move_opportunity_to_job_sold"] = { args = { estimate = "estimate" }, run = move_to_sold },
  ["ghl.move_opportunity_to_install_pipeline"] = { args = { job = "job" }, run = move_to_install },
  ["ghl.add_tag"] = { args = { customer = "customer", tag = "string" }, run = add_tag },
}
