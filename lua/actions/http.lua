-- http inside a body's step: calls whose answers go to the step's function. It may run again, so a post
-- is repeated while nobody knows whether it was done.
local http = require "http"

local function method(name)
  return { args = http.args, run = function(ctx, a)
    local answer = http.call(ctx, name, "idempotent", a, a.as)
    return { status = answer.status, body = answer.body } -- its JSON is read by who asked
  end }
end

return {
  ["http.get"] = method "GET",
  ["http.post"] = method "POST",
}
