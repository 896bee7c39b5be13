-- The words of time: what an author writes means the same on the clock in every week of the year.
_G.host = _G.host or require "host"
local time = require "time"

local NEW_YORK, PHOENIX, DENVER = "America/New_York", "America/Phoenix", "America/Denver"

local function says(message, f, ...)
  local ok, why = pcall(f, ...)
  assert.is_false(ok)
  assert.are.equal(message, why)
end

describe("a duration", function()
  it("has an exact part and a calendar part", function()
    local cases = {
      ["90s"] = { 90, 0 }, ["15m"] = { 900, 0 }, ["2h"] = { 7200, 0 }, ["1h30m"] = { 5400, 0 },
      ["3d"] = { 0, 3 }, ["2w"] = { 0, 14 }, ["1w2d3h"] = { 10800, 9 }, ["0d"] = { 0, 0 },
      ["72h"] = { 259200, 0 },
    }
    for text, parts in pairs(cases) do
      local d = time.parse_duration(text)
      assert.are.same({ text, parts[1], parts[2] }, { text, d.seconds, d.days })
      assert.are.equal("integer", math.type(d.seconds))
    end
  end)

  it("that is none is answered with what was meant", function()
    says('"2 days" is not a duration; write "2d" (s m h d w)', time.parse_duration, "2 days")
    says('"90 minutes" is not a duration; write "90m" (s m h d w)', time.parse_duration, "90 minutes")
    says('"1 hour 30 min" is not a duration; write "1h30m" (s m h d w)', time.parse_duration,
      "1 hour 30 min")
    says('"3 months" is not a duration; write "2d" (s m h d w)', time.parse_duration, "3 months")
    says('a number is not a duration; write "2d" (s m h d w)', time.parse_duration, 2)
    for _, text in ipairs { "", "d", "2", "-2d", "1.5h", "2d2d", "2D", " 2d", "2d ", "h1", "2d,1h" } do
      assert.has_error(function() time.parse_duration(text) end)
    end
    says('"9999d" is longer than ten years', time.parse_duration, "9999d")
    assert.has_error(function() time.parse_duration("99999999999999999999s") end)
  end)
end)

describe("a time", function()
  it("is read with fraction, offset or blank, and as a date", function()
    local at = time.parse "2026-03-07T22:00:00Z"
    assert.are.equal(1772920800, at)
    for _, text in ipairs { "2026-03-07T22:00:00.999999Z", "2026-03-07T22:00:00+00:00",
      "2026-03-07 22:00:00+00", "2026-03-07T17:00:00-05:00", "2026-03-08T03:30:00+0530" } do
      assert.are.same({ text, at }, { text, time.parse(text) })
    end
    assert.are.equal(time.parse "2026-03-07T05:00:00Z", time.parse("2026-03-07", NEW_YORK))
    assert.are.equal(time.parse "2026-03-09T04:00:00Z", time.parse("2026-03-09", NEW_YORK))
    assert.are.equal(time.parse "2026-03-07T07:00:00Z", time.parse("2026-03-07", PHOENIX))
  end)

  it("that doesn't exist is refused", function()
    for _, text in ipairs { "2026-02-29", "2026-13-01", "2026-00-10", "2026-04-31", "tomorrow",
      "2026-03-07T24:00:00Z", "2026-03-07T22:60:00Z", "2026-03-07T22:00Z", "2026-03-07T22:00:00",
      "2026-03-07T22:00:00 EST", "26-03-07" } do
      assert.has_error(function() time.parse(text, NEW_YORK) end)
    end
    assert.are.equal("2028-02-29T05:00:00Z", time.format(time.parse("2028-02-29", NEW_YORK)))
    says('a nil is not a time; times are like "2026-03-07T22:00:00Z" or "2026-03-07"', time.parse)
    says('"Mars" is not a time zone; write one such as "America/New_York"', time.parse, "2026-03-07",
      "Mars")
  end)

  it("is written so that < compares", function()
    local last = ""
    for at = -3000000000, 6000000000, 86400 * 31 + 3661 do
      local text = time.format(at)
      assert.are.equal(at, time.parse(text))
      if at >= 0 then
        assert.is_true(last < text)
        last = text
      end
    end
    assert.are.equal("1970-01-01T00:00:00Z", time.format(0.9))
  end)
end)

describe("a day", function()
  -- Spring forward 2026-03-08 and 2027-03-14, fall back 2026-11-01 and 2027-11-07, at 2:00.
  it("is the same time on the clock through both changes", function()
    local cases = {
      { "2026-03-07T22:00:00Z", "1d", "2026-03-08T21:00:00Z" },
      { "2026-10-31T21:00:00Z", "1d", "2026-11-01T22:00:00Z" },
      { "2027-03-13T22:00:00Z", "1d", "2027-03-14T21:00:00Z" },
      { "2027-11-06T21:00:00Z", "1d", "2027-11-07T22:00:00Z" },
      { "2026-03-01T15:00:00Z", "2w", "2026-03-15T14:00:00Z" },
      { "2026-03-07T22:00:00Z", "24h", "2026-03-08T22:00:00Z" },
      { "2026-03-07T22:00:00Z", "1d2h", "2026-03-08T23:00:00Z" },
    }
    for _, case in ipairs(cases) do
      assert.are.same({ case[1], case[3] }, { case[1], time.add(case[1], case[2], NEW_YORK) })
    end
  end)

  it("has no change in Phoenix", function()
    for _, t in ipairs { "2026-03-07T22:00:00Z", "2026-10-31T21:00:00Z", "2027-03-13T22:00:00Z" } do
      assert.are.equal(time.parse(t) + 86400, time.parse(time.add(t, "1d", PHOENIX)))
    end
  end)

  it("moves a skipped time forward and takes the first of two", function()
    -- 2:30 on the 8th of March doesn't exist: 3:30 EDT
    assert.are.equal("2026-03-08T07:30:00Z", time.add("2026-03-07T07:30:00Z", "1d", NEW_YORK))
    -- 1:30 on the 1st of November comes twice: the first, EDT
    assert.are.equal("2026-11-01T05:30:00Z", time.add("2026-10-31T05:30:00Z", "1d", NEW_YORK))
    assert.are.equal("2026-11-01T05:30:00Z",
      time.moment("2026-11-01T12:00:00Z", { at = "01:30" }, NEW_YORK))
    -- nothing to add leaves the second 1:30 where it is
    assert.are.equal("2026-11-01T06:30:00Z", time.add("2026-11-01T06:30:00Z", "0d", NEW_YORK))
    assert.are.equal("2026-11-02T06:30:00Z", time.add("2026-11-01T06:30:00Z", "1d", NEW_YORK))
  end)

  it("goes over the ends of months and years", function()
    assert.are.equal("2027-01-01T15:00:00Z", time.add("2026-12-31T15:00:00Z", "1d", NEW_YORK))
    assert.are.equal("2028-02-29T15:00:00Z", time.add("2028-02-28T15:00:00Z", "1d", NEW_YORK))
  end)
end)

describe("a moment", function()
  it("is 17:00 on the day before", function()
    for _, case in ipairs {
      { "2026-06-10T12:00:00Z", "2026-06-09T21:00:00Z" },
      { "2026-03-08T14:00:00Z", "2026-03-07T22:00:00Z" },
      { "2026-03-09T14:00:00Z", "2026-03-08T21:00:00Z" },
      { "2026-11-02T14:00:00Z", "2026-11-01T22:00:00Z" },
      { "2026-06-10T03:00:00Z", "2026-06-08T21:00:00Z" }, -- still the 9th there
    } do
      assert.are.same({ case[1], case[2] },
        { case[1], time.moment(case[1], { before = "1d", at = "17:00" }, NEW_YORK) })
    end
  end)

  it("is reckoned in its own zone when it names one", function()
    assert.are.equal("2026-06-11T00:00:00Z",
      time.moment("2026-06-10T12:00:00Z", { at = "17:00", zone = PHOENIX }, NEW_YORK))
    assert.are.equal("2026-06-10T23:00:00Z",
      time.moment("2026-06-10T12:00:00Z", { at = "17:00", zone = DENVER }, NEW_YORK))
  end)

  it("follows a date", function()
    assert.are.equal("2026-06-21T14:00:00Z",
      time.moment("2026-06-20", { after = "1d", at = "10:00" }, NEW_YORK))
    assert.are.equal("2026-03-08T05:00:00Z", time.moment("2026-03-08", {}, NEW_YORK))
    assert.are.equal("2026-03-09T04:00:00Z", time.moment("2026-03-08", { after = "1d" }, NEW_YORK))
  end)

  it("counts hours exactly", function()
    assert.are.equal("2026-03-08T09:00:00Z",
      time.moment("2026-03-08T06:00:00Z", { after = "3h" }, NEW_YORK))
    assert.are.equal("2026-03-08T05:58:00Z",
      time.moment("2026-03-08T06:00:00.5Z", { before = "2m" }, NEW_YORK))
  end)

  it("refuses what it doesn't know", function()
    says("unknown field 'befor'; a moment has before, after, at, zone", time.moment,
      "2026-06-10T12:00:00Z", { befor = "1d" }, NEW_YORK)
    says('"5 pm" is not a time of the day; write it like "17:00"', time.moment,
      "2026-06-10T12:00:00Z", { at = "5 pm" }, NEW_YORK)
    says("give before or after, not both", time.moment, "2026-06-10T12:00:00Z",
      { before = "1d", after = "1d" }, NEW_YORK)
    for _, at in ipairs { "24:00", "17:60", "17", 17, "" } do
      assert.has_error(function() time.moment("2026-06-10T12:00:00Z", { at = at }, NEW_YORK) end)
    end
  end)
end)

describe("date", function()
  it("shows calendar and clock", function()
    assert.are.same({ ymd = "2026-03-08", year = 2026, month = 3, day = 8, weekday = 7, hour = 3,
      minute = 30 }, time.date("2026-03-08T07:30:00Z", NEW_YORK))
    assert.are.same("2026-03-07", time.date("2026-03-08T04:59:59Z", NEW_YORK).ymd)
    assert.are.same("2026-03-08", time.date("2026-03-08", PHOENIX).ymd)
  end)
end)

describe("the office", function()
  local hours = { mon_fri = "08:00-18:00", sat = "09:00-12:00" }

  it("is open, or opens next", function()
    for _, case in ipairs {
      { "2026-06-05T15:00:00Z", "2026-06-05T15:00:00Z" }, -- Friday 11:00
      { "2026-06-05T10:00:00Z", "2026-06-05T12:00:00Z" }, -- Friday 6:00
      { "2026-06-05T22:00:00Z", "2026-06-06T13:00:00Z" }, -- Friday 18:00: closed
      { "2026-06-06T16:00:00Z", "2026-06-08T12:00:00Z" }, -- Saturday noon
      { "2026-03-07T18:00:00Z", "2026-03-09T12:00:00Z" }, -- over the change in spring
      { "2026-10-31T17:00:00Z", "2026-11-02T13:00:00Z" }, -- and in autumn
    } do
      assert.are.same({ case[1], case[2] }, { case[1], time.next_open(case[1], hours, NEW_YORK) })
    end
  end)

  it("may close for lunch, or on a day of a span, or be open on one day a week", function()
    local lunch = { mon_sat = "08:00-12:00, 13:00-17:00", wed = false, sun = "closed" }
    assert.are.equal("2026-06-02T17:00:00Z", time.next_open("2026-06-02T16:30:00Z", lunch, NEW_YORK))
    assert.are.equal("2026-06-04T12:00:00Z", time.next_open("2026-06-03T14:00:00Z", lunch, NEW_YORK))
    assert.are.equal("2026-06-08T12:00:00Z",
      time.next_open("2026-06-01T17:00:00Z", { mon = "08:00-13:00" }, NEW_YORK))
    assert.are.equal("2026-06-07T14:00:00Z",
      time.next_open("2026-06-06T23:00:00Z", { sun_mon = "10:00-24:00" }, NEW_YORK))
  end)

  it("says what is wrong with its hours", function()
    local t = "2026-06-05T15:00:00Z"
    says('hours: "monday" is no day; write mon_fri or sat', time.next_open, t,
      { monday = "08:00-18:00" }, NEW_YORK)
    says('hours: mon must be like "08:00-18:00"', time.next_open, t, { mon = "8 to 6" }, NEW_YORK)
    says('hours: mon ends before it begins: "18:00-08:00"', time.next_open, t,
      { mon = "18:00-08:00" }, NEW_YORK)
    says("the office never opens: hours in company.lua are empty", time.next_open, t, {}, NEW_YORK)
  end)
end)
