-- db.rows, db.row, db.value: an author's query on the read-only views; :name are parameters.
local arguments = require "arguments"

local function rows(ctx, a)
  local ok, sql, values = pcall(arguments.bind, a.sql, a.params or {})
  if not ok then
    ctx:fail("refused", ctx.name .. ": " .. tostring(sql))
  end
  return ctx:query("views", sql, table.unpack(values))
end

local args = { sql = "string", params = "table?" }

return {
  ["db.rows"] = { args = args, run = rows },
  ["db.row"] = { args = args, run = function(ctx, a)
    return rows(ctx, a)[1]
  end },
  ["db.value"] = { args = args, run = function(ctx, a)
    local row = rows(ctx, a)[1]
    if not row then
      return nil
    end
    local name, value = next(row)
    if name ~= nil and next(row, name) ~= nil then
      ctx:fail("refused", "db.value: the query has more than one column; use db.row")
    end
    return value
  end },
}
