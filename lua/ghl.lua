-- GoHighLevel: contacts, pipelines and opportunities by what they are about in ServiceTitan.
--
-- Every id that GHL gave is in ghl_contacts or ghl_opportunities. Whoever makes a record claims its
-- row first, so two instances never make two. A shadow instance writes rows of its own, with ids
-- that begin with "shadow:"; no live call is made with one.
local arguments = require "arguments"

local json = host.json
local M = {}

local LOCATION = "GHL_LOCATION_ID"

local function location(ctx)
  return ctx.settings[LOCATION]
end

local function without(t, ...)
  local copy = {}
  for k, v in pairs(t) do
    copy[k] = v
  end
  for _, k in ipairs { ... } do
    copy[k] = nil
  end
  return copy
end

-- Contacts ----------------------------------------------------------------------------------------

local function gone(err)
  return err.code == "refused" and (err.status == 404
    or err.status == 400 and tostring(err.body.message):find("not found", 1, true) ~= nil)
end

-- Another contact has this phone or e-mail: ours is updated without them.
local function update(ctx, id, body, as)
  local path = "/contacts/" .. arguments.url(id)
  body = without(body, "tags")
  local answer, err = ctx:call { as = as, effect = "idempotent", method = "PUT", path = path, body = body }
  if answer then
    return id, false
  elseif gone(err) then
    return nil
  elseif err.status == 400 and (err.body.meta or {}).contactId then
    ctx:must_call { as = as .. "_rest", effect = "idempotent", method = "PUT", path = path,
      body = without(body, "phone", "email") }
    return id, true
  end
  ctx:raise(err)
end

-- GHL's upsert finds the contact by e-mail or phone. What belongs to another it drops silently.
local function upsert(ctx, body, as)
  body.locationId = location(ctx)
  local answer, err = ctx:call { as = as, effect = "idempotent", method = "POST",
    path = "/contacts/upsert", body = body }
  if answer then
    local contact = answer.body.contact or {}
    if not contact.id then
      ctx:fail("refused", "GHL answered an upsert without a contact")
    end
    local dropped = (body.phone and contact.phone ~= body.phone)
      or (body.email and (contact.email or ""):lower() ~= body.email:lower())
    return contact.id, dropped and true or false
  end
  local twin = err.status == 400 and (err.body.meta or {}).contactId
  if not twin then
    ctx:raise(err)
  end
  return update(ctx, twin, without(body, "locationId"), as .. "_update")
end

--- Brings the contact of a customer up to date. Nil and why, when there can't be one.
---@param ctx table
---@param x table {customer = record, ...}: what the mapping sees
---@return table|nil {id, conflict}
---@return string|nil
function M.contact(ctx, x)
  local customer = x.customer
  if not customer or not customer.id then
    return nil, "no customer"
  elseif not customer.phone and not customer.email then
    return nil, "no phone and no e-mail"
  end
  local body = ctx:map("contact", x)
  local hash = host.sha256(json.encode(body))
  local claim = ctx:query("engine", "select ghl_claim_contact($1::bigint, $2::boolean, $3)",
    customer.id, ctx.shadow, ctx.owner)
  if claim.verdict == "wait" then
    ctx:suspend(1, "another step is making this contact")
  elseif claim.id and claim.hash == hash then
    return { id = claim.id, conflict = claim.conflict }
  end
  local id, conflict = claim.id, false
  if ctx.shadow then
    ctx:must_call { as = "contact", effect = "idempotent", method = "POST",
      path = "/contacts/upsert", body = body }
    id = id or "shadow:contact:" .. customer.id
  elseif claim.id then
    id, conflict = update(ctx, claim.id, body, "contact")
    if not id then
      ctx:query("engine", "select json 'true' from ghl_forget_contact($1::bigint, false)", customer.id)
      id, conflict = upsert(ctx, body, "contact_anew")
    end
  else
    id, conflict = upsert(ctx, body, "contact")
  end
  local stored = ctx:query("engine",
    "select ghl_store_contact($1::bigint, $2::boolean, $3, $4, $5::boolean)", customer.id,
    ctx.shadow, id, hash, conflict and true or false)
  return { id = id, conflict = stored.conflict }
end

-- Opportunities -----------------------------------------------------------------------------------

--- The opportunity of a record, or nil. keys: {{"estimate", 7}, {"job", 9}}, the first that is known;
-- one that somebody is making right now is waited for.
function M.find(ctx, keys)
  local row = ctx:query("engine", "select ghl_find_opportunity($1::json, $2::boolean, $3)",
    json.array(keys), ctx.shadow, ctx.owner)
  if row and row.verdict == "wait" then
    ctx:suspend(1, "another step is making this opportunity")
  end
  return row
end

function M.store(ctx, row)
  row.shadow = ctx.shadow
  ctx:query("engine", "select json 'true' from ghl_store_opportunity($1::json)", row)
end

-- GHL knows it by one of our ids in its custom fields, or by its name.
local function search(ctx, body, of_id)
  local answer = ctx:must_call { as = "search", effect = "read", method = "GET",
    path = "/opportunities/search?location_id=" .. arguments.url(location(ctx)) .. "&contact_id="
      .. arguments.url(body.contactId) .. "&limit=100" }
  for _, one in ipairs(answer.body.opportunities or {}) do
    local ours = one.name == body.name
    for _, field in ipairs(one.customFields or {}) do
      ours = ours or tostring(field.fieldValue or field.fieldValueString or field.value) == tostring(of_id)
    end
    if ours then
      return one
    end
  end
end

-- What is there already is brought up to date; GHL names it when it allows one per contact only.
local function take(ctx, id, body, as)
  ctx:must_call { as = as, effect = "idempotent", method = "PUT",
    path = "/opportunities/" .. arguments.url(id), body = without(body, "locationId", "contactId") }
  return id, true
end

--- Makes an opportunity; its row was claimed by us. Returns its id, and whether it was there before.
---@param body table GHL's body with pipelineId, pipelineStageId, contactId
---@param of_id any the id in ServiceTitan, to know it again
---@param taken_over boolean somebody may have made it and died
function M.create(ctx, body, of_id, taken_over)
  if ctx.shadow then
    ctx:must_call { as = "opportunity", effect = "once", method = "POST", path = "/opportunities/",
      body = body }
    return "shadow:opportunity:" .. of_id, false
  end
  body.locationId = location(ctx)
  if taken_over then
    local found = search(ctx, body, of_id)
    if found then
      return take(ctx, found.id, body, "opportunity_found")
    end
  end
  for _ = 1, 8 do
    local answer, err = ctx:call { as = "opportunity", effect = "once", method = "POST",
      path = "/opportunities/", body = body }
    if answer then
      local id = (answer.body.opportunity or {}).id
      if id then
        return id, false
      end
      err = { code = "refused", message = "GHL answered without an opportunity", body = {} }
    end
    if err.code == "in_doubt" then
      local ok, found = pcall(search, ctx, body, of_id)
      if not ok then
        ctx:keep(err.id)
      end
      ctx:settle(err.id, found and "done" or "not_sent",
        found and { opportunity = { id = found.id } } or {})
      if found then
        return found.id, false
      end
    elseif err.status == 400 and (err.body.meta or {}).existingId then
      return take(ctx, err.body.meta.existingId, body, "opportunity_existing")
    else
      ctx:raise(err)
    end
  end
  ctx:fail("unavailable", "GHL: the opportunity could not be made")
end

--- Changes an opportunity. False when GHL no longer has it.
function M.update(ctx, id, body, as)
  local answer, err = ctx:call { as = as or "update", effect = "idempotent", method = "PUT",
    path = "/opportunities/" .. arguments.url(id), body = body }
  if not answer and err.status == 404 then
    return false
  elseif not answer then
    ctx:raise(err)
  end
  return true
end

--- Claims the row of a record's opportunity; waits while somebody else makes it.
---@return table {verdict = "have" | "mine", row?, taken_over?}
function M.claim(ctx, of, of_id)
  local claim = ctx:query("engine", "select ghl_claim_opportunity($1, $2::bigint, $3::boolean, $4)",
    of, of_id, ctx.shadow, ctx.owner)
  if claim.verdict == "wait" then
    ctx:suspend(1, "another step is making this opportunity")
  end
  return claim
end

--- Makes changes of an opportunity come one after the other: its row as it is now.
function M.lock(ctx, row)
  local lock = ctx:query("engine", "select ghl_lock_opportunity($1, $2::bigint, $3::boolean, $4)",
    row.of, row.of_id, ctx.shadow, ctx.owner)
  if lock.verdict == "wait" then
    ctx:suspend(0.3, "another step is changing this opportunity")
  end
  return lock.row
end

--- Lets the next one in without a change.
function M.unlock(ctx, row)
  ctx:query("engine", "select json 'true' from ghl_unlock_opportunity($1, $2::bigint, $3::boolean, $4)",
    row.of, row.of_id, ctx.shadow, ctx.owner)
end

--- Gives a claim up.
function M.release(ctx, of, of_id)
  ctx:query("engine", "select json 'true' from ghl_release_opportunity($1, $2::bigint, $3::boolean, $4)",
    of, of_id, ctx.shadow, ctx.owner)
end

return M
