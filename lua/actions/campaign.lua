-- variant, audience, start_each, children.
local arguments = require "arguments"
local context = require "context"

local json = host.json

local MEMBERS = "select customer_id from (select distinct a.customer_id::bigint as customer_id "
  .. "from (%s\n) a where a.customer_id is not null order by 1) m"
local IDS = "select json_agg(m.customer_id) as ids, count(*) as n from (" .. MEMBERS .. ") m"
local NAMES = "select c.name from customers c where c.id in (%s) order by c.id limit 5"
local EACH = 500 -- children of one query

local function first_names(ctx, ids)
  if #ids == 0 then
    return ""
  end
  local names = {}
  for i, row in ipairs(ctx:query("views", NAMES:format(table.concat(ids, ", ", 1, math.min(5, #ids))))) do
    names[i] = row.name
  end
  return table.concat(names, ", ") .. (#ids > #names and " …" or "")
end

local function freeze(ctx, a)
  local ok, sql, values = pcall(arguments.bind, (a.sql:gsub("[;%s]+$", "")), a.params or {})
  if not ok then
    ctx:fail("refused", "audience: " .. tostring(sql))
  end
  local asked, rows = pcall(ctx.query, ctx, "views", IDS:format(sql), table.unpack(values))
  if not asked and context.failed(rows) and rows.message:find("a.customer_id", 1, true) then
    ctx:fail("refused", "audience: the query must select a customer_id: select id as customer_id from customers …")
  elseif not asked then
    error(rows, 0)
  end
  local row = rows[1]
  local ids = row and row.ids or {}
  local kept = ctx:query("own", "select audience_keep($1::uuid, $2, $3::json)", ctx.instance, ctx.owner,
    json.encode(json.array(ids)))
  kept.sample = first_names(ctx, ids)
  return kept
end

-- The customers of an audience, some at a time, each with its snapshot as it is now.
local function start_each(ctx, a)
  local after, started = 0, 0
  repeat
    local ids = ctx:query("engine", "select audience_members($1::uuid, $2::bigint, $3::int)",
      a.audience, after, EACH)
    if #ids > 0 then
      local found = ctx:query("servicetitan", "select coalesce(json_object_agg(x.id, "
        .. "snapshot_of('customer', x.id)), '{}') from json_array_elements_text($1::json) x (id)",
        json.encode(json.array(ids)))
      local answer = ctx:query("own", "select start_children($1::uuid, $2, $3, $4::json)", ctx.instance,
        ctx.owner, a.workflow, json.encode(found))
      if answer.refused then
        ctx:hold("workflow_missing", ctx.name .. ": " .. answer.refused)
      end
      started = started + answer.count
      after = ids[#ids]
    end
  until #ids < EACH
  return started
end

return {
  variant = {
    args = { name = "string", variants = "table", chosen = "string" },
    run = function(ctx, a)
      return ctx:query("own", "select to_json(variant_keep($1::uuid, $2, $3))", ctx.instance, a.name,
        a.chosen)
    end,
  },
  audience = { args = { sql = "string", params = "table?" }, run = freeze },
  start_each = { args = { workflow = "string", audience = "string" }, run = start_each },
  children = {
    args = {},
    run = function(ctx)
      return ctx:query("engine", "select children_of($1::uuid)", ctx.instance)
    end,
  },
}
