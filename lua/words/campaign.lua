-- variant, audience, start_each, children: what a campaign is made of.
local durable = require "durable"

local M = {}

local raise = durable.raise

-- The names to choose from, in their order: of a list, or the keys of a table.
local function names_of(options)
  local names = {}
  if options[1] ~= nil then
    for i, name in ipairs(options) do
      names[i] = name
    end
  else
    for name in pairs(options) do
      names[#names + 1] = name
    end
    table.sort(names)
  end
  for _, name in ipairs(names) do
    if type(name) ~= "string" then
      raise('variant takes names: variant("opening", { "a", "b" })')
    end
  end
  return names
end

-- Whom the hash goes by: the customer, else the instance.
local function who()
  local task = durable.task()
  local customer = task.event.customer or {}
  return tostring(customer.id or customer.phone or customer.email or task.instance)
end

---@param api table
function M.add(api)
  function api.variant(name, options)
    if type(name) ~= "string" or type(options) ~= "table" or next(options) == nil then
      raise('variant takes a name and its variants: variant("opening", { "a", "b" })')
    end
    local names = names_of(options)
    local n = tonumber(host.hash(name .. "\n" .. who()):sub(1, 8), 16)
    local chosen = durable.step("variant", { name = name, variants = names,
      chosen = names[n % #names + 1] }, {})
    if options[1] ~= nil then
      return chosen
    end
    return options[chosen]
  end

  function api.audience(sql, params)
    if type(sql) ~= "string" then
      raise("audience takes an SQL text with a column customer_id, and a table of parameters")
    end
    return durable.step("audience", { sql = sql, params = params }, {})
  end

  function api.start_each(name, audience)
    if type(name) ~= "string" or type(audience) ~= "table" or not audience.id then
      raise('start_each takes a workflow and an audience: start_each("touch", people)')
    end
    return durable.step("start_each", { workflow = name, audience = audience.id }, {})
  end

  function api.children()
    return durable.step("children", {}, {})
  end
end

return M
