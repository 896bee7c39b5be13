-- approve and staff.task: what people of ours are asked.
local durable = require "durable"

local M = {}

local json = host.json
local raise = durable.raise

-- The author's table with `due` or `timeout` as a time.
local function with_time(word, args, field, deadline_of)
  if type(args) ~= "table" then
    raise(word .. " takes one table: " .. word .. " { … }")
  end
  local rest = {}
  for k, v in pairs(args) do
    rest[k] = v
  end
  rest.due, rest[field] = deadline_of(args[field]), nil
  if field == "due" then
    rest.due = deadline_of(args.due)
  end
  return rest
end

---@param api table
---@param deadline_of function a duration or a time, as a time
---@param split function(action, args) arguments and options apart
function M.add(api, deadline_of, split)
  function api.staff.task(args)
    local rest, options = split("staff.task", with_time("staff.task", args, "due", deadline_of))
    return durable.step("staff.task", rest, options)
  end

  function api.approve(args)
    if type(args) == "table" and args.due ~= nil then
      raise('approve has no field "due"; it takes timeout')
    end
    local given = with_time("approve", args, "timeout", deadline_of)
    local rest = split("approve", given)
    local task = durable.step("approve", rest, { name = args.name })
    local it = durable.wait("approve.answer", { task.id }, { deadline = rest.due, types = json.array {
      { type = "task_answered", keys = json.array { "task:" .. task.id } } } })
    if not it then
      durable.step("staff.cancel_task", { task = { id = task.id } }, {})
      return { approved = false, timed_out = true, text = task.note }
    end
    return { approved = it.data.approved, by = it.data.by, text = it.data.text, note = it.data.note,
      timed_out = false }
  end
end

return M
