-- What a send says and to whom: the recipient behind `to`, the text with its placeholders filled.
-- Whether it may leave is decided below, when the intent is written.
local template = require "template"

local M = {}

--- What sms.send and email.send take.
M.args = { to = "any", text = "string?", template = "string?", subject = "string?", with = "table?",
  class = "string?", fallback = "string?", once = "string?", not_after = "time?" }

local OF_CUSTOMERS = { "tags", "do_not_service", "balance", "do_not_mail", "zone", "state", "type" }

-- The address of a role: company.people gives one, or a list of a phone and an e-mail.
local function role_address(ctx, role, channel)
  local people = (ctx.company.people or {})[role]
  if not people then
    ctx:hold("role_missing", ctx.name .. ": company.people has no \"" .. role .. '"')
  end
  for _, one in ipairs(type(people) == "table" and people or { people }) do
    if (channel == "email") == (one:find("@", 1, true) ~= nil) then
      return one
    end
  end
end

local function listed_as_technician(event, id)
  for _, record in pairs(event) do
    for _, one in ipairs(type(record) == "table" and record.technicians or {}) do
      if one.id == id then
        return true
      end
    end
  end
  return event.technician ~= nil and event.technician.id == id
end

-- A customer's record has what only customers have; where a record has none of it, the id decides.
local function is_customer(ctx, to)
  local ours = ctx.event.customer
  if to.id == nil or (ours and ours.id == to.id) then
    return true
  elseif to.team or to.business_unit_id or listed_as_technician(ctx.event, to.id) then
    return false
  end
  for _, field in ipairs(OF_CUSTOMERS) do
    if to[field] ~= nil then
      return true
    end
  end
  return not ctx:query("servicetitan", "select to_json(exists (select from st_technicians t "
    .. "where t.id = $1::bigint and not exists (select from st_customers where id = t.id)))", to.id)
end

-- Who gets it: the message's fields and the table that {to…} shows.
local function resolve(ctx, to, channel)
  if type(to) == "string" then
    return { staff = true, address = role_address(ctx, to, channel), zone = ctx.company.zone },
      { name = to }
  elseif type(to) ~= "table" then
    error(ctx.name .. ": to must be a customer's or technician's record, or a role of company.people", 0)
  end
  local address = channel == "sms" and to.phone or to.email
  if channel == "email" then
    address = to.email
  end
  if not is_customer(ctx, to) then
    return { staff = true, address = address, zone = ctx.company.zone }, to
  end
  return { customer_id = to.id, address = address, zone = to.zone, state = to.state }, to
end

local function source_of(ctx, a, channel)
  if a.text then
    if a.template then
      error(ctx.name .. ": give text or template, not both", 0)
    end
    return a.text, a.subject, nil, "text"
  elseif not a.template then
    error(ctx.name .. ': what shall it say? give text = "…" or template = "name"', 0)
  end
  local path = "workflows/templates/" .. a.template
  local source = ctx.state.files[path .. ".txt"]
  if not source then
    ctx:hold("template_missing", ctx.name .. ": there is no " .. path .. ".txt")
  end
  local text, subject = template.split(source)
  return text, a.subject or subject, channel == "email" and ctx.state.files[path .. ".html"] or nil,
    "template " .. a.template
end

local function fill(ctx, text, scope, options)
  local ok, filled = pcall(template.fill, text, scope, options)
  if not ok then
    ctx:hold("template_error", ctx.name .. ": " .. tostring(filled))
  end
  return filled
end

--- How a role is reached: "sms" or, where it has no phone, "email".
---@param ctx table
---@param role string
---@return string
function M.channel_of(ctx, role)
  return role_address(ctx, role, "sms") and "sms" or "email"
end

--- Fills a text that is shown to people of ours.
---@param ctx table
---@param text string
---@param role string whom it is shown to
---@param with table|nil
---@param name string what text it is
---@return string
function M.fill_for_staff(ctx, text, role, with, name)
  return fill(ctx, text, { with = with, e = ctx.event, company = ctx.company,
    to = { name = role }, zone = ctx.company.zone }, { name = name, line = name == "title" })
end

--- Sends, and returns {status, reason, time, channel, id}.
---@param ctx table the action's context
---@param a table the arguments
---@param channel string "sms" or "email"
---@return table
function M.send(ctx, a, channel)
  if a.class and a.class ~= "marketing" and a.class ~= "transactional" then
    error(ctx.name .. ': class is "marketing" or "transactional"', 0)
  elseif a.fallback and not (a.fallback == "email" and channel == "sms") then
    error(ctx.name .. ': fallback is "email", and of a text', 0)
  end
  local message, to = resolve(ctx, a.to, channel)
  local text, subject, html, name = source_of(ctx, a, channel)
  local event = ctx.event
  local scope = { with = a.with, e = event, company = ctx.company, to = to,
    zone = message.staff and ctx.company.zone or message.zone or ctx.company.zone,
    other = message.customer_id ~= nil and event.customer ~= nil
      and event.customer.id ~= message.customer_id }
  message.call, message.channel, message.class = channel, channel, a.class
  message.once, message.not_after = a.once, a.not_after
  message.text = fill(ctx, text, scope, { name = name })
  if not message.text:find "%S" then
    ctx:hold("template_error", ctx.name .. ": the text is empty")
  elseif a.fallback and not subject then
    ctx:hold("template_error", ctx.name .. ': fallback = "email" needs a subject')
  end
  if channel == "email" then
    if not subject then
      ctx:hold("template_error", ctx.name .. ": an e-mail needs a subject")
    end
    message.subject = fill(ctx, subject, scope, { name = "subject", line = true })
    message.html = html and fill(ctx, html, scope, { name = name, html = true })
  elseif utf8.len(message.text) > 1600 then
    ctx:hold("template_error", ctx.name .. ": the text is longer than 1600 characters")
  end
  local sent = ctx:message(message)
  local unreachable = sent.reason == "no_address" or sent.reason == "undeliverable"
  if a.fallback and sent.status == "suppressed" and unreachable then
    local by_mail = {}
    for k, v in pairs(a) do
      by_mail[k] = v
    end
    by_mail.fallback = nil
    return M.send(ctx, by_mail, "email")
  end
  return sent
end

return M
