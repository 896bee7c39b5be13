-- Tells the customer and the office of an overdue invoice, and the customer once more.
return workflow {
  on = "invoice_overdue",
  key = "invoice",
  class = "transactional",
  stop_when = { "invoice_paid" },
  run = function(e)
    email.send { to = e.customer, template = "overdue_1" }
    email.send { to = "office", template = "overdue_office" }
    sleep "7d"
    sms.send { to = e.customer, template = "overdue_2" }
  end }
