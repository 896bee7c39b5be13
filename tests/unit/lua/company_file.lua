-- A main module that runs company files, for the tests of the sandbox in a real vm.
local sandbox = require "sandbox"

local M = {}

---@param source string of a company file
---@return string? what it returned
function M.eval(source)
  local api = { say = function(text) return text end, company = { name = "Bright Air" } }
  local env = sandbox.env { api = api, chunk = "workflows/x.lua" }
  local value = assert(sandbox.compile(source, "workflows/x.lua", env))()
  return value ~= nil and tostring(value) or nil
end

return M
