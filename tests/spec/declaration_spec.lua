-- What refuses a company file, word for word, and what a good one becomes.
_G.host = _G.host or require "host"
local candidate = require "candidate"
local workflow = require "workflow"

local function read(path)
  local file = assert(io.open(os.getenv "MOONWRIGHT_SOURCE" .. "/" .. path))
  local text = file:read "a"
  file:close()
  return text
end

local EVENTS = [[
return events {
  estimate_created = { of = "estimate", created = true },
  estimate_approved = { of = "estimate", becomes = { status = "Sold" }, at = "sold_on" },
  estimate_repriced = { of = "estimate", changed = { "subtotal" } },
  invoice_paid = { of = "invoice", becomes = function(row) return row.balance <= 0 end },
  invoice_overdue = { of = "invoice", daily = "07:00", where = "balance > 0 and due_date < :today",
    once = "due_date" },
  lead_closed = { of = "lead", becomes = { status = "Closed" } },
}
]]
local COMPANY = 'return company { name = "Bright Air", zone = "America/New_York" }'

local function load_set(more, active)
  local sources = { ["workflows/events.lua"] = EVENTS, ["workflows/company.lua"] = COMPANY }
  for path, source in pairs(more or {}) do
    sources["workflows/" .. path] = source or nil
  end
  return candidate.load(sources, active or {})
end

local function refusal(text, path)
  local set = load_set { [path or "followup.lua"] = text }
  return set.refused[1] and set.refused[1].message
end

local function in_run(line)
  return 'return workflow {\n  on = "estimate_created",\n  run = function(e)\n    ' .. line .. "\n  end }"
end

local function declared(fields)
  return 'return workflow {\n  on = "estimate_created",\n  ' .. fields .. ",\n  run = function(e) end }"
end

describe("a refused file", function()
  it("names an unknown event and the one that was meant", function()
    assert.are.equal('followup.lua:4: unknown event "estimate_aproved" in stop_when; '
      .. 'did you mean "estimate_approved"?',
      refusal(declared 'stop_when = { "estimate_repriced",\n    "estimate_aproved" }'))
    assert.are.equal('followup.lua:2: unknown event "estimate_creatd" in on; '
      .. 'did you mean "estimate_created"?',
      refusal 'return workflow {\n  on = "estimate_creatd",\n  run = function(e) end }')
    assert.are.equal('followup.lua:4: unknown event "estimate_aproved" in wait_for; '
      .. 'did you mean "estimate_approved"?', refusal(in_run 'wait_for "estimate_aproved"'))
  end)

  it("takes an event that is named twice once", function()
    local set = load_set { ["followup.lua"] = 'return workflow {\n  on = { "estimate_created", "estimate_created" },\n'
      .. "  run = function(e) end }" }
    assert.are.same({ "estimate_created" }, set.workflows.followup.value.on)
  end)

  it("is to start on what reaches live instances only", function()
    assert.are.equal("followup.lua:2: on: signal_go reaches one live instance and starts none",
      refusal 'return workflow {\n  on = { "estimate_created", "signal_go" },\n  run = function(e) end }')
  end)

  it("names an unknown field and the one that was meant", function()
    assert.are.equal('followup.lua:3: unknown field "stopwhen" in workflow; did you mean "stop_when"?',
      refusal(declared 'stopwhen = { "estimate_approved" }'))
    assert.are.equal('followup.lua:3: unknown field "sam" in stop_when; did you mean "same"?',
      refusal(declared 'stop_when = { estimate_approved = { sam = "job" } }'))
  end)

  it("assigns a global, in any function of it", function()
    assert.are.equal("followup.lua:4: global 'count' assigned; write: local count = …",
      refusal(in_run "count = 1"))
    assert.are.equal("followup.lua:4: global 'count' assigned; write: local count = …",
      refusal(in_run "if e.x then pcall(function() count = 1 end) end"))
  end)

  it("reads a name that isn't there, long before it runs", function()
    assert.are.equal("followup.lua:4: there is no 'os' here; for the time use now() or date(t)",
      refusal(in_run "if e.x then return os.time() end"))
  end)

  it("declares an event by a field that isn't there", function()
    for rule, wrong in pairs {
      ['of = "job", changed = { "staus" }'] = 'job has no field staus; did you mean "status"?',
      ['of = "job", becomes = { staus = "Done" }'] = 'job has no field staus; did you mean "status"?',
      ['of = "job", created = true, at = "sold_on"'] = "job has no field sold_on",
      ['of = "invoice", daily = "07:00", where = "true", once = "due"'] = "invoice has no field due",
      ['created = true'] = 'says not what it is about: of = "estimate"',
      ['of = "customer", manual = true, data = "x"'] = 'data must be a table of types: data = { date = "date" }',
    } do
      assert.are.equal("events.lua:2: x_done: " .. wrong,
        refusal("return events {\n  x_done = { " .. rule .. " } }", "events.lua"))
    end
  end)

  it("declares an action that can't be meant so", function()
    for action, wrong in pairs {
      ['effect = "twice"'] = 'go: effect is "read", "idempotent" or "once"',
      ['arg = {}'] = 'unknown field "arg" in go; did you mean "args"?',
      ['find = 3'] = "go: find must be a function",
      ['args = { a = "strng" }'] = "go: a must be an entity or one of string, number, money, boolean, date, time, "
        .. "with ? behind it when it may be left out",
    } do
      assert.are.equal("actions/own.lua:2: " .. wrong, refusal("return actions {\n  go = { run = function() end, "
        .. action .. " } }", "actions/own.lua"))
    end
    assert.is_nil(refusal('return actions { go = { run = function() end, effect = "read", in_doubt = "drop", '
      .. 'args = { who = "customer?", amount = "money", on = "date?" } } }', "actions/own.lua"))
  end)

  it("knows only what is written out whole", function()
    local unit = 'local unit = "d"\n'
    for _, line in ipairs { 'sleep("2" .. unit)', 'pcall(sleep, "2" .. unit)', 'sleep(unit == "d" and "2" or "2h")',
      'wait_for("estimate_" .. unit)', 'wait_for(unit == "d" and "estimate_" or e.name)' } do
      assert.is_nil(refusal(unit .. in_run(line)), line)
    end
    assert.matches('^followup.lua:4: "2 days" is not', refusal(in_run 'return sleep "2 days"'))
    assert.matches('^followup.lua:4: unknown event "nothing"', refusal(in_run 'return wait_for "nothing"'))
  end)

  it("names a duration that is none", function()
    assert.are.equal('followup.lua:4: "2 days" is not a duration; write "2d" (s m h d w)',
      refusal(in_run 'sleep "2 days"'))
    assert.are.equal('followup.lua:4: "2 days" is not a duration; write "2d" (s m h d w)',
      refusal(in_run 'sleep_until(e.time, { after = "2 days" })'))
  end)

  it("gives words what they don't take", function()
    for line, wrong in pairs {
      ['wait_for("estimate_approved", { tmeout = "1d" })'] = "wait_for has no option 'tmeout'",
      ['wait_for("estimate_approved", { timeout = "1 day" })'] = '"1 day" is not a duration; write "1d"',
      ['wait_for({ "estimate_approved" }, { timeout = "1 day" })'] = '"1 day" is not a duration',
      ['approve { by = "csr", title = "x", timeout = "soon" }'] = '"soon" is not a duration',
      ['staff.task { to = "csr", title = "x", due = "2 days" }'] = '"2 days" is not a duration',
      ['sms.send { to = "csr", text = "x", timeout = "today" }'] = '"today" is not a duration',
    } do
      assert.matches("^followup.lua:4: " .. wrong, refusal(in_run(line)) or "it is taken: " .. line)
    end
    for _, line in ipairs { 'approve { by = "csr", title = "x", timeout = "2026-06-01" }',
      'staff.task { to = "csr", title = "x", due = "4h" }',
      'local o = { timeout = "x" } wait_for("estimate_approved", o)',
      'wait_for("estimate_approved", { timeout = e.time, when = function(it) return it.tmeout end })' } do
      assert.is_nil(refusal(in_run(line)), line)
    end
  end)

  it("has a placeholder that may be empty", function()
    assert.are.equal("followup.lua:4: customer.first_name may be missing; "
      .. "write {customer.first_name or there}",
      refusal(in_run 'sms.send { to = e.customer, text = "Hi {customer.first_name}" }'))
    assert.is_nil(refusal(in_run
      'sms.send { to = e.customer, text = "Hi {customer.first_name or there}, {{braces}" }'))
  end)

  it("has a placeholder that is none, or names what isn't there", function()
    local function text(of, more)
      return refusal(in_run('sms.send { to = e.customer, text = "' .. of .. '"' .. (more or "") .. " }"))
    end
    assert.are.equal('followup.lua:4: unknown format "mony" in {estimate.total as mony}; there are '
      .. "money day date time", text "Your {estimate.total as mony}")
    assert.are.equal("followup.lua:4: a { is never closed; for a brace write {{", text "Hi {there")
    assert.are.equal("followup.lua:4: {customer.fist_name}: customer has no field fist_name; "
      .. 'did you mean "first_name"?', text "Hi {customer.fist_name or there}")
    assert.are.equal("followup.lua:4: {appointment.start}: estimate_created carries no appointment",
      text "See you {appointment.start as time}")
    assert.is_nil(text("{customer.fist_name or there}", ", with = { customer = e.data }"))
    assert.is_nil(text "{estimate.total as money} {job.number} {company.links.booking} {offer or none}")
  end)

  it("calls an action that isn't there, or with what it doesn't take", function()
    assert.are.equal('followup.lua:4: there is no action sms.sent; did you mean "sms.send"?',
      refusal(in_run 'sms.sent { to = e.customer, text = "x" }'))
    assert.are.equal('followup.lua:4: sms.send: unknown field "txt"; did you mean "text"?',
      refusal(in_run 'if e.x then sms.send { to = e.customer, txt = "x" } end'))
    assert.are.equal("followup.lua:4: sms.send: to is missing", refusal(in_run 'sms.send { text = "x" }'))
    assert.are.equal('followup.lua:4: approve: unknown field "titel"; did you mean "title"?',
      refusal(in_run 'approve { by = "manager", titel = "x" }'))
    assert.is_nil(refusal(in_run 'approve { by = "manager", title = "x", timeout = "1d", yes = "y" }'))
    assert.is_nil(refusal(in_run 'sms.send { to = e.customer, template = "a", in_doubt = "drop", retries = 1 }'))
    assert.is_nil(refusal(in_run 'local t = { to = e.customer } t.text = "x" sms.send(t)'))
    assert.is_nil(refusal(in_run 'step("a", function() return http.get { url = "https://a.example" }.json end)'))
    assert.are.equal('followup.lua:4: there is no action http.put; did you mean "http.get"?',
      refusal(in_run 'step("a", function() return http.put { url = "https://a.example" } end)'))
    assert.are.equal('followup.lua:4: http.get: unknown field "retries"',
      refusal(in_run 'step("a", function() return http.get { url = "x", retries = 1 } end)'))
  end)

  it("is stopped by an event that it shares nothing with", function()
    assert.are.equal("followup.lua:3: stop_when: lead_closed is about a lead and invoice_overdue "
      .. 'carries none; say what both share: lead_closed = "customer"',
      refusal((declared('stop_when = { "lead_closed" }'):gsub("estimate_created", "invoice_overdue"))))
    assert.is_nil(refusal(declared 'stop_when = { lead_closed = "customer" }'))
    -- One of its own events is enough.
    local two = declared 'stop_when = { "invoice_paid", "estimate_approved" }'
    assert.is_nil(refusal((two:gsub('"estimate_created"', '{ "estimate_created", "invoice_overdue" }'))))
    assert.matches("invoice_paid is about an invoice and estimate_created carries none", refusal(two))
    assert.are.equal("followup.lua:3: stop_when: invoice_paid is about an invoice and carries no lead",
      refusal(declared 'stop_when = { invoice_paid = "lead" }'))
  end)

  it("waits for what ends it first", function()
    local stops = 'stop_when = { "customer_replied" }, on_stop = function(e) '
    assert.are.equal('followup.lua:3: wait_for "customer_replied" can never return: '
      .. "stop_when ends the instance first", refusal(declared(stops
        .. 'wait_for("customer_replied", { timeout = "1d" }) end')))
    assert.is_nil(refusal(declared(stops .. 'wait_for("customer_replied", { since = e.time }) end')))
  end)

  it("has a value of another type or range", function()
    assert.are.equal("followup.lua:3: when must be a function", refusal(declared 'when = "open"'))
    assert.are.equal('followup.lua:3: if_running must be "queue" or "replace" or "skip"; '
      .. 'did you mean "replace"?', refusal(declared 'if_running = "replce"'))
    assert.are.equal("followup.lua:1: workflow has no run = function(e) … end",
      refusal 'return workflow { on = "estimate_created" }')
    assert.are.equal("followup.lua:3: key must be an entity or a function of e; "
      .. 'did you mean "customer"?', refusal(declared 'key = "custmer"'))
    assert.are.equal("followup.lua:3: key: estimate_created carries no lead",
      refusal(declared 'key = "lead"'))
  end)

  it("does something while it is loaded", function()
    assert.are.equal("followup.lua:1: sms.send can't be used while the file is loaded; call it in run",
      refusal('sms.send { to = "csr" }\n' .. in_run ""))
    assert.matches("^followup%.lua:1: .*'%}' expected", refusal "return workflow {  run = function() end ")
    assert.are.equal("followup.lua:1: must return workflow { … }", refusal "return 3")
  end)

  it("requires what isn't a module of lib", function()
    assert.matches("^followup%.lua:1: there is no module 'lib%.nothing'",
      refusal('local x = require "lib.nothing"\n' .. in_run ""))
    assert.matches("modules are in lib/", refusal('local x = require "company"\n' .. in_run ""))
  end)
end)

describe("events.lua", function()
  local function rule(line)
    return refusal("return events {\n  a = " .. line .. " }", "events.lua")
  end
  it("is refused for what isn't a rule", function()
    assert.are.equal('events.lua:2: unknown field "becoms" in a; did you mean "becomes"?',
      rule '{ of = "estimate", becoms = { status = "Sold" } }')
    assert.are.equal('events.lua:2: a: unknown entity "estmate"; did you mean "estimate"?',
      rule '{ of = "estmate", created = true }')
    assert.are.equal("events.lua:2: a: has two sources, changed and created; "
      .. "an event has exactly one", rule '{ of = "estimate", created = true, changed = { "x" } }')
    assert.are.equal("events.lua:2: a: daily needs once, the date field that tells a new fact from "
      .. "an old one", rule '{ of = "invoice", daily = "07:00", where = "true" }')
    assert.are.equal("events.lua:2: customer_replied: is there already and can't be declared",
      refusal('return events {\n  customer_replied = { of = "customer", manual = true } }', "events.lua"))
  end)
end)

describe("a set of files", function()
  it("keeps what is in force where a file is refused", function()
    local good = load_set { ["followup.lua"] = declared "shadow = true" }.workflows.followup
    local active = { followup = { id = 5, sha256 = good.sha256, files = good.files } }
    local set = load_set({ ["followup.lua"] = declared "shadow = 3" }, active)
    assert.are.equal("followup.lua:3: shadow must be a boolean", set.refused[1].message)
    assert.are.equal(5, set.workflows.followup.id)
    assert.is_true(set.workflows.followup.value.shadow)
  end)

  it("tells whether a file or a module of it changed", function()
    local source = 'local m = require "lib.m"\n' .. in_run "return m"
    local before = load_set({ ["followup.lua"] = source, ["lib/m.lua"] = "return 1" }).workflows.followup
    local active = { followup = { id = 5, sha256 = before.sha256, files = before.files } }
    local function changed(module)
      return load_set({ ["followup.lua"] = source, ["lib/m.lua"] = module }, active).workflows.followup.put
    end
    assert.is_nil(changed "return 1")
    assert.is_true(changed "return 2")
    assert.are.same({ "workflows/followup.lua", "workflows/lib/m.lua" }, (function()
      local paths = {}
      for path in pairs(before.files) do
        paths[#paths + 1] = path
      end
      table.sort(paths)
      return paths
    end)())
  end)

  it("turns a declaration into data", function()
    local w = load_set { ["followup.lua"] = declared
      'stop_when = { "estimate_repriced", estimate_approved = "job" }, key = "customer"' }.workflows.followup
    assert.are.same({ on = { "estimate_created" }, class = "marketing", if_running = "skip",
      priority = 2, history = false, shadow = false, when = false, key = "customer",
      stop_when = { { type = "estimate_approved", same = "job", judged = false },
        { type = "estimate_repriced", same = "estimate", judged = false } },
      on_stop = false, on_error = false }, workflow.data(w.value))
  end)

  it("that ships is accepted as it is", function()
    local sources = {}
    local names = io.popen("cd '" .. os.getenv "MOONWRIGHT_SOURCE" .. "' && ls workflows/*.lua")
    for path in names:lines() do
      sources[path] = read(path)
    end
    names:close()
    local set = candidate.load(sources, {})
    assert.are.same({}, set.refused)
    for _, name in ipairs { "estimate_to_ghl", "estimate_followup_original", "estimate_sold",
      "estimate_lost", "job_opened", "review_original", "install_pipeline", "invoice_tracking",
      "invoice_overdue", "appointment_stage" } do
      assert.is_table(set.workflows[name], name)
    end
  end)
end)
