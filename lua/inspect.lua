-- What can be said of a company's file before it ever runs: globals, durations, placeholders,
-- waits that can't return.
local bytecode = require "bytecode"
local rules = require "rules"
local suggest = require "suggest"
local time = require "time"

local M = {}

local constant = bytecode.constant

-- Fields that a snapshot may lack.
local NULLABLE = {}
for names in ([[
  customer: id first_name last_name phone email city state zip last_job_on address
  job: completed_on recall_for_id cancel_reason summary
  estimate: sold_on
  invoice: due_date paid_on
  lead: summary
  call: recording
  reply: phone
  visit: job_id]]):gmatch "[^\n]+" do
  local entity, fields = names:match "(%w+): (.+)"
  for field in fields:gmatch "%S+" do
    NULLABLE[entity .. "." .. field] = true
  end
end
local TEXTS = { text = true, subject = true, title = true, note = true }
local FALLBACK = { ["customer.first_name"] = "there" }

local function refuse(path, line, message)
  error({ refused = true, file = path, line = line, message = message }, 0)
end

--- The first placeholder of a text that has no fallback and may have no value, or nil.
---@param text string
---@return string|nil
function M.nullable(text)
  for inner in text:gsub("{{", ""):gmatch "{([^{}]*)}" do
    local name, rest = inner:match "^%s*([%w_.]+)%s*(.*)$"
    if name and NULLABLE[name] and not rest:match "^or%s" and not rest:match "%sor%s" then
      return name
    end
  end
end

--- What is wrong with a text's placeholders, or nil.
---@param text string
---@return string|nil
function M.problem(text)
  local name = M.nullable(text)
  return name and name .. " may be missing; write {" .. name .. " or "
    .. (FALLBACK[name] or "…") .. "}"
end

local function global(f, i, op, upvalue)
  return i.op == op and f.upvalues[upvalue + 1] == "_ENV"
end

--- Refuses a duration that is none.
---@param path string
---@param line integer
---@param text string
function M.duration(path, line, text)
  local ok, why = pcall(time.parse_duration, text)
  if not ok then
    refuse(path, line, (tostring(why):gsub("^[^%s]+%.lua:%d+: ", "")))
  end
end

--- Refuses what is neither a duration nor a time.
---@param path string
---@param line integer
---@param text string
function M.deadline(path, line, text)
  if not text:match "^%d%d%d%d%-%d%d%-%d%d" then
    M.duration(path, line, text)
  end
end

local function check_field(f, i, path)
  local name = constant(f, i.b)
  local value = i.k == 1 and constant(f, i.c) or nil
  if type(value) ~= "string" then
    return
  elseif TEXTS[name] then
    local problem = M.problem(value)
    if problem then
      refuse(path, i.line, problem)
    end
  elseif name == "before" or name == "after" then
    M.duration(path, i.line, value)
  end
end

-- The first argument of the call that begins with the function in register i.a, when it is a text that
-- is written out whole: {value, line}. What is only a part of it, or one of several, is not known.
local function argument(f, n)
  local base, found = f.code[n].a, nil
  for k = n + 1, f.code.n do
    local i = f.code[k]
    if (i.op == bytecode.CALL or i.op == bytecode.TAILCALL) and i.a <= base then
      return i.a == base and found or nil
    elseif i.a == base + 1 and i.op ~= bytecode.JMP then
      if found ~= nil or i.op ~= bytecode.LOADK then
        return nil
      end
      found = { value = constant(f, i.bx), line = i.line }
    end
  end
end

local function check_global(path, line, name, env)
  local ok, why = pcall(function()
    return env[name]
  end)
  if not ok then
    refuse(path, line, (tostring(why):gsub("^[^%s]+%.lua:%d+: ", "")))
  end
end

local function walk(f, visit)
  for n = 1, f.code.n do
    visit(f, f.code[n], n)
  end
  for _, inner in ipairs(f.functions) do
    walk(inner, visit)
  end
end

--- Refuses a compiled file that assigns a global, reads one that isn't there, names a duration that
--- is none, or a placeholder that may be empty.
---@param chunk function
---@param path string
---@param env table its environment
function M.check(chunk, path, env)
  walk(bytecode.read(chunk), function(f, i, n)
    if global(f, i, bytecode.SETTABUP, i.a) then
      local name = tostring(constant(f, i.b))
      refuse(path, i.line, "global '" .. name .. "' assigned; write: local " .. name .. " = …")
    elseif global(f, i, bytecode.GETTABUP, i.b) then
      local name = constant(f, i.c)
      check_global(path, i.line, name, env)
      if name == "sleep" then
        local value = argument(f, n)
        if value then
          M.duration(path, value.line, value.value)
        end
      end
    elseif i.op == bytecode.SETFIELD then
      check_field(f, i, path)
    end
  end)
end

-- The call that begins with the function in register i.a: its first argument when that is a
-- constant, and the fields set in a table that is its second.
local function call_of(f, n)
  local base, fields = f.code[n].a, {}
  for k = n + 1, f.code.n do
    local i = f.code[k]
    if (i.op == bytecode.CALL or i.op == bytecode.TAILCALL) and i.a == base then
      return argument(f, n), fields
    elseif i.op == bytecode.SETFIELD and i.a == base + 2 then
      fields[constant(f, i.b)] = { value = i.k == 1 and constant(f, i.c) or nil, line = i.line }
    end
  end
end

local WAIT = { same = true, when = true, timeout = true, since = true }

local function check_options(path, fields)
  for name, at in pairs(fields) do
    if not WAIT[name] then
      refuse(path, at.line, "wait_for has no option '" .. tostring(name)
        .. "'; it takes same, when, timeout, since")
    end
  end
  local timeout = fields.timeout
  if timeout and type(timeout.value) == "string" then
    M.deadline(path, timeout.line, timeout.value)
  end
end

--- Refuses waits for an event that nobody declares, or that ends the instance first.
---@param w table a checked workflow
---@param files table path -> source
---@param known table rules by name
function M.waits(w, files, known)
  local stops = {}
  for _, s in ipairs(w.stops) do
    local rule = rules.find(known, s.type)
    stops[s.type] = not s.when and rule ~= nil and s.same == rule.subject
  end
  for path, source in pairs(files) do
    local chunk = load(source, "@" .. path, "t", {})
    walk(bytecode.read(chunk), function(f, i, n)
      if not global(f, i, bytecode.GETTABUP, i.b) or constant(f, i.c) ~= "wait_for" then
        return
      end
      local name, fields = call_of(f, n)
      check_options(path, fields or {})
      if not name or type(name.value) ~= "string" then
        return
      elseif not rules.find(known, name.value) then
        refuse(path, name.line, 'unknown event "' .. name.value .. '" in wait_for'
          .. suggest.hint(name.value, known))
      elseif stops[name.value] and not fields.same and not fields.since then
        refuse(path, i.line, 'wait_for "' .. name.value .. '" can never return: stop_when ends the '
          .. "instance first")
      end
    end)
  end
end

return M
