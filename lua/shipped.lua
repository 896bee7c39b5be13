-- The actions that ship, by name: "sms.send" -> {args, run}.
local M = {}

for _, module in ipairs { "sms", "email", "ghl", "db", "fresh", "children", "emit", "staff", "campaign",
  "http" } do
  for name, action in pairs(require("actions." .. module)) do
    M[name] = action
  end
end

return M
