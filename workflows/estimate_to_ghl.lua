-- Every estimate has a contact and an opportunity of its own in GoHighLevel.
return workflow {
  on = "estimate_created",
  run = function(e)
    ghl.sync_estimate_to_ghl { estimate = e.estimate, stage = "Estimate sent" }
  end }
