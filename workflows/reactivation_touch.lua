-- One customer of a reactivation campaign: at most 30 begin in an hour.
return workflow {
  family = "reactivation", rate = { limit = 30, per = "1h" },
  stop_when = { "customer_replied", "customer_opted_out", job_created = "customer" },
  run = function(e)
    local offer = variant("opening", { plain = "", coupon = "$25 off this month: " })
    sms.send { to = e.customer, text = "Time for a check-up? {offer}{company.links.booking}", with = { offer = offer } }
    sleep "4d"; email.send { to = e.customer, template = "reactivation" }
  end }
