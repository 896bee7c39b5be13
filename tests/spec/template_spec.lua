-- The placeholders of texts.
_G.host = _G.host or require "host"
local template = require "template"

local SCOPE = {
  with = { offer = "a {coupon}", amount = 1234.5, list = { { number = "A1" } } },
  e = { customer = { id = 7, first_name = "Ann", name = "Ann <Lee>", note = "one\r\ntwo", empty = "" },
    estimate = { id = 70, total = 1600, tax = 0.1, due = "2026-03-08", start = "2026-03-08T16:05:00Z" } },
  company = { name = "Bright Air", links = { review = "https://x.example/?a=1&b=2" } },
  to = { name = "Bob" },
  zone = "America/New_York",
}

local function fill(text, options, scope)
  return template.fill(text, scope or SCOPE, options)
end

local function problem(text, options, scope)
  local ok, why = pcall(template.fill, text, scope or SCOPE, options)
  assert.is_false(ok)
  return why
end

describe("a template", function()
  it("finds names in with, the event, the company and the recipient", function()
    assert.are.equal("a {coupon}, Ann, Bright Air, Bright Air, Bob, A1",
      fill "{offer}, {customer.first_name}, {company.name}, {name}, {to.name}, {list.1.number}")
  end)

  it("lets with win over the event, and the event over the company", function()
    local scope = { with = { x = "w" }, e = { x = "e", y = "e" }, company = { x = "c", y = "c", z = "c" } }
    assert.are.equal("w e c", fill("{x} {y} {z}", nil, scope))
  end)

  it("takes an empty text that was given by name as it is, unless there is something instead", function()
    local scope = { with = { offer = "", answer = { text = "" } } }
    assert.are.equal("Book: x", fill("{offer}Book: x", nil, scope))
    assert.are.equal("noneBook: x", fill("{offer or none}Book: x", nil, scope))
    assert.are.equal("answer.text is missing; write {answer.text or …}", problem("{answer.text}", nil, scope))
  end)

  it("writes money, days, dates and times", function()
    assert.are.equal("$1,234.50 $1,600.00 $0.10",
      fill "{amount as money} {estimate.total as money} {estimate.tax as money}")
    assert.are.equal("Sunday, March 8; March 8, 2026; 12:05 PM",
      fill "{estimate.start as day}; {estimate.start as date}; {estimate.start as time}")
    assert.are.equal("Sunday, March 8", fill "{estimate.due as day}")
    assert.are.equal("-$1,234,567.89", fill("{x as money}", nil, { with = { x = -1234567.89 } }))
  end)

  it("shows times where the recipient lives", function()
    local scope = { e = SCOPE.e, zone = "America/Phoenix" }
    assert.are.equal("9:05 AM", fill("{estimate.start as time}", nil, scope))
  end)

  it("falls back with or", function()
    assert.are.equal("Hi there, free of charge, one day soon",
      fill "Hi {customer.nick or there}, {fee as money or free of charge}, {gone.far.away or one day soon}")
    assert.are.equal("Hi there", fill "Hi {customer.empty or there}")
  end)

  it("says which value is missing", function()
    assert.are.equal("customer.nick is missing; write {customer.nick or …}", problem "Hi {customer.nick},")
    assert.are.equal("template x: fee is missing; write {fee as money or …}",
      problem("{fee as money}", { name = "template x" }))
    assert.are.equal("customer.empty is missing; write {customer.empty or …}", problem "{customer.empty}")
  end)

  it("says what is wrong with a placeholder", function()
    assert.are.equal("estimate is a table; name one of its fields", problem "{estimate}")
    assert.are.equal("customer.name is no amount of money", problem "{customer.name as money}")
    assert.are.equal("customer.name is no time", problem "{customer.name as day}")
    assert.are.equal("estimate.due is a date without a time", problem "{estimate.due as time}")
    assert.are.equal('unknown format "euro" in {amount as euro}; there are money day date time',
      problem "{amount as euro}")
    assert.are.equal("a { is never closed; for a brace write {{", problem "Hi {customer.name")
    assert.are.equal("{1x} is no placeholder; for a brace write {{", problem "{1x}")
    assert.are.equal("{offer and more} is no placeholder; write {offer or something}",
      problem "{offer and more}")
    assert.are.equal("write {customer.name} with single braces; {{ is a brace", problem "Hi {{customer.name}}")
  end)

  it("never reads a value as a template", function()
    assert.are.equal("a {coupon}", fill "{offer}")
    assert.are.equal("{customer.name}", fill("{x}", nil, { with = { x = "{customer.name}" } }))
  end)

  it("writes braces", function()
    assert.are.equal("{a} } 100%", fill "{{a} } 100%")
  end)

  it("escapes values in HTML, and only values", function()
    assert.are.equal("<b>Ann &lt;Lee&gt;</b> a=1&amp;b=2",
      (fill("<b>{customer.name}</b> {company.links.review}", { html = true }):gsub("https://x.example/%?", "")))
  end)

  it("keeps a subject on one line", function()
    assert.are.equal("Re: one two x", fill("Re: {customer.note}\nx", { line = true }))
  end)

  it("refuses the event's customer in a text to another one", function()
    local scope = { e = SCOPE.e, to = SCOPE.to, other = true }
    assert.are.equal("{customer.first_name} is the event's customer, and this goes to another one; "
      .. "write {to.first_name}", problem("Hi {customer.first_name}", nil, scope))
    assert.are.equal("Hi Bob", fill("Hi {to.name}", nil, scope))
  end)

  it("lists its placeholders", function()
    assert.are.same({ { path = "a.b" }, { path = "c", format = "money", fallback = "x y" } },
      template.placeholders "{a.b} {{ {c as money or x y}")
  end)

  it("splits a file into subject and text", function()
    assert.are.same({ "Dear\n\nyou", "Hi {to.name}" },
      { template.split "Subject: Hi {to.name}\r\n\r\nDear\r\n\r\nyou\r\n" })
    assert.are.same({ "only text" }, { template.split "only text\n" })
  end)
end)

describe("the shipped templates", function()
  local e = {
    customer = { id = 7, name = "Ann Lee", first_name = "Ann", phone = "+1", email = "a@b.co" },
    estimate = { id = 1, total = 1600 }, job = { id = 2, number = "90" },
    invoice = { number = "A1", total = 10, balance = 5.5, due_date = "2026-06-01" },
  }
  local company = { name = "Bright Air", links = { review = "https://r.example" } }

  for _, name in ipairs { "estimate_1", "estimate_2", "estimate_3", "estimate_4", "review_1", "review_2",
    "overdue_1", "overdue_office", "overdue_2" } do
    it("fill: " .. name, function()
      local file = assert(io.open(os.getenv "MOONWRIGHT_SOURCE" .. "/workflows/templates/" .. name .. ".txt"))
      local text, subject = template.split(file:read "a")
      file:close()
      local filled = template.fill(text, { e = e, company = company, zone = "America/New_York" })
      assert.is_nil(filled:find("[{}]"))
      assert.are.equal(name:match "^overdue_[1o]" ~= nil, subject ~= nil)
      if subject then
        template.fill(subject, { e = e, company = company }, { line = true })
      else
        assert.is_true(#filled <= 320)
      end
    end)
  end
end)
