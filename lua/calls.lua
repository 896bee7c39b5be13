-- Which actions a file calls, with which arguments, as far as the file itself says so; and whether a
-- set of actions still has what versions in use call.
local bytecode = require "bytecode"
local suggest = require "suggest"

local M = {}

local constant = bytecode.constant
local OPTIONS = { name = true, retries = true, timeout = true } -- of every action

local function global_of(f, i)
  if i.op == bytecode.GETTABUP and f.upvalues[i.b + 1] == "_ENV" then
    return constant(f, i.c)
  end
end

-- Adds the fields of the table that the function in register `base` is called with.
local function add_arguments(f, n, base, arguments)
  local fields = {}
  for k = n, f.code.n do
    local i = f.code[k]
    if (i.op == bytecode.CALL or i.op == bytecode.TAILCALL) and i.a == base then
      for field in pairs(fields) do
        arguments[field] = true
      end
      return
    elseif i.op == bytecode.SETFIELD and i.a == base + 1 then
      local field = constant(f, i.b)
      fields[field] = not OPTIONS[field] or nil
    end
  end
end

local function add_calls(f, namespaces, found)
  for n = 1, f.code.n - 1 do
    local i, after = f.code[n], f.code[n + 1]
    local space = global_of(f, i)
    if space and namespaces[space] and after.op == bytecode.GETFIELD and after.b == i.a then
      local name = space .. "." .. tostring(constant(f, after.c))
      found[name] = found[name] or {}
      add_arguments(f, n + 2, after.a, found[name])
    end
  end
  for _, inner in ipairs(f.functions) do
    add_calls(inner, namespaces, found)
  end
end

--- The actions that files call: {"sms.send" = {"text", "to"}}.
---@param files table path -> source
---@param namespaces table namespace -> anything
---@return table<string, string[]>
function M.of(files, namespaces)
  local found = {}
  for path, source in pairs(files) do
    local chunk = load(source, "@" .. path, "t", {})
    if chunk then
      add_calls(bytecode.read(chunk), namespaces, found)
    end
  end
  local calls = {}
  for name, arguments in pairs(found) do
    local list = {}
    for argument in pairs(arguments) do
      list[#list + 1] = argument
    end
    table.sort(list)
    calls[name] = host.json.array(list)
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
