-- The world of a company file: what it has, what it is told when it reaches for more, and that its
-- results don't depend on the process.
_G.host = _G.host or require "host"
local sandbox = require "sandbox"

local function run(source, api, req)
  local env = sandbox.env { api = api or {}, chunk = "workflows/x.lua", require = req }
  local f, message = sandbox.compile(source, "workflows/x.lua", env)
  if not f then
    return false, message
  end
  return pcall(f)
end

local function gives(expected, source, api)
  local ok, value = run(source, api)
  if not ok then
    error(source .. "\n" .. tostring(value), 2)
  end
  assert.are.same(expected, value)
end

-- The message, and that it begins with the line of the company's file.
local function says(message, source, api, line)
  local ok, why = run(source, api)
  assert.is_false(ok, source)
  assert.are.equal("workflows/x.lua:" .. (line or 1) .. ": " .. message, why)
end

describe("a company file", function()
  after_each(sandbox.unlock_strings)

  it("has plain Lua", function()
    gives("3 x 2.5 true", "return string.format('%d %s %.1f %s', 3, 'x', 2.5, true)")
    gives({ 1, 2, 3 }, "local t = { 3, 1, 2 } table.sort(t) return t")
    gives("ab-ab", "return ('ab'):rep(2, '-')")
    gives("b", "return select(2, 'a', 'b')")
    gives(3, "return #'abc'")
    gives(false, "return (pcall(error, 'x'))")
    gives({ "a", "b" }, "local t = {} for _, v in ipairs { 'a', 'b' } do t[#t + 1] = v end return t")
    gives(3, "return math.max(1, 3)")
    gives(2, "return utf8.len('é!')")
    gives("x=1", "return (('x = 1'):gsub('%s', ''))")
  end)

  it("is told what to use instead", function()
    says("there is no 'os' here; for the time use now() or date(t)", "return os.time()")
    says("there is no 'io' here; files can't be read; keep values in company.lua or in a module of lib/",
      "\n\nio.write('x')", nil, 3)
    says("there is no 'print' here; use note(\"…\") to leave a line in the timeline", "print(1)")
    says("there is no 'coroutine' here; all { f, g } runs things side by side",
      "return coroutine.wrap")
    says("there is no 'math.random' here; use random()", "return math.random()")
    says("there is no 'string.dump' here; functions can't be stored", "return string.dump(pcall)")
    says("there is no 'tostrin' here; did you mean \"tostring\"?", "return tostrin(1)")
    says("there is no 'sms.sent' here; did you mean \"send\"?", "return sms.sent {}",
      { sms = { send = function() end } })
    says("require works at the top of a file only", "local x = require 'lib.x' return x")
  end)

  it("has nothing else", function()
    for _, name in ipairs { "getmetatable", "setmetatable", "rawget", "rawset", "rawequal", "rawlen",
      "load", "loadstring", "dofile", "loadfile", "collectgarbage", "debug", "package", "xpcall",
      "_G", "_VERSION", "host", "module", "warn", "bit32", "arg" } do
      local ok, why = run("return " .. name)
      assert.is_false(ok, name)
      assert.is_truthy(why:find("there is no '" .. name .. "' here", 1, true))
    end
    local seen = {}
    for _, library in ipairs { "string", "table", "math", "utf8" } do
      local _, names = run("local n = {} for k in pairs(" .. library .. ") do n[#n + 1] = k end "
        .. "return table.concat(n, ' ')")
      seen[library] = names
    end
    assert.are.equal("byte char find format gmatch gsub len lower match rep reverse sub upper",
      seen.string)
    assert.are.equal("concat insert move pack remove sort unpack", seen.table)
    assert.are.equal("char charpattern codepoint codes len offset", seen.utf8)
  end)

  it("can't make globals or change what it is given", function()
    says("global 'count' assigned; write: local count = …", "\ncount = 1", nil, 2)
    says("global 'pairs' assigned; write: local pairs = …", "pairs = nil")
    says("'rep' can't be assigned: this table is read-only", "string.rep = nil")
    local api = { company = { name = "Bright Air", people = { csr = "a@b.example" } },
      sms = { send = function() return "sent" end } }
    says("'name' can't be assigned: this table is read-only", "company.name = 'x'", api)
    says("'csr' can't be assigned: this table is read-only", "company.people.csr = 'x'", api)
    says("'send' can't be assigned: this table is read-only", "sms.send = nil", api)
    assert.is_false(run("table.insert(company.people, 'x')", api))
    assert.are.equal("Bright Air", api.company.name)
    gives("sent", "return sms.send { }", api)
    gives("absent", "return company.fax == nil and 'absent'", api)
  end)

  it("reads frozen tables with pairs, #, ipairs and table functions", function()
    local api = { list = { 10, 20, 30 }, map = { b = 1, a = { 2 } } }
    gives("1=10 2=20 3=30 ", "local s = '' for k, v in pairs(list) do s = s .. k .. '=' .. v .. ' ' end return s",
      api)
    gives(60, "local n = 0 for i = 1, #list do n = n + list[i] end return n", api)
    gives(60, "local n = 0 for _, v in ipairs(list) do n = n + v end return n", api)
    gives("10,20,30", "return table.concat(list, ',')", api)
    gives(20, "return (select(2, table.unpack(list)))", api)
    gives("a b ", "local s = '' for k in pairs(map) do s = s .. k .. ' ' end return s", api)
    gives("a", "return (next(map))", api)
    gives(2, "return map.a[1]", api)
    gives({ 30, 20, 10 }, "local t = table.move(list, 1, #list, 1, {}) "
      .. "table.sort(t, function(a, b) return a > b end) return t", api)
    says("this list is read-only; sort a copy: table.move(list, 1, #list, 1, {})",
      "table.sort(list, function(a, b) return a > b end)", api)
  end)

  it("can't compile bytecode or reach the string metatable", function()
    local env = sandbox.env { api = {}, chunk = "workflows/x.lua" }
    local f, why = sandbox.compile(string.dump(function() end), "workflows/x.lua", env)
    assert.is_nil(f)
    assert.is_truthy(why:find("binary", 1, true))
    gives("nil", "return tostring((''):rep(0).__index)")
    assert.is_false(run("('').__index.rep = 1"))
    assert.is_false(run("local s = '' s.rep = 1"))
    assert.is_false(getmetatable(""))
  end)

  it("shows no addresses", function()
    says("tostring can't show a table; name one of its fields", "local v = tostring({}) return v")
    says("tostring can't show a function; name one of its fields", "local v = tostring(pairs) return v")
    says("format can't show a table (value 2); name one of its fields",
      "local v = string.format('%d %s', 1, {}) return v")
    says("format can't show a function (value 1); name one of its fields",
      "local v = ('%s'):format(pcall) return v")
    says("format has no %p here: addresses differ from run to run", "local v = ('%p'):format('x') return v")
    says("format has no %p here: addresses differ from run to run", "local v = ('%%%-20p'):format('x') return v")
    gives("100%p", "return ('100%%p'):format()")
    gives("nil true 1.5", "return tostring(nil) .. ' ' .. tostring(true) .. ' ' .. tostring(1.5)")
  end)

  it("walks tables in one order", function()
    gives("-1 1 2 10 0.5 2.5 B a b false true", [[
      local t, s = { [2] = 1, [10] = 1, [-1] = 1, [2.5] = 1, [0.5] = 1, b = 1, B = 1, a = 1,
        [true] = 1, [false] = 1, [1] = 1 }, {}
      for k in pairs(t) do s[#s + 1] = tostring(k) end
      return table.concat(s, " ")]])
    gives("-1 1 2 10 0.5 2.5 B a b false true", [[
      local t, s = { [2] = 1, [10] = 1, [-1] = 1, [2.5] = 1, [0.5] = 1, b = 1, B = 1, a = 1,
        [true] = 1, [false] = 1, [1] = 1 }, {}
      local k = next(t)
      while k ~= nil do s[#s + 1] = tostring(k) k = next(t, k) end
      return table.concat(s, " ")]])
    says("a table with a table as key has no order; use texts or numbers",
      "for _ in pairs { [{}] = 1 } do end")
    says("a table with a function as key has no order; use texts or numbers",
      "local k = next { [pcall] = 1 } return k")
    says("pairs needs a table, not nil", "for _ in pairs(nil) do end")
  end)

  it("may change a table while walking it", function()
    gives("a c ", [[
      local t, s = { a = 1, b = 2, c = 3 }, ""
      for k in pairs(t) do t.b, t.z, s = nil, 1, s .. k .. " " end
      return s]])
    gives("nil", "local t = { a = 1 } for k in pairs(t) do t[k] = nil end return tostring(next(t))")
  end)

  it("sorts stably, the same each time", function()
    gives(true, [[
      local t = {}
      for i = 1, 1000 do t[i] = { key = i * 7919 % 10, i = i } end
      table.sort(t, function(a, b) return a.key < b.key end)
      for i = 2, #t do
        if t[i - 1].key > t[i].key or (t[i - 1].key == t[i].key and t[i - 1].i > t[i].i) then
          return false
        end
      end
      return #t == 1000]])
    gives("abc", "local t = { 'c', 'b', 'a' } table.sort(t) return table.concat(t)")
    gives({}, "local t = {} table.sort(t) return t")
    gives(200, [[
      local t = {} for i = 1, 200 do t[i] = i % 7 end
      table.sort(t, function() return true end) -- inconsistent, but it ends
      return #t]])
    assert.is_false(run("local t = { 1, 'x' } table.sort(t)"))
  end)

  it("can't ask C for what takes long or is large", function()
    says("rep makes texts of 1 MB at most", "local v = ('x'):rep(1 << 30) return v")
    says("rep makes texts of 1 MB at most", "local v = string.rep('', 1 << 62, 'xy') return v")
    gives(1 << 20, "return #('x'):rep(1 << 20)")
    for _, name in ipairs { "find", "match", "gmatch", "gsub" } do
      says(name .. " looks at texts of 64 kB at most; this one has 65537 bytes",
        "local s = ('x'):rep(65537) local v = s:" .. name .. "('y', 'z') return v")
    end
    says("unpack gives 1000 values at most", "local v = table.unpack({}, 1, 1e7) return v")
    says("move moves 1000000 values at most", "local v = table.move({}, 1, 1e9, 2) return v")
  end)

  it("gets modules through the given require", function()
    local ok, value = run("local x = require 'lib.x' return x", nil, function(name)
      return name .. "!"
    end)
    assert.is_true(ok)
    assert.are.equal("lib.x!", value)
  end)

  it("shares nothing with the next one", function()
    run("local t = table t = nil")
    assert.is_false(run("string.shared = 1"))
    assert.is_false(run("shared = 1"))
    says("there is no 'shared' here", "return shared")
  end)
end)

describe("a frozen table", function()
  it("is written as JSON like the table itself", function()
    local t = { a = { 1, { b = 2 } }, empty = host.json.array {}, map = {} }
    assert.are.equal(host.json.encode(t), host.json.encode(sandbox.freeze(t)))
    assert.are.equal('{"x":{"a":[1,{"b":2}],"empty":[],"map":{}}}',
      host.json.encode { x = sandbox.freeze(t) })
  end)

  it("is the same one each time, and frozen again it is itself", function()
    local t = { a = {} }
    assert.is_true(rawequal(sandbox.freeze(t), sandbox.freeze(t)))
    assert.is_true(rawequal(sandbox.freeze(t), sandbox.freeze(sandbox.freeze(t))))
  end)

  it("stands for a table that has an __index of its own", function()
    local t = setmetatable({}, { __index = function(_, k) return k .. "!" end })
    assert.are.equal("x!", sandbox.freeze(t, "t").x)
    assert.has_error(function() sandbox.freeze(t).y = 1 end)
  end)
end)
