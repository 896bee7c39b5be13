-- An opportunity whose job has an appointment shows it.
return workflow {
  on = "appointment_created",
  run = function(e)
    if not e.job then return "no job" end
    local moved = ghl.move_opportunity { of = e.job, stage = "Appointment set" }
    if not moved.id then return "no opportunity" end
  end }
