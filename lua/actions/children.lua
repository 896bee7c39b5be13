-- start, call: a child is asked for here, and started by detection, which knows the workflows.
local json = host.json

local SQL = "select start_child($1::uuid, $2, $3, $4::json, $5::boolean)"

local function start(ctx, a)
  local answer = ctx:query("own", SQL, ctx.instance, ctx.owner, a.workflow, json.encode(a.e),
    a.detached or false)
  if answer.refused then
    ctx:hold("workflow_missing", ctx.name .. ": " .. answer.refused)
  end
  return answer
end

return {
  start = { args = { workflow = "string", e = "table", detached = "boolean?" }, run = start },
  call = { args = { workflow = "string", e = "table" }, run = start },
}
