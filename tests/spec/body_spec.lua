-- The body of an instance: what it asks for, and that a replay can't be told from the first run.
_G.host = _G.host or require "host"
package.path = os.getenv "MOONWRIGHT_SOURCE" .. "/tests/support/?.lua;" .. package.path
local Owner = require "body_owner"

local EVENT = { id = "e1", name = "estimate_created", of = "estimate", time = "2026-06-01T14:00:00Z",
  estimate = { id = 7, total = 1200, status = "Open" },
  customer = { id = 9, first_name = "Ann", phone = "+15550100", zone = "America/New_York" } }

local function workflow(body, more)
  return { ["x.lua"] = (more or "") .. "\nreturn workflow { on = \"estimate_created\", run = function(e)\n"
    .. body .. "\nend }" }
end

local function owner(body, more)
  local o = Owner.new(workflow(body, more), EVENT)
  o:start()
  return o
end

-- Runs a body to its end, answering with `answers`, and crashing before answer `crash_at`.
local function run_all(body, answers, crash_at, more)
  local o = owner(body, more)
  local asked = {}
  for i = 1, 50 do
    if crash_at == i then
      local before = table.concat(o.requests, "\n")
      local first = o.open[1] and table.concat(o.open[1], "|") or nil
      o:crash()
      if first then
        assert.are.equal(first, table.concat(o.open[1], "|"))
      end
      assert.is_truthy(before)
    end
    if o.result or o.diverged then
      return o, asked
    end
    asked[#asked + 1] = table.concat(o.open[1], "|")
    local a = answers[i] or {}
    o:answer(a[1], a[2], a[3])
  end
  error("the body doesn't end")
end

describe("a body", function()
  it("asks for steps by name, with a hash of their arguments", function()
    local o = owner [[ sms.send { to = e.customer, text = "a" } sms.send { to = e.customer, text = "b" } ]]
    assert.are.equal("sms.send#1", o.open[1][4])
    assert.are.equal(host.hash(o.open[1][6]), o.open[1][5])
    assert.are.equal("sms.send", o.open[1][10])
    o:answer '{"status":"sent"}'
    assert.are.equal("sms.send#2", o.open[1][4])
    o:answer '{"status":"sent"}'
    assert.are.same({ state = "done" }, o.result)
  end)

  it("has the budget of a turn for each turn that is replayed", function()
    local o = owner [[ for _ = 1, 3 do sms.send { to = e.customer, text = "a" } end sleep "1d" ]]
    for _ = 1, 3 do
      o:answer '{"status":"sent"}'
    end
    local before = Owner.bursts()
    o:crash()
    assert.are.equal(3, Owner.bursts() - before)
    assert.are.equal("sleep", o.open[1][1])
  end)

  it("is left where it waits when another branch ends the instance, and undoes what is kept", function()
    local o = owner [[
      compensate(function() sms.send { to = e.customer, text = "sorry" } end)
      local ok = pcall(all, { function() sms.send { to = e.customer, text = "a" } stop "enough" end,
        function() sleep "1d" end })
      sms.send { to = e.customer, text = "never " .. tostring(ok) } ]]
    o:answer '{"status":"sent"}'
    assert.matches("sorry", o.open[#o.open][6])
    assert.is_nil(o.result)
    o:answer('{"status":"sent"}', "done", #o.open)
    assert.are.same({ state = "stopped", reason = "enough" }, o.result)
    for _, asked in ipairs(o.requests) do
      assert.not_matches("never", asked)
    end
  end)

  it("asks the same in every replay, wherever it crashed", function()
    local body = [[
      local r = random()
      local a = sms.send { to = e.customer, text = "a " .. r }
      sleep "2h"
      local list = db.rows("select 1", { id = e.customer.id })
      for i, row in ipairs(list) do
        note("row " .. row.n)
        if row.n > 1 then email.send { to = e.customer, text = now() .. date(now()).day } end
      end
      local ok, err = pcall(ghl.add_tag, { customer = e.customer, tag = "x" })
      if not ok then sms.send { to = e.customer, text = err.code .. err.message } end
      local it = wait_for("estimate_approved", { timeout = "3d" })
      return it and it.estimate.status or "timeout " .. tostring(a.status)
    ]]
    local answers = { { '{"status":"sent"}' }, {}, { '[{"n":1},{"n":2}]' }, {}, {}, { '{"status":"sent"}' },
      { '{"action":"ghl.add_tag","code":"refused","message":"no"}', "failed" }, { '{"status":"sent"}' },
      { '{"event":{"id":"e2","name":"estimate_approved","estimate":{"id":7,"status":"Sold"}}}' } }
    local plain, asked = run_all(body, answers)
    assert.are.equal("Sold", plain.result.outcome)
    assert.are.equal(9, #asked)
    for crash_at = 1, 10 do
      local again, same = run_all(body, answers, crash_at)
      assert.are.same(asked, same)
      assert.are.same(plain.result, again.result)
    end
  end)

  it("gets the decoded record, live as in replay", function()
    local body = [[
      local v = db.value "select 1"
      local w = db.row "select 2"
      return math.type(v) .. " " .. tostring(w.gone) .. " " .. math.type(w.f)
    ]]
    local answers = { { "5" }, { '{"gone":null,"f":1.5}' } }
    assert.are.equal("integer nil float", run_all(body, answers).result.outcome)
    assert.are.equal("integer nil float", (run_all(body, answers, 3)).result.outcome)
  end)

  it("gets nothing for a null, live as in replay", function()
    local body = [[ local v = db.row "select 1"; sleep "1h"; return tostring(v) ]]
    assert.are.equal("nil", run_all(body, { { "null" } }).result.outcome)
    assert.are.equal("nil", (run_all(body, { { "null" } }, 2)).result.outcome)
  end)

  it("replays branches in the order in which their answers came", function()
    local body = [[
      local winner
      local r = all {
        function() local x = db.value "select 'f'" winner = winner or x return x end,
        function() local x = db.value "select 'g'" winner = winner or x return x end }
      sms.send { to = e.customer, text = winner .. r[1] .. r[2] }
    ]]
    local o = owner(body)
    assert.are.equal(2, #o.open)
    o:answer('"g"', nil, 2)
    o:answer('"f"', nil, 1)
    assert.is_truthy(o.open[1][6]:find("gfg", 1, true))
    local asked = table.concat(o.open[1], "|")
    o:crash()
    assert.are.equal(asked, table.concat(o.open[1], "|"))
  end)

  it("waits for a child that it calls, and gets its value or its failure", function()
    local body = [[
      local id = start("other", { customer = e.customer })
      local v = call("other", e)
      local none, why = call("other", e)
      local ok, err = pcall(call, "other", e)
      return id .. v.n .. tostring(none) .. why .. err.code .. err.message ]]
    local answers = { { '{"id":"c1"}' }, { '{"id":"c2"}' }, { '{"state":"done","value":{"n":5}}' },
      { '{"id":"c3"}' }, { '{"state":"stopped","reason":"key taken"}' }, { '{"id":"c4"}' },
      { '{"state":"failed","reason":"no luck"}' } }
    local plain, asked = run_all(body, answers)
    assert.are.equal("c15nilkey takenrefusedother failed: no luck", plain.result.outcome)
    assert.is_truthy(asked[3]:find('call.end#1', 1, true))
    assert.is_truthy(asked[3]:find('"child":"c2"', 1, true))
    for crash_at = 1, 8 do
      local again, same = run_all(body, answers, crash_at)
      assert.are.same(asked, same)
      assert.are.same(plain.result, again.result)
    end
  end)

  it("is stuck at the call when a child has failed and nothing catches that", function()
    local o = run_all([[ call("other", e) ]],
      { { '{"id":"c1"}' }, { '{"state":"failed","reason":"no luck"}' } })
    assert.are.equal("action_failed", o.result.reason.code)
    assert.are.equal("call.end#1", o.result.reason.name)
  end)

  it("asks a person, and takes the answer or the timeout", function()
    local body = [[
      local a = approve { by = "manager", title = "t", text = "x", timeout = "3d", name = "offer" }
      return tostring(a.approved) .. tostring(a.by) .. tostring(a.text) .. tostring(a.timed_out) ]]
    local answered = { { '{"id":"k1","note":"x"}' },
      { '{"event":{"data":{"approved":true,"by":"Max","text":"y"}}}' } }
    local plain, asked = run_all(body, answered)
    assert.are.equal("trueMaxyfalse", plain.result.outcome)
    assert.is_truthy(asked[1]:find('|offer|', 1, true))
    assert.is_truthy(asked[1]:find('"due":"2026-06-04T14:00:00Z"', 1, true))
    assert.is_truthy(asked[2]:find('"task:k1"', 1, true))
    assert.is_truthy(asked[2]:find('2026-06-04T14:00:00Z', 1, true))
    for crash_at = 1, 3 do
      assert.are.same(plain.result, (run_all(body, answered, crash_at)).result)
    end
    local late, then_asked = run_all(body, { { '{"id":"k1","note":"x"}' }, { '{"until":"z"}' } })
    assert.are.equal("falsenilxtrue", late.result.outcome)
    assert.is_truthy(then_asked[3]:find("staff.cancel_task#1", 1, true))
  end)

  describe("that is to be undone", function()
    local BODY = [[
      sms.send { to = e.customer, text = "one" }
      compensate(function() sms.send { to = e.customer, text = "undo one" } end)
      sms.send { to = e.customer, text = "two" }
      compensate(function() sms.send { to = e.customer, text = "undo two" } end)
      sms.send { to = e.customer, text = "three" }
      ]]
    local SENT = '{"status":"sent"}'

    it("undoes in reverse when it is stopped, from where it came to", function()
      for done, wanted in pairs { [0] = {}, { "one" }, { "two", "one" } } do
        local o = owner(BODY .. "sleep '1d'")
        assert.is_true(o.facts.undoes)
        for _ = 1, done do
          o:answer(SENT)
        end
        o:start("on_stop", { name = "estimate_rejected" })
        for _, text in ipairs(wanted) do
          assert.is_truthy(o.open[1][6]:find("undo " .. text, 1, true))
          assert.are.equal("undo", o.open[1][2])
          o:crash("on_stop", { name = "estimate_rejected" })
          o:answer(SENT)
        end
        assert.are.same({ state = "stopped", reason = "estimate_rejected" }, o.result)
      end
    end)

    it("undoes when it fails or stops itself, then runs on_stop", function()
      for word, state in pairs { fail = "failed", stop = "stopped" } do
        local o = Owner.new({ ["x.lua"] = "return workflow { on = 'estimate_created', "
          .. "on_stop = function(e, by) note('stopped by ' .. by.name) end, run = function(e)\n"
          .. BODY .. word .. " 'why' end }" }, EVENT)
        o:start()
        for _, text in ipairs { '"one"', '"two"', '"three"', "undo two", "undo one" } do
          assert.is_truthy(o.open[1][6]:find(text, 1, true))
          o:crash()
          o:answer(SENT)
        end
        if word == "stop" then
          assert.is_truthy(o.open[1][7]:find("stopped by stop", 1, true))
          o:answer()
        end
        assert.are.same({ state = state, reason = "why" }, o.result)
      end
    end)

    it("leaves alone what went well", function()
      local o = run_all(BODY, { { SENT }, { SENT }, { SENT } })
      assert.are.same({ state = "done" }, o.result)
    end)

    it("is stuck where undoing fails", function()
      local o = owner(BODY)
      o:answer(SENT)
      o:start("on_stop", { name = "cancelled" })
      o:answer('{"action":"sms.send","code":"refused","message":"no"}', "failed")
      assert.are.equal("undo", o.result.reason.branch)
      assert.are.equal("action_failed", o.result.reason.code)
    end)
  end)

  it("refuses a result of its own step above 1 MB", function()
    local o = run_all([[ local a = step("fits", function() return ("x"):rep(1000000) end)
      local ok, err = pcall(step, "large", function() return ("x"):rep(900000) .. ("x"):rep(900000) end)
      return #a .. err.message ]], { {}, {} })
    assert.are.equal("1000000its result is larger than 1 MB: keep less", o.result.outcome)
  end)

  it("raises the first error of its branches once all have ended", function()
    local body = [[
      local ok, err = pcall(all, {
        function() sms.send { to = e.customer, text = "1" } end,
        function() sms.send { to = e.customer, text = "2" } end })
      return err.message
    ]]
    local o = owner(body)
    o:answer('{"code":"refused","message":"second"}', "failed", 2)
    assert.is_nil(o.result)
    o:answer('{"code":"refused","message":"first"}', "failed", 1)
    assert.are.equal("second", o.result.outcome)
  end)

  it("keeps file locals and modules of an instance to itself", function()
    local files = workflow("n = n + 1 lib.count = (lib.count or 0) + 1 return n .. ' ' .. lib.count",
      "local n = 0 local lib = require 'lib.shared'")
    files["lib/shared.lua"] = "return {}"
    local o = Owner.new(files, EVENT)
    for _ = 1, 3 do
      o:start()
      assert.are.equal("1 1", o.result.outcome)
    end
  end)

  it("ends where it says stop or fail, which nothing catches", function()
    local o = owner [[ pcall(function() stop "enough" end) sms.send { to = e.customer, text = "no" } ]]
    assert.are.same({ state = "stopped", reason = "enough" }, o.result)
    o = owner [[ pcall(fail, "broken") sms.send { to = e.customer, text = "no" } ]]
    assert.are.same({ state = "failed", reason = "broken" }, o.result)
  end)
end)

describe("a divergence", function()
  local function changed(body, into)
    local o = owner(body)
    o:answer '{"status":"sent"}'
    o.files["workflows/x.lua"] = workflow(into)["x.lua"]
    o:crash()
    return o.diverged
  end

  it("names both steps and the line", function()
    local d = changed([[ sms.send { to = e.customer, text = "a" } sleep "1h" ]],
      [[ email.send { to = e.customer, text = "a" } ]])
    assert.are.equal("workflows/x.lua:3: asks for email.send#1 where sms.send#1 was recorded; "
      .. "'moonwright workflows diff x' shows the change", d.message)
    assert.are.equal("diverged", d.code)
    assert.are.equal("sms.send#1", d.recorded.name)
  end)

  it("is seen in the arguments alone, too", function()
    local d = changed([[ sms.send { to = e.customer, text = "a" } sleep "1h" ]],
      [[ sms.send { to = e.customer, text = "b" } ]])
    assert.is_truthy(d.message:find("with other arguments than were recorded", 1, true))
  end)

  it("is seen when the body ends before what was recorded, and can't be caught", function()
    local d = changed([[ sms.send { to = e.customer, text = "a" } sleep "1h" ]], [[ return "x" ]])
    assert.is_truthy(d.message:find("ended before sms.send#1", 1, true))
    d = changed([[ sms.send { to = e.customer, text = "a" } sleep "1h" ]],
      [[ pcall(email.send, { to = e.customer, text = "a" }) sleep "1h" ]])
    assert.is_truthy(d)
  end)
end)

describe("failures", function()
  it("of an action that nobody catches make it stuck at that step", function()
    local o = owner [[ sms.send { to = e.customer, text = "a" } ]]
    o:answer('{"action":"sms.send","code":"refused","message":"bad number","attempts":1}', "failed")
    assert.are.equal("stuck", o.result.state)
    assert.are.equal("action_failed", o.result.reason.code)
    assert.are.equal("sms.send#1: bad number", o.result.reason.message)
    assert.are.equal(1, o.result.reason.ordinal)
  end)

  it("go to on_error, whose steps are recorded, too", function()
    local files = { ["x.lua"] = [[
      return workflow { on = "estimate_created", run = function(e) sms.send { to = e.customer, text = "a" } end,
        on_error = function(e, err) email.send { to = e.customer, text = err.message } return "failed" end } ]] }
    local o = Owner.new(files, EVENT)
    o:start()
    o:answer('{"code":"refused","message":"bad number"}', "failed")
    assert.are.equal("on_error", o.open[1][2])
    o:crash()
    assert.are.equal("on_error", o.open[1][2])
    o:answer '{"status":"sent"}'
    assert.are.same({ state = "failed", reason = "bad number" }, o.result)
  end)

  it("of the script make it stuck with file and line", function()
    local o = owner [[ local x = e.gone.name ]]
    assert.are.equal("script_error", o.result.reason.code)
    assert.is_truthy(o.result.reason.message:find("workflows/x.lua:3", 1, true))
  end)

  it("in what is stored are told at their source", function()
    local o = owner [[ sms.send { to = e.customer, text = function() end } ]]
    assert.is_truthy(o.result.reason.message:find("workflows/x.lua:3: sms.send: ", 1, true))
  end)
end)

describe("a step of own code", function()
  it("runs once and is recorded", function()
    local o = owner [[ local v = step("sum", function() return 1 + 2 end) return "got " .. v ]]
    assert.are.equal("result", o.open[1][1])
    o:answer()
    assert.are.equal("got 3", o.result.outcome)
    o:crash()
    assert.are.equal("got 3", o.result.outcome)
  end)

  it("returns what was recorded, on the first run too", function()
    local body = [[
      local shared = { n = 5.0 }
      local got = step("look", function() return { a = shared, b = shared } end)
      got.a.n = 6
      return math.type(got.b.n) .. " " .. got.b.n
    ]]
    assert.are.equal("integer 5", run_all(body, {}).result.outcome)
    assert.are.equal("integer 5", (run_all(body, {}, 1)).result.outcome)
  end)

  it("may not assign outer locals, send or wait", function()
    local o = owner [[ local n = 0 step("q", function() n = 1 end) return n ]]
    assert.is_truthy(o.result.reason.message:find("step 'q' assigned to local 'n': return it instead", 1, true))
    o = owner [[ return step("q", { retries = 2, timeout = "5s" }, function() return "ok" end) ]]
    o:answer()
    assert.are.equal("ok", o.result.outcome)
    for options, why in pairs {
      ["{ retries = -1 }"] = "step 'q': retries is a whole number from 0 to 100",
      ["{ timeout = '1h' }"] = "step 'q': timeout is for one try",
      ["{ retry = 2 }"] = "step 'q': it has the options retries and timeout, not retry",
      ["2"] = "step takes a name and a function" } do
      o = owner("step('q', " .. options .. ", function() end)")
      assert.are.equal("stuck", o.result.state)
      assert.is_truthy(o.result.reason.message:find("x.lua:3: " .. why, 1, true), o.result.reason.message)
    end
    o = owner [[ step("q", function() sms.send { to = e.customer, text = "x" } end) ]]
    o:answer()
    assert.are.equal("stuck", o.result.state)
    assert.is_truthy(o.result.reason.message:find("sms.send is an effect", 1, true))
  end)
end)

describe("http in a step", function()
  local RATE = '{"status":200,"body":"{\\"rate\\":5}"}'
  local GET = 'http.get { url = "https://v.example/rate" }'

  it("asks the owner and goes on with the answer, of which nothing is recorded", function()
    local o = owner('local v = step("rate", { retries = 2, timeout = "5s" }, function() return ' .. GET
      .. '.json.rate end) return "rate " .. v')
    local p = o.open[1]
    assert.are.same({ "call", "", "1", "rate#1" }, { p[1], p[2], p[3], p[4] })
    assert.are.equal('{"as":"get#1","url":"https://v.example/rate"}', p[6])
    assert.are.equal('{"retries":2,"timeout":"5s"}', p[7])
    assert.are.equal("http.get", p[10])
    o:called(RATE)
    assert.are.equal("result", o.open[1][1])
    o:answer()
    assert.are.equal("rate 5", o.result.outcome)
    o:crash()
    assert.are.equal("rate 5", o.result.outcome)
    assert.are.same({}, o.requests)
  end)

  it("runs its function anew after a crash in the middle", function()
    local o = owner('step("rate", function() ' .. GET .. " return " .. GET .. ".status end)")
    o:called(RATE)
    assert.is_truthy(o.open[1][6]:find('"get#2"', 1, true))
    o:crash()
    assert.is_truthy(o.open[1][6]:find('"get#1"', 1, true))
    o:called(RATE)
    o:called(RATE)
    assert.are.equal("result", o.open[1][1])
  end)

  it("raises what went wrong, which the step then raises under its own name", function()
    local FAILED = '{"action":"http.get","code":"unavailable","message":"http: HTTP 503","status":503,"attempts":9}'
    local body = 'local ok, err = pcall(step, "rate", function() return ' .. GET .. [[ end)
      return table.concat({ err.action, err.code, err.status, err.attempts }, " ")]]
    local o = owner(body)
    o:called(FAILED, "failed")
    assert.are.equal("failed", o.open[1][8])
    o:answer()
    assert.are.equal("rate unavailable 503 9", o.result.outcome)
    o = owner('return step("rate", function() local ok, err = pcall(function() return ' .. GET
      .. ' end) return err.code end)')
    o:called(FAILED, "failed")
    o:answer()
    assert.are.equal("unavailable", o.result.outcome)
    o = owner('local ok, err = pcall(step, "rate", function() ' .. GET .. [[ error "no rate" end)
      return err.code .. err.attempts .. err.message]])
    o:called(RATE)
    o:answer()
    assert.is_truthy(o.result.outcome:find("^refused1.*no rate$"))
  end)

  it("leaves other branches their words and their locals", function()
    local o = owner('local n = 0 return all { a = function() return step("a", function() return n + ' .. GET
      .. [[.status end) end, b = function() sms.send { to = e.customer, text = "b" } n = 1
        sms.send { to = e.customer, text = "b" } return step("b", function() return ]] .. GET .. [[.body end) end }.a]])
    assert.are.same({ "step", "call" }, { o.open[1][1], o.open[2][1] })
    o:answer("{}")
    o:answer("{}", "done", 2)
    assert.are.same({ "call", "call" }, { o.open[1][1], o.open[2][1] })
    o:called(RATE, "done", 2)
    o:called(RATE)
    o:answer(nil, nil, 2)
    o:answer()
    assert.are.equal(200, o.result.value)
    o:crash()
    assert.are.equal(200, o.result.value)
  end)

  it("changes nothing in what its function may do, before and behind a call", function()
    for code, why in pairs {
      ["n = 1 " .. GET] = "step 'q' assigned to local 'n': return it instead",
      [GET .. " n = 1"] = "step 'q' assigned to local 'n': return it instead" } do
      local o = owner('local n = 0 step("q", function() ' .. code .. " end) return n")
      if o.open[1] then
        o:called(RATE)
      end
      assert.is_truthy(o.result.reason.message:find(why, 1, true))
    end
    for _, word in ipairs { 'sms.send { to = e.customer, text = "x" }', 'sleep "1s"', 'note "x"',
      'step("in", function() end)', "all {}", "compensate(function() end)", 'stop "x"', "setting 'KEY'" } do
      local o = owner('step("q", function() ' .. GET .. " " .. word .. " end)")
      o:called(RATE)
      o:answer()
      assert.are.equal("stuck", o.result.state, word)
      assert.is_truthy(o.result.reason.message:find "x.lua:3", word)
    end
  end)

  it("is refused elsewhere, with the line", function()
    for body, why in pairs {
      [GET] = 'x.lua:3: http.get is for actions and for step: step("name", function() return http.get { … } end)',
      ['local h = http.post step("a", function() end) h {}'] = "x.lua:3: http.post is for actions and for step",
      ['step("q", function() http.get "x" end)'] = "x.lua:3: http.get takes one table",
      ['step("q", function() http.get { uri = "x" } end)'] = 'x.lua:3: http.get: unknown field "uri"',
      ['step("q", function() http.get {} end)'] = "x.lua:3: http.get: url is missing",
      ['step("q", function() ("x"):gsub("x", function() ' .. GET .. " end) end)"] = "can't be called from inside",
      ['step("q", function() http.put { url = "x" } end)'] = "there is no 'http.put' here" } do
      local o = owner(body)
      while o.open[1] do
        o:answer()
      end
      assert.is_truthy(o.result.reason.message:find(why, 1, true), o.result.reason.message)
    end
    local o = owner('all { function() step("q", function() return ' .. GET
      .. [[ end) end, function() wait_for("customer_replied", { when = function() return ]] .. GET .. " end }) end }")
    assert.is_truthy(o:judge({ id = "r1" }, 1):find("http.get is for actions", 1, true))
  end)

  it("has random numbers of its own, which a replay needn't repeat", function()
    local body = [[local a = step("q", function() return random() end) local b = random()
      step("mark", function() end) return a .. " " .. b]]
    local whole, again = run_all(body, {}), run_all(body, {}, 2)
    assert.are.equal(whole.result.outcome, again.result.outcome)
  end)
end)

describe("waits", function()
  it("name what they want by type and key", function()
    local o = owner [[ wait_for({ "estimate_approved", "customer_replied" }, { timeout = "3d" }) ]]
    local spec = host.json.decode(o.open[1][7])
    assert.are.same({ type = "estimate_approved", keys = { "estimate:7" } }, spec.types[1])
    assert.are.same({ type = "customer_replied", keys = { "customer:9" } }, spec.types[2])
    assert.are.equal("2026-06-04T14:00:00Z", spec.deadline)
    assert.is_false(spec.judged)
  end)

  it("reach someone without an id by phone and e-mail", function()
    local o = Owner.new(workflow [[ wait_for("customer_replied") ]],
      { id = "e1", name = "lead_created", customer = { phone = "+15550100", email = "Ann@X.org" } })
    o:start()
    local spec = host.json.decode(o.open[1][7])
    assert.are.same({ "phone:+15550100", "email:ann@x.org" }, spec.types[1].keys)
  end)

  it("let `when` have the last word, which may only look", function()
    local o = owner [[ wait_for("customer_replied", { when = function(it, e)
      return it.reply.text == "yes" and e.customer.id == 9 end }) ]]
    assert.are.equal("not ours", o:judge({ id = "e2", reply = { text = "no" } }))
    assert.are.equal("ours", o:judge({ id = "e3", reply = { text = "yes" } }))
    o = owner [[ wait_for("customer_replied", { when = function(it) sms.send { text = "x" } end }) ]]
    assert.is_truthy(o:judge({ id = "e2" }):find("error: workflows/x.lua:3: sms.send is an effect", 1, true))
  end)

  it("return nothing after their time", function()
    local o = owner [[ local it = wait_for("customer_replied", { timeout = "1d" }) return tostring(it) ]]
    o:answer '{"until":"2026-06-02T14:00:00Z"}'
    assert.are.equal("nil", o.result.outcome)
  end)
end)

describe("time", function()
  it("is that of the last completion, and a step after a sleep was due at its end", function()
    local o = owner [[ sleep "2h" sms.send { to = e.customer, text = "x" } ]]
    assert.are.equal("2026-06-01T16:00:00Z", o.open[1][7])
    o:answer()
    assert.are.equal("2026-06-01T16:00:00Z", o.open[1][9])
  end)

  it("that has passed is not slept until", function()
    local o = owner [[ return tostring(sleep_until("2026-05-01T00:00:00Z")) ]]
    assert.are.equal("false", o.result.outcome)
    o = owner [[ return tostring(sleep_until(e.time, { after = "2h" })) ]]
    o:answer()
    assert.are.equal("true", o.result.outcome)
  end)

  it("is written plainly or refused with the line", function()
    local o = owner [[ sleep "2 days" ]]
    assert.are.equal('workflows/x.lua:3: "2 days" is not a duration; write "2d" (s m h d w)',
      o.result.reason.message)
  end)
end)

describe("stops", function()
  it("are judged by their when", function()
    local o = Owner.new({ ["x.lua"] = [[ return workflow { on = "estimate_created",
      stop_when = { "estimate_rejected",
        estimate_repriced = { when = function(it) return it.estimate.total < 1000 end } },
      run = function() end } ]] }, EVENT)
    local function judge(total)
      return o.body.judge("1", "2026-06-01T14:00:00Z", host.json.encode(EVENT),
        host.json.encode { name = "estimate_repriced", estimate = { total = total } })
    end
    assert.are.equal("ours", judge(999))
    assert.are.equal("not ours", judge(1000))
  end)

  it("run on_stop with the event, in steps of its own", function()
    local o = Owner.new({ ["x.lua"] = [[ return workflow { on = "estimate_created", run = function(e)
      sms.send { to = e.customer, text = "a" } sleep "2d" end,
      on_stop = function(e, by) if by.reply then staff.task { to = "csr", title = by.reply.text } end end } ]] }, EVENT)
    o:start()
    o:answer '{"status":"sent"}'
    o:start("on_stop", { name = "customer_replied", reply = { text = "hi" } })
    assert.are.equal("on_stop", o.open[1][2])
    assert.are.equal("staff.task#1", o.open[1][4])
    o:answer '{"id":1}'
    assert.are.same({ state = "stopped", reason = "customer_replied" }, o.result)
  end)
end)

describe("words", function()
  it("add money exactly", function()
    local o = owner [[ return tostring(sum({ { balance = 0.1 }, { balance = 0.2 } }, "balance")) ]]
    assert.are.equal("0.3", o.result.outcome)
  end)

  it("take their options out of the arguments", function()
    local o = owner [[ sms.send { to = e.customer, text = "a", name = "hello", retries = 3, timeout = "5s" } ]]
    assert.are.equal("hello", o.open[1][4])
    assert.are.equal('{"retries":3,"timeout":"5s"}', o.open[1][7])
    assert.is_nil(host.json.decode(o.open[1][6]).name)
  end)

  it("check their options at the author's line", function()
    local function wrong(options)
      return owner("sms.send { to = e.customer, text = 'a', " .. options .. " }").result.reason.message
    end
    assert.matches(":%d+: sms.send: retries is a whole number from 0 to 100", wrong "retries = 1.5")
    assert.matches("retries is a whole number", wrong "retries = -1")
    assert.matches("retries must be a number", wrong "retries = '3'")
    assert.matches('"soon" is not a duration', wrong "timeout = 'soon'")
    assert.matches('sms.send: timeout is for one try: from "1s" to "30s"', wrong "timeout = '2d'")
    assert.matches('in_doubt is "sent" or "drop"', wrong "in_doubt = 'not_sent'")
    local o = owner [[ ghl.add_tag { customer = e.customer, tag = "a", in_doubt = "sent" } ]]
    assert.matches("in_doubt is an option of sms.send, email.send and", o.result.reason.message)
  end)

  it("wait with a table of options, and say so where it is none", function()
    local function wrong(line)
      return owner(line).result.reason.message
    end
    assert.matches(":%d+: wait_for takes its options in a table", wrong 'wait_for("estimate_approved", "1d")')
    assert.matches(":%d+: wait_for: when must be a function", wrong 'wait_for("estimate_approved", { when = 3 })')
  end)

  it("ask for the newest row of a record by its entity and id", function()
    local o = owner [[ local c = fresh(e.customer) local all = fresh(e) return c.name .. all.estimate.status ]]
    assert.are.same({ entity = "customer", id = 9 }, host.json.decode(o.open[1][6]))
    o:answer '{"id":9,"name":"Ann "}'
    assert.are.same({ estimate = 7, customer = 9 }, host.json.decode(o.open[1][6]).records)
    o:answer '{"estimate":{"status":"Sold"}}'
    assert.are.equal("Ann Sold", o.result.outcome)
  end)
end)
