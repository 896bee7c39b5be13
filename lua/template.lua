-- Fills the placeholders of texts: `{customer.first_name or there}`, `{estimate.total as money}`.
--
-- A value is inserted as it is and never read as a template. A missing one without `or` is an error
-- for a person, so nobody is ever greeted with "Hi ,".
local M = {}

local MONTHS = { "January", "February", "March", "April", "May", "June", "July", "August",
  "September", "October", "November", "December" }
local DAYS = { "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday" }

-- Days since 1970 of a date, and the reverse of what a time needs: seconds of a UTC text.
local function epoch(text)
  local y, m, d, rest = text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)(.*)$"
  if not y then
    return nil
  end
  y, m, d = math.tointeger(y), math.tointeger(m), math.tointeger(d)
  local year = m <= 2 and y - 1 or y
  local era = year // 400
  local of_era = year - era * 400
  local of_year = (153 * (m + (m > 2 and -3 or 9)) + 2) // 5 + d - 1
  local days = era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
  if rest == "" then
    return days * 86400, true
  end
  local h, min, s, zone = rest:match "^[T ](%d%d):(%d%d):(%d%d)[%d.]*(.*)$"
  if not h or (zone ~= "Z" and zone ~= "+00:00" and zone ~= "") then
    return nil
  end
  return days * 86400 + h * 3600 + min * 60 + math.tointeger(s), false
end

-- What the clock and calendar show; a date alone has no clock and no zone.
local function civil(value, zone, wanted)
  local seconds, date_only = epoch(tostring(value))
  if not seconds then
    return nil, "is no time"
  elseif date_only and wanted == "time" then
    return nil, "is a date without a time"
  end
  return host.zone.civil(date_only and "UTC" or zone or "UTC", seconds)
end

local formats = {}

function formats.money(value)
  local number = tonumber(value)
  if not number then
    return nil, "is no amount of money"
  end
  local cents = math.floor(math.abs(number) * 100 + 0.5)
  local dollars = ("%d"):format(cents // 100):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (number < 0 and "-$" or "$") .. dollars:gsub("^,", "") .. (".%02d"):format(cents % 100)
end

function formats.day(value, zone)
  local c, why = civil(value, zone)
  return c and ("%s, %s %d"):format(DAYS[c.weekday], MONTHS[c.month], c.day), why
end

function formats.date(value, zone)
  local c, why = civil(value, zone)
  return c and ("%s %d, %d"):format(MONTHS[c.month], c.day, c.year), why
end

function formats.time(value, zone)
  local c, why = civil(value, zone, "time")
  if not c then
    return nil, why
  end
  local hour = c.hour % 12 == 0 and 12 or c.hour % 12
  return ("%d:%02d %s"):format(hour, c.minute, c.hour < 12 and "AM" or "PM")
end

local function plain(value)
  local kind = math.type(value)
  if kind == "integer" then
    return tostring(value)
  elseif kind == "float" then
    return value == math.floor(value) and ("%.0f"):format(value) or ("%.14g"):format(value)
  elseif type(value) == "string" then
    return value
  elseif type(value) == "boolean" then
    return value and "yes" or "no"
  end
  return nil, "is a table; name one of its fields"
end

--- The placeholder inside braces, taken apart.
---@param inside string
---@return table|nil {path, format?, fallback?}
---@return string|nil why it is none
function M.parse(inside)
  local path, rest = inside:match "^%s*([%a_][%w_.]*)%s*(.-)%s*$"
  if not path or path:find("..", 1, true) or path:sub(-1) == "." then
    return nil, "{" .. inside .. "} is no placeholder; for a brace write {{"
  end
  local found = { path = path }
  local format, after = rest:match "^as%s+(%a+)%s*(.*)$"
  if format then
    found.format, rest = format, after
    if not formats[format] then
      return nil, "unknown format \"" .. format .. "\" in {" .. inside
        .. "}; there are money day date time"
    end
  end
  if rest ~= "" then
    found.fallback = rest:match "^or%s+(.+)$"
    if not found.fallback then
      return nil, "{" .. inside .. "} is no placeholder; write {" .. path .. " or something}"
    end
  end
  return found
end

-- Calls on_text for the literal pieces and on_placeholder for what is in braces.
local function walk(text, on_text, on_placeholder)
  local at = 1
  while at <= #text do
    local brace = text:find("[{}]", at)
    if not brace then
      on_text(text:sub(at))
      return
    end
    on_text(text:sub(at, brace - 1))
    local two = text:sub(brace, brace + 1)
    if two == "{{" then
      local inside = text:match("^%s*([%a_][%w_.]*)%s*}}", brace + 2)
      if inside then
        return nil, "write {" .. inside .. "} with single braces; {{ is a brace"
      end
      on_text "{"
      at = brace + 2
    elseif two == "}}" then
      on_text "}"
      at = brace + 2
    elseif two:sub(1, 1) == "}" then
      on_text "}"
      at = brace + 1
    else
      local close = text:find("}", brace, true)
      if not close then
        return nil, "a { is never closed; for a brace write {{"
      end
      local found, why = M.parse(text:sub(brace + 1, close - 1))
      if not found then
        return nil, why
      end
      local ok, problem = on_placeholder(found)
      if not ok then
        return nil, problem
      end
      at = close + 1
    end
  end
  return true
end

--- Every placeholder of a text, in order; nil and a reason when the text is malformed.
---@param text string
---@return table|nil list of {path, format?, fallback?}
---@return string|nil
function M.placeholders(text)
  local list = {}
  local _, why = walk(text, function() end, function(found)
    list[#list + 1] = found
    return true
  end)
  if why then
    return nil, why
  end
  return list
end

-- Names are looked up in `with`, then in the event, then in the company.
local function lookup(path, scope)
  local first, rest = path:match "^([^.]+)%.?(.*)$"
  local value, source
  if (scope.with or {})[first] ~= nil then
    value, source = scope.with[first], "with"
  elseif first == "to" and scope.to then
    value, source = scope.to, "to"
  elseif (scope.e or {})[first] ~= nil then
    value, source = scope.e[first], "e"
  elseif first == "company" then
    value, source = scope.company, "company"
  else
    value, source = (scope.company or {})[first], "company"
  end
  for key in rest:gmatch "[^.]+" do
    if type(value) ~= "table" then
      return nil, source
    end
    local field = value[key]
    if field == nil and math.tointeger(tonumber(key)) then
      field = value[math.tointeger(tonumber(key))]
    end
    value = field
  end
  return value, source, first
end

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local function shape(value, options)
  if options.html then
    value = value:gsub("[&<>\"']", ESCAPES)
  end
  if options.line then
    value = value:gsub("[%c]+", " ")
  end
  return value
end

--- Fills a text. Raises a readable text when a value is missing or the text is malformed.
---@param text string
---@param scope table {with?, e?, company?, to?, zone?, other? = the text goes to another customer}
---@param options? table {html? = escape values, line? = no line breaks, name? = what text this is}
---@return string
function M.fill(text, scope, options)
  options = options or {}
  local out = {}
  local function add(piece)
    out[#out + 1] = piece
  end
  local _, why = walk(text, add, function(found)
    local value, source, first = lookup(found.path, scope)
    if scope.other and source == "e" and first == "customer" then
      return nil, "{" .. found.path .. "} is the event's customer, and this goes to another one; write {to."
        .. found.path:gsub("^customer%.?", "") .. "}"
    end
    -- A name that was given an empty text by hand, a variant without an offer say, is not missing.
    local meant = value == "" and source == "with" and found.path == first and not found.format
    if (value == nil or value == "") and (found.fallback or not meant) then
      if not found.fallback then
        return nil, found.path .. " is missing; write {" .. found.path
          .. (found.format and " as " .. found.format or "") .. " or …}"
      end
      add(found.fallback)
      return true
    end
    local shown, problem
    if found.format then
      shown, problem = formats[found.format](value, scope.zone)
    else
      shown, problem = plain(value)
    end
    if not shown then
      return nil, found.path .. " " .. problem
    end
    add(shape(shown, options))
    return true
  end)
  if why then
    error((options.name and options.name .. ": " or "") .. why, 0)
  end
  local filled = table.concat(out)
  return options.line and (filled:gsub("[%c]+", " ")) or filled
end

--- A template file: its text, and its subject when the first line says `Subject: …`.
---@param source string
---@return string text
---@return string|nil subject
function M.split(source)
  source = source:gsub("\r\n", "\n")
  local subject, rest = source:match "^Subject:[ \t]*([^\n]*)\n(.*)$"
  local text = (rest or source):gsub("^\n+", ""):gsub("%s+$", "")
  return text, subject
end

return M
