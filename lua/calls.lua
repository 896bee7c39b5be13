-- Which actions a file calls, with which arguments, as far as the file itself says so; and whether a
-- set of actions still has what versions in use call.
local bytecode = require "bytecode"
local suggest = require "suggest"

local M = {}

local constant = bytecode.constant
--- What every action takes besides its own arguments.
M.OPTIONS = { name = true, retries = true, timeout = true, in_doubt = true }

local function global_of(f, i)
  if i.op == bytecode.GETTABUP and f.upvalues[i.b + 1] == "_ENV" then
    return constant(f, i.c)
  end
end

-- The table that is written out as the only argument of the function in register `base`:
-- {fields = {name = {line, value = a constant or nil}}, open = it may have more than these}, or nil.
local function table_of(f, n, base)
  local found
  for k = n, f.code.n do
    local i = f.code[k]
    if (i.op == bytecode.CALL or i.op == bytecode.TAILCALL) and i.a == base then
      return found
    elseif i.op == bytecode.NEWTABLE and i.a == base + 1 then
      found = { fields = {} }
    elseif found and i.op == bytecode.SETFIELD and i.a == base + 1 then
      local value = i.k == 1 and constant(f, i.c) or nil
      found.fields[constant(f, i.b)] = { line = i.line, value = value }
    elseif found and (i.op == bytecode.SETTABLE or i.op == bytecode.SETLIST) and i.a == base + 1 then
      found.open = true
    end
  end
end

local function add_calls(f, path, spaces, list)
  for n = 1, f.code.n - 1 do
    local i, after = f.code[n], f.code[n + 1]
    local space = global_of(f, i)
    local inside = space and spaces[space] and after.op == bytecode.GETFIELD and after.b == i.a
    if inside or space and spaces[space] == "word" then
      local base = inside and after.a or i.a
      list[#list + 1] = { name = inside and space .. "." .. tostring(constant(f, after.c)) or space,
        path = path, line = i.line, table = table_of(f, inside and n + 2 or n + 1, base) }
    end
  end
  for _, inner in ipairs(f.functions) do
    add_calls(inner, path, spaces, list)
  end
end

--- The calls of actions in files, as far as they are written out.
---@param files table path -> source
---@param spaces table namespace -> anything; "word": it is no namespace but a word itself
---@return table[] {name, path, line, table = {fields = {name = {line, value?}}, open?}?}
function M.read(files, spaces)
  local paths, list = {}, {}
  for path in pairs(files) do
    paths[#paths + 1] = path
  end
  table.sort(paths)
  for _, path in ipairs(paths) do
    local chunk = load(files[path], "@" .. path, "t", {})
    if chunk then
      add_calls(bytecode.read(chunk), path, spaces, list)
    end
  end
  return list
end

--- The actions that are called by namespace, with their arguments: {"sms.send" = {"text", "to"}}.
---@param list table[] of read
---@return table<string, string[]>
function M.of(list)
  local found, calls = {}, {}
  for _, call in ipairs(list) do
    local arguments = call.name:find(".", 1, true) and (found[call.name] or {}) or nil
    found[call.name] = arguments
    for field in pairs(arguments and call.table and call.table.fields or {}) do
      arguments[field] = not M.OPTIONS[field] or nil
    end
  end
  for name, arguments in pairs(found) do
    local names = {}
    for argument in pairs(arguments) do
      names[#names + 1] = argument
    end
    table.sort(names)
    calls[name] = host.json.array(names)
  end
  return calls
end

local function who(version)
  local alive = version.alive and version.alive > 0
  return version.name .. " (version " .. version.version
    .. (alive and ", " .. version.alive .. " instance" .. (version.alive > 1 and "s" or "") .. " alive" or "")
    .. ")"
end

local function lacks_argument(name, declared, given, version)
  local has = {}
  for _, argument in ipairs(given) do
    has[argument] = true
    if not declared[argument] then
      return name .. " no longer takes '" .. argument .. "', which " .. who(version) .. " gives it"
        .. suggest.hint(argument, declared) .. "; parameters are only added"
    end
  end
  if #given == 0 then
    return nil -- the file doesn't say what it gives
  end
  for argument, kind in pairs(declared) do
    if not has[argument] and type(kind) == "string" and not kind:match "%?$" then
      return name .. " now needs '" .. argument .. "', which " .. who(version)
        .. " doesn't give it; make it optional: " .. argument .. ' = "' .. kind .. '?"'
    end
  end
end

--- What a namespace lacks of what versions in use call: a message and the name to look for, or nil.
---@param namespace string
---@param actions table name -> {args = {name = type}}
---@param used table[] {name, version, alive, calls}
---@return string|nil message
---@return string|nil name
function M.lacks(namespace, actions, used)
  for _, version in ipairs(used) do
    for name, given in pairs(version.calls or {}) do
      local space, action = name:match "^([%w_]+)%.(.+)$"
      if space == namespace then
        local declared = actions[action]
        if not declared then
          return name .. " is gone, and " .. who(version) .. " calls it; keep it until those have ended"
        end
        local why = lacks_argument(name, declared.args or {}, given, version)
        if why then
          return why, action
        end
      end
    end
  end
end

return M
