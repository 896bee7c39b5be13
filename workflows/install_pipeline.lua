-- The opportunity of an install job goes to the pipeline of installs.
return workflow {
  on = "install_job_created",
  run = function(e)
    ghl.move_opportunity_to_install_pipeline { job = e.job }
  end }
