-- fresh: the newest row of a record, or of all records of an event, as ServiceTitan's tables have it.
local json = host.json

local SNAPSHOT = "select snapshot_of($1, $2)"

local function newest(ctx, entity, id)
  local snapshot = ctx:query("servicetitan", SNAPSHOT, entity, id)
  return snapshot and snapshot[entity], snapshot
end

return {
  fresh = {
    args = { entity = "string?", id = "any?", of = "string?", records = "table?" },
    run = function(ctx, a)
      if a.entity then
        return newest(ctx, a.entity, a.id)
      end
      local event = { of = a.of }
      -- The subject's snapshot carries the rest, as it is now; others are asked for by their ids.
      if a.of and a.records[a.of] then
        local _, snapshot = newest(ctx, a.of, a.records[a.of])
        for name, record in pairs(snapshot or {}) do
          event[name] = record
        end
      end
      local names = {}
      for name in pairs(a.records) do
        names[#names + 1] = name
      end
      table.sort(names)
      for _, name in ipairs(names) do
        if event[name] == nil then
          event[name] = newest(ctx, name, a.records[name])
        end
      end
      return next(event) and event or json.null
    end,
  },
}
