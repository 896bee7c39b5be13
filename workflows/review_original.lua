-- Asks for a review after a completed job.
return workflow {
  on = "job_completed",
  stop_when = { "customer_opted_out" },
  run = function(e)
    sleep "2h"
    sms.send { to = e.customer, template = "review_1" }
    sleep "3d"
    sms.send { to = e.customer, template = "review_2" }
  end }
