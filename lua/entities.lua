-- The entities of events: what each carries besides itself, and the keys by which two events are
-- about the same thing.
local M = {}

local function set(names)
  local s = {}
  for name in names:gmatch "%S+" do
    s[name] = true
  end
  return s
end

-- What a snapshot of the entity carries besides.
M.carries = {
  customer = {},
  location = set "customer",
  job = set "customer location business_unit job_type campaign invoice",
  estimate = set "customer location business_unit job job_type",
  invoice = set "customer location business_unit job",
  appointment = set "customer location business_unit job job_type campaign invoice",
  lead = set "customer location business_unit campaign",
  booking = set "customer location business_unit campaign",
  call = set "customer",
  reply = set "customer",
  membership = set "customer location",
  visit = set "customer location membership",
  technician = {},
  task = set "customer",
}

--- The fields of the records that are rows of ours, for texts that name one.
M.fields = {
  customer = set [[id name first_name last_name type phone email address city state zip zone balance tags
    active do_not_service do_not_mail last_job_on merged_to_id created_on modified_on]],
  location = set "id customer_id name address city state zip zone zone_id active created_on modified_on",
  job = set [[id number status priority completed_on total no_charge recall_for_id cancel_reason summary
    technicians customer_id location_id business_unit_id job_type_id campaign_id invoice_id
    created_from_estimate_id active created_on modified_on]],
  estimate = set [[id name status subtotal tax total items summary sold_on sold_by is_change_order job_id
    job_number customer_id location_id business_unit_id active created_on modified_on]],
  invoice = set [[id number subtotal tax total balance invoice_date due_date paid_on items summary type
    adjustment_to_id job_id customer_id location_id business_unit_id active created_on modified_on]],
  appointment = set [[id number status start end_at arrival_window_start arrival_window_end is_confirmed
    special_instructions technicians job_id customer_id active created_on modified_on]],
  technician = set "id name email phone business_unit_id team active created_on modified_on",
}

-- The subject of a call or a reply is the customer.
local SUBJECT = { call = "customer", reply = "customer" }

-- Events that no rule declares.
M.builtin = {
  customer_replied = { of = "customer", carries = { reply = true } },
  customer_opted_out = { of = "customer", carries = { reply = true } },
  message_failed = { of = "customer" },
  ghl_contact_created = { of = "customer" },
  task_done = { of = "task" },
  task_answered = { of = "task" }, -- of an approval: what approve waits for
}
for entity in pairs(M.carries) do
  M.builtin[entity .. "_deleted"] = { of = entity }
end

--- The entity that an event of this `of` is about.
---@param of string
---@return string
function M.subject(of)
  return SUBJECT[of] or of
end

--- Whether an event of this rule carries a snapshot of an entity.
---@param rule table
---@param entity string
---@return boolean
function M.has(rule, entity)
  return rule.of == entity or M.subject(rule.of) == entity
    or (M.carries[rule.of] or {})[entity] == true
    or rule.carries ~= nil and rule.carries[entity] == true
end

local EXTENSIONS = { "%s*x%s*%d+%s*$", "%s*ext%.?%s*%d+%s*$", "%s*extension%s*%d+%s*$", "%s*#%s*%d+%s*$" }

-- A number as the carriers tell it to us, as phone_e164() has it; what isn't certain stays as it is.
local function phone_key(phone)
  local main = tostring(phone):lower()
  if main:find "^%+%d+$" then -- as ours are stored
    return "phone:" .. main
  end
  for _, extension in ipairs(EXTENSIONS) do
    main = main:gsub(extension, "")
  end
  local digits = main:gsub("%D", "")
  if main:find "^%s*%+" then
    phone = #digits >= 7 and #digits <= 15 and "+" .. digits or phone
  elseif #digits == 10 then
    phone = "+1" .. digits
  elseif #digits == 11 and digits:sub(1, 1) == "1" then
    phone = "+" .. digits
  end
  return "phone:" .. phone
end

local function email_key(email)
  return "email:" .. tostring(email):lower():match "^%s*(.-)%s*$"
end

--- The keys under which a record is found: by id, else (a customer that has none) by its addresses.
---@param entity string
---@param record table|nil
---@return table
function M.keys(entity, record)
  if type(record) ~= "table" then
    return {}
  elseif record.id ~= nil then
    return { entity .. ":" .. tostring(record.id) }
  end
  local keys = {}
  if record.phone then
    keys[#keys + 1] = phone_key(record.phone)
  end
  if record.email then
    keys[#keys + 1] = email_key(record.email)
  end
  return keys
end

--- All keys under which an event is found: each snapshot it carries, and its customer's addresses.
---@param event table
---@return table
function M.event_keys(event)
  local keys = {}
  for entity in pairs(M.carries) do
    local record = event[entity]
    if type(record) == "table" and record.id ~= nil then
      keys[#keys + 1] = entity .. ":" .. tostring(record.id)
    end
  end
  local customer = event.customer
  if type(customer) == "table" then
    keys[#keys + 1] = customer.phone and phone_key(customer.phone) or nil
    keys[#keys + 1] = customer.email and email_key(customer.email) or nil
  end
  if event.instance then -- a signal reaches one instance only
    keys = { "instance:" .. event.instance }
  end
  table.sort(keys)
  return keys
end

return M
