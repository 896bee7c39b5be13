-- Schedules as they are declared, and what is decided of fires that are due.
_G.host = _G.host or require "host"
local candidate = require "candidate"
local fires = require "fires"
local judge = require "judge"
local time = require "time"

local COMPANY = 'return company { name = "Bright Air", zone = "America/New_York" }'
local EVENTS = 'return events { estimate_created = { of = "estimate", created = true } }'

local function load(fields)
  local set = candidate.load({ ["workflows/company.lua"] = COMPANY, ["workflows/events.lua"] = EVENTS,
    ["workflows/report.lua"] = "return workflow {\n  " .. fields .. ",\n  run = function(e) end }" }, {})
  return set.workflows.report and set.workflows.report.value, set.refused[1] and set.refused[1].message
end

local function refused(message, fields)
  local value, why = load(fields)
  assert.is_nil(value)
  assert.are.equal("report.lua:" .. message, why)
end

describe("a schedule", function()
  it("has defaults", function()
    assert.are.same({ cron = "30 7 * * 1-5", gap = "next", fold = "first", catch_up = "latest" },
      load('schedule = { cron = "30 7 * * 1-5" }').schedule)
    assert.are.same({ cron = "0 8 * * mon", zone = "America/Phoenix", gap = "skip", fold = "both",
      catch_up = "none" }, load('on = "estimate_created", schedule = { cron = "0 8 * * mon", '
        .. 'zone = "America/Phoenix", gap = "skip", fold = "both", catch_up = "none" }').schedule)
  end)

  it("is refused with line and reason", function()
    refused('2: schedule must be a table', 'schedule = "30 7 * * *"')
    refused('2: schedule has no cron; write cron = "30 7 * * 1-5"', "schedule = {}")
    refused('3: unknown field "crom" in schedule; did you mean "cron"?', 'schedule = {\n crom = "* * * * *" }')
    refused('2: cron: "60" is not a minute of a schedule (0 to 59)',
      'schedule = { cron = "60 * * * *" }')
    refused('2: cron: "0 0 7 * * *" has a field for seconds; write minute hour day month weekday',
      'schedule = { cron = "0 0 7 * * *" }')
    refused('2: cron: "0 0 31 2 *" never comes', 'schedule = { cron = "0 0 31 2 *" }')
    refused('3: schedule: there is no time zone "America/NewYork"; write one such as "America/New_York"',
      'schedule = { cron = "0 7 * * *",\n zone = "America/NewYork" }')
    refused('3: schedule: gap must be "next" or "skip"; did you mean "skip"?',
      'schedule = { cron = "0 7 * * *",\n gap = "skipp" }')
    refused('2: schedule: catch_up must be "latest" or "all" or "none"',
      'schedule = { cron = "0 7 * * *", catch_up = true }')
    refused('2: schedule: cron must be a string', 'schedule = { cron = 7 }')
  end)

  it("carries nobody: keys and stops can't be about them", function()
    refused("3: key: schedule carries no customer", 'schedule = { cron = "0 7 * * *" },\n key = "customer"')
    refused("3: stop_when: customer_replied is about a customer and a schedule carries none",
      'schedule = { cron = "0 7 * * *" },\n stop_when = { "customer_replied" }')
    assert.is_table(load 'schedule = { cron = "0 7 * * *" }, stop_when = { "signal_enough" }')
  end)

  it("can't be an event of the company's", function()
    local set = candidate.load({ ["workflows/company.lua"] = COMPANY,
      ["workflows/events.lua"] = 'return events { schedule = { of = "job", created = true } }' }, {})
    assert.are.equal("events.lua:1: schedule: is there already and can't be declared", set.refused[1].message)
  end)
end)

describe("of what is due", function()
  local function row(cron, reached, more)
    local r = { id = 1, workflow = "report", definition = 7, reached = reached,
      spec = { cron = cron, zone = "America/New_York", gap = "next", fold = "first", catch_up = "latest" } }
    for k, v in pairs(more or {}) do
      if r.spec[k] then
        r.spec[k] = v
      else
        r[k] = v
      end
    end
    return r
  end

  local function reasons(decision)
    local list = {}
    for _, skip in ipairs(decision.skips) do
      list[#list + 1] = skip.planned .. " " .. skip.reason
    end
    return list
  end

  before_each(function()
    judge.world.workflows = { report = { name = "report", id = 7 } }
  end)

  it("nothing is decided before its time", function()
    local decision, at = fires.look({ row("0 8 * * *", "2026-06-01T14:00:00.250000Z") },
      "2026-06-02T11:59:59Z", 60)
    assert.is_nil(decision)
    assert.are.equal("2026-06-02T12:00:00Z", time.format(at))
    decision = fires.look({ row("0 8 * * *", "2026-06-01T14:00:00.250000Z") }, "2026-06-02T12:00:00Z", 60)
    assert.are.same({ "2026-06-02T12:00:00Z" }, decision.made)
    assert.are.equal("2026-06-02T12:00:00Z", decision.reached)
    assert.are.equal("2026-06-01T14:00:00.250000Z", decision.seen)
  end)

  it("the newest counts, or all, or what is not late", function()
    local since, now = "2026-06-01T12:00:00.000000Z", "2026-06-03T12:00:30Z"
    local latest = fires.look({ row("0 8 * * *", since) }, now, 60)
    assert.are.same({ "2026-06-03T12:00:00Z" }, latest.made)
    assert.are.same({ "2026-06-02T12:00:00Z missed" }, reasons(latest))
    local all = fires.look({ row("0 8 * * *", since, { catch_up = "all" }) }, now, 60)
    assert.are.same({ "2026-06-02T12:00:00Z", "2026-06-03T12:00:00Z" }, all.made)
    local none = fires.look({ row("0 8 * * *", since, { catch_up = "none" }) }, now, 60)
    assert.are.same({ "2026-06-03T12:00:00Z" }, none.made)
    none = fires.look({ row("0 8 * * *", since, { catch_up = "none" }) }, now, 29)
    assert.are.same({}, none.made)
    assert.are.equal(2, #none.skips)
    assert.are.equal("2026-06-03T12:00:00Z", none.reached)
  end)

  it("what the clocks skip is a row, and never the newest", function()
    local decision = fires.look({ row("30 2 * * *", "2026-03-07T12:00:00.000000Z", { gap = "skip" }) },
      "2026-03-08T20:00:00Z", 60)
    assert.are.same({}, decision.made)
    assert.are.same({ "2026-03-08T07:30:00Z skipped by the clocks" }, reasons(decision))
    decision = fires.look({ row("30 2 * * *", "2026-03-07T07:00:00.000000Z", { gap = "skip" }) },
      "2026-03-08T20:00:00Z", 60)
    assert.are.same({ "2026-03-07T07:30:00Z" }, decision.made)
  end)

  it("an ended schedule makes nothing, and a version that isn't here is left alone", function()
    local ended = row("0 8 * * *", "2026-06-01T11:00:00.000000Z", { ended = "2026-06-02T13:00:00.000000Z" })
    local decision = fires.look({ ended }, "2026-06-09T13:00:00Z", 60)
    assert.is_true(decision.ended)
    assert.are.same({ "2026-06-01T12:00:00Z schedule ended", "2026-06-02T12:00:00Z schedule ended" },
      reasons(decision))
    local other, at = fires.look({ row("0 8 * * *", "2026-06-01T11:00:00.000000Z", { definition = 8 }) },
      "2026-06-09T13:00:00Z", 60)
    assert.is_nil(other)
    assert.is_nil(at)
  end)

  it("what was decided stays so when a zone's clock turns out to be another", function()
    -- 8:00 in New York was made at 12:00; by other data it would have been at 14:00 and 15:00
    for _, zone in ipairs { "America/Denver", "America/Phoenix" } do
      local decision, at = fires.look({ row("0 8 * * *", "2026-06-02T15:00:00.000000Z", { zone = zone }) },
        "2026-06-02T15:30:00Z", 60)
      assert.is_nil(decision)
      assert.are.equal("2026-06-03", time.format(at):sub(1, 10))
    end
  end)

  it("a schedule that can't be read holds up no other", function()
    local strange = row("0 8 * * *", "2026-06-01T11:00:00.000000Z")
    strange.spec.zone = "Mars/Olympus"
    local log = host.log
    host.log = function() end
    local decision = fires.look({ strange, row("0 8 * * *", "2026-06-01T11:00:00.000000Z") },
      "2026-06-01T12:00:00Z", 60)
    host.log = log
    assert.are.same({ "2026-06-01T12:00:00Z" }, decision.made)
  end)
end)
