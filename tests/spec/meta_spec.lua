-- What lua/meta tells editors about the words of company files, compared with the words that there
-- are, both ways: a word, an option or a field that only one of the two knows fails here.
_G.host = _G.host or require "host"
local action = require "action"
local company = require "company"
local entities = require "entities"
local flow = require "flow"
local candidate = require "candidate"
local plain = require "plain"
local rules = require "rules"
local sandbox = require "sandbox"
local send = require "send"
local time = require "time"
local wait = require "words.wait"
local words = require "words"
local workflow = require "workflow"

local json = _G.host.json

local function read(path)
  local file = assert(io.open(os.getenv "MOONWRIGHT_SOURCE" .. "/" .. path))
  local text = file:read "a"
  file:close()
  return text
end

local META = {}
for _, name in ipairs { "records", "declarations", "words" } do
  META[name] = read("lua/meta/" .. name .. ".lua")
end
META.words = META.words .. read("lua/meta/people.lua"):gsub("^%-%-%-@meta\n", "")
local ALL = META.records .. META.declarations .. META.words

-- What is described -------------------------------------------------------------------------------

-- {Customer = {id = "id? integer", …}}
local function read_classes()
  local classes, last = {}, nil
  for line in ALL:gmatch "[^\n]*" do
    local name = line:match "^%-%-%-@class ([%w_]+)"
    local field, optional = line:match "^%-%-%-@field ([%w_]+)(%??)"
    if name then
      last = name
      classes[last] = {}
    elseif field then
      classes[last][field] = optional == "?" and "optional" or "needed"
    end
  end
  return classes
end
local CLASSES = read_classes()

-- Runs a description; returns its words, "sms.send" for those of a namespace.
local function described(name)
  local found = {}
  local function table_of(prefix)
    return setmetatable({}, { __newindex = function(t, key, value)
      if type(value) == "table" then
        rawset(t, key, table_of(key .. "."))
      else
        found[prefix .. key] = true
      end
    end })
  end
  assert(load(META[name], "@lua/meta/" .. name .. ".lua", "t", table_of ""))()
  return found
end

-- The class that a word's one table is of.
local function class_of(word)
  local name = META.words:match("%-%-%-@param options ([%w_]+)\n[^\n]*\nfunction "
    .. word:gsub("%.", "%%.") .. "%(options%)")
  return CLASSES[name]
end

-- What there is -----------------------------------------------------------------------------------

-- A local of a module, found among what its functions use.
local function hidden(f, name, seen)
  seen = seen or {}
  if seen[f] then
    return nil
  end
  seen[f] = true
  local n = 1
  while true do
    local upvalue, value = debug.getupvalue(f, n)
    if not upvalue then
      return nil
    elseif upvalue == name then
      return value
    end
    local inner = type(value) == "function" and hidden(value, name, seen)
    if inner then
      return inner
    end
    n = n + 1
  end
end

local function add_words(found, api)
  for name, value in pairs(api) do
    if type(value) == "table" then
      for key in pairs(value) do
        found[name .. "." .. key] = true
      end
    else
      found[name] = true
    end
  end
  return found
end

-- The words that each kind of file is given when it is loaded.
local function given_to(load_files)
  local given, env = {}, sandbox.env
  sandbox.env = function(options)
    given[options.chunk] = options.api
    return env(options)
  end
  local ok, why = pcall(load_files)
  sandbox.env = env
  assert(ok, why)
  return given
end

local our_actions = require "shipped"

local function words_of_run()
  local found = {}
  for word in pairs(add_words({}, words.build { actions = {}, events = {},
    company = { zone = "America/New_York" } })) do
    -- A word of a namespace is one when its action is there; http stands with the words of actions.
    if word ~= "workflow" and (not word:find(".", 1, true) or our_actions[word])
      and not word:find "^http%." then
      found[word] = true
    end
  end
  return found
end

local function words_of_declarations()
  local company_file = 'return company { zone = "America/New_York" }'
  local events_file, found = "return events {}", { workflow = true }
  local given = given_to(function()
    local set = candidate.load({ ["workflows/company.lua"] = company_file,
      ["workflows/events.lua"] = events_file }, {})
    assert.are.same({}, set.refused)
  end)
  for _, word in ipairs { "workflow", "events", "company", "mapping", "actions" } do
    assert.is_function(given["workflows/events.lua"][word], word)
  end
  found.events, found.company = true, true
  given = given_to(function()
    action.load(json.encode { settings = {}, files = {
      ["workflows/company.lua"] = company_file,
      ["workflows/ghl/contact.lua"] = 'return mapping { of = "customer", map = function() end }',
      ["workflows/actions/own.lua"] = "return actions { go = { run = function() end } }" } })
  end)
  for _, api in pairs(given) do
    add_words(found, api)
  end
  return found
end

local function keys(t)
  local found = {}
  for key in pairs(t) do
    found[key] = true
  end
  return found
end

-- The fields that a row's function in the schema builds.
local function fields_of_rows()
  local rows = {}
  local sql = read "schema/0002_capture.sql"
  for entity, body in sql:gmatch "create function ([%w_]+)_json%([^\n]-.-%$%$(.-)%$%$" do
    if body:find("^%s*select json_build_object") then
      rows[entity] = {}
      for field in body:gmatch "'([%l_]+)'," do
        rows[entity][field] = true
      end
    end
  end
  return rows
end

local function class_name(entity)
  return (("_" .. entity):gsub("_(%l)", string.upper))
end

-- The names that luacheck lets company files use.
local function checked_names()
  local config = setmetatable({ files = {}, stds = {} }, { __index = _G })
  assert(load(read ".luacheckrc", "@.luacheckrc", "t", config))()
  local found = {}
  for key, value in pairs(config.stds.company.read_globals) do
    if type(value) == "table" then
      for field in pairs(value.fields) do
        found[key .. "." .. field] = true
      end
    else
      found[value] = true
    end
  end
  return found
end

local function names_of_sandbox()
  local found = keys(plain.basic)
  found.require = true
  add_words(found, { string = plain.string, table = plain.table, math = plain.math,
    utf8 = plain.utf8 })
  for _, list in ipairs { words_of_run(), words_of_declarations() } do
    for word in pairs(list) do
      found[word:match "^[^.]+"] = true
    end
  end
  return found
end

describe("the description for editors", function()
  after_each(sandbox.unlock_strings)

  it("has the words of run", function()
    assert.are.same(words_of_run(), described "words")
  end)

  it("has the words of declarations and actions", function()
    assert.are.same(words_of_declarations(), described "declarations")
  end)

  it("has the fields of declarations", function()
    assert.are.same(keys(hidden(workflow.check, "FIELDS")), keys(CLASSES.Workflow))
    for field, spec in pairs(hidden(flow.check, "FIELDS")) do
      assert.are.same(keys(spec.parts), keys(CLASSES[class_name(field)]), field)
    end
    assert.are.same(keys(hidden(rules.check, "FIELDS")), keys(CLASSES.Rule))
    assert.are.same(keys(hidden(company.check, "FIELDS")), keys(CLASSES.Company))
  end)

  it("has the options of waits and times", function()
    local api = {}
    wait.add(api, {}, function() end)
    assert.are.same(keys(hidden(api.wait_for, "WAIT")), keys(CLASSES.Wait))
    assert.are.same(keys(hidden(time.moment, "OPTIONS")), keys(CLASSES.Shift))
  end)

  it("has what every action takes", function()
    local options = hidden(words.build, "OPTIONS")
    assert.are.same(keys(options), keys(CLASSES.Step))
    assert.are.same(keys(send.args), keys(CLASSES.Send))
  end)

  for name, one in pairs(our_actions) do
    if name:find "^ghl%." or name:find "^sms%." or name:find "^email%." then
      it("has the options of " .. name, function()
        local expected = {}
        for field, kind in pairs(one.args) do
          expected[field] = kind:find "%?$" and "optional" or "needed"
        end
        assert.are.same(expected, class_of(name))
      end)
    end
  end

  it("has the fields of records", function()
    local rows = fields_of_rows()
    assert.is_truthy(rows.customer and rows.campaign)
    for entity, fields in pairs(rows) do
      assert.are.same(fields, keys(CLASSES[class_name(entity)] or {}), entity)
    end
  end)

  it("has the fields that texts may name", function()
    local rows = fields_of_rows()
    for entity, fields in pairs(entities.fields) do
      assert.are.same(rows[entity], fields, entity)
    end
  end)

  it("has the names that luacheck accepts", function()
    assert.are.same(names_of_sandbox(), checked_names())
  end)

  it("has a class for each record that an event carries", function()
    local carried = keys(fields_of_rows())
    carried.reply = entities.builtin.customer_replied.carries.reply
    for entity in pairs(carried) do
      assert.is_truthy(CLASSES.Event[entity], entity)
      assert.is_truthy(CLASSES[class_name(entity)], entity)
    end
  end)
end)
