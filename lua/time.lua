-- Time as the company's files speak of it: texts in UTC, durations such as "1h30m", clock times in
-- a zone. Pure: the same arguments give the same answer. What can't be understood raises a sentence
-- for the author.
local calendar = require "calendar"

local M = {}

local DAY = 86400
local SECONDS = { s = 1, m = 60, h = 3600 }
local DAYS = { d = 1, w = 7 }
local MAX_DAYS = 3660
local WEEK = { "mon", "tue", "wed", "thu", "fri", "sat", "sun" }
local NUMBER_OF = {}
for i, name in ipairs(WEEK) do
  NUMBER_OF[name] = i
end

local format, match, gmatch, gsub = string.format, string.match, string.gmatch, string.gsub

local function raise(...)
  error(format(...), 0)
end

local function shown(value)
  return type(value) == "string" and '"' .. value .. '"' or "a " .. type(value)
end

-- Durations ---------------------------------------------------------------------------------------

-- What was meant by "2 days" or "90 minutes"; "2d" when that can't be known.
local function guess(text)
  local parts = {}
  for number, word in gmatch(text, "(%d+)%s*(%a+)") do
    local unit = string.lower(string.sub(word, 1, 1))
    if not SECONDS[unit] and not DAYS[unit] or string.find(string.lower(word), "^mo") then
      return "2d"
    end
    parts[#parts + 1] = number .. unit
  end
  local meant = table.concat(parts)
  return meant ~= "" and meant ~= text and meant or "2d"
end

--- The exact part and the calendar part of a duration: "1h30m" is 5400 seconds, "2w" is 14 days.
---@param text string
---@return table {seconds, days}
function M.parse_duration(text)
  local seconds, days, seen, rest = 0, 0, {}, nil
  if type(text) == "string" and text ~= "" then
    rest = gsub(text, "(%d+)([smhdw])", function(number, unit)
      if seen[unit] or #number > 9 then
        return nil
      end
      seen[unit] = true
      seconds = seconds + math.tointeger(number) * (SECONDS[unit] or 0)
      days = days + math.tointeger(number) * (DAYS[unit] or 0)
      return ""
    end)
  end
  if rest ~= "" then
    raise('%s is not a duration; write "%s" (s m h d w)', shown(text),
      type(text) == "string" and guess(text) or "2d")
  end
  if days + seconds // DAY > MAX_DAYS then
    raise('"%s" is longer than ten years', text)
  end
  return { seconds = seconds, days = days }
end

-- Times -------------------------------------------------------------------------------------------

local function check_zone(zone)
  if type(zone) ~= "string" or not host.zone.exists(zone) then
    raise('%s is not a time zone; write one such as "America/New_York"', shown(zone))
  end
  return zone
end

local function seconds_of_offset(text, whole)
  if text == "Z" or text == "z" then
    return 0
  end
  local sign, hours, minutes = match(text, "^([+-])(%d%d):?(%d?%d?)$")
  if not sign or (minutes ~= "" and #minutes ~= 2) then
    raise('"%s" is not a time; write it in UTC, like "2026-03-07T22:00:00Z"', whole)
  end
  local seconds = tonumber(hours) * 3600 + (tonumber(minutes) or 0) * 60
  return sign == "-" and -seconds or seconds
end

--- Seconds since 1970 of a time, whole ones: a fraction is dropped. A date is its midnight in the
--- zone.
---@param text string "2026-03-07T22:00:00Z", also with a fraction or an offset, or "2026-03-07"
---@param zone? string needed for dates; UTC without
---@return integer
function M.parse(text, zone)
  local year, month, day, rest
  if type(text) == "string" then
    year, month, day, rest = match(text, "^(%d%d%d%d)%-(%d%d)%-(%d%d)(.*)$")
  end
  if not year then
    raise('%s is not a time; times are like "2026-03-07T22:00:00Z" or "2026-03-07"', shown(text))
  end
  year, month, day = math.tointeger(year), math.tointeger(month), math.tointeger(day)
  if not calendar.has(year, month, day) then
    raise('"%s" is no date of the calendar', text)
  end
  if rest == "" then
    return host.zone.instant(check_zone(zone or "UTC"), { year = year, month = month, day = day })
  end
  local hour, minute, second, offset = match(rest, "^[T ](%d%d):(%d%d):(%d%d)%.?%d*([Zz+-].*)$")
  hour, minute, second = tonumber(hour), tonumber(minute), tonumber(second)
  if not hour or hour > 23 or minute > 59 or second > 59 then
    raise('"%s" is not a time; write it in UTC, like "2026-03-07T22:00:00Z"', text)
  end
  return calendar.days_of(year, month, day) * DAY + hour * 3600 + minute * 60 + second
    - seconds_of_offset(offset, text)
end

--- The text of a time, in UTC; such texts compare with <.
---@param at integer seconds since 1970
---@return string
function M.format(at)
  at = at // 1 | 0
  local year, month, day = calendar.date_of(at // DAY)
  local rest = at % DAY
  return format("%04d-%02d-%02dT%02d:%02d:%02dZ", year, month, day, rest // 3600,
    rest % 3600 // 60, rest % 60)
end

-- Moves an instant by calendar days: the same time on the clock of the zone.
local function add_days(at, days, zone)
  if days == 0 then
    return at
  end
  local civil = host.zone.civil(check_zone(zone), at)
  civil.day = civil.day + days
  return host.zone.instant(zone, civil)
end

-- Days first, then the exact part, forwards or backwards.
local function shift(at, duration, sign, zone)
  local d = M.parse_duration(duration)
  return add_days(at, sign * d.days, zone) + sign * d.seconds
end

--- A time that much later.
---@param t string
---@param duration string
---@param zone string in which days are counted
---@return string
function M.add(t, duration, zone)
  return M.format(shift(M.parse(t, zone), duration, 1, zone))
end

local function clock_time(text, instead)
  local hour, minute
  if type(text) == "string" then
    hour, minute = match(text, "^(%d%d?):(%d%d)$")
  end
  hour, minute = math.tointeger(hour), math.tointeger(minute)
  if not hour or minute > 59 or hour * 60 + minute > instead then
    raise('%s is not a time of the day; write it like "17:00"', shown(text))
  end
  return hour, minute
end

local OPTIONS = { before = true, after = true, at = true, zone = true }

--- A time reckoned from another: earlier, later, at a time of that day.
---@param t string
---@param options? table {before, after, at, zone}
---@param zone? string where the options name none
---@return string
function M.moment(t, options, zone)
  local o = options or {}
  for key in pairs(o) do
    if not OPTIONS[key] then
      raise("unknown field '%s'; a moment has before, after, at, zone", tostring(key))
    end
  end
  zone = check_zone(o.zone or zone or "UTC")
  local at = M.parse(t, zone)
  if o.before ~= nil and o.after ~= nil then
    raise("give before or after, not both")
  elseif o.before ~= nil then
    at = shift(at, o.before, -1, zone)
  elseif o.after ~= nil then
    at = shift(at, o.after, 1, zone)
  end
  if o.at ~= nil then
    local civil = host.zone.civil(zone, at)
    civil.hour, civil.minute = clock_time(o.at, 23 * 60 + 59)
    civil.second = 0
    at = host.zone.instant(zone, civil)
  end
  return M.format(at)
end

--- What calendar and clock show. weekday: 1 is Monday.
---@param t string
---@param zone string
---@return table {ymd, year, month, day, weekday, hour, minute}
function M.date(t, zone)
  local civil = host.zone.civil(check_zone(zone), M.parse(t, zone))
  return { ymd = format("%04d-%02d-%02d", civil.year, civil.month, civil.day), year = civil.year,
    month = civil.month, day = civil.day, weekday = civil.weekday, hour = civil.hour,
    minute = civil.minute }
end

-- Hours of the company ----------------------------------------------------------------------------

local function parse_span(text, days)
  local from, to = match(text, "^%s*(%d%d?:%d%d)%s*%-%s*(%d%d?:%d%d)%s*$")
  if not from then
    raise('hours: %s must be like "08:00-18:00"', days)
  end
  local from_hour, from_minute = clock_time(from, 24 * 60)
  local to_hour, to_minute = clock_time(to, 24 * 60)
  local span = { from = from_hour * 60 + from_minute, to = to_hour * 60 + to_minute }
  if span.from >= span.to then
    raise('hours: %s ends before it begins: "%s"', days, text)
  end
  return span
end

local function parse_spans(value, days)
  local spans = {}
  if value == false or value == "closed" then
    return spans
  elseif type(value) ~= "string" then
    raise('hours: %s must be like "08:00-18:00"', days)
  end
  for part in gmatch(value .. ",", "([^,]*),") do
    spans[#spans + 1] = parse_span(part, days)
  end
  table.sort(spans, function(a, b)
    return a.from < b.from
  end)
  return spans
end

--- Opening hours by weekday. A single day says more than a span of days that contains it.
---@param hours table {mon_fri = "08:00-18:00", sat = "09:00-12:00,13:00-15:00", sun = false}
---@return table[] seven lists of {from, to}, minutes of the day
function M.parse_hours(hours)
  local week = { {}, {}, {}, {}, {}, {}, {} }
  local single = {}
  for days, value in pairs(hours) do
    local first, last = match(tostring(days), "^(%l%l%l)_(%l%l%l)$")
    first = first or tostring(days)
    local from, to = NUMBER_OF[first], NUMBER_OF[last or first]
    if not from or not to then
      raise('hours: "%s" is no day; write mon_fri or sat', tostring(days))
    end
    local spans = parse_spans(value, days)
    if not last then
      single[from] = spans
    else
      for i = 0, (to - from) % 7 do
        week[(from + i - 1) % 7 + 1] = spans
      end
    end
  end
  for day, spans in pairs(single) do
    week[day] = spans
  end
  return week
end

-- The instant of a minute of a civil day.
local function instant_of(zone, day, minute)
  return host.zone.instant(zone, { year = day.year, month = day.month, day = day.day,
    hour = minute // 60, minute = minute % 60 })
end

--- The time itself while the office is open, else when it opens next.
---@param t string
---@param hours table as in company.lua
---@param zone string
---@return string
function M.next_open(t, hours, zone)
  local week, at = M.parse_hours(hours), M.parse(t, zone)
  local today = host.zone.civil(check_zone(zone), at)
  for ahead = 0, 7 do
    local day = { year = today.year, month = today.month, day = today.day + ahead }
    for _, span in ipairs(week[(today.weekday + ahead - 1) % 7 + 1]) do
      local opens, closes = instant_of(zone, day, span.from), instant_of(zone, day, span.to)
      if at < closes then
        return M.format(math.max(at, opens))
      end
    end
  end
  raise("the office never opens: hours in company.lua are empty")
end

return M
