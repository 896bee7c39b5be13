-- Judging: which facts a change shows, in which order, and what they start.
_G.host = _G.host or require "host"
local detect = require "detect"
local judge = require "judge"
local rules = require "rules"

local json = host.json

local EVENTS = [[
return events {
  estimate_created = { of = "estimate", created = true },
  estimate_approved = { of = "estimate", becomes = { status = "Sold" }, at = "sold_on" },
  estimate_repriced = { of = "estimate", changed = { "subtotal" } },
  big_estimate = { of = "estimate", created = true, when = function(e) return e.estimate.total > 5000 end },
  review_posted = { of = "customer", webhook = "reviews", secret = "REVIEWS_SECRET",
    read = function(body)
      return body.rating and { customer = { phone = body.phone }, data = { stars = body.rating } }
    end },
  invoice_overdue = { of = "invoice", daily = "07:00", where = "due_date < :today", once = "due_date" },
}
]]
local COMPANY = 'return company { name = "Bright Air", zone = "America/New_York" }'

-- Puts workflows in force.
local function use(workflows, events)
  local sources = { ["workflows/events.lua"] = events or EVENTS, ["workflows/company.lua"] = COMPANY }
  for name, source in pairs(workflows or {}) do
    sources["workflows/" .. name .. ".lua"] = source
  end
  local loaded = json.decode(detect.load(json.encode { sources = sources, active = {} }))
  assert.are.same({}, loaded.refused)
  local ids = {}
  for i, p in ipairs(loaded.put) do
    ids[p.name] = i
  end
  detect.activate(json.encode(ids))
end

local function change(old, new, more)
  local c = { seq = 1, entity = "estimate", entity_id = "7", old = old, new = new, waiting = false,
    age_ms = 0, modified_on = "2026-06-03T10:00:00.250000Z", live_since = "2026-06-01T00:00:00.000000Z",
    snapshot = { customer = { id = 9, phone = "+15550100", email = "Ann@Example.com" }, job = { id = 3 } } }
  for k, v in pairs(more or {}) do
    c[k] = v
  end
  return c
end

local function batch(input, again)
  input.now, input.parent_wait_ms = "2026-06-03T12:00:00Z", 1000
  local consume, postpone, settled = detect.batch(json.encode(input), again):match "^(.-)\n(.-)\n(.*)$"
  local out = json.decode(settled)
  out.consume, out.postpone = consume, postpone
  return out
end

local function types(out)
  local list = {}
  for i, e in ipairs(out.events) do
    list[i] = e.type
  end
  return table.concat(list, " ")
end

local OPEN = { id = 7, status = "Open", subtotal = 1000, total = 1070, created_on = "2026-06-02T10:00:00Z" }
local function estimate(more)
  local e = {}
  for k, v in pairs(OPEN) do
    e[k] = v
  end
  for k, v in pairs(more or {}) do
    e[k] = v
  end
  return e
end

local FOLLOW = [[
return workflow { on = "estimate_created", key = "customer",
  stop_when = { estimate_approved = "job", customer_replied = { when = function(it) return true end } },
  when = function(e) return e.estimate.status == "Open" end, run = function(e) end }]]

describe("a change", function()
  before_each(function()
    use { follow = FOLLOW }
  end)

  it("shows a fact when a row begins to match, not while it goes on", function()
    local sold = estimate { status = "Sold", sold_on = "2026-06-03T09:00:00Z" }
    assert.are.equal("estimate_approved", types(batch { changes = { change(OPEN, sold) } }))
    assert.are.equal("", types(batch { changes = { change(sold, estimate { status = "Sold", tax = 3 }) } }))
    assert.are.equal("estimate_repriced", types(batch { changes = { change(OPEN, estimate { subtotal = 2 }) } }))
    assert.are.equal("", types(batch { changes = { change(OPEN, estimate { name = "x" }) } }))
  end)

  it("that is an insert is an edge for each fact it shows, in the order of their time", function()
    local out = batch { changes = { change(nil, estimate { status = "Sold", sold_on = "2026-06-03T09:00:00Z" }) } }
    assert.are.equal("estimate_created estimate_approved", types(out))
    assert.are.equal("2026-06-02T10:00:00.000000Z", out.events[1].at)
    assert.are.equal("2026-06-03T09:00:00.000000Z", out.events[2].at)
    out = batch { changes = { change(nil, estimate { status = "Sold", sold_on = "2026-06-01T09:00:00Z" }) } }
    assert.are.equal("estimate_approved estimate_created", types(out))
  end)

  it("has the row's modification as its time where the rule names none", function()
    local out = batch { changes = { change(OPEN, estimate { subtotal = 2 }) } }
    assert.are.equal("2026-06-03T10:00:00.250000Z", out.events[1].at)
    assert.is_false(out.events[1].weak)
    out = batch { changes = { change(nil, estimate { status = "Sold" }) } }
    assert.is_true(out.events[2].weak)
    assert.is_false(out.events[1].weak)
  end)

  it("older than the first import is silent", function()
    local old = estimate { created_on = "2026-05-02T10:00:00Z", status = "Sold", sold_on = "2026-06-03T09:00:00Z" }
    assert.are.equal("estimate_approved", types(batch { changes = { change(nil, old) } }))
    use { follow = FOLLOW, past = [[return workflow { on = "estimate_created", history = true,
      run = function(e) end }]] }
    local out = batch { changes = { change(nil, estimate { created_on = "2026-05-02T10:00:00Z" }) } }
    assert.are.equal("estimate_created", types(out))
    assert.are.equal(1, #out.starts)
    assert.are.equal("past", out.starts[1].workflow)
  end)

  it("gives the event its snapshots, what it was, and its keys", function()
    local e = batch { changes = { change(OPEN, estimate { subtotal = 2, name = "x" }) } }.events[1]
    assert.are.same({ "customer:9", "email:ann@example.com", "estimate:7", "job:3", "phone:+15550100" }, e.keys)
    assert.are.same({ subtotal = true, name = true }, e.payload.changed)
    assert.are.equal(1000, e.payload.old.subtotal)
    assert.are.equal("estimate", e.payload.of)
    assert.are.equal(9, e.customer)
    assert.matches("^%x+%-%x%x%x%x%-7%x%x%x%-[89ab]%x%x%x%-%x+$", e.id)
  end)

  it("waits for its parents, and later ones of its row with it", function()
    local lacking = change(nil, OPEN, { missing = { "customer" }, waiting = true, age_ms = 10 })
    local later = change(OPEN, estimate { subtotal = 2 }, { seq = 2 })
    local other = change(nil, OPEN, { seq = 3, entity_id = "8" })
    local out = batch { changes = { lacking, later, other } }
    assert.are.equal("{1,2}", out.postpone)
    assert.are.equal("{3}", out.consume)
    lacking.age_ms = 1000
    out = batch { changes = { lacking } }
    assert.are.same({ "customer" }, out.events[1].payload.missing)
  end)

  it("that deletes a row ends what is about it", function()
    local out = batch { changes = { change(OPEN, nil) } }
    assert.are.equal("estimate_deleted", types(out))
    assert.are.same({ { entity = "estimate", id = "7", event = out.events[1].id } }, out.deleted)
  end)

  it("that makes a row inactive is its deletion, but for customers and what is cancelled", function()
    local gone = { active = false }
    for k, v in pairs(OPEN) do
      gone[k] = v
    end
    local out = batch { changes = { change(OPEN, gone) } }
    assert.are.equal("estimate_deleted", types(out))
    assert.are.same({ { entity = "estimate", id = "7", event = out.events[1].id } }, out.deleted)
    assert.are.same({}, batch { changes = { change(gone, gone) } }.deleted)
    local visit = { entity = "appointment", entity_id = "3", snapshot = {} }
    assert.are.same({}, batch { changes = { change({ id = 3, active = true },
      { id = 3, active = false, status = "Canceled" }, visit) } }.deleted)
    assert.are.same({}, batch { changes = { change({ id = 1, active = true }, { id = 1, active = false },
      { entity = "customer", entity_id = "1", snapshot = {} }) } }.deleted)
  end)

  it("that merges a customer says so", function()
    local was, is = { id = 1, name = "Ann" }, { id = 1, name = "Ann", merged_to_id = 2 }
    local out = batch { changes = { change(was, is, { entity = "customer", entity_id = "1", snapshot = {} }) } }
    assert.are.same({ { gone = 1, kept = 2 } }, out.merged)
    out = batch { changes = { change(is, is, { entity = "customer", entity_id = "1", snapshot = {} }) } }
    assert.are.same({}, out.merged)
  end)
end)

describe("a start", function()
  it("has its key and the keys of what stops it", function()
    use { follow = FOLLOW }
    local out = batch { changes = { change(nil, OPEN) } }
    local s = out.starts[1]
    assert.are.same({ "follow", "customer:9", "skip", out.events[1].id },
      { s.workflow, s.key, s.if_running, s.event })
    assert.are.same({ { type = "customer_replied", key = "customer:9", judged = true },
      { type = "estimate_approved", key = "job:3", judged = false } }, s.stops)
  end)

  it("of somebody whom nobody has entered yet is found by the number, however it was typed", function()
    use { follow = FOLLOW }
    for _, typed in ipairs { "+15550100100", "555-010-0100", "(555) 010 0100 ext. 7", "1 555 010 0100",
      " 5550100100 x12" } do
      local out = batch { changes = { change(nil, OPEN, { snapshot = { customer = { phone = typed,
        email = " Ann@Example.com " } } }) } }
      local keys = table.concat(out.events[1].keys, " ")
      assert.matches("phone:%+15550100100", keys)
      assert.matches("email:ann@example.com", keys)
      assert.are.equal("phone:+15550100100", out.starts[1].stops[1].key)
    end
    local odd = batch { changes = { change(nil, OPEN, { snapshot = { customer = { phone = "555" } } }) } }
    assert.matches("phone:555", table.concat(odd.events[1].keys, " "))
  end)

  it("of somebody without an id goes by phone and e-mail", function()
    use { follow = FOLLOW }
    local s = batch { changes = { change(nil, OPEN, { snapshot = { customer = { phone = "+15550100",
      email = "A@b.com" } } }) } }.starts[1]
    assert.are.equal("phone:+15550100", s.key)
    assert.are.same({ { type = "customer_replied", key = "phone:+15550100", judged = true },
      { type = "customer_replied", key = "email:a@b.com", judged = true } }, s.stops)
  end)

  it("has no limit where key returns nothing, and a text otherwise", function()
    local function key(returned)
      use { follow = [[return workflow { on = "estimate_created", run = function(e) end,
        key = function(e) return ]] .. returned .. " end }" }
      local out = batch { changes = { change(nil, OPEN) } }
      return #out.starts == 1 and out.starts[1].key or out.errors[1] and out.errors[1].message
    end
    assert.is_false(key "nil" or false)
    assert.are.equal("7", key "e.estimate.id")
    assert.are.equal("follow: key must return a text or a number", key "e.estimate")
  end)

  it("isn't made by a shared event that one of them has changed", function()
    use { a = [[return workflow { on = "estimate_created", run = function(e) end,
      when = function(e) e.estimate.total = 0 return true end }]], b = FOLLOW }
    local out = batch { changes = { change(nil, OPEN) } }
    assert.are.equal(1, #out.starts)
    assert.are.equal("a.lua:2: 'total' can't be assigned: an event is read-only", out.errors[1].message)
  end)

  it("can't be decided by an effect", function()
    use { a = [[return workflow { on = "estimate_created", run = function(e) end,
      when = function(e) sms.send { to = e.customer, text = "x" } end }]],
      b = [[return workflow { on = "estimate_created", run = function(e) end,
      when = function(e) return sms.send { to = e.customer, text = "x" } end }]] }
    local errors = batch { changes = { change(nil, OPEN) } }.errors
    assert.are.equal("a.lua:2: sms.send is an effect; 'when' may only look at e", errors[1].message)
    assert.are.equal("b.lua: sms.send is an effect; 'when' may only look at e", errors[2].message)
  end)

  it("sees lists, lengths and sorted pairs of the event", function()
    use { a = [[return workflow { on = "estimate_created", run = function(e) end,
      when = function(e)
        local names = ""
        for k in pairs(e.estimate.tags) do names = names .. k end
        return #e.estimate.items == 2 and names == "abc" and sum(e.estimate.items, "total") == 3.5
          and date(e.time).ymd == "2026-06-03" and moment(e.time, { after = "2h" }) > e.time
      end }]] }
    local out = batch { changes = { change(nil, estimate { tags = { c = true, a = true, b = true },
      items = { { total = 1.5 }, { total = 2 } } }) } }
    assert.are.same({}, out.errors)
    assert.are.equal(1, #out.starts)
  end)
end)

describe("a view of an event", function()
  it("is made once for all who are asked", function()
    local source = [[return workflow { on = "estimate_created", run = function(e) end,
      when = function(e) return e.estimate == e.estimate and e.estimate.items[1].total == 1 end }]]
    use { a = source, b = source, c = source }
    local frozen = require "frozen"
    local view, made = frozen.view, 0
    frozen.view = function(t)
      made = made + (t.name == "estimate_created" and 1 or 0)
      return view(t)
    end
    local out = batch { changes = { change(nil, estimate { items = { { total = 1 } } }) } }
    frozen.view = view
    assert.are.equal(3, #out.starts)
    assert.are.equal(1, made)
  end)

  it("can be compared and stored as what it shows, looked at or not", function()
    local frozen = require "frozen"
    local plain = { a = { 1, 2 }, b = { c = true }, none = json.array {} }
    assert.are.equal(json.encode(plain), json.encode(frozen.view(plain)))
    local seen = frozen.view(plain)
    assert.are.equal(2, seen.a[2])
    assert.is_nil(seen.missing)
    assert.are.equal(json.encode(plain), json.encode(seen))
  end)

  it("shows that a list of a row has changed", function()
    use({ a = [[return workflow { on = "items_changed", run = function(e) end }]] },
      [[return events { items_changed = { of = "estimate", changed = { "items" } } }]])
    local one, other = estimate { items = { { id = 1 } } }, estimate { items = { { id = 2 } } }
    assert.are.equal(0, #batch({ changes = { change(one, one) } }).events)
    local out = batch { changes = { change(one, other) } }
    assert.are.same({}, out.errors)
    assert.are.equal(1, #out.starts)
  end)
end)

describe("what raises", function()
  it("is a row, and the rest goes on", function()
    use({ bad = [[return workflow { on = "estimate_created", run = function(e) end,
      when = function(e) return e.nothing.x end }]], follow = FOLLOW },
      EVENTS:gsub('becomes = { status = "Sold" }', "becomes = function(row) return row.a.b end"))
    local out = batch { changes = { change(nil, OPEN), change(nil, OPEN, { seq = 2, entity_id = "8" }) } }
    assert.are.equal(2, #out.starts)
    assert.are.equal("{1,2}", out.consume)
    assert.are.equal(4, #out.errors)
    local when, rule = out.errors[1], out.errors[2]
    assert.are.same({ "bad", out.events[1].id }, { when.workflow, when.event })
    assert.are.equal("estimate_approved", rule.rule)
    assert.are.equal("events.lua:3: attempt to index a nil value (field 'a')", rule.message)
    assert.are.equal("7", rule.change.entity_id)
  end)

  it("is judged again alone", function()
    use { bad = [[return workflow { on = "estimate_created", run = function(e) end,
      when = function(e) return e.nothing.x end }]] }
    local out = batch { changes = { change(nil, OPEN) } }
    local event = out.events[1]
    local retry = { id = 4, workflow = "bad", event = event.payload, at = event.at }
    assert.are.equal(4, batch({ retries = { retry } }).failed_again[1].id)
    use { bad = 'return workflow { on = "estimate_created", run = function(e) end }', follow = FOLLOW }
    out = batch { retries = { retry } }
    assert.are.same({ 4 }, out.resolved)
    assert.are.equal(0, #out.events)
    assert.are.same({ "bad", event.id, true }, { out.starts[1].workflow, out.starts[1].event,
      out.starts[1].again })
    assert.are.equal(1, #out.starts)
  end)

  it("is left out of the next try when it was stopped", function()
    use { slow = [[return workflow { on = "estimate_created", run = function(e) end,
      when = function(e) if e.estimate.total == 1 then error { stop = true } end return true end }]] }
    local evaluate = judge.evaluate
    local blamed = false
    judge.evaluate = function(what, name, subject, zone, f, ...)
      local arguments = table.pack(...)
      return evaluate(what, name, subject, zone, function()
        if name == "slow" and not blamed then -- as if the budget had ended it
          blamed = detect.blame "used more than 50 ms of CPU"
        end
        return f(table.unpack(arguments, 1, arguments.n))
      end)
    end
    local ok, why = pcall(batch, { changes = { change(nil, OPEN) } })
    judge.evaluate = evaluate
    assert.is_true(ok, why)
    assert.are.equal("when slow", blamed)
    local out = batch({ changes = { change(nil, OPEN) } }, "again")
    assert.are.equal("slow: 'when' used more than 50 ms of CPU", out.errors[1].message)
    assert.are.equal(1, #out.events)
    assert.are.equal(1, #batch({ changes = { change(nil, OPEN) } }).starts)
  end)
end)

describe("an arrival", function()
  local function arrival(kind, payload, more)
    local a = { id = 5, type = kind, entity = "customer", entity_id = "9", at = "2026-06-03T10:00:00Z",
      payload = payload }
    for k, v in pairs(more or {}) do
      a[k] = v
    end
    return a
  end
  before_each(function()
    use()
  end)

  it("becomes its event", function()
    local out = batch { arrivals = { arrival("customer_replied", { customer = { id = 9 }, reply = { text = "hi" } }) } }
    assert.are.same({ 5 }, out.arrivals)
    assert.are.equal("customer_replied", out.events[1].type)
    assert.are.equal("hi", out.events[1].payload.reply.text)
  end)

  it("that is a signal reaches one instance only", function()
    local out = batch { arrivals = { arrival("signal_go", { customer = { id = 9 }, instance = "i-1" }) } }
    assert.are.same({ "instance:i-1" }, out.events[1].keys)
  end)

  it("of a company's own webhook is read by its rule", function()
    local hook = { entity = "webhook", entity_id = "reviews" }
    local out = batch { arrivals = { arrival("webhook", { body = { phone = "+1555", rating = 5 } }, hook),
      arrival("webhook", { body = {} }, hook) } }
    assert.are.equal(1, #out.events)
    assert.are.same({ "review_posted", "customer", "+1555" },
      { out.events[1].type, out.events[1].entity, out.events[1].entity_id })
    assert.are.equal(5, out.events[1].payload.data.stars)
  end)

  it("that raises is kept, and taken when its rule was mended", function()
    local body = { phone = "+1555", rating = 5 }
    local hook = { entity = "webhook", entity_id = "reviews" }
    local broken = EVENTS:gsub("read = function%(body%)", "%0 local x = body.nothing.x")
    assert.are_not.equal(EVENTS, broken)
    use(nil, broken)
    local out = batch { arrivals = { arrival("webhook", { body = body }, hook) } }
    assert.are.equal(0, #out.events)
    local err = out.errors[1]
    local retry = json.decode(json.encode { id = 4, rule = err.rule, change = err.change })
    assert.are.equal(4, batch({ retries = { retry } }).failed_again[1].id)
    use()
    out = batch { retries = { retry } }
    assert.are.same({ 4 }, out.resolved)
    assert.are.same({}, out.arrivals)
    assert.are.same({ "review_posted", "+1555" }, { out.events[1].type, out.events[1].entity_id })
    assert.are.equal("2026-06-03T10:00:00.000000Z", out.events[1].at)
  end)

  it("of one of our own steps stays the same event when it is taken again", function()
    local told = arrival("nonsense", { customer = { id = 9 }, event_id = "e-1" })
    local err = batch({ arrivals = { told } }).errors[1]
    use(nil, EVENTS:gsub("return events {", "%0 nonsense = { of = 'customer', manual = true },"))
    local retry = json.decode(json.encode { id = 4, rule = err.rule, change = err.change })
    local out = batch { retries = { retry } }
    assert.are.same({ "e-1", "nonsense" }, { out.events[1].id, out.events[1].type })
  end)

  it("that nobody knows is shown", function()
    assert.are.equal('unknown event "nonsense" arrived',
      batch({ arrivals = { arrival("nonsense", {}) } }).errors[1].message)
  end)
end)

describe("a daily rule", function()
  before_each(function()
    use { overdue = 'return workflow { on = "invoice_overdue", run = function(e) end }' }
  end)

  it("is due once a day, by the company's clock", function()
    assert.is_nil(detect.daily("2026-06-03T10:59:59Z", "{}"))
    local due = json.decode(detect.daily("2026-06-03T11:00:00Z", "{}"))
    assert.are.same({ "invoice_overdue", "invoice", "2026-06-03" }, { due.rule, due.of, due.day })
    assert.matches("from invoices .* and %(due_date < %$1::date%)$", due.sql)
    assert.is_nil(detect.daily("2026-06-03T11:00:00Z", '{"invoice_overdue":"2026-06-03"}'))
    assert.is_string(detect.daily("2026-06-04T11:00:00Z", '{"invoice_overdue":"2026-06-03"}'))
  end)

  it("makes an event of each row, dated the day after", function()
    local out = batch { daily = { rule = "invoice_overdue", day = "2026-06-03", last = true, rows = {
      { id = "3", once = "2026-05-31", snapshot = { invoice = { id = 3 }, customer = { id = 9 } } } } } }
    assert.are.equal("2026-06-01T00:00:00.000000Z", out.events[1].at)
    assert.are.equal("invoice:3", out.starts[1].key)
    assert.are.same({ { rule = "invoice_overdue", day = "2026-06-03" } }, out.daily)
  end)
end)

describe("times", function()
  it("compare as texts in one form", function()
    assert.are.equal("2026-03-07T22:00:00.000000Z", rules.exact "2026-03-07T22:00:00Z")
    assert.are.equal("2026-03-07T22:00:00.120000Z", rules.exact "2026-03-07T22:00:00.12Z")
    assert.are.equal("2026-03-07T00:00:00.000000Z", rules.exact "2026-03-07")
    assert.has_error(function() rules.exact "soon" end, "'soon' is not a time")
    assert.are.equal("2027-01-01", rules.day_after "2026-12-31")
    assert.are.equal("2028-02-29", rules.day_after "2028-02-28")
  end)
end)
