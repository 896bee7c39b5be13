-- Which entity a record is of: by the fields that only it has, else by where the event carries it.
local function kind_by_shape(r)
  if r.subtotal ~= nil and r.is_change_order ~= nil then
    return "estimate"
  elseif r.no_charge ~= nil or r.recall_for_id ~= nil then
    return "job"
  elseif r.start ~= nil then
    return "appointment"
  elseif r.autopay ~= nil then
    return "membership"
  elseif r.tags ~= nil or r.do_not_service ~= nil then
    return "customer"
  elseif r.balance ~= nil then
    return "invoice"
  end
end

--- The entity of a record that an action was given; raises when it is none.
---@param ctx table
---@param record table
---@return string
return function(ctx, record)
  local kind = kind_by_shape(record)
  if kind then
    return kind
  end
  for name, one in pairs(ctx.event) do
    if type(one) == "table" and one.id == record.id and name ~= "old" and name ~= "data" then
      return name
    end
  end
  error(ctx.name .. ": of must be a record, such as e.estimate or e.job", 0)
end
