-- Four texts on an open estimate, until the customer has decided.
return workflow {
  on = "estimate_created",
  when = function(e) return e.estimate.status == "Open" and e.estimate.total >= 1000 end,
  stop_when = { "estimate_approved", "estimate_rejected", "customer_opted_out" },
  run = function(e)
    for i, age in ipairs { "2h", "2d", "5d", "10d" } do
      sleep_until(e.time, { after = age })
      sms.send { to = e.customer, template = "estimate_" .. i }
    end
  end }
