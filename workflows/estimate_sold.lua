-- A sold estimate wins its opportunity.
return workflow {
  on = "estimate_approved",
  run = function(e)
    ghl.move_opportunity_to_job_sold { estimate = e.estimate }
  end }
