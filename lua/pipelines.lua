-- GoHighLevel's pipelines and stages by the names that people gave them. They are listed once and
-- again when a name isn't known.
local arguments = require "arguments"

local json = host.json
local M = {}

local function location(ctx)
  return ctx.settings.GHL_LOCATION_ID
end

local function named(list, name)
  for _, one in ipairs(list) do
    if one.id == name or one.name:lower() == name:lower() then
      return one
    end
  end
end

local function names_of(list)
  local names = {}
  for i, one in ipairs(list) do
    names[i] = one.name
  end
  return table.concat(names, ", ")
end

local STORED = "select coalesce(json_agg(json_build_object('id', id, 'name', name, 'stages', stages)), "
  .. "'[]') from ghl_pipelines where location_id = $1"

-- The list that is stored, or GHL's own when what is looked for isn't in it.
local function pipelines(ctx, anew)
  if not anew then
    return ctx:query("engine", STORED, location(ctx))
  end
  local answer = ctx:must_call { as = "pipelines", effect = "read", method = "GET",
    path = "/opportunities/pipelines?locationId=" .. arguments.url(location(ctx)) }
  ctx:query("engine", "select json 'true' from ghl_store_pipelines($1, $2::json)", location(ctx),
    json.array(answer.body.pipelines or {}))
  return ctx:query("engine", STORED, location(ctx))
end

--- A pipeline and a stage of it by their names (or ids). stage nil: none is asked for.
---@return table pipeline {id, name}
---@return table|nil stage {id, name}; nil as well when the pipeline has no such stage and `lenient`
function M.place(ctx, pipeline_name, stage_name, lenient)
  local list = pipelines(ctx, false)
  local pipeline = named(list, pipeline_name)
  local stage = pipeline and stage_name and named(pipeline.stages, stage_name)
  if ctx.shadow then
    return pipeline or { id = "shadow:" .. pipeline_name, name = pipeline_name },
      stage_name and (stage or { id = "shadow:" .. stage_name, name = stage_name }) or nil
  end
  if not pipeline or (stage_name and not stage and not lenient) then
    list = pipelines(ctx, true)
    pipeline = named(list, pipeline_name)
    stage = pipeline and stage_name and named(pipeline.stages, stage_name)
  end
  if not pipeline then
    ctx:fail("refused", ('GHL has no pipeline "%s"; it has: %s'):format(pipeline_name, names_of(list)))
  elseif stage_name and not stage and not lenient then
    ctx:fail("refused", ('the pipeline "%s" has no stage "%s"; it has: %s'):format(pipeline.name,
      stage_name, names_of(pipeline.stages)))
  end
  return pipeline, stage
end

return M
