-- What counts as an event. To add one, add a line; see "Events" in the guide for authors.
return events {
  estimate_created = { of = "estimate", created = true },
  estimate_approved = { of = "estimate", becomes = { status = "Sold" }, at = "sold_on" },
  estimate_rejected = { of = "estimate", becomes = { status = "Dismissed" } },
  job_created = { of = "job", created = true },
  job_completed = { of = "job", becomes = { status = "Completed" }, at = "completed_on" },
  -- job_type.class is the company's own label in ServiceTitan: adjust this line.
  install_job_created = { of = "job", created = true,
    when = function(e) return e.job_type ~= nil and e.job_type.class == "Install" end },
  invoice_created = { of = "invoice", created = true },
  invoice_paid = { of = "invoice",
    becomes = function(row) return row.balance ~= nil and row.balance <= 0 end },
  invoice_overdue = { of = "invoice", daily = "07:00", where = "balance > 0 and due_date < :today",
    once = "due_date" },
  appointment_created = { of = "appointment", created = true },
}
