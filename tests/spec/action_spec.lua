-- Action calls: their arguments, what they ask C for, what they return and how they fail.
_G.host = _G.host or require "host"
local json = host.json

local posted
host.post = function(kind, id, text) -- luacheck: ignore
  posted[#posted + 1] = { kind = kind, id = id, ask = json.decode(text) }
end
local action = require "action"

local COMPANY = [[return company { name = "Bright Air", zone = "America/New_York",
  people = { office = "office@x.example", oncall = { "+15550100", "boss@x.example" } } }]]
local ANN = { id = 7, name = "Ann Lee", first_name = "Ann", phone = "+12125550107", email = "ann@x.example",
  zone = "America/New_York", tags = { VIP = true } }

local function load(files)
  files["workflows/company.lua"] = files["workflows/company.lua"] or COMPANY
  action.load(json.encode { files = files, settings = { GHL_LOCATION_ID = "loc1" } })
end

-- Runs a call, answering each ask by `answers` in turn: {"ok", value} or {"error", value}.
local function run(name, args, answers, event, options)
  posted = {}
  local lent = { event = event and json.encode(event), owner = "i1/1//1",
    now = "2026-06-01T12:00:00Z", options = options and json.encode(options) }
  host.lent = function(name) -- luacheck: ignore
    return lent[name]
  end
  local task = coroutine.create(function()
    return action.run(name, nil, json.encode(args))
  end)
  local ok, result = coroutine.resume(task)
  for _, answer in ipairs(answers or {}) do
    if coroutine.status(task) == "dead" or posted[#posted].kind == "hold" then
      break
    end
    ok, result = coroutine.resume(task, posted[#posted].id, answer[1], json.encode(answer[2]))
  end
  if not ok then
    error(result, 0)
  end
  if type(result) ~= "string" then
    return nil
  elseif result:sub(1, 1) == "!" then
    return { error = json.decode(result:sub(2)) }
  end
  return { ok = json.decode(result) }
end

local SENT = { "ok", { status = "sent", channel = "sms", id = "m1" } }

describe("an action", function()
  before_each(function()
    load { ["workflows/templates/hello.txt"] = "Subject: For {to.name}\nHello {customer.first_name}" }
  end)

  it("returns what its send became", function()
    local result = run("sms.send", { to = ANN, text = "Hi {to.first_name}" }, { SENT })
    assert.are.same({ status = "sent", channel = "sms", id = "m1" }, result.ok)
    assert.are.equal("message", posted[1].kind)
    assert.are.same({ call = "sms", channel = "sms", customer_id = 7, address = "+12125550107",
      zone = "America/New_York", text = "Hi Ann" }, posted[1].ask)
  end)

  it("reads templates and their subject", function()
    run("email.send", { to = ANN, template = "hello" }, { SENT }, { customer = ANN })
    assert.are.same({ "For Ann Lee", "Hello Ann" }, { posted[1].ask.subject, posted[1].ask.text })
  end)

  it("finds the address of a role for each channel", function()
    run("sms.send", { to = "oncall", text = "x" }, { SENT })
    assert.are.same({ true, "+15550100" }, { posted[1].ask.staff, posted[1].ask.address })
    run("email.send", { to = "oncall", subject = "s", text = "x" }, { SENT })
    assert.are.equal("boss@x.example", posted[1].ask.address)
  end)

  it("asks nobody about a technician's address but the record", function()
    local event = { appointment = { id = 3, technicians = { { id = 5, name = "Tim", phone = "+15550105" } } } }
    run("sms.send", { to = event.appointment.technicians[1], text = "x" }, { SENT }, event)
    assert.are.same({ "message", true, "+15550105" }, { posted[1].kind, posted[1].ask.staff,
      posted[1].ask.address })
  end)

  it("falls back to e-mail where no text arrives", function()
    local result = run("sms.send", { to = ANN, text = "x", fallback = "email", subject = "s" }, {
      { "ok", { status = "suppressed", reason = "undeliverable" } },
      { "ok", { status = "sent", channel = "email" } } })
    assert.are.equal("email", result.ok.channel)
    assert.are.same({ "sms", "email" }, { posted[1].ask.call, posted[2].ask.call })
  end)

  it("wants the subject of a fallback before the text goes out", function()
    run("sms.send", { to = ANN, text = "x", fallback = "email" })
    assert.are.same({ 1, "hold", 'sms.send: fallback = "email" needs a subject' },
      { #posted, posted[1].kind, posted[1].ask.reason.message })
  end)

  it("doesn't fall back when the customer said no", function()
    local result = run("sms.send", { to = ANN, text = "x", fallback = "email", subject = "s" },
      { { "ok", { status = "suppressed", reason = "opted_out" } } })
    assert.are.equal("opted_out", result.ok.reason)
    assert.are.equal(1, #posted)
  end)

  it("fails with action, code, message, status and attempts", function()
    local result = run("sms.send", { to = ANN, text = "x" },
      { { "error", { code = "unavailable", message = "twilio: down", status = 503, attempts = 8 } } })
    assert.are.same({ action = "sms.send", code = "unavailable", message = "twilio: down", status = 503,
      attempts = 8 }, result.error)
  end)

  it("says with each ask how often and for how long to try", function()
    run("sms.send", { to = ANN, text = "x" }, { SENT }, nil,
      { retries = 2, timeout = "5s", in_doubt = "drop" })
    local ask = posted[1].ask
    assert.are.same({ 2, 5000, "drop" }, { ask.retries, ask.timeout_ms, ask.in_doubt })
  end)

  it("holds the step when a value is missing", function()
    run("sms.send", { to = ANN, text = "About {estimate.name}" })
    assert.are.same({ "hold", { code = "template_error", can = { "resume", "cancel" },
      message = "sms.send: text: estimate.name is missing; write {estimate.name or …}" } },
      { posted[1].kind, posted[1].ask.reason })
  end)

  it("holds the step when nothing is left of its text", function()
    run("sms.send", { to = ANN, text = "{offer} ", with = { offer = "" } })
    assert.are.equal("sms.send: the text is empty", posted[1].ask.reason.message)
  end)

  it("holds the step when a role or a template is missing", function()
    run("sms.send", { to = "owner", text = "x" })
    assert.are.equal('sms.send: company.people has no "owner"', posted[1].ask.reason.message)
    run("sms.send", { to = ANN, template = "nope" })
    assert.are.equal("sms.send: there is no workflows/templates/nope.txt", posted[1].ask.reason.message)
  end)

  it("checks its arguments", function()
    local function wrong(args)
      return select(2, pcall(run, "sms.send", args))
    end
    assert.are.equal('sms.send: unknown field "txt"; did you mean "text"?', wrong { to = ANN, txt = "x" })
    assert.are.equal("sms.send: to is missing", wrong { text = "x" })
    assert.are.equal("sms.send: text must be a string", wrong { to = ANN, text = 5 })
    assert.are.equal("sms.send: give text or template, not both", wrong { to = ANN, text = "x", template = "y" })
  end)

  it("turns :name into numbers and leaves texts and casts alone", function()
    run("db.rows", { sql = "select ':a', x::text from t -- :b\nwhere a = :id or b = :id and c = :z",
      params = { id = 7, z = "q" } }, { { "ok", { value = {} } } })
    assert.are.equal("select ':a', x::text from t -- :b\nwhere a = $1 or b = $1 and c = $2", posted[1].ask.sql)
    assert.are.same({ { v = "7" }, { v = "q" } }, posted[1].ask.params)
  end)

  it("says that it doesn't exist", function()
    run("financing.apply", {})
    assert.are.equal("there is no action financing.apply", posted[1].ask.reason.message)
  end)
end)

describe("a company's action", function()
  local SOURCE = [[return actions { apply = { effect = "once", args = { amount = "money" },
    run = function(a, key)
      return http.post { url = "https://lender.example/apply", headers = { Authorization = setting "KEY" },
        json = { reference = key, amount = a.amount } }.json
    end,
    find = function(a, key)
      return http.get { url = "https://lender.example/apply", query = { reference = key } }.json.items[1]
    end } }]]
  local SETTING = { "ok", { value = "secret" } }
  local UNKNOWN = { "error", { code = "in_doubt", id = "c1", body = "" } }

  before_each(function()
    load { ["workflows/actions/financing.lua"] = SOURCE }
  end)

  local function apply(...)
    return run("financing.apply", { amount = 10 }, { ... })
  end

  it("calls with the same key at every try", function()
    local result = apply(SETTING, { "ok", { status = 200, body = '{"id":5}' } })
    assert.are.same({ id = 5 }, result.ok)
    local key = json.decode(posted[2].ask.body).reference
    assert.are.same({ "once", "POST", "secret", 32 }, { posted[2].ask.effect, posted[2].ask.method,
      posted[2].ask.authorization, #key })
    apply(SETTING, { "ok", { status = 200, body = "{}" } })
    assert.are.equal(key, json.decode(posted[2].ask.body).reference)
  end)

  it("looks for what may have happened, and takes what it finds", function()
    local result = apply(SETTING, UNKNOWN, { "ok", { status = 200, body = '{"items":[{"id":6}]}' } },
      { "ok", {} })
    assert.are.same({ id = 6 }, result.ok)
    assert.are.same({ "settle", "done", "c1" }, { posted[4].kind, posted[4].ask.outcome, posted[4].ask.id })
  end)

  it("repeats what was looked for and not found", function()
    local result = apply(SETTING, UNKNOWN, { "ok", { status = 200, body = '{"items":[]}' } }, { "ok", {} },
      SETTING, { "ok", { status = 200, body = '{"id":7}' } })
    assert.are.same({ id = 7 }, result.ok)
    assert.are.equal("not_sent", posted[4].ask.outcome)
  end)

  it("is held when looking fails", function()
    apply(SETTING, UNKNOWN, { "error", { code = "unavailable", message = "down", body = "" } },
      { "ok", { value = true } })
    assert.are.same({ "hold", "send_in_doubt", "c1" }, { posted[#posted].kind, posted[#posted].ask.reason.code,
      posted[#posted].ask.reason.id })
  end)
end)

describe("loading", function()
  local function refused(files)
    return select(2, pcall(load, files))
  end

  it("names the file and line of a mistake", function()
    assert.has.match("ghl/contact.lua:2:", refused { ["workflows/ghl/contact.lua"] = "\nreturn mapping {" })
    assert.has.match('company.lua:1: unknown field "nam" in company; did you mean "name"%?',
      refused { ["workflows/company.lua"] = 'return company { nam = "x" }' })
    for declared, wrong in pairs { ['of = "custmer", map = f'] = "of must be the entity that is mapped",
      ['of = "customer"'] = "mapping has no map = function", ['of = "customer", map = 3'] = "map must be a function",
      ['of = "customer", mapp = f'] = 'unknown field "mapp" in mapping; did you mean "map"%?' } do
      assert.has.match("ghl/contact.lua:2: .*" .. wrong, refused { ["workflows/ghl/contact.lua"] =
        "local function f() end\nreturn mapping { " .. declared .. " }" })
    end
    assert.has.match("needs run = function", refused { ["workflows/actions/x.lua"] = "return actions { y = {} }" })
  end)

  it("keeps what was there when it fails", function()
    load { ["workflows/templates/a.txt"] = "A" }
    refused { ["workflows/company.lua"] = "return 5 +" }
    run("sms.send", { to = ANN, template = "a" }, { SENT })
    assert.are.equal("A", posted[1].ask.text)
  end)
end)
