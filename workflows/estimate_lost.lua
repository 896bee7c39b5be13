-- A dismissed estimate loses its opportunity.
return workflow {
  on = "estimate_rejected",
  run = function(e)
    ghl.move_opportunity { of = e.estimate, status = "lost" }
  end }
