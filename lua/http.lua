-- A call of the company's own to a host that it has listed: http of actions, and of step.
local arguments = require "arguments"

local M = {}

--- What a call takes.
M.args = { url = "string", query = "table?", headers = "table?", json = "any?", as = "string?" }

local function address(request)
  local url, query = request.url, {}
  for name, value in pairs(request.query or {}) do
    query[#query + 1] = arguments.url(tostring(name)) .. "=" .. arguments.url(tostring(value))
  end
  table.sort(query)
  if #query > 0 then
    url = url .. (url:find("?", 1, true) and "&" or "?") .. table.concat(query, "&")
  end
  return url
end

--- Makes a call of an action: {status, body, json}. Raises what went wrong.
---@param ctx table the action's
---@param method string "GET"
---@param effect string of a method that changes something
---@param request table see M.args
---@param name string of the call in the ledger, unless the request says one
---@return table
function M.call(ctx, method, effect, request, name)
  local answer, err = ctx:call { as = request.as or name, url = address(request),
    effect = method == "GET" and "read" or effect, method = method,
    body = request.json, authorization = (request.headers or {}).Authorization }
  if not answer and err.code == "in_doubt" then
    ctx:doubt(err.id)
  elseif not answer then
    ctx:raise(err)
  end
  return { status = answer.status, body = answer.text, json = answer.body }
end

return M
