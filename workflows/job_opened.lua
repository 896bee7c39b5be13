-- The customer of a new job is a contact in GoHighLevel.
return workflow {
  on = "job_created",
  run = function(e)
    ghl.sync_customer_to_ghl { customer = e.customer }
    note "Job {job.id} was opened"
  end }
