-- What our words of time answer, for tests that know better: a question a line on standard input,
-- fields between tabs, an answer a line.
_G.host = require "host"
local schedule = require "schedule"
local time = require "time"

local HOURS = { mon_fri = "08:00-18:00", sat = "09:00-12:00,13:00-15:00", sun = "00:00-06:00" }
local answer = {}

-- from, back or forth or "", duration, time of day or ""
function answer.moment(zone, t, way, duration, at)
  local options = { at = at ~= "" and at or nil }
  if way ~= "" then
    options[way] = duration
  end
  return time.moment(t, options, zone)
end

function answer.date(zone, t)
  local d = time.date(t, zone)
  return ("%s %d %02d:%02d"):format(d.ymd, d.weekday, d.hour, d.minute)
end

function answer.open(zone, t)
  return time.next_open(t, HOURS, zone)
end

-- Until a time: "seconds note" of each fire.
function answer.fires(zone, cron, gap, fold, after, to)
  local spec, list = { cron = cron, zone = zone, gap = gap, fold = fold }, {}
  local at, note = schedule.next(spec, tonumber(after))
  while at and at <= tonumber(to) do
    list[#list + 1] = at .. " " .. (note or "plain")
    at, note = schedule.next(spec, at)
  end
  return table.concat(list, ", ")
end

for line in io.lines() do
  local fields = {}
  for field in (line .. "\t"):gmatch "([^\t]*)\t" do
    fields[#fields + 1] = field
  end
  print(answer[fields[1]](table.unpack(fields, 2)))
end
