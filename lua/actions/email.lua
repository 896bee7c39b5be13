-- email.send: one e-mail to a customer, a technician or a role.
local send = require "send"

return {
  ["email.send"] = { args = send.args, run = function(ctx, a)
    return send.send(ctx, a, "email")
  end },
}
