-- Which entities are copied from ServiceTitan and how: the declarations of sync/NAME.lua, each with
-- the one SQL statement that stores a page of it. Texts become part of that statement, so every name
-- in a declaration is checked; nothing here ever sees data.
local M = {}

-- Parents first: they start together, and this is the order in which they are shown.
local names = {
  "tag_types", "business_units", "technicians", "job_types", "campaigns", "customers", "contacts",
  "locations", "jobs", "estimates", "invoices", "appointments", "assignments",
}

local types = {
  bigint = true, text = true, boolean = true, numeric = true, date = true, timestamptz = true,
  jsonb = true, ["bigint[]"] = true,
}
local defaults = { ["true"] = true, ["false"] = true, ["''"] = true }

local function identifier(name, where)
  if type(name) ~= "string" or not name:find("^[a-z][a-z0-9_]*$") then
    error(where .. ": not a name: " .. tostring(name), 0)
  end
  return name
end

local function key(name, where)
  if type(name) ~= "string" or not name:find("^[A-Za-z][A-Za-z0-9]*$") then
    error(where .. ": not a JSON key: " .. tostring(name), 0)
  end
  return name
end

-- "a.b.c" as its keys.
local function split(path, where)
  local keys = {}
  for part in (path .. "."):gmatch("([^.]*)%.") do
    keys[#keys + 1] = key(part, where)
  end
  return keys
end

-- How a top-level key is read from the page: nested and structured values as JSON, all else as text,
-- so that an empty string can be told from a bad number.
local function reading(keys, kind)
  if #keys > 1 then
    return "json"
  end
  if kind == "jsonb" or kind == "bigint[]" then
    return kind
  end
  return "text"
end

local function declare(fields, order, name, kind, where)
  if fields[name] and fields[name] ~= kind then
    error(where .. ": " .. name .. " is read in two ways", 0)
  end
  if not fields[name] then
    fields[name] = kind
    order[#order + 1] = name
  end
end

local function value_of(keys)
  local text = 'r."' .. keys[1] .. '"'
  for i = 2, #keys do
    text = text .. (i == #keys and " ->> '" or " -> '") .. keys[i] .. "'"
  end
  return text
end

-- The SQL expression of one column, and the fields of the page that it needs.
local function expression(column, fields, order, where)
  local kind = column[2]
  local paths = type(column[3]) == "table" and column[3] or { column[3] }
  local values = {}
  for i, path in ipairs(paths) do
    local keys = split(path, where)
    declare(fields, order, keys[1], reading(keys, kind), where)
    values[i] = value_of(keys)
  end
  local text
  if column.with then
    text = identifier(column.with, where) .. "(" .. table.concat(values, ", ") .. ")"
  elseif kind == "text" or kind == "jsonb" or kind == "bigint[]" then
    text = values[1]
  else
    text = "nullif(" .. values[1] .. ", '')::" .. kind
  end
  if column.default then
    if not defaults[column.default] then
      error(where .. ": not a default: " .. tostring(column.default), 0)
    end
    text = "coalesce(" .. text .. ", " .. column.default .. ")"
  end
  return text
end

-- One page in one statement: its rows, the newest per id, those that differ from what is stored and
-- aren't older, written in the order of their ids; and, in the same transaction, the run's account
-- and cursor. $1 the page's array, $2 run, $3 feed, $4 cursor it was asked with, $5 cursor after it,
-- $6 the vendor's clock, $7 whether the page is complete with it.
local function upsert(entity)
  local where = "lua/sync/" .. entity.name .. ".lua"
  local target = identifier(entity.table, where)
  local fields, order, selected, columns, stored, paged, updates = {}, {}, {}, {}, {}, {}, {}
  for _, column in ipairs(entity.columns) do
    local name = identifier(column[1], where)
    if not types[column[2]] then
      error(where .. ": unknown type " .. tostring(column[2]) .. " of " .. name, 0)
    end
    local text = expression(column, fields, order, where)
    if name == "modified_on" and fields.createdOn then
      text = "coalesce(" .. text .. ", nullif(r.\"createdOn\", '')::timestamptz)"
    end
    columns[#columns + 1] = '"' .. name .. '"'
    selected[#selected + 1] = text .. ' as "' .. name .. '"'
    if name ~= "id" then
      stored[#stored + 1] = 't."' .. name .. '"'
      paged[#paged + 1] = 'p."' .. name .. '"'
      updates[#updates + 1] = '"' .. name .. '" = excluded."' .. name .. '"'
    end
  end
  local record = {}
  for i, name in ipairs(order) do
    record[i] = '"' .. name .. '" ' .. fields[name]
  end
  local list = table.concat(columns, ", ")
  return table.concat {
    "with raw as materialized (select * from json_to_recordset($1::json) as r (",
    table.concat(record, ", "), ")), page as materialized (select distinct on (id) * from (select ",
    table.concat(selected, ", "), " from raw r) x order by id, modified_on desc nulls last)",
    -- One look-up per row by the key: a join could become a scan of the whole table for each page,
    -- by a plan from the time when it was empty.
    ", fresh as materialized (select p.* from page p left join lateral (select * from ", target,
    " x where x.id = p.id offset 0) t on true",
    " where t.id is null or (p.modified_on >= t.modified_on and (", table.concat(paged, ", "),
    ") is distinct from (", table.concat(stored, ", "), ")))",
    ", written as (insert into ", target, " as t (", list, ") select ", list,
    " from fresh order by id on conflict (id) do update set ", table.concat(updates, ", "),
    ", synced_at = now() where excluded.modified_on >= t.modified_on returning t.id)",
    ", healed as (update st_rejects r set resolved_at = now() where r.entity = $3",
    " and r.resolved_at is null and r.entity_id in (select w.id::text from written w))",
    " select sync_landed($2::bigint, $3::text, $4::text, $5::text, $6::timestamptz, $7::boolean,",
    " (select count(*) from raw), (select count(*) from written)),",
    " (select count(*) from raw), (select count(*) from written)",
  }
end

---All entities with the SQL that stores their pages, as JSON for the C side.
---@return string
function M.plans()
  local plans = {}
  for i, name in ipairs(names) do
    local entity = require("sync." .. name)
    if entity.name ~= name then
      error("lua/sync/" .. name .. ".lua: its name is " .. tostring(entity.name), 0)
    end
    plans[i] = {
      name = name, of = entity.of, export = entity.export, list = entity.list,
      query = entity.query, by_id = entity.by_id, upsert = upsert(entity),
    }
  end
  return host.json.encode(plans)
end

return M
