-- Tables that are decoded when they are looked at first: most bodies look at little of what they get.
local json = host.json
local M = {}

local TEXT, THEN = {}, {} -- keys that nobody else has

-- Becomes the plain table that the text says.
local function fill(t)
  local text, after = rawget(t, TEXT), rawget(t, THEN)
  text = type(text) == "function" and text() or text
  setmetatable(t, nil)
  t[TEXT], t[THEN] = nil, nil
  for k, v in pairs(json.decode(text)) do
    t[k] = v
  end
  if after then
    after(t)
  end
  return t
end

local Late = {
  __index = function(t, k)
    return fill(t)[k]
  end,
  __newindex = function(t, k, v)
    fill(t)[k] = v
  end,
  __pairs = function(t)
    return next, fill(t), nil
  end,
  __fill = fill, -- for host.json.encode
}

--- The object that a JSON text says.
---@param text string|function a function that returns it
---@param after? function(t) called once it is decoded
---@return table
function M.table(text, after)
  return setmetatable({ [TEXT] = text, [THEN] = after }, Late)
end

return M
