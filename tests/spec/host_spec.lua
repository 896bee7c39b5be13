-- The table `host`: what trusted Lua relies on, and that its description for editors is complete.
_G.host = _G.host or require "host"
local host = _G.host

local function names_of(t, prefix, names)
  for key, value in pairs(t) do
    if type(value) == "table" then
      names_of(value, prefix .. key .. ".", names)
    else
      names[#names + 1] = prefix .. key
    end
  end
  return names
end

describe("host", function()
  it("is described for editors as it is", function()
    local described = { host = nil, string = string }
    local source = os.getenv "MOONWRIGHT_SOURCE" .. "/lua/meta/host.lua"
    assert(loadfile(source, "t", described))()
    described.host.json.null = host.json.null -- a field, not a function
    for _, name in ipairs { "post", "lent", "ask", "burst" } do
      described.host[name] = nil -- only in a vm
    end
    local expected, actual = names_of(described.host, "", {}), names_of(host, "", {})
    table.sort(expected)
    table.sort(actual)
    assert.are.same(expected, actual)
  end)

  it("hashes", function()
    assert.are.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
      host.sha256("abc"))
    assert.are.equal("ba7816bf8f01cfea", host.hash("abc"))
    assert.are_not.equal(host.hash("a\0b"), host.hash("a\0c"))
    assert.is_truthy(host.random_hex(8):match("^%x+$"))
    assert.are.equal(16, #host.random_hex(8))
    assert.are_not.equal(host.random_hex(16), host.random_hex(16))
    assert.has_error(function() host.random_hex(1000) end)
  end)

  it("knows zones", function()
    local civil = host.zone.civil("America/New_York", 1772920800)
    assert.are.same({ year = 2026, month = 3, day = 7, hour = 17, minute = 0, second = 0,
      weekday = 6, offset = -18000 }, civil)
    assert.are.equal(1772920800, host.zone.instant("America/New_York", civil))
    assert.is_true(host.zone.exists("America/Phoenix"))
    assert.is_false(host.zone.exists("../../etc/passwd"))
    assert.is_false(host.zone.exists(nil))
    assert.has_error(function() host.zone.civil("Mars", 0) end)
    assert.are.equal("integer", math.type(host.now()))
  end)

  it("tells the company's line and the locals of a function", function()
    local file = load("\nlocal place = where()\nreturn place", "@workflows/x.lua", "t",
      { where = host.where })
    assert.are.equal("workflows/x.lua:2", file())
    local limit, name = 5, "x"
    local function f() return limit, name end
    assert.are.same({ { name = "limit", value = 5 }, { name = "name", value = "x" } },
      host.upvalues(f))
    assert.is_truthy(host.traceback("broken"):find("broken\nstack traceback:", 1, true))
  end)

  it("refuses log lines that make no sense", function()
    assert.has_error(function() host.log("loud", "x") end)
    assert.has_error(function() host.log("debug", "x", "key") end)
    host.log("debug", "x", "key", nil)
  end)
end)
