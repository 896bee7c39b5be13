-- Versions: what is put in force, which calls a file makes, how files differ.
_G.host = _G.host or require "host"
local calls = require "calls"
local candidate = require "candidate"
local difference = require "difference"

local EVENTS = 'return events { estimate_created = { of = "estimate", created = true } }'
local COMPANY = 'return company { name = "Bright Air", zone = "America/New_York" }'

local function workflow(run)
  return 'return workflow { on = "estimate_created", run = function(e) ' .. (run or "") .. " end }"
end

local function tree(more)
  local sources = { ["workflows/events.lua"] = EVENTS, ["workflows/company.lua"] = COMPANY }
  for name, source in pairs(more) do
    sources["workflows/" .. name .. ".lua"] = source
  end
  return sources
end

-- Plays the database: what a set puts in force, and what its tree has offered then.
local function put(set, active, trusted)
  local now = {}
  for name, d in pairs(active) do
    now[name] = d
  end
  local all = { events = set.events_file, company = set.company_file, actions = set.bundle }
  for name, file in pairs(set.workflows) do
    all[name] = file
  end
  for name, file in pairs(all) do
    if file.put then
      now[name] = { id = name .. " " .. file.sha256, sha256 = file.sha256, files = file.files,
        trusted = trusted or "" }
    end
  end
  return now, set.have
end

local function names_put(set)
  local names = {}
  for name, file in pairs(set.workflows) do
    names[#names + 1] = file.put and name or nil
  end
  table.sort(names)
  return table.concat(names, " ")
end

describe("what is put in force", function()
  it("is what was saved in this tree, and nothing that another tree has saved since", function()
    local ours, theirs = tree { a = workflow "note 'ours'" }, tree { a = workflow "note 'theirs'", b = workflow() }
    local first = candidate.load(ours, {})
    assert.are.equal("a", names_put(first))
    local active, offered = put(first, {})
    assert.are.equal("", names_put(candidate.load(ours, active, { offered = offered })))
    local second = candidate.load(theirs, active)
    assert.are.equal("a b", names_put(second))
    active = put(second, active)
    local set = candidate.load(ours, active, { offered = offered })
    assert.are.equal("", names_put(set))
    assert.are.equal(active.a.id, set.workflows.a.id)
    assert.are.equal(active.b.id, set.workflows.b.id)
    ours["workflows/a.lua"] = workflow "note 'ours again'"
    assert.are.equal("a", names_put(candidate.load(ours, active, { offered = offered })))
  end)

  it("is another version for another program, when that starts", function()
    local ours = tree { a = workflow() }
    local active, offered = put(candidate.load(ours, {}, { trusted = "one" }), {}, "one")
    local function later(starting)
      return names_put(candidate.load(ours, active, { offered = offered, trusted = "two", starting = starting }))
    end
    assert.are.equal("", later(false))
    assert.are.equal("a", later(true))
  end)

  it("is another version at once where the company's hours change, or actions it calls", function()
    local path = "workflows/actions/financing.lua"
    local ours = tree { a = workflow "financing.apply {}", b = workflow(),
      ["actions/financing"] = "return actions { apply = { run = function() end } }" }
    local function bundle()
      return { files = { [path] = ours[path] } }
    end
    local active, offered = put(candidate.load(ours, {}, { bundle = bundle() }), {})
    ours[path] = "return actions { apply = { run = function() end }, ask = { run = function() end } }"
    local set = candidate.load(ours, active, { offered = offered, bundle = bundle() })
    assert.are.equal("a", names_put(set))
    active, offered = put(set, active)
    ours["workflows/company.lua"] = COMPANY:gsub("New_York", "Chicago")
    assert.are.equal("a b", names_put(candidate.load(ours, active, { offered = offered, bundle = bundle() })))
  end)

  it("is not what was stopped while it was loaded", function()
    local set = candidate.load(tree { a = "while true do end" }, {}, { aside = {
      ["file workflows/a.lua"] = { message = "it used more than 5 ms (workflows/a.lua:1); do less" } } })
    assert.are.same({ { file = "workflows/a.lua", line = 1, message = "a.lua:1: it used more than 5 ms; do less" } },
      set.refused)
  end)
end)

describe("the calls of a file", function()
  local function of(source)
    return calls.of(calls.read({ ["workflows/a.lua"] = source }, { sms = true, fin = true, approve = "word" }))
  end

  it("are its actions with the arguments it names", function()
    assert.are.same({ ["sms.send"] = { "text", "to" }, ["fin.apply"] = { "amount" } }, of [[
      local function inner(e) return fin.apply { amount = e.estimate.total } end
      approve { by = "manager", title = "a word isn't one" }
      sms.send { to = e.customer, text = "a" .. inner(e).text, name = "first", retries = 2 }
      other.send { what = 1 }]])
  end)

  it("are known by name alone where they are made in another way", function()
    assert.are.same({ ["sms.send"] = {} }, of "local send = sms.send local t = { to = 1 } send(t)")
  end)

  it("are what actions must keep", function()
    local used = { { name = "a", version = 3, alive = 1, calls = { ["fin.apply"] = { "amount" } } } }
    local function lacks(actions)
      return (calls.lacks("fin", actions, used))
    end
    assert.is_nil(lacks { apply = { args = { amount = "money", term = "number?" } }, more = {} })
    assert.are.equal("fin.apply is gone, and a (version 3, 1 instance alive) calls it; keep it until those have "
      .. "ended", lacks {})
    assert.is_truthy(lacks { apply = { args = { amounts = "money" } } }:find("did you mean \"amounts\"", 1, true))
    assert.is_truthy(lacks { apply = { args = { amount = "money", term = "number" } } }
      :find("now needs 'term'", 1, true))
  end)
end)

describe("a difference", function()
  it("has what changed with its neighbours", function()
    local old, new = {}, {}
    for i = 1, 20 do
      old[i], new[i] = "line " .. i, "line " .. i
    end
    new[10] = "other"
    table.insert(new, 11, "more")
    assert.are.equal("@@ -7,7 +7,8 @@\n line 7\n line 8\n line 9\n-line 10\n+other\n+more\n line 11\n line 12\n"
      .. " line 13\n", difference.of(table.concat(old, "\n"), table.concat(new, "\n")))
    assert.are.equal("", difference.of("a\nb", "a\nb\n"))
  end)

  it("names the files", function()
    assert.are.equal("--- a (one)\n+++ a (two)\n@@ -1,0 +1,2 @@\n+x\n+y\n",
      difference.of_files({ b = "same" }, { a = "x\ny\n", b = "same" }, "one", "two"))
  end)
end)
