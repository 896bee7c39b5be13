-- The matcher of company files gives what Lua's own gives.
_G.host = _G.host or require "host"
local ours = host.pattern

local seed = tonumber(os.getenv "MOONWRIGHT_SEED") or os.time()
local ROUNDS = os.getenv "MOONWRIGHT_LONG" == "1" and 300000 or 20000

local function same(name, ...)
  local a, b = table.pack(pcall(string[name], ...)), table.pack(pcall(ours[name], ...))
  if not a[1] then
    a, b = { n = 1, false }, { n = b.n == 2 and 1 or b.n, b[1] }
  end
  assert.are.same({ name, a, ... }, { name, b, ... })
end

local function all_of(gmatch, ...)
  local found = {}
  for a, b in gmatch(...) do
    found[#found + 1] = { a, b }
  end
  return found
end

describe("patterns", function()
  it("match as in Lua's own library", function()
    local cases = {
      { "hello world", "o w" }, { "hello", "l+" }, { "hello", "(h)(.)(l*)" }, { "x=1, y=2", "(%w)=(%w)" },
      { "  trim  ", "^%s*(.-)%s*$" }, { "f(a(b)c)d", "%b()" }, { "THE (quick) fox", "%f[%a]%a+" },
      { "abcabc", "(abc)%1" }, { "key = value", "^(%w+)%s*=%s*(%w+)$" }, { "a.b", ".", 2 },
      { "abc", "()b()" }, { "", "" }, { "", ".*" }, { "abc", "", 4 }, { "abc", "", 5 }, { "abc", "b", -2 },
      { "a]b", "[]]" }, { "a-b", "[a%-]+" }, { "a^b", "[%^b]" }, { "abc", "[^a]" }, { "a\0b", "%z?\0b" },
      { "x", "[a-]" }, { "]", "[^]]" }, { "aaa", "a-$" }, { "a$b", "a$b" }, { "$", "%$" },
      { "x", "%" }, { "x", "[a" }, { "x", "(x" }, { "x", "x)" }, { "x", "%1" }, { "x", "%f" }, { "x", "%b" },
      { "x", "[%" }, { "aXb", "%u" }, { "aXb", "%U+" }, { "caf\xc3\xa9", "[\x80-\xff]+" },
    }
    for _, case in ipairs(cases) do
      same("find", table.unpack(case))
      same("match", table.unpack(case))
      same("gsub", case[1], case[2], "<%0>")
      same("gsub", case[1], case[2], "%1%%")
    end
    same("find", "a.b.c", ".", 3, true)
    same("find", "a.b.c", "", 9, true)
    same("gsub", "hello", "l", { l = "L" })
    same("gsub", "hello", "(l)(.)", function(a, b) return b .. a end)
    same("gsub", "hello", "l", function() return false end)
    same("gsub", "hello", "l", "x", 1)
    same("gsub", "hello", "", "-")
    same("gsub", "abc", "^a", "x")
    same("gsub", "abc", "b", "%9")
    same("gsub", "abc", "b", "%x")
    same("gsub", "abc", "b", true)
    same("gsub", "abc", "()", "%1")
    same("gsub", 1234, 2, 5)
  end)

  it("match as in Lua's own library, at random #MOONWRIGHT_SEED=" .. seed, function()
    math.randomseed(seed)
    local pieces = { "a", "b", "c", ".", "%a", "%d", "%s", "[ab]", "[^a]", "[a-c]", "(", ")", "()", "%1",
      "*", "+", "-", "?", "^", "$", "%b()", "%f[a]", "%", "[", "]", "(a)", "(.-)", "%w+" }
    local letters = { "a", "b", "c", "1", " ", "(", ")", "-", "%" }
    local function word(from, most)
      local t = {}
      for i = 1, math.random(0, most) do
        t[i] = from[math.random(#from)]
      end
      return table.concat(t)
    end
    for _ = 1, ROUNDS do
      local text, pattern = word(letters, 12), word(pieces, 5)
      same("find", text, pattern, math.random(-3, 14))
      same("match", text, pattern)
      same("gsub", text, pattern, "%0%%%1", math.random(0, 5))
      local fine, a = pcall(all_of, string.gmatch, text, pattern)
      local _, b = pcall(all_of, ours.gmatch, text, pattern)
      assert.are.same({ pattern, text, fine and a }, { pattern, text, fine and b })
    end
  end)
end)
