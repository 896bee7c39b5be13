-- Flow control: what refuses a declaration, what it is as data, what a start of it asks for.
_G.host = _G.host or require "host"
local candidate = require "candidate"
local detect = require "detect"
local workflow = require "workflow"

local json = host.json

local EVENTS = [[
return events {
  estimate_created = { of = "estimate", created = true },
  technician_left = { of = "technician", changed = { "active" } },
}
]]
local COMPANY = 'return company { name = "Bright Air", zone = "America/New_York" }'

local function sources(fields, on)
  return { ["workflows/events.lua"] = EVENTS, ["workflows/company.lua"] = COMPANY,
    ["workflows/followup.lua"] = 'return workflow {\n  on = "' .. (on or "estimate_created") .. '",\n  '
      .. fields .. ",\n  run = function(e) end }" }
end

local function refusal(fields, on)
  local set = candidate.load(sources(fields, on), {})
  return set.refused[1] and set.refused[1].message
end

local function data(fields)
  return workflow.data(candidate.load(sources(fields), {}).workflows.followup.value)
end

-- The start of an estimate created, or what was raised.
local function start(fields, customer)
  local loaded = json.decode(detect.load(json.encode { sources = sources(fields), active = {} }))
  assert.are.same({}, loaded.refused)
  local ids = {}
  for i, p in ipairs(loaded.put) do
    ids[p.name] = i
  end
  detect.activate(json.encode(ids))
  local _, _, settled = detect.batch(json.encode { now = "2026-06-03T12:00:00Z", parent_wait_ms = 1000,
    changes = { { seq = 1, entity = "estimate", entity_id = "7", waiting = false, age_ms = 0,
      new = { id = 7, status = "Open", total = 1070, created_on = "2026-06-02T10:00:00Z" },
      snapshot = { customer = customer or { id = 9, phone = "+15550100", zone = "America/Denver" },
        job = { id = 3 } } } } }):match "^(.-)\n(.-)\n(.*)$"
  local out = json.decode(settled)
  return out.starts[1], out.errors[1] and out.errors[1].message
end

describe("flow control is refused", function()
  it("for a part that isn't there, or that is missing", function()
    assert.are.equal('followup.lua:3: unknown field "limt" in rate; did you mean "limit"?',
      refusal 'rate = { limt = 3, per = "1h" }')
    assert.are.equal('followup.lua:4: unknown field "holds" in concurrency; did you mean "hold"?',
      refusal 'concurrency = { limit = 3,\n    holds = true }')
    assert.are.equal('followup.lua:3: unknown field "quite" in debounce; did you mean "quiet"?',
      refusal 'debounce = { quite = "2m" }')
    assert.are.equal('followup.lua:3: rate needs per: rate = { limit = 30, per = "1h" }',
      refusal "rate = { limit = 3 }")
    assert.are.equal("followup.lua:3: concurrency needs limit: concurrency = { limit = 2 }",
      refusal "concurrency = { hold = true }")
    assert.are.equal('followup.lua:3: debounce needs quiet: debounce = { quiet = "2m" }',
      refusal "debounce = {}")
    assert.are.equal('followup.lua:3: batch needs within: batch = { within = "1h", max = 20 }',
      refusal "batch = { max = 3 }")
    assert.are.equal('followup.lua:3: rate must be a table: rate = { limit = 30, per = "1h" }',
      refusal "rate = 3")
    assert.are.equal('followup.lua:3: unknown field "concurency" in workflow; did you mean "concurrency"?',
      refusal "concurency = { limit = 1 }")
  end)

  it("for a value of another type or range", function()
    local count = " must be a whole number, 1 or more"
    assert.are.equal("followup.lua:3: rate.limit" .. count, refusal 'rate = { limit = "3", per = "1h" }')
    assert.are.equal("followup.lua:3: rate.limit" .. count, refusal 'rate = { limit = 0, per = "1h" }')
    assert.are.equal("followup.lua:3: concurrency.limit" .. count, refusal "concurrency = { limit = 1.5 }")
    assert.are.equal("followup.lua:3: batch.max is at most 500", refusal 'batch = { within = "1h", max = 501 }')
    assert.are.equal('followup.lua:3: rate.per: "1 hour" is not a duration; write "1h" (s m h d w)',
      refusal 'rate = { limit = 1, per = "1 hour" }')
    assert.are.equal('followup.lua:3: debounce.quiet must be longer than "0m"', refusal 'debounce = { quiet = "0m" }')
    assert.are.equal('followup.lua:3: rate.over must be "wait" or "skip"; did you mean "skip"?',
      refusal 'rate = { limit = 1, per = "1h", over = "skp" }')
    assert.are.equal("followup.lua:3: concurrency.hold must be true or false",
      refusal "concurrency = { limit = 1, hold = 1 }")
    assert.are.equal('followup.lua:3: family must be a name in lower case: family = "estimate"',
      refusal 'family = "Estimates of ours"')
    assert.are.equal("followup.lua:3: debounce.max is shorter than debounce.quiet",
      refusal 'debounce = { quiet = "2m", max = "1m" }')
    assert.matches("^followup.lua:3: debounce and batch can't both be",
      refusal 'debounce = { quiet = "2m" }, batch = { within = "1h" }')
  end)

  it("for a key that its events don't carry", function()
    assert.are.equal('followup.lua:3: rate.key must be an entity or a function of e; did you mean "customer"?',
      refusal 'rate = { limit = 1, per = "1h", key = "custmer" }')
    assert.are.equal("followup.lua:3: debounce.key: estimate_created carries no lead",
      refusal 'debounce = { quiet = "2m", key = "lead" }')
    assert.are.equal("followup.lua:3: concurrency.key must be an entity or a function of e",
      refusal "concurrency = { limit = 1, key = 3 }")
    assert.are.equal("followup.lua:3: family: technician_left carries no customer",
      refusal('family = "staff"', "technician_left"))
  end)
end)

describe("flow control", function()
  it("is accepted as authors write it", function()
    for _, fields in ipairs { 'family = "estimate", priority = "high"',
      'rate = { limit = 1, per = "90d", key = "customer", over = "skip" }',
      'class = "transactional", rate = { limit = 25, per = "1d", key = function(e) return e.job.id end }',
      'class = "transactional", debounce = { quiet = "2m" }',
      'if_running = "replace", debounce = { quiet = "1m" }, stop_when = { "estimate_created" }' } do
      assert.is_nil(refusal(fields), fields)
    end
    local child = sources('family = "reactivation", rate = { limit = 30, per = "1h" }')
    child["workflows/followup.lua"] = child["workflows/followup.lua"]:gsub('on = "[^"]+",', "")
    assert.are.same({}, candidate.load(child, {}).refused)
  end)

  it("is data for the database and for people", function()
    local d = data [[family = "estimate", rate = { limit = 3, per = "1h", key = function() end },
      concurrency = { limit = 2, hold = true }, batch = { within = "1h", max = 20, key = "customer" }]]
    assert.are.equal("estimate", d.family)
    assert.are.same({ limit = 3, per = "1h", key = "function" }, d.rate)
    assert.are.same({ limit = 2, hold = true }, d.concurrency)
    assert.are.same({ within = "1h", max = 20, key = "customer" }, d.batch)
  end)

  it("keeps what came while its key was at work only where that is said, or where it gathers", function()
    assert.are.equal("skip", data('family = "x"').if_running)
    assert.are.equal("queue", data('debounce = { quiet = "2m" }').if_running)
    assert.are.equal("queue", data('batch = { within = "2m" }').if_running)
    assert.are.equal("replace", data('debounce = { quiet = "2m" }, if_running = "replace"').if_running)
  end)

  it("asks for nothing where nothing is declared", function()
    assert.is_nil(start('key = "customer"').flow)
  end)

  it("counts the whole workflow, and gathers by the workflow's key, unless it names another", function()
    local asked = start([[key = "customer", rate = { limit = 3, per = "1d" }, concurrency = { limit = 2 },
      debounce = { quiet = "2m", max = "1h" }]]).flow
    assert.are.equal("", asked.rate.key)
    assert.are.same({ days = 1, seconds = 0, zone = "America/New_York" }, asked.rate.per)
    assert.are.equal("", asked.concurrency.key)
    assert.are.equal("customer:9", asked.debounce.key)
    assert.are.same({ days = 0, seconds = 120, zone = "America/Denver" }, asked.debounce.quiet)
    assert.are.same({ days = 0, seconds = 3600, zone = "America/Denver" }, asked.debounce.latest)
    asked = start([[rate = { limit = 3, per = "1h", over = "skip", key = "job" },
      batch = { within = "1h", key = function(e) return e.estimate.total end }]]).flow
    assert.are.equal("job:3", asked.rate.key)
    assert.are.equal("skip", asked.rate.over)
    assert.are.equal("1070", asked.batch.key)
    assert.are.equal(500, asked.batch.max)
  end)

  it("doesn't count where the key's function returns nil", function()
    assert.is_nil(start("concurrency = { limit = 2, key = function() end }").flow)
    assert.is_nil(start('key = function() end, debounce = { quiet = "2m" }').flow)
  end)

  it("knows a family's customer by id, else by address", function()
    assert.are.same({ name = "lead", customer = "customer:9" }, start('family = "lead"').flow.family)
    assert.are.same({ name = "lead", customer = "phone:+15550100" },
      start('family = "lead"', { phone = "+15550100", email = "A@b.c" }).flow.family)
    assert.is_nil(start('family = "lead"', { name = "Nobody" }).flow)
  end)

  it("starts nothing when a key raises, and says where", function()
    local started, message = start("rate = { limit = 1, per = '1h', key = function(e) return e.lead.id end }")
    assert.is_nil(started)
    assert.matches("^followup.lua:3: attempt to index a nil value", message)
    started, message = start("rate = { limit = 1, per = '1h', key = function(e) return e.customer end }")
    assert.is_nil(started)
    assert.are.equal("followup: rate.key must return a text or a number", message)
    started, message = start("concurrency = { limit = 1, key = function() return ('x'):rep(501) end }")
    assert.is_nil(started)
    assert.are.equal("followup: concurrency.key returned more than 500 bytes", message)
    started, message = start("concurrency = { limit = 1, key = function(e) e.x = 1 end }")
    assert.is_nil(started)
    assert.matches("followup.lua:3: 'x' can't be assigned: an event is read%-only", message)
  end)
end)
