-- The main module of the vm's tests: runs the code it is given, as trusted Lua.
local M = {}

---@param code string
---@return string? result as a text
function M.eval(code)
  local result = assert(load(code, "@test.lua", "t"))()
  return result ~= nil and tostring(result) or nil
end

---@param code string
---@return any
function M.run(code, ...)
  return assert(load(code, "@test.lua", "t"))(...)
end

return M
