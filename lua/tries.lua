-- How often an action is tried and how long one try may take: `retries`, `timeout`, and what counts
-- when nobody can find out whether a try did it: `in_doubt`.
local time = require "time"

local M = {}

local MOST_RETRIES = 100
local LONGEST = 30 -- seconds: whoever looks for an outcome, looks later than that

--- Raises what is wrong with the options of a step.
---@param options table {retries, timeout, in_doubt}
---@param action string
function M.check(options, action)
  local retries = options.retries
  if retries and (math.type(retries) ~= "integer" or retries < 0 or retries > MOST_RETRIES) then
    error(action .. ": retries is a whole number from 0 to " .. MOST_RETRIES, 0)
  elseif options.timeout then
    local long = time.parse_duration(options.timeout)
    if long.days > 0 or long.seconds < 1 or long.seconds > LONGEST then
      error(action .. ': timeout is for one try: from "1s" to "' .. LONGEST .. 's"', 0)
    end
  end
  local in_doubt = options.in_doubt
  if in_doubt and in_doubt ~= "sent" and in_doubt ~= "drop" then
    error(action .. ': in_doubt is "sent" or "drop"', 0)
  end
end

--- The same as it goes to C with each ask; what wasn't said is left out.
---@param options table
---@return table {retries, timeout_ms, in_doubt}
function M.of(options)
  return { retries = options.retries, in_doubt = options.in_doubt,
    timeout_ms = options.timeout and time.parse_duration(options.timeout).seconds * 1000 or nil }
end

return M
