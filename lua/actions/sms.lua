-- sms.send: one text to a customer, a technician or a role.
local send = require "send"

return {
  ["sms.send"] = { args = send.args, run = function(ctx, a)
    return send.send(ctx, a, "sms")
  end },
}
