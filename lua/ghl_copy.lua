-- The copy of what GoHighLevel has: all contacts and all opportunities, page by page. SQL says whose
-- they are and keeps them. A walk that stopped goes on at its page: where it is, is in ghl_walks.
local arguments = require "arguments"

local json = host.json
local M = {}

local PAGE = 100
local PAGES_AT_ONCE = 100 -- then other steps have their turn

local function location(ctx)
  return ctx.settings.GHL_LOCATION_ID
end

-- The ids of a model's custom fields by their keys: {st_customer_id = "…"}.
local function fields(ctx, model)
  local answer = ctx:must_call { as = "fields", effect = "read", method = "GET",
    path = "/locations/" .. arguments.url(location(ctx)) .. "/customFields?model=" .. model }
  local ids = {}
  for _, field in ipairs(answer.body.customFields or {}) do
    ids[tostring(field.fieldKey):gsub("^" .. model .. "%.", "")] = field.id
  end
  return ids
end

-- Asks for page after page. `ask` returns the answer and the cursor behind it; `take` keeps a page.
local function walk(ctx, kind, ask, take)
  if ctx.shadow then
    return { skipped = "it is read when the company is live" }
  end
  local at = ctx:query("engine", "select ghl_walk($1, $2)", kind, ctx.owner)
  for page = 1, PAGES_AT_ONCE + 1 do
    if at.verdict == "done" then
      return at.counts
    elseif at.verdict == "wait" then
      ctx:suspend(5, "another step is copying GHL's " .. kind)
    elseif page > PAGES_AT_ONCE then
      ctx:suspend(0, "it has more " .. kind)
    end
    local answer, cursor = ask(at.cursor)
    if cursor and at.cursor and json.encode(cursor) == json.encode(at.cursor) then
      ctx:fail("unavailable", "GHL lists the same " .. kind .. " again and again")
    end
    local counts = take(answer.text, at.at)
    at = ctx:query("engine", "select ghl_walk_on($1, $2, $3::json, $4::json)", kind, ctx.owner,
      cursor, counts)
  end
end

--- All contacts of the location. Returns {seen, matched, linked}.
---@param ctx table
---@return table
function M.contacts(ctx)
  local field
  return walk(ctx, "contacts", function(cursor)
    field = field or fields(ctx, "contact").st_customer_id or ""
    local answer = ctx:must_call { as = "contacts", effect = "read", method = "POST",
      path = "/contacts/search",
      body = { locationId = location(ctx), pageLimit = PAGE, searchAfter = cursor } }
    local list = answer.body.contacts or {}
    local last = list[#list]
    return answer, #list >= PAGE and last.searchAfter or nil
  end, function(text)
    local customers = ctx:query("servicetitan", "select customers_of_contacts($1::json, $2)", text, field)
    return ctx:query("engine", "select ghl_take_contacts($1::json, $2::json)", text,
      json.array(customers))
  end)
end

--- All opportunities of the location. Returns {seen, matched, linked}.
---@param ctx table
---@return table
function M.opportunities(ctx)
  local ids
  return walk(ctx, "opportunities", function(cursor)
    ids = ids or fields(ctx, "opportunity")
    local path = "/opportunities/search?location_id=" .. arguments.url(location(ctx)) .. "&limit=" .. PAGE
    if cursor then -- one without the other lists the first page for ever
      path = path .. "&startAfter=" .. arguments.url(tostring(cursor[1])) .. "&startAfterId="
        .. arguments.url(tostring(cursor[2]))
    end
    local answer = ctx:must_call { as = "opportunities", effect = "read", method = "GET", path = path }
    local meta, list = answer.body.meta or {}, answer.body.opportunities or {}
    local more = #list > 0 and meta.startAfter and meta.startAfterId
    return answer, more and json.array { meta.startAfter, meta.startAfterId } or nil
  end, function(text, at)
    return ctx:query("engine",
      "select ghl_take_opportunities($1::json, $2, $3, $4, $5::timestamptz)", text,
      ids.st_estimate_id or "", ids.st_job_id or "", location(ctx), at)
  end)
end

return M
