-- now, moment, date, sleep, sleep_until: clock times are the customer's, unless said otherwise.
local durable = require "durable"
local time = require "time"

local M = {}

local raise, checked = durable.raise, durable.checked

local function zones(company)
  local staff = company.zone or "America/New_York"
  return function()
    local task = durable.task()
    local customer = task and task.event.customer
    return customer and customer.zone or staff
  end, staff
end

--- Adds the words; returns the functions that read a timeout: a customer's, and our people's.
---@param api table
---@param company table {zone, hours}
function M.add(api, company)
  local zone, staff = zones(company)

  function api.now()
    return durable.task().now
  end

  function api.moment(t, options)
    local o = options or {}
    return checked(time.moment, t, o, o.zone or zone())
  end

  function api.date(t, in_zone)
    return checked(time.date, t, in_zone or zone())
  end

  function api.sleep(duration)
    if type(duration) ~= "string" then
      raise('sleep takes a duration such as "2h"')
    end
    local deadline = checked(time.add, durable.task().now, duration, zone())
    durable.sleep("sleep", { duration }, deadline)
  end

  function api.sleep_until(t, options)
    local o, now = options or {}, durable.task().now
    local deadline
    if t == "open" then
      if not company.hours then
        raise('sleep_until "open" needs hours in company.lua')
      end
      deadline = checked(time.next_open, now, company.hours, o.zone or staff)
    else
      deadline = checked(time.moment, t, o, o.zone or zone())
    end
    if deadline <= now then
      return false
    end
    durable.sleep("sleep_until", { t, options and o or nil }, deadline)
    return true
  end

  -- A timeout is a duration, or a time. Its days are the customer's, or those of our own people.
  local function reader(zone_of)
    return function(value)
      if value == nil then
        return nil
      elseif type(value) ~= "string" then
        raise('timeout must be a duration such as "3d", or a time')
      elseif value:match "^%d%d%d%d%-" then
        return checked(time.moment, value, {}, zone_of())
      end
      return checked(time.add, durable.task().now, value, zone_of())
    end
  end
  return reader(zone), reader(function()
    return staff
  end)
end

return M
