-- start, call: other workflows as children of this instance.
local durable = require "durable"

local M = {}

local raise = durable.raise

local function args_of(word, name, e)
  if type(name) ~= "string" then
    raise(word .. " takes the name of a workflow, and an event: " .. word .. '("estimate_nurture", e)')
  elseif type(e) ~= "table" then
    raise(word .. ' takes an event, or { customer = e.customer }, after "' .. name .. '"')
  end
  return { workflow = name, e = e }
end

-- What a child that has ended gives to the one that called it.
local function result_of(name, ended)
  if ended.state == "done" then
    return ended.value
  elseif ended.state == "failed" then
    durable.raise_result { action = "call", code = "refused",
      message = name .. " failed: " .. tostring(ended.reason or ended.error or "without a reason") }
  end
  return nil, ended.reason or ended.state
end

---@param api table
function M.add(api)
  -- Returns the child's id.
  function api.start(name, e, options)
    local args = args_of("start", name, e)
    for option, value in pairs(options or {}) do
      if option ~= "detached" or type(value) ~= "boolean" then
        raise("start: the one option is detached = true")
      end
    end
    args.detached = options and options.detached or nil
    return durable.step("start", args, {}).id
  end

  -- Waits for the child and returns what its run returned; nil and why when it was stopped.
  function api.call(name, e)
    local child = durable.step("call", args_of("call", name, e), {}).id
    return result_of(name, durable.wait_child("call.end", child))
  end
end

return M
