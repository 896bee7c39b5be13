-- The Gregorian calendar, without zones: days since 1970-01-01 and dates.
local M = {}

--- The number of a day; a date that doesn't exist is taken as the one that follows.
---@param year integer
---@param month integer
---@param day integer
---@return integer days since 1970-01-01
function M.days_of(year, month, day)
  if month <= 2 then
    year = year - 1
  end
  local era = year // 400
  local year_of_era = year - era * 400
  local day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
  local day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
  return era * 146097 + day_of_era - 719468
end

--- The date of a day.
---@param days integer since 1970-01-01
---@return integer, integer, integer year, month, day
function M.date_of(days)
  days = days + 719468
  local era = days // 146097
  local day_of_era = days - era * 146097
  local year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524
    - day_of_era // 146096) // 365
  local day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
  local month = (5 * day_of_year + 2) // 153
  local day = day_of_year - (153 * month + 2) // 5 + 1
  month = month < 10 and month + 3 or month - 9
  local year = year_of_era + era * 400
  return month <= 2 and year + 1 or year, month, day
end

--- Whether the calendar has that date.
---@param year integer
---@param month integer
---@param day integer
---@return boolean
function M.has(year, month, day)
  local y, m, d = M.date_of(M.days_of(year, month, day))
  return y == year and m == month and d == day
end

return M
