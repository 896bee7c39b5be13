-- Makes what would be in force out of the company's files and what is in force now.
--
-- Of each name the file counts when it was saved since this tree was last looked at; else, and when it
-- is refused, what is in force does. Nothing here changes anything: the caller puts it in force.
local calls = require "calls"
local company = require "company"
local declarations = require "declarations"
local files = require "files"
local inspect = require "inspect"
local literals = require "literals"
local refusal = require "refusal"
local rules = require "rules"
local workflow = require "workflow"

local json = host.json
local M = {}

local EVENTS, COMPANY = "workflows/events.lua", "workflows/company.lua"
--- Names in force that are no workflow.
M.SHARED = { events = true, company = true, actions = true }

--- What is being loaded now: it is to blame when the VM is killed.
M.loading = nil

local function source_hash(used)
  return host.sha256(json.encode(used))
end

-- Runs f for a file; what was killed before is not run again.
local function attempt(set, from, path, f, ...)
  M.loading = from .. " " .. path
  local why = set.aside[M.loading]
  if why then
    M.loading = nil
    local file, line = why.message:match "%((workflows/[%w_/]+%.lua):(%d+)%)"
    return false, { refused = true, file = file or path, line = math.tointeger(tonumber(line or 0)),
      message = (why.message:gsub(" %(workflows/[%w_/]+%.lua:%d+%)", "")) }
  end
  local ok, result = pcall(f, ...)
  if ok then -- else the VM may be about to be stopped for what pcall has just caught
    M.loading = nil
  end
  return ok, result
end

local function refuse(set, path, err, prefix)
  local why = refusal.of(path, err)
  why.message = (prefix or "") .. why.message
  set.refused[#set.refused + 1] = why
end

-- A version is its sources, the level and text of the trusted Lua it sees, and what it sees of the
-- company besides.
local function version(set, value, used, world)
  return { value = value, files = used, source = source_hash(used), sha256 = host.sha256(
    json.encode({ files = used, api = workflow.api, trusted = set.trusted, world = world })) }
end

-- The file itself when it is to be put in force, or is there already; nil: what is in force counts.
local function saved(set, name, path, try)
  local ok, own = attempt(set, "file", path, try, set.sources)
  if not ok then
    refuse(set, path, own, set.without_events and path ~= EVENTS and "events.lua is refused, so: ")
    return nil
  end
  set.have[name] = own.source
  local old = set.active[name]
  local same = old ~= nil and source_hash(old.files) == own.source
  if same and old.sha256 == own.sha256 then
    own.id = old.id
    return own
  end
  -- The same file may mean another version: after an upgrade, when the process starts; at once when
  -- the company's hours or actions have changed.
  own.put = own.source ~= set.offered[name]
    or same and (set.starting or old.trusted == set.trusted)
  return own.put and own or nil
end

local function best(set, name, path, try)
  local own = set.sources[path] and saved(set, name, path, try)
  local old = set.active[name]
  if own or not old then
    return own or nil
  end
  local ok, kept = attempt(set, "force", path, try, old.files)
  if not ok then
    refuse(set, path, kept, "the version in force can't be used either: ")
    return nil
  end
  kept.id = old.id
  return kept
end

local function declared(kind, set, path, check)
  return function(sources)
    local given, at, used = files.declaration(kind, path, sources, set.actions)
    local value, world = check(given, at, used)
    return version(set, value, used, world)
  end
end

-- Actions ----------------------------------------------------------------------------------------

-- The company's actions of a set of files: namespace -> name -> action. Refuses all that is wrong.
local function read_actions(set, sources, from, checked)
  local spaces, good = {}, true
  for path in pairs(sources) do
    local space = path:match "^workflows/actions/([%w_]+)%.lua$"
    if space and not space:match "_spec$" then
      local ok, err = attempt(set, from, path, function()
        local given, at = files.declaration("actions", path, sources, {})
        declarations.actions(given, at)
        local why, name = calls.lacks(space, given, checked and set.used or {})
        if why then
          refusal.raise(at, name, why)
        end
        spaces[space] = given
      end)
      if not ok then
        good = false
        refuse(set, path, err)
      end
    end
  end
  for _, v in ipairs(checked and set.used or {}) do
    for name in pairs(v.calls or {}) do
      local space = name:match "^[%w_]+"
      local path = "workflows/actions/" .. space .. ".lua"
      if set.ours[space] == nil and sources[path] == nil then
        good = false
        refuse(set, path, { refused = true, file = path, line = 0, message = "the file is gone; "
          .. calls.lacks(space, {}, { v }) })
        break
      end
    end
  end
  return good and spaces or nil
end

local function names_of(spaces)
  local names = {}
  for space, actions in pairs(spaces or {}) do
    names[space] = {}
    for name in pairs(actions) do
      table.insert(names[space], name)
    end
    table.sort(names[space])
  end
  return names
end

-- Actions, mappings, templates and the company are one set, which is the newest good one for all
-- instances. bundle is that of the disk, refused when the action VM can't load it.
local function load_actions(set, bundle)
  local old = set.active.actions
  local source = source_hash(bundle.files)
  local own = read_actions(set, set.sources, "file", true)
  local file = bundle.refused and bundle.refused.file
  if file and (own or file ~= COMPANY and not file:match "^workflows/actions") then -- else it is said already
    set.refused[#set.refused + 1] = bundle.refused
  end
  if own and not bundle.refused then
    set.have.actions = source
    if source ~= set.offered.actions or not old then
      set.bundle = { files = bundle.files, source = source, sha256 = source, put = true }
    end
  end
  if not set.bundle and old then
    set.bundle = { files = old.files, id = old.id }
    own = read_actions(set, old.files, "force", false)
  end
  set.spaces, set.actions = own or {}, names_of(own)
end

-- All ----------------------------------------------------------------------------------------------

local function workflow_names(set)
  local names, list = {}, {}
  for path in pairs(set.sources) do
    local name = path:match "^workflows/([^/]+)%.lua$"
    if name and not M.SHARED[name] and not name:match "_spec$" then
      names[name] = true
    end
  end
  for name in pairs(set.active) do
    names[name] = not M.SHARED[name] or nil
  end
  for name in pairs(names) do
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

local function check_workflow(set)
  return function(given, at, used)
    local w = workflow.check(given, set.rules, at)
    inspect.waits(w, used, set.rules)
    local spaces, seen = { approve = "word" }, {}
    for space in pairs(set.ours) do
      spaces[space] = true
    end
    for space in pairs(set.actions) do
      spaces[space] = true
    end
    local list = calls.read(used, spaces)
    literals.check(list, set.spaces, w.on, set.rules)
    w.calls = calls.of(list)
    for name in pairs(w.calls) do
      local space = name:match "^[%w_]+"
      seen[space] = set.actions[space] and json.array(set.actions[space])
    end
    return w, { zone = set.company.zone, hours = set.company.hours, actions = seen }
  end
end

-- Versions alive that this program can't run say so at once, not when they are due.
local function check_levels(set)
  for _, v in ipairs(set.used) do
    if v.api > workflow.api then
      local path = "workflows/" .. v.name .. ".lua"
      refuse(set, path, { refused = true, file = path, line = 0, message = "version " .. v.version
        .. " was made by a newer program (level " .. v.api .. "; this one knows " .. workflow.api
        .. "): its instances can't go on here" })
    end
  end
end

--- Loads a set of files.
---@param sources table path -> source, as they are on disk
---@param active table name -> {id, sha256, trusted, files}: what is in force
---@param more? table {offered, aside, starting, trusted, used, bundle}
---@return table set {rules, company, workflows = {name = {value, files, sha256, id?, put?}}, refused,
--- have = {name = hash}}
function M.load(sources, active, more)
  more = more or {}
  local set = { sources = sources, active = active, refused = {}, workflows = {}, have = {},
    offered = more.offered or {}, aside = more.aside or {}, starting = more.starting,
    trusted = more.trusted or "", used = more.used or {}, actions = {}, ours = {} }
  for _, space in ipairs(files.NAMESPACES) do
    set.ours[space] = true
  end
  files.doing, M.loading = nil, nil
  check_levels(set)
  load_actions(set, more.bundle or { files = {} })
  local ours = best(set, "company", COMPANY, declared("company", set, COMPANY, company.check))
  set.company, set.company_file = ours and ours.value or {}, ours
  files.zone = set.company.zone
  local events = best(set, "events", EVENTS, declared("events", set, EVENTS, rules.check))
  set.without_events = not events and sources[EVENTS] ~= nil
  set.rules, set.events_file = events and events.value or rules.with_builtin({}), events
  for _, name in ipairs(workflow_names(set)) do
    local path = "workflows/" .. name .. ".lua"
    set.workflows[name] = best(set, name, path, declared("workflow", set, path, check_workflow(set)))
  end
  return set
end

return M
